"""A baseline that is learnt from the stream itself, and values standardised by it as they come.

z standardises each value by the values *before* it, as a prediction:

    t = (x - mean) / (s sqrt(1 + 1/n)),   z = Phi^-1(T_{n-1}(t)),

which under no change are exactly independent N(0, 1), whatever the mean and deviation and however short the warm-up
(Quesenberry 1991; the self-starting CUSUM of Hawkins 1987), where plugging in estimates from n values multiplies the
false alarms of a CUSUM by about exp(2 h^2 / n): 20-fold for n = 64 at one in 20,000. Each value then joins the
baseline, pulled in to 4 s, so that one wild value spoils nothing. Phi^-1(T(.)) is Wallace's (1959) closed form, good
to 1 %.

Given a recording of the normal signal, mean, deviation and autocorrelation are known beforehand; n then counts
independent values (count divided by the recording's variance inflation). The stream's own values go on to move it.

**A stream unlike the recording.** How far values hang together may be otherwise in a stream than in the recording: one
class lasts longer, or a person has each class at a level of their own. That shows in the means of blocks of BLOCK
values: r' = BLOCK E[mean^2] estimates the stream's own variance inflation (batch means, Conway 1963), beginning at the
recording's with the weight of BLOCKS. By how much r' surely goes beyond the recording's, `excess`, thresholds are to be
raised: a CUSUM's run length depends on its threshold over the variance of its sums. A drift worth an alarm raises it
within a block or two, before it can count there.
"""

from __future__ import annotations

import math
import statistics

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.advance import BLOCK, FLAT, HUGE, LEVEL, WINSOR, Level, advance
from trimtab.drift.detector import State
from trimtab.drift.reference import inflation

PRIOR = 8.0
"""Independent values that the reference's mean and deviation weigh as much as, beside those of the stream: a stream
differs from the recording (another person, another place), and is worth more than it after a few minutes."""

BLOCKS = 4.0
"""Blocks that the recording's variance inflation weighs as much as, beside those of the stream."""


def prior_weight(correlation: float, warmup: int, memory: int, size: int) -> float:
    """Values of a stream that a reference of `size`, of this variance inflation, weighs as much as."""
    return min(max(PRIOR * correlation, float(warmup)), float(memory), float(size))


class Baseline:
    """Mean and deviation of a stream so far. See the module for the method.

    warmup: values learnt before the first is standardised. memory: values remembered: older ones fade.
    reference: `[n]` recorded values without drift, at least 4, not all the same.

    Raises ValueError where an option or the reference is out of range.
    """

    def __init__(self, warmup: int, memory: int, reference: NDArray[np.float64] | None) -> None:
        if not 3 <= warmup <= memory:
            raise ValueError(f"warmup must be at least 3 and at most memory ({memory}), not {warmup}")
        self.warmup = warmup
        self.memory = float(memory)
        self.known: tuple[float, float] | None = None
        """Mean and deviation of the reference."""
        self.recorded: NDArray[np.float64] | None = None
        """The reference, standardised `[n]`."""
        self.correlation = 1.0
        """Variance inflation of the reference; 1 without one."""
        self.weight = 0.0
        if reference is not None:
            mean, deviation = winsorised(reference)
            if reference.size < 4 or not 0 < deviation < math.inf:
                raise ValueError("the reference must hold at least 4 finite values that are not all the same")
            self.known = (mean, deviation)
            self.recorded = (reference - mean) / deviation
            self.correlation = inflation(self.recorded)
            self.weight = prior_weight(self.correlation, warmup, memory, reference.size)
        self.fixed = (self.memory, self.correlation, float(self.known is not None), math.inf)
        """What `advance` has to know of it; last, up to where charts rest: there are none."""
        self.reset()

    @property
    def excess(self) -> float:
        """Surely at least so many times the reference's variance inflation is the stream's own; 1 without one."""
        return self.level[8]

    @property
    def learning(self) -> bool:
        """Whether it is still in its warm-up."""
        return self.level[9] != 0.0

    def reset(self) -> None:
        """Forget everything; with a reference, its mean and deviation hold again."""
        self._start(*(self.known or (0.0, 0.0)), self.known is not None, BLOCKS, BLOCKS * self.correlation / BLOCK, 1.0)

    def relearn(self) -> None:
        """Learn a new level from a warm-up; with a reference, its deviation still counts."""
        self._start(0.0, self.known[1] if self.known else 0.0, False, *self.level[6:9])

    def _start(
        self, mean: float, deviation: float, learnt: bool, blocks: float, block_squares: float, excess: float
    ) -> None:
        weight = self.weight
        spread = deviation * deviation * weight
        count = weight if learnt else 0.0
        self.level: Level = (
            mean, count, spread, weight, 0.0, float(BLOCK), blocks, block_squares, excess, float(not learnt), 1.0
        )  # fmt: skip
        """All of the memory but for the warm-up: see LEVEL."""
        self._learning: list[float] = []

    def take(self, value: float) -> float | None:
        """z of a value by those before it, which the value then joins; None where it is skipped or still learnt from.

        A value is skipped where it is not finite, or beyond HUGE.
        """
        if self.learning:
            self.learn(value)
            return None
        z = [0.0]
        _, self.level = advance((value,), 0, self.level, self.fixed, (), (), z, [0.0])
        return None if math.isnan(z[0]) else z[0]

    def learn(self, value: float) -> None:
        """Take a value of the warm-up."""
        if not -HUGE < value < HUGE:
            return
        self._learning.append(value)
        if len(self._learning) >= self.warmup:
            self._learn(self._learning)

    def _learn(self, values: list[float]) -> None:
        """A baseline from the warm-up, whose outliers (by the median of absolute deviations) are pulled in."""
        middle = statistics.median(values)
        spread = WINSOR * 1.4826 * statistics.median(abs(v - middle) for v in values)
        if spread > 0:
            values = [min(max(v, middle - spread), middle + spread) for v in values]
        mean = math.fsum(values) / len(values)
        _, _, squares, freedom, _, _, *rest, _, resting = self.level
        squares += math.fsum((v - mean) ** 2 for v in values)
        count = float(len(values))
        self.level = (mean, count, squares, freedom + count - 1, 0.0, float(BLOCK), *rest, 0.0, resting)
        self._learning = []

    @property
    def flat(self) -> bool:
        """Whether no value has differed from the others by more than rounding: there is no deviation to go by."""
        mean, _, squares, freedom = self.level[:4]
        return math.sqrt(squares / max(freedom, 1.0)) <= FLAT * abs(mean) + 1e-300

    def state(self) -> State:
        """All of the memory; what follows from the options and the reference is not in it."""
        state: State = dict(zip(LEVEL[:9], self.level, strict=False))
        state["block_left"] = int(state["block_left"])
        state["learning"] = list(self._learning) if self.learning else None
        return state

    def restore(self, state: State) -> None:
        """Continue exactly from `state`."""
        learning = state["learning"]
        numbers = [float(state[key]) for key in LEVEL[:9]]
        self.level = (*numbers, float(learning is not None), 1.0)
        self._learning = [float(v) for v in learning or ()]


def pulled_in(first: NDArray[np.float64]) -> NDArray[np.float64]:
    """Warm-ups `[streams, values]` whose outliers, by the median of absolute deviations, are pulled in."""
    middle = np.median(first, axis=1, keepdims=True)
    spread = WINSOR * 1.4826 * np.median(np.abs(first - middle), axis=1, keepdims=True)
    spread[spread <= 0] = np.inf
    return np.clip(first, middle - spread, middle + spread)


def winsorised(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and deviation of `values [n]`, with outliers pulled in to WINSOR deviations as in `Baseline`."""
    mean, deviation = float(values.mean()), float(values.std())
    for _ in range(100):  # At least halved each time by outliers of one value in 64.
        near = np.clip(values, mean - WINSOR * deviation, mean + WINSOR * deviation)
        before, mean, deviation = deviation, float(near.mean()), float(near.std())
        if deviation >= (1 - 1e-6) * before:
            break
    return mean, deviation
