"""Exponentially weighted moving average: E = (1 - w) E + w z, against limits in its own deviation. Two-sided.

Roberts 1959; |E| / sqrt(w / (2 - w)) is the statistic, at its deviation in the long run. Its run length is solved
exactly (trimtab.drift.run_length). A weight w serves shifts of about sqrt(w) to 3 sqrt(w) deviations best (Lucas and
Saccucci 1990): 0.1 those around 0.75.

The onset is where E last left 0 (Nishina 1992).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.charts import Ewma
from trimtab.drift.detector import State
from trimtab.drift.run_length import ewma_threshold
from trimtab.drift.standardised import Standardised


class Chart:
    """The statistic; `weight` is that of the newest value."""

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self._deviation = math.sqrt(weight / (2 - weight))
        self.clear()

    def clear(self) -> None:
        self._average = 0.0
        self._length = 0

    def step(self, z: float) -> float:
        before = self._average
        self._average = before + self._weight * (z - before)
        self._length = self._length + 1 if before * self._average > 0 else 1
        return abs(self._average) / self._deviation

    def onset(self) -> int:
        return self._length - 1

    def state(self) -> State:
        return {"average": self._average, "length": self._length}

    def restore(self, state: State) -> None:
        self._average = float(state["average"])
        self._length = int(state["length"])


def ewma(
    *,
    every: float,
    reference: NDArray[np.float64] | None = None,
    weight: float = 0.1,
    warmup: int = 64,
    memory: int = 5000,
) -> Standardised:
    """EWMA chart for a shift of the mean. weight: of the newest value. See the module, and `Sprt` for other options.

    Raises ValueError where an option or the reference is out of range.
    """
    return Standardised(
        "ewma",
        Chart,
        Ewma,
        (weight,),
        lambda: ewma_threshold(weight, every),
        every=every,
        warmup=warmup,
        memory=memory,
        reference=reference,
    )
