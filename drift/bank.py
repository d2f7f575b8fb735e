"""Thousands of restarting SPRTs (CUSUMs) in one NumPy call: trimtab.drift.sprt for many streams side by side.

Each stream has its own baseline, evidence and restart. Values come one a stream a call; a stream without a value gets
NaN. The arithmetic is that of trimtab.drift.sprt, and of Page's plain CUSUM where the baseline is given: results
agree with the detector of each stream up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.drift.advance import FLAT, HUGE, WINSOR
from trimtab.drift.baseline import pulled_in
from trimtab.drift.run_length import threshold
from trimtab.drift.sprt import LARGEST_SHIFT, bound, shares

Array = NDArray[np.float64]


STATE = ("sums", "lengths", "mean", "squares", "freedom", "learnt", "first")
MOVING = ("_sums", "_lengths", "_mean", "_squares", "_freedom")
"""What changes with every value of a stream that is tested."""


class Findings(NamedTuple):
    """What a bank says after one value a stream; all `[S]`."""

    alarm: NDArray[np.bool_]
    statistic: Array
    """In nats, of each stream's chart that stands nearest to its threshold."""
    threshold: Array
    onset: NDArray[np.int64]
    """Estimated number of values ago at which the change began (0: this value); -1 where there is no alarm."""


class Bank:
    """One two-sided Gaussian SPRT a stream, restarting at alarms.

    streams: S. every: average run length between false alarms of each stream, in values. shifts: sizes to be detected
    fastest, in deviations. baseline: means and deviations, numbers or `[S]`, that hold for good; None: learnt from
    each stream, from `warmup` values on, older ones fading beyond `memory`, as in `Sprt`.

    Raises ValueError where an option is out of range.
    """

    def __init__(
        self,
        streams: int,
        *,
        every: float,
        shifts: Sequence[float] = (1.0,),
        baseline: tuple[ArrayLike, ArrayLike] | None = None,
        warmup: int = 64,
        memory: int = 5000,
    ) -> None:
        if streams < 1:
            raise ValueError(f"a bank has at least one stream, not {streams}")
        if not (shifts and all(0 < d <= LARGEST_SHIFT for d in shifts)):
            raise ValueError(f"shifts must be sizes above 0 and at most {LARGEST_SHIFT:g} deviations, not {shifts}")
        if not 3 <= warmup <= memory:
            raise ValueError(f"warmup must be at least 3 and at most memory ({memory}), not {warmup}")
        sizes = tuple(shifts)
        self._streams = streams
        self._warmup = warmup
        self._memory = float(memory)
        self._sizes = sizes
        # One chart a shift and direction: upwards in even rows of the sums, downwards in odd ones.
        apart = shares(sizes, every)
        heights = [max(d * threshold(d / 2, e, bound(d)), 1e-9) for d, e in zip(sizes, apart, strict=True)]
        self._heights = np.repeat(heights, 2)
        self._given: tuple[Array, Array] | None = None
        if baseline is not None:
            mean, deviation = (np.broadcast_to(np.asarray(v, np.float64), (streams,)).copy() for v in baseline)
            if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation > 0).all()):
                raise ValueError("the baseline must hold finite means and deviations above 0")
            self._given = (mean, deviation)
        self._sums = np.zeros((2 * len(sizes), streams))
        self._lengths = np.zeros((2 * len(sizes), streams), np.int32)
        # Mean, sum of squared deviations and degrees of freedom; mean and deviation where they are given.
        self._mean, self._squares, self._freedom = np.zeros(streams), np.zeros(streams), np.ones(streams)
        # Values learnt so far; as many as `warmup` once the baseline stands, and whether all of them do.
        self._learnt = np.zeros(streams, np.int64)
        self._ready = False
        self._first = np.zeros((streams if baseline is None else 0, warmup))
        self.reset()

    def reset(self, streams: ArrayLike | None = None) -> None:
        """Forget everything of the streams with these numbers (or this mask `[S]`); None: of all."""
        chosen = slice(None) if streams is None else np.asarray(streams)
        self._sums[:, chosen] = 0.0
        self._lengths[:, chosen] = 0
        if self._given is None:
            self._mean[chosen] = self._squares[chosen] = 0.0
            self._freedom[chosen] = 1.0
            self._learnt[chosen] = 0
        else:
            mean, deviation = self._given
            self._mean[chosen], self._squares[chosen] = mean[chosen], deviation[chosen]
            self._learnt[chosen] = self._warmup
        self._ready = bool((self._learnt >= self._warmup).all())

    def update(self, values: ArrayLike) -> Findings:
        """Take one value a stream, `[S]`; streams with NaN, infinity or what is beyond HUGE are left as they are.

        Raises ValueError where the shape is another.
        """
        x = np.asarray(values, np.float64)
        if x.shape != (self._streams,):
            raise ValueError(f"the bank has {self._streams} streams, and values have shape {x.shape}")
        taken = np.abs(x) < HUGE
        tested = taken if self._ready else taken & (self._learnt >= self._warmup)
        if tested.all():
            found = self._test(x, [getattr(self, name) for name in MOVING])
        else:
            self._learn(x, np.flatnonzero(taken & (self._learnt < self._warmup)))
            found = self._test_but(np.flatnonzero(~tested), x)
        return self._findings(found)

    def _test_but(self, rest: NDArray[np.int64], x: Array) -> NDArray[np.bool_]:
        """`_test` of all streams but `rest`, often few: they are given nothing new, and put back as they were."""
        moving = [getattr(self, name) for name in MOVING]
        kept = [values[..., rest] for values in moving]
        x = x.copy()
        x[rest] = self._mean[rest]
        self._squares[rest] = np.inf  # Not the least, for which `_standardise` looks.
        found = self._test(x, moving)
        found[rest] = False
        for values, part in zip(moving, kept, strict=True):
            values[..., rest] = part
        return found

    def _findings(self, alarm: NDArray[np.bool_]) -> Findings:
        """Of the charts that stand nearest to their thresholds; streams with an alarm start anew."""
        heights = self._heights
        onset = np.full(self._streams, -1)
        if len(set(heights.tolist())) == 1:
            statistic, limit = (
                reduce(np.maximum, self._sums[1:], self._sums[0]),
                np.broadcast_to(heights[0], (self._streams,)),
            )
        else:
            nearest = (self._sums / heights[:, None]).argmax(axis=0)
            statistic, limit = self._sums[nearest, np.arange(self._streams)], heights[nearest]
        if alarm.any():
            places = np.flatnonzero(alarm)
            nearest = (self._sums[:, places] / heights[:, None]).argmax(axis=0)
            onset[places] = self._lengths[nearest, places] - 1
            self.reset(places)
        return Findings(alarm, statistic, limit, onset)

    def _test(self, x: Array, parts: list[Any]) -> NDArray[np.bool_]:
        """Add the evidence of `x`, in place to `parts` (MOVING, of the streams that x is of), and give alarms."""
        sums, lengths, mean, squares, freedom = parts
        z = self._standardise(x, mean, squares, freedom) if self._given is None else (x - mean) / squares
        found = np.zeros(x.size, bool)
        for i, d in enumerate(self._sizes):
            most = bound(d)
            gain = np.clip(z, -most, most)
            if d != 1:
                gain *= d
            for row, change in ((2 * i, np.add), (2 * i + 1, np.subtract)):
                total, length = sums[row], lengths[row]
                change(total, gain, out=total)
                total -= 0.5 * d * d
                np.maximum(total, 0.0, out=total)
                length += 1
                length *= total > 0
                if total.max() >= self._heights[row]:
                    found |= total >= self._heights[row]
        return found

    def _standardise(self, x: Array, mean: Array, squares: Array, freedom: Array) -> Array:
        """z of each value by its stream's baseline so far, which it then joins (trimtab.drift.baseline), in place.

        It is the bank's whole time: few passes, in place, and squares instead of roots. Least and greatest values
        tell at once that no stream needs what few do.
        """
        most = freedom.max()
        inverse = freedom + 1.0
        if most + 1.0 > self._memory:
            np.minimum(inverse, self._memory, out=inverse)
        inverse += 1.0
        np.divide(1.0, inverse, out=inverse)  # 1 over the values in the mean, with this one.
        level = max(mean.max(), -mean.min())
        least = FLAT * level
        if squares.min() <= (least * least + 1e-300) * most:
            floor = FLAT * mean
            floor *= floor
            floor += 1e-300
            floor *= freedom
            np.maximum(squares, floor, out=floor)
        else:
            floor = squares
        deviation = x - mean
        square = deviation * deviation
        with np.errstate(over="ignore"):
            square /= floor  # Infinite where a constant stream jumps: z is clipped all the same.
            passing = square * freedom  # t^2, but for the error of the mean.
        step = deviation
        if passing.max() > WINSOR * WINSOR:
            wild = np.flatnonzero(passing > WINSOR * WINSOR)
            step = deviation.copy()
            step[wild] = np.copysign(WINSOR * np.sqrt(floor[wild] / freedom[wild]), deviation[wild])
        # freedom ln(1 + t^2 / freedom), t^2 = square x freedom x count / (count + 1).
        np.subtract(1.0, inverse, out=passing)
        square *= passing
        z = np.log1p(square, out=square)
        z *= freedom
        np.sqrt(z, out=z)
        # (8 f + 1) / (8 f + 3) = 1 - 1 / (4 f + 3/2).
        np.multiply(freedom, -4.0, out=passing)
        passing -= 1.5
        np.divide(1.0, passing, out=passing)
        passing += 1.0
        z *= passing
        np.copysign(z, deviation, out=z)
        np.multiply(step, inverse, out=inverse)
        mean += inverse
        np.subtract(step, inverse, out=inverse)
        inverse *= step
        squares += inverse
        freedom += 1.0
        if most + 1.0 > self._memory:
            old = np.flatnonzero(freedom > self._memory)
            squares[old] *= self._memory / freedom[old]
            freedom[old] = self._memory
        return z

    def _learn(self, x: Array, places: NDArray[np.int64]) -> None:
        """Keep the values of streams that have no baseline yet; make one where that was the last of the warm-up."""
        if not places.size:
            return
        self._first[places, self._learnt[places]] = x[places]
        self._learnt[places] += 1
        ready = places[self._learnt[places] == self._warmup]
        if not ready.size:
            return
        values = pulled_in(self._first[ready])
        mean = values.mean(axis=1)
        self._mean[ready] = mean
        self._squares[ready] = ((values - mean[:, None]) ** 2).sum(axis=1)
        self._freedom[ready] = float(self._warmup - 1)
        self._ready = bool((self._learnt >= self._warmup).all())

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All of the memory, for `np.savez`; calibration and a given baseline follow from the options."""
        return {name: getattr(self, "_" + name).copy() for name in STATE}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of a bank of another size or other options."""
        for name in STATE:
            found, own = state.get(name), getattr(self, "_" + name)
            if found is None or found.shape != own.shape or found.dtype != own.dtype:
                raise ValueError(f"this state is not of a bank with these streams and options ({name}); reset the bank")
        for name in STATE:
            setattr(self, "_" + name, state[name].copy())
        self._ready = bool((self._learnt >= self._warmup).all())
