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
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.detector import State
from trimtab.drift.reference import inflation

WINSOR = 4.0
"""Deviations at which a value is pulled in before it joins the baseline."""

PRIOR = 8.0
"""Independent values that the reference's mean and deviation weigh as much as, beside those of the stream: a stream
differs from the recording (another person, another place), and is worth more than it after a few minutes."""

CLIP = 3.0
"""Deviations at which a value is clipped in a block's mean."""

HUGE = 1e150
"""Values beyond this are skipped: their square is not a number."""

BLOCK = 32
"""Values in a block by which a stream's own variance inflation is measured."""

BLOCKS = 4.0
"""Blocks that the recording's variance inflation weighs as much as, beside those of the stream."""

MOST_BLOCKS = 64.0
"""Blocks remembered; older ones fade."""

FLAT = 1e-9
"""The least deviation, as a share of the mean: below it there is nothing but rounding."""


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
        self.excess = 1.0
        """Surely at least so many times the reference's variance inflation is the stream's own; 1 without one."""
        self.weight = 0.0
        if reference is not None:
            mean, deviation = winsorised(reference)
            if reference.size < 4 or not 0 < deviation < math.inf:
                raise ValueError("the reference must hold at least 4 finite values that are not all the same")
            self.known = (mean, deviation)
            self.recorded = (reference - mean) / deviation
            self.correlation = inflation(self.recorded)
            self.weight = prior_weight(self.correlation, warmup, memory, reference.size)
        self.reset()

    def reset(self) -> None:
        """Forget everything; with a reference, its mean and deviation hold again."""
        self._measure(BLOCKS, BLOCKS * self.correlation / BLOCK, 1.0)
        self._start(*(self.known or (0.0, 0.0)), learnt=self.known is not None)

    def relearn(self) -> None:
        """Learn a new level from a warm-up; with a reference, its deviation still counts."""
        self._start(0.0, self.known[1] if self.known else 0.0, learnt=False)

    def _start(self, mean: float, deviation: float, learnt: bool) -> None:
        weight = self.weight
        # Mean, and the values in it; squares about it, and degrees of freedom; the block's sum, and values to come.
        self._level = (mean, weight if learnt else 0.0, deviation * deviation * weight, weight, 0.0, BLOCK)
        self._learning: list[float] | None = None if learnt else []

    def _measure(self, blocks: float, squares: float, excess: float) -> None:
        """Note the squares of so many blocks' means, and how much more than the recording's they say at least."""
        self._blocks = (blocks, squares)
        self.excess = excess

    def mark(self) -> tuple[object, ...]:
        """Where it stands, for `back`; not while it is learning."""
        return self._level, self._blocks, self.excess

    def back(self, mark: tuple[Any, ...]) -> None:
        """Undo what was taken since `mark`."""
        self._level, self._blocks, self.excess = mark

    def take(self, value: float) -> float | None:
        """z of a value by those before it, which the value then joins; None where it is skipped or still learnt from.

        A value is skipped where it is not finite, or beyond HUGE.
        """
        z = self.stretch([value], 0)[0]
        return None if math.isnan(z) else z

    def stretch(self, values: Sequence[float], begin: int) -> list[float]:
        """`take` of as many of `values` from `begin` on as have the same `excess`, in one go; at least of one.

        A value that is skipped or learnt from comes alone, as NaN.
        """
        first = values[begin]
        if not -HUGE < first < HUGE:
            return [math.nan]
        if self._learning is not None:
            self._learning.append(first)
            if len(self._learning) >= self.warmup:
                self._learn(self._learning)
            return [math.nan]
        # Written out without min, max and abs, on local variables: this runs for every signal of every window, and
        # calls are what it would spend its time on.
        mean, mean_count, squares, var_count, block, left = self._level
        memory = self.memory
        correlation = self.correlation * self.excess
        measured = self.known is not None
        sqrt, log1p = math.sqrt, math.log1p
        found: list[float] = []
        append = found.append
        for value in values[begin:] if begin else values:
            if not -HUGE < value < HUGE:
                break
            scale = sqrt(squares / var_count)
            smallest = FLAT * (mean if mean > 0 else -mean) + 1e-300
            if scale < smallest:
                scale = smallest
            freedom = var_count / correlation
            if freedom < 1.0:
                freedom = 1.0
            deviation = value - mean
            t = deviation / (scale * sqrt(1.0 + correlation / mean_count))
            square = t * t
            if square > 1e300:
                square = 1e300
            eight = 8 * freedom
            z = sqrt(freedom * log1p(square / freedom)) * (eight + 1) / (eight + 3)
            joining, limit = deviation, WINSOR * scale
            if joining > limit:
                joining = limit
            elif joining < -limit:
                joining = -limit
            # Welford's update, in place. Beyond `memory`, old values fade.
            mean_count += 1.0
            var_count += 1.0
            step = joining / mean_count
            mean += step
            squares += joining * (joining - step)
            if mean_count > memory:
                mean_count = memory
            if var_count > memory:
                squares *= memory / var_count
                var_count = memory
            if deviation < 0:
                z = -z
            append(z)
            if not measured:
                continue
            block += CLIP if z > CLIP else -CLIP if z < -CLIP else z
            if left > 2:
                left -= 1
            elif left == 2:  # the next one closes the block, and `excess` is another from there on
                left = 1
                break
            else:
                self._close_block(block)
                block, left = 0.0, BLOCK
                correlation = self.correlation * self.excess
        self._level = (mean, mean_count, squares, var_count, block, left)
        return found

    def _close_block(self, total: float) -> None:
        """Learn from a block's sum how far the stream's values hang together."""
        count, squares = self._blocks
        blocks = count + 1.0
        squares += (total / BLOCK) ** 2
        count = min(blocks, MOST_BLOCKS)
        squares *= count / blocks
        own = BLOCK * squares / count
        # Less one deviation of the estimate, which is that of a mean of so many chi-squared values.
        self._measure(count, squares, max(1.0, own / self.correlation / (1.0 + math.sqrt(2.0 / count))))

    def _learn(self, values: list[float]) -> None:
        """A baseline from the warm-up, whose outliers (by the median of absolute deviations) are pulled in."""
        middle = statistics.median(values)
        spread = WINSOR * 1.4826 * statistics.median(abs(v - middle) for v in values)
        if spread > 0:
            values = [min(max(v, middle - spread), middle + spread) for v in values]
        self._learning = None
        mean = math.fsum(values) / len(values)
        squares, freedom = self._level[2:4]
        squares += math.fsum((v - mean) ** 2 for v in values)
        self._level = (mean, float(len(values)), squares, freedom + len(values) - 1, 0.0, BLOCK)

    @property
    def flat(self) -> bool:
        """Whether no value has differed from the others by more than rounding: there is no deviation to go by."""
        mean, _, squares, freedom, _, _ = self._level
        return math.sqrt(squares / max(freedom, 1.0)) <= FLAT * abs(mean) + 1e-300

    def state(self) -> State:
        """All of the memory; what follows from the options and the reference is not in it."""
        mean, mean_count, squares, var_count, block, left = self._level
        blocks, block_squares = self._blocks
        return {
            "mean": mean,
            "mean_count": mean_count,
            "squares": squares,
            "var_count": var_count,
            "learning": None if self._learning is None else list(self._learning),
            "block": block,
            "block_left": left,
            "block_squares": block_squares,
            "blocks": blocks,
            "excess": self.excess,
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`."""
        mean, mean_count, squares, var_count, block = (
            float(state[key]) for key in ("mean", "mean_count", "squares", "var_count", "block")
        )
        self._level = (mean, mean_count, squares, var_count, block, int(state["block_left"]))
        self._learning = None if state["learning"] is None else [float(v) for v in state["learning"]]
        self._measure(float(state["blocks"]), float(state["block_squares"]), float(state["excess"]))


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
