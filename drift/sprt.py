"""Wald's sequential probability ratio test, restarting, two-sided, on a scalar stream whose baseline is unknown.

For each size of shift d (in sigmas) and each direction, S = max(0, S + d (z - d/2)) adds up the log-likelihood ratio
of N(d, 1) against N(0, 1) and starts again at 0 whenever "no change" is the likelier: a sequence of Wald's tests, and
Page's CUSUM (see trimtab.drift.run_length for the relation). The last restart is the maximum-likelihood estimate of
the onset, S is the evidence in nats.

**Baseline.** z standardises each value by the values *before* it, as a prediction:

    t = (x - mean) / (s sqrt(1 + 1/n)),   z = Phi^-1(T_{n-1}(t)),

which under no change are exactly independent N(0, 1), whatever the mean and deviation and however short the warm-up
(Quesenberry 1991; the self-starting CUSUM of Hawkins 1987), where plugging in estimates from n values multiplies the
false alarms by about exp(2 h^2 / n): 20-fold for n = 64 at one in 20,000. Each value then joins the baseline, pulled
in to 4 s, so that one wild value spoils nothing. Phi^-1(T(.)) is Wallace's (1959) closed form, good to 1 %.

**Reference.** Given a recording of the normal signal, mean, deviation and autocorrelation are known beforehand, and
thresholds come from a bootstrap of it (trimtab.drift.reference). n then counts independent values (count divided by
the recording's variance inflation r), and a second shift of 1.25 sqrt(r) sigmas, at most 6, is watched for: where a
change of class moves the level by a sigma for half a minute, one sigma is no drift, and what is beyond the usual
levels should count at once. The stream's own values go on to move the baseline. Without a reference, values are taken
to be independent and thresholds are exact for Gaussian ones.

The accepted rate is split over the two directions evenly, and over shifts in proportion to their size: what a rarer
alarm costs in delay is small beside the delay of a small shift.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trimtab.drift import reference as recording
from trimtab.drift.detector import Finding, State
from trimtab.drift.run_length import threshold

WINSOR = 4.0
"""Deviations at which a value is pulled in before it joins the baseline."""

PRIOR = 8.0
"""Independent values that the reference's mean and deviation weigh as much as, beside those of the stream: a stream
differs from the recording (another person, another place), and is worth more than it after a few minutes."""

LARGEST_SHIFT = 6.0
HUGE = 1e150
"""Values beyond this are skipped: their square is not a number."""


class Sprt:
    """Restarting two-sided Gaussian SPRT for a shift of the mean. See the module for the method.

    every: average run length between false alarms, in values. shifts: sizes to be detected fastest, in deviations of
    the signal; None: 1, and with a reference also the square root of its variance inflation. warmup: values from
    which a baseline is learnt before the first test. memory: values that the baseline remembers: older ones fade.
    reference: `[n]` recorded values without drift, at least 4, not all the same.

    Raises ValueError where an option or the reference is out of range.
    """

    name = "sprt"

    def __init__(
        self,
        *,
        every: float,
        shifts: Sequence[float] | None = None,
        warmup: int = 64,
        memory: int = 5000,
        reference: NDArray[np.float64] | None = None,
    ) -> None:
        if not 3 <= warmup <= memory:
            raise ValueError(f"warmup must be at least 3 and at most memory ({memory}), not {warmup}")
        if shifts is not None and not (shifts and all(0 < d <= LARGEST_SHIFT for d in shifts)):
            raise ValueError(f"shifts must be sizes above 0 and at most {LARGEST_SHIFT:g} deviations, not {shifts}")
        self._warmup = warmup
        self._memory = float(memory)
        if reference is None:
            self._known: tuple[float, float] | None = None
            self._weight = 0.0
            self._correlation = 1.0
            sizes = tuple(shifts or (1.0,))
            heights = [[threshold(d / 2, e)] * 2 for d, e in zip(sizes, _shares(sizes, every), strict=True)]
        else:
            mean, deviation = _winsorised(reference)
            if reference.size < 4 or not 0 < deviation < math.inf:
                raise ValueError("the reference must hold at least 4 finite values that are not all the same")
            self._known = (mean, deviation)
            z = (reference - mean) / deviation
            self._correlation = recording.inflation(z)
            self._weight = min(max(PRIOR * self._correlation, float(warmup)), float(memory), float(reference.size))
            sizes = tuple(shifts or _ladder(self._correlation))
            heights = _calibrated(z.tobytes(), sizes, every, self._correlation)
        # One chart a shift and direction: (sign, d, bound of z, threshold of S).
        self._charts = [
            (sign, d, _bound(d), max(d * heights[i][side], 1e-9))
            for i, d in enumerate(sizes)
            for side, sign in enumerate((1.0, -1.0))
        ]
        self.reset()

    def reset(self) -> None:
        """Forget everything; with a reference, its baseline holds again."""
        self._start(*(self._known or (0.0, 0.0)), learnt=self._known is not None)

    def _start(self, mean: float, deviation: float, learnt: bool) -> None:
        self._mean = mean
        self._mean_count = self._weight if learnt else 0.0
        self._var_count = self._weight  # degrees of freedom
        self._squares = deviation * deviation * self._var_count
        self._learning: list[float] | None = None if learnt else []
        self._sums = [0.0] * len(self._charts)
        self._lengths = [0] * len(self._charts)

    def update(self, value: float) -> Finding:
        """Take one value: a few microseconds."""
        if not -HUGE < value < HUGE:
            return self._unchanged()
        if self._learning is not None:
            self._learning.append(value)
            if len(self._learning) >= self._warmup:
                self._learn(self._learning)
            return self._unchanged()
        z = self._standardise(value)
        alarm = False
        best, nearest = -1.0, 0
        sums = self._sums
        for i, (sign, d, bound, height) in enumerate(self._charts):
            score = sign * z
            if score > bound:
                score = bound
            elif score < -bound:
                score = -bound
            total = sums[i] + d * (score - 0.5 * d)
            if total > 0:
                sums[i] = total
                self._lengths[i] += 1
                share = total / height
                if share > best:
                    best, nearest = share, i
                if total >= height:
                    alarm = True
            else:
                sums[i] = 0.0
                self._lengths[i] = 0
                if best < 0:
                    best, nearest = 0.0, i
        onset = self._lengths[nearest] - 1 if alarm else None
        finding = Finding(alarm, sums[nearest], self._charts[nearest][3], onset)
        if alarm:
            self._start(0.0, self._known[1] if self._known else 0.0, learnt=False)
        return finding

    def _standardise(self, value: float) -> float:
        """z of a value by the baseline so far, which the value then joins."""
        # Written out without min and max, and with Welford's update in place: this runs for every signal of every
        # window, and calls are what it would spend its time on.
        mean, var_count, mean_count = self._mean, self._var_count, self._mean_count
        scale = math.sqrt(self._squares / var_count)
        smallest = 1e-9 * abs(mean) + 1e-300
        if scale < smallest:
            scale = smallest
        freedom = var_count / self._correlation
        if freedom < 1.0:
            freedom = 1.0
        deviation = value - mean
        t = deviation / (scale * math.sqrt(1.0 + self._correlation / mean_count))
        square = t * t
        if square > 1e300:
            square = 1e300
        z = math.sqrt(freedom * math.log1p(square / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
        joining = deviation
        limit = WINSOR * scale
        if joining > limit:
            joining = limit
        elif joining < -limit:
            joining = -limit
        self._join(joining)
        return z if deviation >= 0 else -z

    def _join(self, deviation: float) -> None:
        """Welford's update by a value that lies `deviation` from the mean; beyond `memory`, old values fade."""
        memory = self._memory
        mean_count = self._mean_count + 1.0
        var_count = self._var_count + 1.0
        step = deviation / mean_count
        self._mean += step
        self._squares += deviation * (deviation - step)
        self._mean_count = mean_count if mean_count < memory else memory
        if var_count > memory:
            self._squares *= memory / var_count
            var_count = memory
        self._var_count = var_count

    def _learn(self, values: list[float]) -> None:
        """A baseline from the warm-up, whose outliers (by the median of absolute deviations) are pulled in."""
        middle = statistics.median(values)
        spread = WINSOR * 1.4826 * statistics.median(abs(v - middle) for v in values)
        if spread > 0:
            values = [min(max(v, middle - spread), middle + spread) for v in values]
        self._learning = None
        self._mean = math.fsum(values) / len(values)
        self._mean_count = float(len(values))
        self._squares += math.fsum((v - self._mean) ** 2 for v in values)
        self._var_count += len(values) - 1

    def _unchanged(self) -> Finding:
        """Of the chart that stands nearest to its threshold, where no value was taken."""
        i = max(range(len(self._sums)), key=lambda j: self._sums[j] / self._charts[j][3])
        return Finding(False, self._sums[i], self._charts[i][3], None)

    def state(self) -> State:
        """All of the memory; calibration follows from the options and the reference, and is not in it."""
        return {
            "detector": self.name,
            "version": 1,
            "mean": self._mean,
            "mean_count": self._mean_count,
            "squares": self._squares,
            "var_count": self._var_count,
            "learning": None if self._learning is None else list(self._learning),
            "sums": list(self._sums),
            "lengths": list(self._lengths),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector, version or shifts."""
        if state.get("detector") != self.name or state.get("version") != 1 or len(state["sums"]) != len(self._charts):
            raise ValueError(f"this state is not of {self.name} with these options; reset the detector")
        self._mean = float(state["mean"])
        self._mean_count = float(state["mean_count"])
        self._squares = float(state["squares"])
        self._var_count = float(state["var_count"])
        self._learning = None if state["learning"] is None else [float(v) for v in state["learning"]]
        self._sums = [float(v) for v in state["sums"]]
        self._lengths = [int(v) for v in state["lengths"]]


def _winsorised(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and deviation of a recording, with outliers pulled in to WINSOR deviations as in `Sprt`'s baseline."""
    mean, deviation = float(values.mean()), float(values.std())
    for _ in range(10):
        near = np.clip(values, mean - WINSOR * deviation, mean + WINSOR * deviation)
        mean, deviation = float(near.mean()), float(near.std())
    return mean, deviation


def _ladder(correlation: float) -> tuple[float, ...]:
    """Shifts to watch for in a signal of this variance inflation."""
    large = min(1.25 * math.sqrt(correlation), LARGEST_SHIFT)
    return (1.0, large) if correlation >= 1.5 else (1.0,)


def _shares(sizes: tuple[float, ...], every: float) -> list[float]:
    """Run length that each one-sided chart may have so that all of them together have `every` (Bonferroni)."""
    return [2 * every * sum(sizes) / d for d in sizes]


def _bound(d: float) -> float:
    """Where |z| is clipped in the test for shift d: one value can say no more than that (Huber 1965)."""
    return max(3.0, d + 2.0)


@lru_cache(maxsize=64)
def _calibrated(z: bytes, sizes: tuple[float, ...], every: float, correlation: float) -> list[list[float]]:
    """`recording.thresholds`, remembered: the detectors of a thousand streams share one reference."""
    shifts = np.array(sizes)
    bounds = np.array([_bound(d) for d in sizes])
    found = recording.thresholds(np.frombuffer(z), shifts / 2, bounds, _shares(sizes, every), correlation)
    return [[float(v) for v in row] for row in found]
