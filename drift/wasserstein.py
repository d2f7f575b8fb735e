"""Wasserstein distance: how far values must be moved to turn one window into the other.

The integral of |F - G|, in deviations of the reference (Vallender 1974, for one dimension).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.windowed import Windowed, width

Array = NDArray[np.float64]


def distance(reference: Array) -> Callable[[Array], float]:
    scale = width(reference)

    def to(window: Array) -> float:
        both = np.sort(np.concatenate((reference, window)))
        steps = np.diff(both) / scale
        f = np.searchsorted(reference, both[:-1], side="right") / reference.size
        g = np.searchsorted(window, both[:-1], side="right") / window.size
        return float(np.abs(f - g) @ steps)

    return to


def wasserstein(
    *,
    every: float,
    reference: NDArray[np.float64] | None = None,
    size: int = 300,
    recent: int = 100,
    clock: int = 10,
) -> Windowed:
    """Wasserstein distance, of the newest `recent` values against a reference of `size`, every `clock` values.

    See trimtab.drift.windowed for the threshold. Raises ValueError where an option is out of range.
    """
    return Windowed("wasserstein", distance, every=every, size=size, recent=recent, clock=clock, reference=reference)
