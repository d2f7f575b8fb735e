"""What an HTM's raw anomaly scores usually are: a normal distribution of the mean of the last ten.

The moments fade with `span` scores. They begin `learning` records after the first, and once more at twice that,
since an HTM is still much surprised by then; the first estimate serves in between. They are looked at anew every
`refresh` records, so that what happens now does not excuse itself. Numenta's limits apply (Ahmad, Lavin, Purdy and
Agha 2017): m >= 0.03 and d^2 >= 0.0003, so that on predictable data not every surprise counts as a sure anomaly.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from trimtab.drift.detector import State

LEAST_MEAN, LEAST_VARIANCE = 0.03, 0.0003
AVERAGED = 10


class Usual(NamedTuple):
    """Mean and deviation of the mean of ten scores."""

    mean: float
    deviation: float


class ScoreBaseline:
    """See the module. Knows nothing for the first `learning` + `estimation` records."""

    def __init__(self, *, learning: int = 150, estimation: int = 100, span: float = 8640.0, refresh: int = 100) -> None:
        if min(learning, estimation, span, refresh) < 1:
            raise ValueError("learning, estimation, span and refresh must be at least 1")
        self._learning = learning
        self._estimation = estimation
        self._span = float(span)
        self._refresh = refresh
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._count = 0
        self._recent: list[float] = []
        self._weight = 0.0
        self._mean = 0.0
        self._variance = 0.0
        self._usual: Usual | None = None

    def restart(self) -> None:
        """Learn anew what is usual, from the next score on, since it has changed: known after `estimation` records."""
        self._count = max(self._count, 2 * self._learning + 1)
        self._weight = self._mean = self._variance = 0.0
        self._usual = None

    def update(self, score: float) -> tuple[float, Usual | None]:
        """Take a raw score, from 0 to 1: the mean of the last ten, and what was usual before; None: not known yet."""
        if self._weight >= self._estimation and (self._usual is None or self._count % self._refresh == 0):
            self._usual = Usual(max(self._mean, LEAST_MEAN), math.sqrt(max(self._variance, LEAST_VARIANCE)))
        self._recent.append(score)
        del self._recent[:-AVERAGED]
        average = math.fsum(self._recent) / len(self._recent)
        if self._count == 2 * self._learning:
            self._weight = self._mean = self._variance = 0.0
        if self._count >= self._learning:
            self._weight = min(self._weight + 1.0, self._span)
            step = average - self._mean
            self._mean += step / self._weight
            self._variance += (step * (average - self._mean) - self._variance) / self._weight
        self._count += 1
        return average, self._usual

    def state(self) -> State:
        """All of the memory."""
        return {
            "count": self._count,
            "recent": list(self._recent),
            "weight": self._weight,
            "mean": self._mean,
            "variance": self._variance,
            "usual": None if self._usual is None else list(self._usual),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`."""
        self._count = int(state["count"])
        self._recent = [float(v) for v in state["recent"]]
        self._weight = float(state["weight"])
        self._mean = float(state["mean"])
        self._variance = float(state["variance"])
        usual = state["usual"]
        self._usual = None if usual is None else Usual(float(usual[0]), float(usual[1]))
