"""Cramer-von Mises: the mean square difference between two distribution functions.

n m / (n + m)^2 times the sum of (F - G)^2 over all values of both windows (Anderson 1962, equation 7).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.windowed import To, detector

Array = NDArray[np.float64]


def distance(reference: Array) -> To:
    m = reference.size
    own = np.searchsorted(reference, reference, side="right") / m

    def to(windows: Array) -> Array:
        rows, n = windows.shape
        # How many values of each window are up to each of the reference.
        place = np.searchsorted(reference, windows) + (m + 1) * np.arange(rows)[:, None]
        counts = np.bincount(place.ravel(), minlength=rows * (m + 1)).reshape(rows, m + 1)
        at_reference = own - np.cumsum(counts[:, :-1], axis=1) / n
        # How many values of each window are up to each of its own: of equal ones all of them.
        upto = np.full((rows, n), n)
        upto[:, :-1] = np.where(windows[:, 1:] > windows[:, :-1], np.arange(1, n), n)
        upto = np.minimum.accumulate(upto[:, ::-1], axis=1)[:, ::-1]
        at_window = np.searchsorted(reference, windows, side="right") / m - upto / n
        total = (at_reference**2).sum(axis=1) + (at_window**2).sum(axis=1)
        return np.asarray(total * n * m / (n + m) ** 2)

    return to


cramer_von_mises = detector("cramer_von_mises", distance, free=True, power=1)
