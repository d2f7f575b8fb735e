"""Population stability index: two histograms against each other.

The sum of (p - q) ln(p / q) over BINS bins of equal probability in the reference (Jeffreys divergence; Siddiqi 2006),
with half a value added to each bin, so that an empty one counts for what it is worth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.windowed import To, detector

Array = NDArray[np.float64]

BINS = 10


def distance(reference: Array) -> To:
    edges = np.quantile(reference, np.arange(1, BINS) / BINS)

    def shares(values: Array) -> Array:
        rows, n = values.shape
        place = np.searchsorted(edges, values, side="right") + BINS * np.arange(rows)[:, None]
        counts = np.bincount(place.ravel(), minlength=rows * BINS).reshape(rows, BINS)
        return np.asarray((counts + 0.5) / (n + 0.5 * BINS))

    expected = shares(reference[None])

    def to(windows: Array) -> Array:
        found = shares(windows)
        return np.asarray(((found - expected) * np.log(found / expected)).sum(axis=1))

    return to


psi = detector("psi", distance, free=True, power=1)
