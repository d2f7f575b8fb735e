"""Wald's sequential probability ratio test, restarting, two-sided, on a scalar stream whose baseline is unknown.

For each size of shift d (in sigmas) and each direction, S = max(0, S + d (z - d/2)) adds up the log-likelihood ratio
of N(d, 1) against N(0, 1) and starts again at 0 whenever "no change" is the likelier: a sequence of Wald's tests, and
Page's CUSUM (see trimtab.drift.run_length for the relation). The last restart is the maximum-likelihood estimate of
the onset, S is the evidence in nats.

**Baseline.** z standardises each value by the values before it, as a prediction, which makes them exactly independent
N(0, 1) under no change: trimtab.drift.baseline, for this and for what else is standardised.

**Reference.** Given a recording of the normal signal, mean, deviation and autocorrelation are known beforehand, and
thresholds come from a replay of it (trimtab.drift.replay). n then counts independent values (count divided by
the recording's variance inflation r), and a second shift of 1.25 sqrt(r) sigmas, at most 6, is watched for: where a
change of class moves the level by a sigma for half a minute, one sigma is no drift, and what is beyond the usual
levels should count at once. The stream's own values go on to move the baseline, and to raise thresholds where they
hang together more than the recording's. Without a reference, values are taken to be independent and thresholds are
exact for Gaussian ones, clipped as they are here (`bound`).

The accepted rate is split over the two directions evenly, and over shifts in proportion to their size: what a rarer
alarm costs in delay is small beside the delay of a small shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trimtab.drift import replay
from trimtab.drift.baseline import Baseline
from trimtab.drift.charts import Cusums
from trimtab.drift.detector import Detector, Finding, State, Stretch
from trimtab.drift.run_length import LONGEST, threshold

Array = NDArray[np.float64]

LARGEST_SHIFT = 6.0

LEAST = 1e-9
"""The least height."""


class Sprt:
    """Restarting two-sided Gaussian SPRT for a shift of the mean. See the module for the method.

    every: average run length between false alarms, in values. shifts: sizes to be detected fastest, in deviations of
    the signal; None: 1, and with a reference also the square root of its variance inflation. warmup: values from
    which a baseline is learnt before the first test. memory: values that the baseline remembers: older ones fade.
    reference: `[n]` recorded values without drift, at least 4, not all the same.

    Raises ValueError where an option or the reference is out of range.
    """

    name = "sprt"
    height, bound, spread = 1.0, math.inf, False
    """Of its charts side by side: what they are alarmed at, where z is clipped besides, whether deviations count."""

    def __init__(
        self,
        *,
        every: float,
        shifts: Sequence[float] | None = None,
        warmup: int = 64,
        memory: int = 5000,
        reference: NDArray[np.float64] | None = None,
    ) -> None:
        if shifts is not None and not (shifts and all(0 < d <= LARGEST_SHIFT for d in shifts)):
            raise ValueError(f"shifts must be sizes above 0 and at most {LARGEST_SHIFT:g} deviations, not {shifts}")
        self.baseline = Baseline(warmup, memory, reference)
        recorded, correlation = self.baseline.recorded, self.baseline.correlation
        if recorded is None:
            sizes = tuple(shifts or (1.0,))
            heights = _theory(sizes, every)
        else:
            sizes = tuple(shifts or _ladder(correlation))
            heights = _replayed(recorded.tobytes(), sizes, every, warmup, memory)
        # One chart a shift and direction: (place, sign, d, d / 2, bound of z, threshold of S).
        self._charts = [
            (2 * i + side, sign, d, 0.5 * d, bound(d), float(heights[side, i]))
            for i, d in enumerate(sizes)
            for side, sign in enumerate((1.0, -1.0))
        ]
        self._idle = 0.5 * min(sizes)
        """While all S are 0, so far from 0 z changes none."""
        self.reset()

    def reset(self) -> None:
        """Forget everything; with a reference, its baseline holds again."""
        self.baseline.reset()
        self._clear()

    def _clear(self) -> None:
        self._sums = [0.0] * len(self._charts)
        self._lengths = [0] * len(self._charts)
        self._resting = True

    def update(self, value: float) -> Finding:
        """Take one value: a few microseconds."""
        _, alarms = self.update_many([value])
        return alarms[0][1] if alarms else self._standing(False)

    def update_many(self, values: Sequence[float]) -> Stretch:
        """Take values in order: a microsecond or two each."""
        shares: list[float] = []
        alarms: list[tuple[int, Finding]] = []
        baseline, count = self.baseline, len(values)
        begin = 0
        while begin < count:
            mark = baseline.mark()
            z = baseline.stretch(values, begin)
            if math.isnan(z[0]):
                shares.append(self._standing(False).share)
            elif self._test(z, shares):
                taken = len(shares) - begin
                if taken < len(z):  # what comes after an alarm is another baseline's
                    baseline.back(mark)
                    baseline.stretch(values[: begin + taken], begin)
                alarms.append((len(shares) - 1, self._standing(True)))
                baseline.relearn()
                self._clear()
            begin = len(shares)
        return shares, alarms

    def _test(self, z: list[float], shares: list[float]) -> bool:
        """Take z up to the first alarm, and append a share each to `shares`. Returns whether there was an alarm."""
        excess, sums, lengths = self.baseline.excess, self._sums, self._lengths
        idle, resting = self._idle, self._resting
        best = 0.0
        for value in z:
            if resting and -idle <= value <= idle:
                shares.append(0.0)
                continue
            best = 0.0
            for i, sign, d, half, bound, height in self._charts:
                score = sign * value
                total = sums[i]
                if total == 0.0 and score <= half:
                    continue  # the usual case: this runs for every signal of every window
                if score > bound:
                    score = bound
                elif score < -bound:
                    score = -bound
                total += d * (score - half)
                if total > 0:
                    sums[i] = total
                    lengths[i] += 1
                    share = total / (height * excess)
                    if share > best:
                        best = share
                else:
                    sums[i] = 0.0
                    lengths[i] = 0
            shares.append(best)
            if best >= 1:
                return True
            resting = best == 0.0
        self._resting = resting
        return False

    def _standing(self, alarm: bool) -> Finding:
        """Of the chart that stands nearest to its threshold."""
        excess, nearest, best = self.baseline.excess, 0, 0.0
        for i, _, _, _, _, height in self._charts:
            share = self._sums[i] / (height * excess)
            if share > best:
                nearest, best = i, share
        onset = self._lengths[nearest] - 1 if alarm else None
        return Finding(alarm, self._sums[nearest], self._charts[nearest][5] * excess, onset)

    def side_by_side(self, detectors: Sequence[Detector]) -> Cusums:
        """The charts of `detectors` for so many streams. Raises ValueError where one is of another kind."""
        charts = [d._charts for d in detectors if isinstance(d, Sprt)]
        if len(charts) < len(detectors):
            raise ValueError("detectors side by side must be of one kind, with the same options")
        # Recordings tell how many shifts there are: what a stream has less than others never alarms.
        most = max(map(len, charts))
        never = [(1.0, 1.0, math.inf)]
        rows = np.array([[(d, b, h) for _, _, d, _, b, h in own] + never * (most - len(own)) for own in charts])
        sizes, bounds, heights = rows.transpose(2, 1, 0)
        return Cusums(sizes[::2].copy(), bounds[::2].copy(), np.stack([heights[::2], heights[1::2]]))

    def state(self) -> State:
        """All of the memory; calibration follows from the options and the reference, and is not in it."""
        return {
            "detector": self.name,
            "version": 2,
            **self.baseline.state(),
            "sums": list(self._sums),
            "lengths": list(self._lengths),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector, version or shifts."""
        if state.get("detector") != self.name or state.get("version") != 2 or len(state["sums"]) != len(self._charts):
            raise ValueError(f"this state is not of {self.name} with these options; reset the detector")
        self.baseline.restore(state)
        self._sums = [float(v) for v in state["sums"]]
        self._lengths = [int(v) for v in state["lengths"]]
        self._resting = not any(self._sums)


def _ladder(correlation: float) -> tuple[float, ...]:
    """Shifts to watch for in a signal of this variance inflation."""
    large = min(1.25 * math.sqrt(correlation), LARGEST_SHIFT)
    return (1.0, large) if correlation >= 1.5 else (1.0,)


def shares(sizes: tuple[float, ...], every: float) -> list[float]:
    """Run length that each one-sided chart may have so that all of them together have `every` (Bonferroni)."""
    return [2 * every * sum(sizes) / d for d in sizes]


def bound(d: float) -> float:
    """Where |z| is clipped in the test for shift d: one value can say no more than that (Huber 1965)."""
    return max(3.0, d + 2.0)


def _theory(sizes: tuple[float, ...], every: float) -> Array:
    """Heights `[2, shifts]`, up and down, in nats, for independent Gaussian values."""
    found = [d * threshold(d / 2, min(e, LONGEST), bound(d)) for d, e in zip(sizes, shares(sizes, every), strict=True)]
    return np.asarray(np.maximum([found, found], LEAST))


@lru_cache(maxsize=64)
def _replayed(recorded: bytes, sizes: tuple[float, ...], every: float, warmup: int, memory: int) -> Array:
    """The same, for values like those `recorded` (float64); remembered: a thousand streams share one reference."""
    values = np.frombuffer(recorded)
    apart = replay.rarer(values.size, every)
    length = replay.duration(apart)
    theory = _theory(sizes, apart)
    # Each chart by its share of the rate, and then all of them together: charts also alarm at the same time.
    split = np.tile(shares(sizes, apart), 2)

    def solve(found: Array) -> Array:
        factors = np.array([replay.threshold(f, length, e) for f, e in zip(found, split, strict=True)])
        factors = np.maximum(factors, LEAST)
        factors *= replay.threshold((found / factors[:, None]).max(axis=0), length, apart)
        return np.asarray(theory * factors.reshape(theory.shape))

    def make(more: float) -> Callable[[Array], Array]:
        charts = _side_by_side(sizes, theory, replay.STREAMS)
        # Not z itself: what makes sums larger makes no single value one that the chart of a large shift waits for.
        return lambda z: more * more * charts.parts(z)

    heights = replay.heights(solve, make, Baseline(warmup, memory, values), apart, length)
    return np.maximum(heights, theory if replay.too_short(values.size, every) else LEAST)


def _side_by_side(sizes: tuple[float, ...], heights: Array, streams: int) -> Cusums:
    shifts = np.array(sizes)
    bounds = np.array([bound(d) for d in sizes])
    return Cusums(*(np.repeat(v[..., None], streams, axis=-1) for v in (shifts, bounds, heights)))
