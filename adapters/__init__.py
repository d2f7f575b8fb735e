"""What may change inside a model, and how. `load` opens a bundle's step graph."""

from __future__ import annotations

from trimtab.adapters.steps import load

__all__ = ["load"]
