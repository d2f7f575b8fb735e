"""The methods of test-time adaptation, one a file."""

from __future__ import annotations

from trimtab.exporters.methods.eata import EATA
from trimtab.exporters.methods.sar import SAR
from trimtab.exporters.methods.tent import TENT
from trimtab.exporters.steps.method import Method
from trimtab.runtime.errors import ExportError

METHODS: dict[str, Method] = {m.name: m for m in (TENT, EATA, SAR)}


def method(name: str) -> Method:
    """The method of that name. Raises ExportError where there is none."""
    try:
        return METHODS[name]
    except KeyError:
        raise ExportError(f"methods: there is no method {name!r}; there are {', '.join(METHODS)}") from None
