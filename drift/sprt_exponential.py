"""Restarting SPRT for exponential values: waiting times, magnitudes, energies. A lasting change of the mean.

S = max(0, S + y (1 - 1/r) - ln r) adds up the log-likelihood ratio of mean r against mean 1, for r = `ratio` and r =
1 / `ratio` side by side, as in trimtab.drift.sprt (Wald 1945; the CUSUM of Vardeman and Ray 1985).

**Baseline.** y = n ln(1 + x / sum), by the n values before x and their sum: since the chance that x is greater is
(1 + x / sum)^-n whatever the mean, y is exactly exponential with mean 1, and independent of those before (the
Q-statistic of Quesenberry 1991, section 3, in closed form). Values join pulled in to LARGEST times the mean.

**Threshold.** Solved as a Markov chain (trimtab.drift.run_length), within 1 %. A reference gives the mean beforehand;
its variance inflation, and its squared coefficient of variation where that is over 1, divide the evidence of each
value (quasi-likelihood, McCullagh and Nelder 1989, chapter 9).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.advance import HUGE
from trimtab.drift.baseline import prior_weight
from trimtab.drift.detector import Finding, State
from trimtab.drift.reference import inflation
from trimtab.drift.run_length import both_ways, exponential_run_length

LARGEST = 8.0
"""Means at which a value is clipped: exceeded once in 3,000 values."""


class SprtExponential:
    """See the module for the method.

    every: average run length between false alarms, in values. ratio: the change of the mean to be detected fastest.
    warmup: values before the first test. memory: values that the baseline remembers; older ones fade.
    reference: `[n]` recorded values without drift, from 0 up.

    Values below 0 are skipped, like those that are not finite. Raises ValueError where an option or the reference is
    out of range.
    """

    name = "sprt_exponential"

    def __init__(
        self,
        *,
        every: float,
        ratio: float = 1.5,
        warmup: int = 64,
        memory: int = 5000,
        reference: NDArray[np.float64] | None = None,
    ) -> None:
        if ratio <= 1 or not 3 <= warmup <= memory:
            raise ValueError(
                f"ratio must be over 1, and warmup from 3 to memory ({memory}), not {ratio:g} and {warmup}"
            )
        self._parts = [(1 - 1 / r, math.log(r)) for r in (ratio, 1 / ratio)]
        self._warmup = warmup
        self._memory = float(memory)
        self._height = both_ways(exponential_run_length, ratio, every)
        self._known: tuple[float, float] | None = None
        self._dispersion = 1.0
        if reference is not None:
            mean = float(reference.mean()) if reference.size else 0.0
            if not (mean > 0 and reference.min() >= 0):
                raise ValueError("the reference must hold numbers from 0 up that are not all 0")
            self._dispersion = inflation(reference) * max(1.0, float(reference.var()) / mean**2)
            weight = prior_weight(self._dispersion, warmup, memory, reference.size)
            self._known = (weight, weight * mean)
        self.reset()

    def reset(self) -> None:
        """Forget everything; with a reference, its mean holds again."""
        self._start(self._known)

    def _start(self, known: tuple[float, float] | None) -> None:
        self._count, self._total = known or (0.0, 0.0)
        self._wait = 0 if known else self._warmup
        self._sums = [0.0, 0.0]
        self._lengths = [0, 0]

    def update(self, value: float) -> Finding:
        """Take one value from 0 up: about a microsecond."""
        if not 0 <= value < HUGE:
            return self._finding(False)
        alarm = False
        joining = value
        if self._wait:
            self._wait -= 1
        elif self._total > 0:
            alarm = self._test(value)
            joining = min(value, LARGEST * self._total / self._count)
        self._count += 1
        self._total += joining
        if self._count > self._memory:
            self._total *= self._memory / self._count
            self._count = self._memory
        finding = self._finding(alarm)
        if alarm:
            self._start(None)
        return finding

    def _test(self, value: float) -> bool:
        # The baseline is worth as many values as it holds independent ones.
        freedom = max(self._count / self._dispersion, 1.0)
        y = min(freedom * math.log1p(value / self._total * (self._count / freedom)), LARGEST)
        for i, (a, log) in enumerate(self._parts):
            total = self._sums[i] + (a * y - log) / self._dispersion
            self._sums[i] = max(total, 0.0)
            self._lengths[i] = self._lengths[i] + 1 if total > 0 else 0
        return max(self._sums) >= self._height

    def _finding(self, alarm: bool) -> Finding:
        i = 0 if self._sums[0] >= self._sums[1] else 1
        return Finding(alarm, self._sums[i], self._height, max(self._lengths[i] - 1, 0) if alarm else None)

    def state(self) -> State:
        """All of the memory."""
        return {
            "detector": self.name,
            "version": 1,
            "count": self._count,
            "total": self._total,
            "wait": self._wait,
            "sums": list(self._sums),
            "lengths": list(self._lengths),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector or version."""
        if state.get("detector") != self.name or state.get("version") != 1:
            raise ValueError(f"this state is not of {self.name}; reset the detector")
        self._count = float(state["count"])
        self._total = float(state["total"])
        self._wait = int(state["wait"])
        self._sums = [float(v) for v in state["sums"]]
        self._lengths = [int(v) for v in state["lengths"]]
