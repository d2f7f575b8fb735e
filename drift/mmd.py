"""Maximum mean discrepancy: how far apart the mean features of two windows are, in the space of a Gaussian kernel.

The mean of k within each window, less twice that between them (Gretton et al. 2012, equation 5, biased). The width of
the kernel is the median distance within the reference, where that is not 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.windowed import Windowed, width

Array = NDArray[np.float64]


def distance(reference: Array) -> Callable[[Array], float]:
    apart = np.abs(reference[:, None] - reference)
    unit = max(float(np.median(apart)), 1e-3 * width(reference))
    within = float(np.exp(-0.5 * (apart / unit) ** 2).mean())

    def mean(one: Array, other: Array) -> float:
        difference = one[:, None] - other
        difference /= unit
        difference *= difference
        difference *= -0.5
        return float(np.exp(difference, out=difference).mean())

    def to(window: Array) -> float:
        return max(within + mean(window, window) - 2 * mean(reference, window), 0.0)

    return to


def mmd(
    *,
    every: float,
    reference: NDArray[np.float64] | None = None,
    size: int = 300,
    recent: int = 100,
    clock: int = 10,
) -> Windowed:
    """Maximum mean discrepancy, of the newest `recent` values against a reference of `size`, every `clock` values.

    See trimtab.drift.windowed for the threshold. Raises ValueError where an option is out of range.
    """
    return Windowed("mmd", distance, every=every, size=size, recent=recent, clock=clock, reference=reference)
