"""Conformal test martingale: any change of level or spread, valid for every distribution. Restarting.

The rank of a new value among those before it, with ties broken at random, gives p, which is uniform and independent
of all earlier ones as long as values are exchangeable, whatever their distribution (Vovk, Gammerman and Shafer 2005,
theorem 8.2; the values are their own conformity scores, so that both directions count). A bet f with an integral of 1
makes f(p) an e-value, and so is its mean over the p that the rank leaves open: that one is taken, and nothing is left
to chance. With q = Phi^-1(p), which is N(0, 1), bets are the likelihood ratios of N(d, 1) and N(0, r^2) against it,
mixed. R = f (1 + R) restarts: the Shiryaev-Roberts procedure of Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and
Gammerman 2021 ("Retrain or not retrain: conformal test martingales for change-point detection"): R - n is a
martingale, and R >= `every` has an average run length of at least `every`.

Ranks are among the last `memory` values: p is uniform all the same, and very nearly independent. The statistic is
ln(1 + R); the onset is where the CUSUM of the largest bet left 0. A reference fills the memory beforehand; values
that hang together are not exchangeable, and the guarantee is not for them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.detector import Finding, State
from trimtab.drift.mixture import Mixture

SHIFTS = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
RATIOS = (0.5, 2.0)
"""Bets: on shifts of q, and on factors of its deviation."""

FAR = 40.0
"""Deviations that stand for infinity."""

ROOT = math.sqrt(0.5)
_normal = NormalDist()


class ConformalMartingale:
    """See the module for the method.

    every: average run length between false alarms, at least. warmup: values before the first bet. memory: values
    among which a new one is ranked. reference: `[n]` recorded values without drift.

    Values that are not finite are skipped. Raises ValueError where an option is out of range.
    """

    name = "conformal_martingale"

    def __init__(
        self,
        *,
        every: float,
        warmup: int = 64,
        memory: int = 500,
        reference: NDArray[np.float64] | None = None,
    ) -> None:
        if not 3 <= warmup <= memory:
            raise ValueError(f"warmup must be at least 3 and at most memory ({memory}), not {warmup}")
        self._warmup = warmup
        self._memory = memory
        self._known = [] if reference is None else [float(v) for v in reference[-memory:]]
        self._height = math.log1p(every)
        self._mixture = Mixture(len(SHIFTS) + len(RATIOS))
        self.reset()

    def reset(self) -> None:
        """Forget everything; with a reference, its values are remembered again."""
        self._values = deque(self._known)
        self._sorted = sorted(self._known)
        self._clear()

    def _clear(self) -> None:
        self._mixture.clear()
        self._statistic = 0.0

    def update(self, value: float) -> Finding:
        """Take one value: some ten microseconds."""
        if not math.isfinite(value):
            return Finding(False, self._statistic, self._height, None)
        ranked = self._sorted
        alarm = False
        if len(ranked) >= self._warmup:
            self._statistic = self._mixture.take(self._gains(value))
            alarm = self._statistic >= self._height
        insort(ranked, value)
        self._values.append(value)
        if len(ranked) > self._memory:
            del ranked[bisect_left(ranked, self._values.popleft())]
        if not alarm:
            return Finding(False, self._statistic, self._height, None)
        finding = Finding(True, self._statistic, self._height, self._mixture.onset())
        self._values.clear()
        ranked.clear()
        self._clear()
        return finding

    def _gains(self, value: float) -> list[float]:
        """ln of each bet's mean over p, from (values below) to (values not above, and this one) of (values + 1)."""
        size = len(self._sorted) + 1
        below = bisect_left(self._sorted, value)
        upto = bisect_right(self._sorted, value) + 1
        low = _normal.inv_cdf(below / size) if below else -FAR
        high = _normal.inv_cdf(upto / size) if upto < size else FAR
        width = (upto - below) / size
        # The integral of N(d, 1)'s density over N(0, 1)'s, over p, is Phi(q - d); that of N(0, r^2)'s is Phi(q / r).
        changed = [(low - d, high - d) for d in SHIFTS] + [(low / r, high / r) for r in RATIOS]
        return [math.log(max(_between(a, b), 1e-300) / width) for a, b in changed]

    def state(self) -> State:
        """All of the memory."""
        return {
            "detector": self.name,
            "version": 1,
            "values": list(self._values),
            "statistic": self._statistic,
            "mixture": self._mixture.state(),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector, version or memory."""
        if state.get("detector") != self.name or state.get("version") != 1 or len(state["values"]) > self._memory:
            raise ValueError(f"this state is not of {self.name} with these options; reset the detector")
        self._mixture.restore(state["mixture"])
        self._values = deque(float(v) for v in state["values"])
        self._sorted = sorted(self._values)
        self._statistic = float(state["statistic"])


def _between(low: float, high: float) -> float:
    """Phi(high) - Phi(low)."""
    if low > 0:
        low, high = -high, -low
    return 0.5 * (math.erfc(-high * ROOT) - math.erfc(-low * ROOT))
