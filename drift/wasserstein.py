"""Wasserstein distance: how far values must be moved to turn one window into the other.

The integral of |F - G|, in deviations of the reference, and so that of the difference of both quantile functions
(Vallender 1974, for one dimension).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.windowed import To, detector, width

Array = NDArray[np.float64]


def distance(reference: Array) -> To:
    scale = width(reference)

    def to(windows: Array) -> Array:
        share, low, high = steps(reference.size, windows.shape[1])
        return np.asarray(np.abs(reference[low] - windows[:, high]) @ share / scale)

    return to


@lru_cache(maxsize=32)
def steps(m: int, n: int) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """Where either of the quantile functions of `m` and of `n` values steps: shares between, and ranks in both."""
    ends = np.unique(np.concatenate((np.arange(1, m + 1) * n, np.arange(1, n + 1) * m)))
    starts = np.concatenate(([0], ends[:-1]))
    return (ends - starts) / (m * n), starts // n, starts // m


wasserstein = detector("wasserstein", distance, free=False, power=1)
