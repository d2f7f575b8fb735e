"""Population stability index: two histograms against each other.

The sum of (p - q) ln(p / q) over BINS bins of equal probability in the reference (Jeffreys divergence; Siddiqi 2006),
with half a value added to each bin, so that an empty one counts for what it is worth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.windowed import Windowed

Array = NDArray[np.float64]

BINS = 10


def distance(reference: Array) -> Callable[[Array], float]:
    edges = np.quantile(reference, np.arange(1, BINS) / BINS)

    def shares(values: Array) -> Array:
        below = np.concatenate(([0], np.searchsorted(values, edges), [values.size]))
        return np.asarray((np.diff(below) + 0.5) / (values.size + 0.5 * BINS))

    expected = shares(reference)

    def to(window: Array) -> float:
        found = shares(window)
        return float((found - expected) @ np.log(found / expected))

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
    return Windowed("psi", distance, every=every, size=size, recent=recent, clock=clock, reference=reference)
