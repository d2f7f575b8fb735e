"""Kolmogorov-Smirnov: the greatest difference between two distribution functions.

max |F - G| over all values (Kolmogorov 1933; Smirnov 1939). It sees any change, and shifts of the middle best.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.windowed import Windowed

Array = NDArray[np.float64]


def distance(reference: Array) -> Callable[[Array], float]:
    def to(window: Array) -> float:
        n = window.size
        above = np.searchsorted(reference, window, side="right") / reference.size
        below = np.searchsorted(reference, window, side="left") / reference.size
        # Just before and at each value of the window: F is monotone, so that the maximum is at one of them.
        before = np.searchsorted(window, window, side="left") / n
        upto = np.searchsorted(window, window, side="right") / n
        return float(max((upto - above).max(), (below - before).max()))

    return to


def ks(
    *,
    every: float,
    reference: NDArray[np.float64] | None = None,
    size: int = 300,
    recent: int = 100,
    clock: int = 10,
) -> Windowed:
    """Kolmogorov-Smirnov, of the newest `recent` values against a reference of `size`, every `clock` values.

    See trimtab.drift.windowed for the threshold. Raises ValueError where an option is out of range.
    """
    return Windowed("ks", distance, every=every, size=size, recent=recent, clock=clock, reference=reference)
