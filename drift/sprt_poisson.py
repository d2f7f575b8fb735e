"""Restarting SPRT for counts: events, errors, retries in an interval. A lasting change of the rate, up or down.

S = max(0, S + x ln r - m (r - 1)) adds up the log-likelihood ratio of a Poisson rate r m against m, for r = `ratio`
and r = 1 / `ratio` side by side (Wald 1945; the CUSUM of Lucas 1985). Numbers that are not whole count as they are
(quasi-likelihood, McCullagh and Nelder 1989, chapter 9).

**Baseline.** The mean so far, with half an event added (Jeffreys' prior); older values fade beyond `memory`. It is not
exact: so the upward test is made against the upper end m + 2 sd of what the rate may be, and the downward test
against the lower end, as in trimtab.drift.sprt_bernoulli. With few events that costs delay, not false alarms.

**Threshold.** Solved on a grid of rates and heights (trimtab.drift.run_length), and interpolated, since the baseline
moves. The accepted rate is split evenly over the directions. A reference gives the rate beforehand; its variance over
its mean, where that is over 1, times its variance inflation, divides the evidence of each value.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.advance import HUGE
from trimtab.drift.baseline import prior_weight
from trimtab.drift.detector import Finding, State
from trimtab.drift.reference import inflation
from trimtab.drift.run_length import poisson_threshold

CONFIDENCE = 2.0
"""Standard deviations between the estimated rate and the one tested against."""

LOWEST, HIGHEST, STEP = -4.0, 6.0, 1.0
"""Grid of the thresholds, in ln of the rate. A rate beyond takes the end's: there, single events or none decide."""

LARGEST = 6.0
"""Deviations above the rate at which a count is clipped."""


class SprtPoisson:
    """See the module for the method.

    every: average run length between false alarms, in values. ratio: the change of the rate to be detected fastest.
    warmup: values before the first test. memory: values that the baseline remembers; older ones fade.
    reference: `[n]` recorded counts without drift.

    Values below 0 are skipped, like those that are not finite. Raises ValueError where an option or the reference is
    out of range.
    """

    name = "sprt_poisson"

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
        self._ratio = ratio
        self._log_ratio = math.log(ratio)
        self._warmup = warmup
        self._memory = float(memory)
        self._heights = [_heights(r, 2 * every) for r in (ratio, 1 / ratio)]
        self._known: tuple[float, float] | None = None
        self._dispersion = 1.0
        if reference is not None:
            mean = float(reference.mean()) if reference.size else 0.0
            if not (mean > 0 and reference.min() >= 0):
                raise ValueError("the reference must hold numbers from 0 up that are not all 0")
            self._dispersion = inflation(reference) * max(1.0, float(reference.var()) / mean)
            weight = prior_weight(self._dispersion, warmup, memory, reference.size)
            self._known = (weight, weight * mean)
        self.reset()

    def reset(self) -> None:
        """Forget everything; with a reference, its rate holds again."""
        self._start(self._known)

    def _start(self, known: tuple[float, float] | None) -> None:
        self._count, self._events = known or (0.0, 0.0)
        self._wait = 0 if known else self._warmup
        self._sums = [0.0, 0.0]
        self._lengths = [0, 0]
        self._limits = [heights[0] for heights in self._heights]

    def update(self, value: float) -> Finding:
        """Take one count: some microseconds."""
        if not 0 <= value < HUGE:
            return self._finding(False)
        alarm = False
        joining = value
        if self._wait:
            self._wait -= 1
        else:
            centre = (self._events + 0.5) / self._count
            spread = CONFIDENCE * math.sqrt(centre * self._dispersion / self._count)
            joining = min(value, centre + LARGEST * math.sqrt(centre * self._dispersion) + 1)
            for side, sign in enumerate((1.0, -1.0)):
                alarm = self._test(side, sign, joining, centre + sign * spread) or alarm
        self._count += 1
        self._events += joining
        if self._count > self._memory:
            self._events *= self._memory / self._count
            self._count = self._memory
        finding = self._finding(alarm)
        if alarm:
            self._start(None)
        return finding

    def _test(self, side: int, sign: float, value: float, rate: float) -> bool:
        """Add the evidence of `value` against baseline `rate`; whether it suffices."""
        # Rates below the grid: its end is too high a rate for the upward test, and too high a threshold for the other.
        edge = math.exp(LOWEST)
        rate = max(rate, edge if side == 0 else 0.0)
        change = sign * self._log_ratio
        total = self._sums[side] + (value * change - rate * math.expm1(change)) / self._dispersion
        place = (min(math.log(max(rate, edge)), HIGHEST) - LOWEST) / STEP
        heights = self._heights[side]
        below = min(int(place), len(heights) - 2)
        low, high = heights[below : below + 2]
        self._limits[side] = low + (high - low) * (place - below)
        self._sums[side] = max(total, 0.0)
        self._lengths[side] = self._lengths[side] + 1 if total > 0 else 0
        return total >= self._limits[side]

    def _finding(self, alarm: bool) -> Finding:
        """Of the direction that stands nearest to its threshold."""
        i = 0 if self._sums[0] * self._limits[1] >= self._sums[1] * self._limits[0] else 1
        return Finding(alarm, self._sums[i], self._limits[i], max(self._lengths[i] - 1, 0) if alarm else None)

    def state(self) -> State:
        """All of the memory."""
        return {
            "detector": self.name,
            "version": 1,
            "count": self._count,
            "events": self._events,
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
        self._events = float(state["events"])
        self._wait = int(state["wait"])
        self._sums = [float(v) for v in state["sums"]]
        self._lengths = [int(v) for v in state["lengths"]]
        self._limits = [float(v) for v in state["limits"]]


@lru_cache(maxsize=16)
def _heights(ratio: float, every: float) -> list[float]:
    """Thresholds of one direction at ln rate LOWEST, LOWEST + STEP, ..., HIGHEST.

    Where even one step up is rarer than asked the threshold is the least evidence there can be.
    """
    grid = np.arange(LOWEST, HIGHEST + STEP / 2, STEP)
    return [max(poisson_threshold(float(m), ratio, every), 1e-9) for m in np.exp(grid)]
