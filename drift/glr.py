"""Generalised likelihood ratio with a window: a shift of the mean of any size, up or down.

The log-likelihood ratio of a shift that began k values ago, at its most likely size S_k / k (S_k is the sum of the
last k values of z), is S_k^2 / 2k. The statistic is its maximum over k = 1 .. `window` (Willsky and Jones 1976; Lai
1995; with a window long enough for the smallest shift that matters, 2 ln(every) / d^2, it is asymptotically optimal
for every larger one at once: Lai 1998). The k of the maximum gives the onset.

The threshold for a run length follows from the extremes of a Gaussian field (trimtab.drift.run_length).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.charts import Glr
from trimtab.drift.detector import State
from trimtab.drift.run_length import glr_threshold
from trimtab.drift.standardised import Standardised


class Chart:
    """The statistic over the last `window` values."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._half = 0.5 / np.arange(1, window + 1)
        self.clear()

    def clear(self) -> None:
        # [k - 1]: S_k. Beyond the first value S_k is S of all values, over a k that is too large: never the maximum.
        self._sums = np.zeros(self._window)
        self._best = 0

    def step(self, z: float) -> float:
        sums = self._sums
        sums[1:] = sums[:-1]
        sums[0] = 0.0
        sums += z
        ratios = sums * sums * self._half
        self._best = int(ratios.argmax())
        return float(ratios[self._best])

    def onset(self) -> int:
        return self._best

    def state(self) -> State:
        return {"sums": self._sums.tolist(), "best": self._best}

    def restore(self, state: State) -> None:
        if len(state["sums"]) != self._window:
            raise ValueError("this state is of another window; reset the detector")
        self._sums = np.array(state["sums"], np.float64)
        self._best = int(state["best"])


def glr(
    *,
    every: float,
    reference: NDArray[np.float64] | None = None,
    window: int = 200,
    warmup: int = 64,
    memory: int = 5000,
) -> Standardised:
    """Window-limited generalised likelihood ratio test for a shift of the mean. See the module for the method.

    window: the longest time since a change that is considered, in values. Others as for `Sprt`. Raises ValueError
    where an option or the reference is out of range.
    """
    return Standardised(
        "glr",
        Chart,
        Glr,
        (window,),
        lambda: glr_threshold(window, every),
        every=every,
        warmup=warmup,
        memory=memory,
        reference=reference,
    )
