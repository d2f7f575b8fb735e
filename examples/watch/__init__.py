"""Exercises recognised by a smartwatch: a small network that does not know the other arm.

`model` is what `trimtab export examples.watch:model --out DIR` takes; `stream.build` is the demo's recording; the
folder `bundle` is what `python -m trimtab.examples.watch.train` wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.exporters import ExportSpec

BUNDLE = Path(__file__).parent / "bundle"
"""The shipped bundle: trained on the right arms of people 1 to 7."""


def model() -> ExportSpec:
    """Train the network (some seconds) and say how it is exported. Needs PyTorch."""
    from trimtab.examples.watch.train import spec

    return spec()
