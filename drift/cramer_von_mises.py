"""Cramer-von Mises: the mean square difference between two distribution functions.

n m / (n + m)^2 times the sum of (F - G)^2 over all values of both windows (Anderson 1962, equation 7).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.windowed import Windowed

Array = NDArray[np.float64]


def distance(reference: Array) -> Callable[[Array], float]:
    m = reference.size
    own = np.searchsorted(reference, reference, side="right") / m

    def to(window: Array) -> float:
        n = window.size
        at_reference = own - np.searchsorted(window, reference, side="right") / n
        at_window = (
            np.searchsorted(reference, window, side="right") / m - np.searchsorted(window, window, side="right") / n
        )
        total = float(at_reference @ at_reference + at_window @ at_window)
        return total * n * m / (n + m) ** 2

    return to


def cramer_von_mises(
    *,
    every: float,
    reference: NDArray[np.float64] | None = None,
    size: int = 300,
    recent: int = 100,
    clock: int = 10,
) -> Windowed:
    """Cramer-von Mises, of the newest `recent` values against a reference of `size`, every `clock` values.

    See trimtab.drift.windowed for the threshold. Raises ValueError where an option is out of range.
    """
    return Windowed(
        "cramer_von_mises", distance, every=every, size=size, recent=recent, clock=clock, reference=reference
    )
