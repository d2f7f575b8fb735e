"""CUSUM of the variance: a lasting change of the deviation, up or down, by a factor.

S = max(0, S + z^2 (1 - r^-2) / 2 - ln r) adds up the log-likelihood ratio of N(0, r^2) against N(0, 1), for r =
`ratio` and r = 1 / `ratio` side by side, as in trimtab.drift.sprt (Page 1954; Hawkins 1981; Moustakides 1986 for its
optimality). The onset is where the larger left 0. The run length is solved as a Markov chain
(trimtab.drift.run_length), within 1 % for independent Gaussian values.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.charts import Variances
from trimtab.drift.detector import State
from trimtab.drift.run_length import both_ways, variance_run_length
from trimtab.drift.standardised import Standardised


class Chart:
    """The statistic, in nats; `ratio` is that of the deviations."""

    def __init__(self, ratio: float) -> None:
        self._steps = [((1 - r**-2) / 2, math.log(r)) for r in (ratio, 1 / ratio)]
        self.clear()

    def clear(self) -> None:
        self._sums = [0.0, 0.0]
        self._lengths = [0, 0]

    def step(self, z: float) -> float:
        square = z * z
        for i, (a, log) in enumerate(self._steps):
            total = self._sums[i] + a * square - log
            self._sums[i] = max(total, 0.0)
            self._lengths[i] = self._lengths[i] + 1 if total > 0 else 0
        return max(self._sums)

    def onset(self) -> int:
        return max(self._lengths[self._sums.index(max(self._sums))] - 1, 0)

    def state(self) -> State:
        return {"sums": list(self._sums), "lengths": list(self._lengths)}

    def restore(self, state: State) -> None:
        self._sums = [float(v) for v in state["sums"]]
        self._lengths = [int(v) for v in state["lengths"]]


def cusum_variance(
    *,
    every: float,
    reference: NDArray[np.float64] | None = None,
    ratio: float = 1.5,
    warmup: int = 64,
    memory: int = 5000,
) -> Standardised:
    """Two-sided CUSUM for a change of the deviation by a factor of `ratio`. See the module, and `Sprt` for the rest.

    Raises ValueError where an option or the reference is out of range.
    """
    return Standardised(
        "cusum_variance",
        Chart,
        Variances,
        (ratio,),
        lambda: both_ways(variance_run_length, ratio, every),
        every=every,
        warmup=warmup,
        memory=memory,
        reference=reference,
        spread=True,
    )
