"""Kolmogorov-Smirnov: the greatest difference between two distribution functions.

max |F - G| over all values (Kolmogorov 1933; Smirnov 1939). It sees any change, and shifts of the middle best.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.windowed import To, detector

Array = NDArray[np.float64]


def distance(reference: Array) -> To:
    def to(windows: Array) -> Array:
        n = windows.shape[1]
        above = np.searchsorted(reference, windows, side="right") / reference.size
        below = np.searchsorted(reference, windows, side="left") / reference.size
        # Just before and at each value of the window: F is monotone, so that the maximum is at one of them. Of equal
        # values the first is the farthest from what is before, and the last from what is up to them.
        rank = np.arange(n) / n
        return np.asarray(np.maximum((rank + 1 / n - above).max(axis=1), (below - rank).max(axis=1)))

    return to


ks = detector("ks", distance, free=True, power=2)
