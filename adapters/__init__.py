"""What may change inside a model, and how.

`load` opens a bundle's step graph, `load_streams` for many streams, `guarded` and `guarded_streams` under guard.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.adapters.protection import guarded, guarded_streams
    from trimtab.adapters.steps import load
    from trimtab.adapters.streams import load_streams

__all__ = ["guarded", "guarded_streams", "load", "load_streams"]

_HOMES = {
    "guarded": "protection",
    "guarded_streams": "protection",
    "load": "steps",
    "load_streams": "streams",
}
"""Imported when they are asked for: the guard needs SciPy, step graphs alone do not (20 MiB)."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
