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
from trimtab.drift.advance import advance
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
        self.shifts = [[d, 0.5 * d, bound(d), *map(float, heights[:, i])] for i, d in enumerate(sizes)]
        """For each shift: its size, half of it, the bound of z, and the thresholds of S upwards and downwards."""
        self.tests = [[0.0] * 4 for _ in sizes]
        """For each shift, S and the values in it upwards and downwards (trimtab.drift.advance); always these lists."""
        # While all S are 0, so far from 0 z changes none.
        self.fixed = (*self.baseline.fixed[:3], 0.5 * min(sizes))
        self.reset()

    def reset(self) -> None:
        """Forget everything; with a reference, its baseline holds again."""
        self.baseline.reset()
        self._clear()

    def _clear(self) -> None:
        for test in self.tests:
            test[:] = (0.0, 0.0, 0.0, 0.0)

    def update(self, value: float) -> Finding:
        """Take one value: about two microseconds."""
        baseline = self.baseline
        if baseline.level[9]:
            baseline.learn(value)
            return self._standing(False)
        share = [0.0]
        _, baseline.level = advance((value,), 0, baseline.level, self.fixed, self.shifts, self.tests, share, share)
        return self._alarm() if share[0] >= 1 else self._standing(False)

    def update_many(self, values: Sequence[float]) -> Stretch:
        """Take values in order: about a microsecond each."""
        shares = [0.0] * len(values)
        alarms: list[tuple[int, Finding]] = []
        baseline, place = self.baseline, 0
        while place < len(values):
            if baseline.level[9]:
                baseline.learn(values[place])
                place += 1
                continue
            place, baseline.level = advance(
                values, place, baseline.level, self.fixed, self.shifts, self.tests, shares, shares
            )
            if shares[place - 1] >= 1:
                alarms.append((place - 1, self._alarm()))
        return shares, alarms

    def _alarm(self) -> Finding:
        finding = self._standing(True)
        self.baseline.relearn()
        self._clear()
        return finding

    def _standing(self, alarm: bool) -> Finding:
        """Of the chart that stands nearest to its threshold."""
        level, (_, _, _, height, _) = self.baseline.level, self.shifts[0]
        excess, total, length, best = level[8], 0.0, 0.0, 0.0
        if not level[10]:
            for (up, risen, down, fallen), (_, _, _, upper, lower) in zip(self.tests, self.shifts, strict=True):
                if up / upper > best:
                    total, length, height, best = up, risen, upper, up / upper
                if down / lower > best:
                    total, length, height, best = down, fallen, lower, down / lower
        return Finding(alarm, total, height * excess, int(length) - 1 if alarm else None)

    def side_by_side(self, detectors: Sequence[Detector]) -> Cusums:
        """The charts of `detectors` for so many streams. Raises ValueError where one is of another kind."""
        alike = [d for d in detectors if isinstance(d, Sprt)]
        if len(alike) < len(detectors):
            raise ValueError("detectors side by side must be of one kind, with the same options")
        sizes, _, bounds, up, down = padded(alike).transpose(2, 1, 0).copy()
        return Cusums(sizes, bounds, np.stack([up, down]))

    def state(self) -> State:
        """All of the memory; calibration follows from the options and the reference, and is not in it."""
        return {
            "detector": self.name,
            "version": 2,
            **self.baseline.state(),
            "sums": [total for up, _, down, _ in self.tests for total in (up, down)],
            "lengths": [int(length) for _, risen, _, fallen in self.tests for length in (risen, fallen)],
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector, version or shifts."""
        sums, lengths = state.get("sums", ()), state.get("lengths", ())
        fits = len(sums) == len(lengths) == 2 * len(self.tests)
        if state.get("detector") != self.name or state.get("version") != 2 or not fits:
            raise ValueError(f"this state is not of {self.name} with these options; reset the detector")
        self.baseline.restore(state)
        for i, test in enumerate(self.tests):
            up, down = 2 * i, 2 * i + 1
            test[:] = (float(v) for v in (sums[up], lengths[up], sums[down], lengths[down]))
        self.baseline.level = (*self.baseline.level[:10], float(not any(sums)))


def padded(detectors: Sequence[Sprt]) -> Array:
    """The shifts of `detectors` `[S, most shifts, 5]`; where one has fewer than others, some that never begin a sum.

    Recordings tell how many shifts there are.
    """
    most = max(len(d.shifts) for d in detectors)
    never = [1.0, math.inf, 1.0, math.inf, math.inf]
    return np.array([d.shifts + [never] * (most - len(d.shifts)) for d in detectors])


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
