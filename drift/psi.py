"""Population stability index: two histograms against each other.

The sum of (p - q) ln(p / q) over BINS bins of equal probability in the reference (Jeffreys divergence; Siddiqi 2006),
with half a value added to each bin, so that an empty one counts for what it is worth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.windowed import To, Windowed

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


def psi(
    *,
    every: float,
    reference: NDArray[np.float64] | None = None,
    size: int = 300,
    recent: int = 100,
    clock: int = 10,
) -> Windowed:
    """Population stability index, of the newest `recent` values against a reference of `size`, every `clock` values.

    See trimtab.drift.windowed for the threshold. Raises ValueError where an option is out of range.
    """
    return Windowed(
        "psi",
        distance,
        free=True,
        power=1,
        every=every,
        size=size,
        recent=recent,
        clock=clock,
        reference=reference,
    )
