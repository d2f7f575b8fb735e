"""How unusual a detector's recent anomaly scores are by its own past ones (Ahmad, Lavin, Purdy and Agha 2017).

On noisy data a raw anomaly score is high every now and then; what tells an anomaly is that it is high more often than
it used to be. The mean of the last `averaging` raw scores is held against a normal distribution of such means:

    likelihood = 1 - Q((mean of 10 - m) / d),   Q(x) = P(N(0, 1) > x),

where m and d are estimated from the past, anew every `refresh` scores. Numenta's limits apply, m >= 0.03 and d^2 >=
0.0003, so that predictable data does not make every surprise a sure anomaly; so does its rule that of neighbouring
likelihoods above 0.99999 only the first counts as such, the others as 0.999. The logarithmic scale

    ln(1.0000000001 - likelihood) / ln(1e-10)

spreads 0.99999 and 0.9999999 apart (to 0.5 and 0.7).

**Deviations.** Numenta keeps the last 8,640 scores. Here the moments fade instead (with the same span: a score weighs
by its age), which takes no memory and gives the same over the first 8,640. Numenta leaves out scores of the learning
period, as long as its window holds them; `learning` ones are left out here, of the first scores always.
"""

from __future__ import annotations

import math

from trimtab.drift.detector import State

LEAST_MEAN, LEAST_VARIANCE = 0.03, 0.0003
SURE, LIKELY = 0.99999, 0.999
UNKNOWN = 0.5


class AnomalyLikelihood:
    """See the module. Gives UNKNOWN for the first `learning` + `estimation` scores."""

    def __init__(
        self, *, learning: int = 288, estimation: int = 100, averaging: int = 10, span: int = 8640, refresh: int = 100
    ) -> None:
        if min(learning, estimation, averaging, span, refresh) < 1:
            raise ValueError("learning, estimation, averaging, span and refresh must be at least 1")
        self._learning = learning
        self._estimation = estimation
        self._averaging = averaging
        self._span = span
        self._refresh = refresh
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._count = 0
        self._recent: list[float] = []
        self._weight = 0.0
        self._mean = 0.0
        self._variance = 0.0
        self._normal: tuple[float, float] | None = None
        self._was_sure = False

    def update(self, score: float) -> float:
        """The likelihood, from 0 to 1, that something is unusual, given one more raw `score` from 0 to 1."""
        if self._count >= self._learning + self._estimation and (
            self._normal is None or self._count % self._refresh == 0
        ):
            self._normal = max(self._mean, LEAST_MEAN), math.sqrt(max(self._variance, LEAST_VARIANCE))
        self._recent.append(score)
        del self._recent[: -self._averaging]
        average = math.fsum(self._recent) / len(self._recent)
        if self._count >= self._learning:
            self._weight = min(self._weight + 1.0, float(self._span))
            step = average - self._mean
            self._mean += step / self._weight
            self._variance += (step * (average - self._mean) - self._variance) / self._weight
        self._count += 1
        if self._normal is None:
            return UNKNOWN
        mean, deviation = self._normal
        likelihood = 1.0 - 0.5 * math.erfc((average - mean) / deviation / math.sqrt(2.0))
        sure = likelihood >= SURE
        shown = LIKELY if sure and self._was_sure else likelihood
        self._was_sure = sure
        return shown

    def state(self) -> State:
        """All of the memory."""
        return {
            "count": self._count,
            "recent": list(self._recent),
            "weight": self._weight,
            "mean": self._mean,
            "variance": self._variance,
            "normal": None if self._normal is None else list(self._normal),
            "was_sure": self._was_sure,
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`."""
        self._count = int(state["count"])
        self._recent = [float(v) for v in state["recent"]]
        self._weight = float(state["weight"])
        self._mean = float(state["mean"])
        self._variance = float(state["variance"])
        normal = state["normal"]
        self._normal = None if normal is None else (float(normal[0]), float(normal[1]))
        self._was_sure = bool(state["was_sure"])


def log_scale(likelihood: float) -> float:
    """A likelihood from 0 to 1 on the logarithmic scale from 0 to 1; see the module."""
    return min(max(math.log(1.0000000001 - likelihood) / math.log(1e-10), 0.0), 1.0)
