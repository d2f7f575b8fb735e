"""What may change inside a model, and how. `load` opens a bundle's step graph, `guarded` opens it under guard."""

from __future__ import annotations

from trimtab.adapters.protection import guarded
from trimtab.adapters.steps import load

__all__ = ["guarded", "load"]
