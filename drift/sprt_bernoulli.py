"""Wald's sequential probability ratio test, restarting, two-sided, on a stream of 0s and 1s, or of shares in between.

For each direction, S = max(0, S + x ln(p1/p0) + (1 - x) ln((1 - p1)/(1 - p0))) adds up the log-likelihood ratio of a
rate p1 against the baseline p0 (Wald 1945, section 5.3; repeated: Reynolds and Stoumbos 1999). The odds of p1 are
`odds` times those of p0 upwards, and 1/`odds` times downwards. A value between 0 and 1 counts as that share of a 1
(quasi-likelihood, Papke and Wooldridge 1996): its variance is at most that of 0s and 1s, and so are its false alarms.

**Baseline.** The rate so far, with half a 1 and half a 0 added (Jeffreys' prior); older values fade beyond `memory`.
It is not exact: so the upward test is made against the upper end p + 2 sd of what the rate may be, and the downward
test against the lower end. With few values that costs delay, not false alarms.

**Threshold.** Solved as a Markov chain (trimtab.drift.run_length) on a grid of rates, and interpolated, since the
baseline moves. The accepted rate is split evenly over the directions. A reference gives the baseline beforehand, and
its variance inflation r divides the evidence of each value: a run of r equal values tells no more than one.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.baseline import prior_weight
from trimtab.drift.detector import Finding, State
from trimtab.drift.reference import inflation
from trimtab.drift.run_length import bernoulli_threshold

CONFIDENCE = 2.0
"""Standard deviations between the estimated rate and the one tested against."""

STEP, LOGITS = 1.0, 7.0
"""Grid of the thresholds, in log-odds: from -LOGITS to LOGITS. Rates beyond are taken for its ends."""


class SprtBernoulli:
    """Restarting two-sided SPRT for a change of a rate. See the module for the method.

    every: average run length between false alarms, in values. odds: the change of the odds to be detected fastest.
    warmup: values before the first test. memory: values that the baseline remembers; older ones fade.
    reference: `[n]` recorded values without drift, from 0 to 1.

    Values outside 0 to 1 are skipped, like those that are not finite. Raises ValueError where an option or the
    reference is out of range.
    """

    name = "sprt_bernoulli"

    def __init__(
        self,
        *,
        every: float,
        odds: float = 2.0,
        warmup: int = 64,
        memory: int = 5000,
        reference: NDArray[np.float64] | None = None,
    ) -> None:
        if odds <= 1 or not 3 <= warmup <= memory:
            raise ValueError(f"odds must be over 1, and warmup from 3 to memory ({memory}), not {odds:g} and {warmup}")
        self._log_odds = math.log(odds)
        self._warmup = warmup
        self._memory = float(memory)
        self._heights = _heights(odds, 2 * every)
        self._known: tuple[float, float] | None = None
        self._correlation = 1.0
        if reference is not None:
            if reference.size == 0 or not (reference.min() >= 0 and reference.max() <= 1):
                raise ValueError("the reference must hold numbers from 0 to 1")
            self._correlation = inflation(reference)
            weight = prior_weight(self._correlation, warmup, memory, reference.size)
            self._known = (weight, weight * float(reference.mean()))
        self.reset()

    def reset(self) -> None:
        """Forget everything; with a reference, its baseline holds again."""
        self._start(self._known)

    def _start(self, known: tuple[float, float] | None) -> None:
        self._count, self._ones = known or (0.0, 0.0)
        self._wait = 0 if known else self._warmup
        self._sums = [0.0, 0.0]
        self._lengths = [0, 0]
        self._limits = [self._heights[0]] * 2

    def update(self, value: float) -> Finding:
        """Take one value from 0 to 1."""
        if not 0 <= value <= 1:
            return self._finding(False)
        alarm = False
        if self._wait:
            self._wait -= 1
        else:
            centre = (self._ones + 0.5) / (self._count + 1)
            spread = CONFIDENCE * math.sqrt(centre * (1 - centre) * self._correlation / (self._count + 1))
            for side, sign in enumerate((1.0, -1.0)):
                alarm = self._test(side, sign, value, centre + sign * spread) or alarm
        self._count += 1
        self._ones += value
        if self._count > self._memory:
            self._ones *= self._memory / self._count
            self._count = self._memory
        finding = self._finding(alarm)
        if alarm:
            self._start(None)
        return finding

    def _test(self, side: int, sign: float, value: float, rate: float) -> bool:
        """Add the evidence of `value` against baseline `rate`; whether it suffices."""
        edge = 1 / (1 + math.exp(LOGITS))
        rate = min(max(rate, edge), 1 - edge)
        logit = math.log(rate / (1 - rate))
        # ln((1 - p1)/(1 - p0)) = -ln(1 - p0 + odds p0), and ln(p1/p0) lies ln(odds) above it.
        change = sign * self._log_odds
        total = self._sums[side] + (value * change - math.log1p(rate * math.expm1(change))) / self._correlation
        # A fall of p is a rise of 1 - p: one table serves both.
        place = (sign * logit + LOGITS) / STEP
        below = min(int(place), len(self._heights) - 2)
        low, high = self._heights[below : below + 2]
        self._limits[side] = low + (high - low) * (place - below)
        self._sums[side] = max(total, 0.0)
        self._lengths[side] = self._lengths[side] + 1 if total > 0 else 0
        return total >= self._limits[side]

    def _finding(self, alarm: bool) -> Finding:
        """Of the direction that stands nearest to its threshold."""
        i = 0 if self._sums[0] * self._limits[1] >= self._sums[1] * self._limits[0] else 1
        return Finding(alarm, self._sums[i], self._limits[i], self._lengths[i] - 1 if alarm else None)

    def state(self) -> State:
        """All of the memory."""
        return {
            "detector": self.name,
            "version": 1,
            "count": self._count,
            "ones": self._ones,
            "wait": self._wait,
            "sums": list(self._sums),
            "lengths": list(self._lengths),
            "limits": list(self._limits),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector or version."""
        if state.get("detector") != self.name or state.get("version") != 1:
            raise ValueError(f"this state is not of {self.name}; reset the detector")
        self._count = float(state["count"])
        self._ones = float(state["ones"])
        self._wait = int(state["wait"])
        self._sums = [float(v) for v in state["sums"]]
        self._lengths = [int(v) for v in state["lengths"]]
        self._limits = [float(v) for v in state["limits"]]


@lru_cache(maxsize=16)
def _heights(odds: float, every: float) -> list[float]:
    """Thresholds of the upward test at log-odds -LOGITS, -LOGITS + STEP, ..., LOGITS of the baseline."""
    logits = np.arange(-LOGITS, LOGITS + STEP / 2, STEP)
    return [bernoulli_threshold(float(p), odds, every) for p in 1 / (1 + np.exp(-logits))]
