"""A detector behind a model of the signal's cycles: it is given what the time of day, or of the week, does not explain.

The cycle is a sum of harmonics of each period, c(t) = sum_k Re(c_k exp(2 pi i k t / T)) (harmonic regression), learnt
from whole cycles and then carried on by recursive least squares, whose gain is 2/n at each value: sines and cosines of
different harmonics are orthogonal over a cycle, so that their covariance stays diagonal. The residual of a value by the
values *before* it (Brown, Durbin and Evans 1975) goes to the detector: where values are independent Gaussian ones but
for the cycle, so are those residuals, since what is wrong in the estimate is corrected from value to value. Learning
from two cycles of 288 values with three harmonics leaves a deviation 1 % too large, which the detector's own baseline
measures. The level stays in the residual: it is the detector's to learn, and to learn anew after an alarm.

**Which harmonics.** Those whose power stands out of the spectrum beside them (F test, level LEVEL): m whole cycles have
m - 1 frequencies between two harmonics, on which there is noise alone, of whatever colour. So what has no cycle is not
given one, and a cycle with corners gets its corners.

**A drift is not taken for a cycle.** A value's residual is pulled in to WINSOR deviations, and weighs 2/n: n begins at
two cycles and grows to MEMORY of them. From an alarm on the cycle stands still, and another one, which is worth half a
cycle only and so learns fast, is tried beside it for two: what changed may be the cycle. Where the other explains the
second one better it takes the place of the first, and else it is dropped with all that it made of the drift.

**With a recording** of two cycles and more (and `ENOUGH` values), the detector is made from its residuals: each cycle's
by the others', as those of a stream would be, so that thresholds see that cycles differ from day to day. Where the
stream goes on from the recording (`follows`), the cycle is known from the first value on; else no one knows which time
of day it begins at, and the cycle is learnt from the stream.

**Time** is counted in values: one that is NaN or infinite, or was not observed, counts too, and changes nothing else.
A reset does not stop the clock, and keeps the cycle, which is the world's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri

from trimtab.drift.advance import HUGE, WINSOR
from trimtab.drift.baseline import winsorised
from trimtab.drift.detector import Detector, Finding, State

Array = NDArray[np.float64]

CYCLES = 2
"""Whole cycles from which the first estimate is made."""

ENOUGH = 200
"""Values that it takes at least: harmonics are told from noise by what lies between them."""

MEMORY = 16.0
"""Cycles that are remembered; older ones fade."""

HARMONICS = 64
"""Highest harmonic of a period: a week's 64 reach the ninth of its day."""

LEVEL = 0.01
"""Of the test of each harmonic."""

BESIDE = 8
"""Frequencies beside a harmonic by which its noise is measured."""

WILD = 8.0
"""Deviations by which a wild value differs from those of its time in other cycles."""

BETTER = 0.9
"""Share of the squared errors of the cycle that is known, below which another is better."""

FINEST = 256
"""Values of a cycle that are kept apart while it is learnt: of longer ones, means of equal parts."""

ROUNDING = 1e-12
"""The least deviation, as a share of the largest value."""


@dataclass(slots=True)
class Cycle:
    """What is known of a cycle: see the module."""

    lines: Array
    """`[K]`: frequencies, in cycles a value."""
    weights: NDArray[np.complex128]
    """`[K]`."""
    level: float
    scale: float
    """Deviation of what the cycle does not explain."""
    count: float
    """Values that the weights are worth."""
    levelled: float
    """Values that the level is worth."""

    def take(self, value: float, now: int, longest: float, learn: bool) -> tuple[float, float]:
        """What the cycle does not explain of a value at time `now`, and by how much it is off its level.

        The value then joins the level, and where `learn` the cycle.
        """
        turned = np.exp(2j * math.pi * (self.lines * now % 1.0))
        rest = value - float((self.weights * turned).real.sum())
        if self.levelled == 0.0:
            self.level = rest
        error = rest - self.level
        near = min(max(error, -WINSOR * self.scale), WINSOR * self.scale)
        self.levelled = min(self.levelled + 1.0, longest)
        self.level += near / self.levelled
        if learn:
            self.count = min(self.count + 1.0, MEMORY * longest)
            # Not in place: another may hold the same.
            self.weights = self.weights + (2.0 / self.count * near) * turned.conj()
            self.scale = math.sqrt(self.scale**2 + (near * near - self.scale**2) / self.count)
        return rest, error

    def state(self) -> State:
        return {**asdict(self), "lines": self.lines.tolist(), "weights": [[w.real, w.imag] for w in self.weights]}

    @classmethod
    def of(cls, state: State) -> Cycle:
        lines = np.array(state["lines"], np.float64)
        weights = np.array([complex(*w) for w in state["weights"]], np.complex128)
        return cls(lines, weights, *(float(state[key]) for key in ("level", "scale", "count", "levelled")))


@dataclass(slots=True)
class Trial:
    """Another cycle, tried beside the one that is known."""

    cycle: Cycle
    until: int
    """Time at which it is judged."""
    known: float = 0.0
    other: float = 0.0
    """Squared errors in the second half, of the one that is known and of the other."""

    def state(self) -> State:
        return {"cycle": self.cycle.state(), "until": self.until, "known": self.known, "other": self.other}

    @classmethod
    def of(cls, state: State) -> Trial:
        return cls(Cycle.of(state["cycle"]), int(state["until"]), float(state["known"]), float(state["other"]))


class Seasonal:
    """A detector of what cycles do not explain. See the module.

    make: the detector, from residuals of a recording `[n]` or None. periods: in values, 4 or more; whole or not.
    reference: `[n]` recorded without drift, in which NaN counts as time, or None. follows: the stream goes on where the
    reference ends. Raises what `make` raises.
    """

    def __init__(
        self,
        make: Callable[[Array | None], Detector],
        periods: Sequence[float],
        *,
        reference: Array | None = None,
        follows: bool = False,
    ) -> None:
        self._periods = tuple(sorted(periods))
        self._longest = self._periods[-1]
        least = needed(self._periods)
        self._width = max(int(self._longest // FINEST), 1)
        self._time = 0
        self._learning: list[float | None] = []
        """Means of `_width` values each, from time 0 on."""
        self._sum, self._summed = 0.0, 0
        """Of the mean that is under way."""
        self._cycle: Cycle | None = None
        self._trial: Trial | None = None
        if reference is not None:
            reference = np.where(np.abs(reference) < HUGE, reference, np.nan)
        if reference is not None and np.isfinite(reference).sum() >= least:
            rest, cycle = residuals(reference, self._periods)
            self._detector = make(rest)
            if follows:
                self._time, self._cycle = reference.size, cycle
        else:
            self._detector = make(reference)
        self.name = self._detector.name

    def reset(self) -> None:
        """Forget everything but the time and the cycle."""
        self._detector.reset()
        self._trial = None
        if self._cycle is not None:
            self._cycle.levelled = 0.0

    def update(self, value: float) -> Finding:
        """Take one value, or let the time of one go by."""
        now = self._time
        self._time += 1
        finite = -HUGE < value < HUGE
        if self._cycle is None:
            if finite:
                self._sum += value
                self._summed += 1
            if self._time % self._width == 0:
                self._learn()
        if self._cycle is None or not finite:
            return self._detector.update(math.nan)
        rest, error = self._cycle.take(value, now, self._longest, learn=self._trial is None)
        if self._trial is not None:
            self._try(self._trial, value, now, error)
        finding = self._detector.update(rest)
        if finding.alarm:
            self._cycle.levelled = 0.0
            if self._trial is None:
                other = replace(self._cycle, count=0.5 * self._longest)
                self._trial = Trial(other, now + math.ceil(2 * self._longest))
            self._trial.cycle.levelled = 0.0
        return finding

    def _try(self, trial: Trial, value: float, now: int, error: float) -> None:
        _, other = trial.cycle.take(value, now, self._longest, learn=True)
        if now + self._longest >= trial.until:
            trial.known += error * error
            trial.other += other * other
        if now >= trial.until:
            if trial.other < BETTER * trial.known:
                self._cycle = trial.cycle
            self._trial = None

    def _learn(self) -> None:
        """Take a mean; where the last cycles hold enough of them, take the cycle from those, from the next value on."""
        self._learning.append(self._sum / self._summed if self._summed else None)
        self._sum, self._summed = 0.0, 0
        most = math.ceil(4 * needed(self._periods) / self._width)
        del self._learning[:-most]
        kept = len(self._learning)
        if kept * self._width < needed(self._periods) or sum(v is not None for v in self._learning) < ENOUGH:
            return
        values = np.array(self._learning, np.float64)  # None is NaN
        self._cycle = cycle_in(values, self._periods, self._width, self._time - kept * self._width)
        self._learning = []

    def state(self) -> State:
        """All of the memory; what the reference told of thresholds is not in it."""
        return {
            "detector": self.name,
            "version": 1,
            "periods": list(self._periods),
            "time": self._time,
            "learning": list(self._learning),
            "sum": self._sum,
            "summed": self._summed,
            "cycle": None if self._cycle is None else self._cycle.state(),
            "trial": None if self._trial is None else self._trial.state(),
            "rest": self._detector.state(),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector, version or season."""
        own = (state.get("detector"), state.get("version"), state.get("periods"))
        if own != (self.name, 1, list(self._periods)):
            raise ValueError(f"this state is not of {self.name} with this season; reset the detector")
        self._detector.restore(state["rest"])
        self._time = int(state["time"])
        self._learning = [None if v is None else float(v) for v in state["learning"]]
        self._sum, self._summed = float(state["sum"]), int(state["summed"])
        self._cycle = None if state["cycle"] is None else Cycle.of(state["cycle"])
        self._trial = None if state["trial"] is None else Trial.of(state["trial"])


def needed(periods: Sequence[float]) -> int:
    """Values from which cycles of these periods are learnt."""
    return max(math.ceil(CYCLES * max(periods)), ENOUGH)


def residuals(values: Array, periods: Sequence[float]) -> tuple[Array, Cycle]:
    """What the cycles of a recording `[n]` do not explain, without gaps, and its cycle, in time from its first value.

    Each cycle's by a fit of the others, and of such a deviation as if the cycle were known.
    """
    longest = max(periods)
    known = cycle_in(values, periods, 1, 0)
    lines, calm = known.lines, tamed(values, longest)
    times = np.arange(values.size, dtype=np.float64)
    cycle = np.minimum(times // longest, values.size // longest - 1)
    parts = [np.flatnonzero(cycle == c) for c in np.unique(cycle)]
    sums = [_sums(times[part], calm[part] - known.level, lines) for part in parts]
    squares = np.sum([square for square, _, _ in sums], axis=0)
    products = np.sum([product for _, product, _ in sums], axis=0)
    finite = int(np.isfinite(calm).sum())
    rest = np.empty(values.size)
    for part, (square, product, count) in zip(parts, sums, strict=True):
        found = _solved(squares - square, products - product)
        error = values[part] - known.level - _design(times[part], lines) @ found
        rest[part] = known.level + found[0] + error / math.sqrt(1 + 2 * lines.size / max(finite - count, 1))
    return rest[np.isfinite(rest)], known


def _sums(times: Array, values: Array, lines: Array) -> tuple[Array, Array, int]:
    """Normal equations of `fitted`, and the number of finite values."""
    finite = np.isfinite(values)
    design = _design(times[finite], lines)
    return design.T @ design, design.T @ values[finite], int(finite.sum())


def _solved(square: Array, product: Array) -> Array:
    return np.asarray(np.linalg.lstsq(square, product, rcond=1e-9)[0])


def _design(times: Array, lines: Array) -> Array:
    """`[n, 1 + 2K]`: 1, cosines, sines."""
    angles = 2 * np.pi * (times[:, None] * lines % 1.0)
    return np.hstack([np.ones((times.size, 1)), np.cos(angles), np.sin(angles)])


def cycle_in(values: Array, periods: Sequence[float], width: int, begin: int) -> Cycle:
    """The cycle in `values [n]`, which are means of `width` values each, of which the first came at time `begin`."""
    longest = max(periods)
    calm = tamed(values, longest / width)
    lines = lines_of(calm, [period / width for period in periods]) / width
    times = begin + width * np.arange(values.size, dtype=np.float64) + (width - 1) / 2
    level, weights, scale = fitted(times, calm, lines)
    # A mean sees less of a fast harmonic than a value does, and the noise of means is less.
    weights = weights / np.sinc(lines * width) if width > 1 else weights
    count = float(np.isfinite(calm).sum()) * width
    scale *= math.sqrt(width)
    return Cycle(lines, weights, level, scale, min(count, MEMORY * longest), min(count, longest))


def cycle_at(times: Array, lines: Array, weights: NDArray[np.complex128]) -> Array:
    """The cycle at `times [n]`."""
    return np.asarray((np.exp(2j * np.pi * (times[:, None] * lines % 1.0)) * weights).real.sum(axis=1))


def fitted(times: Array, values: Array, lines: Array) -> tuple[float, NDArray[np.complex128], float]:
    """Level, weights `[K]` of the frequencies `lines [K]`, and deviation of the rest, of `values [n]` at `times [n]`.

    Least squares over what is finite.
    """
    finite = np.isfinite(values)
    given = values[finite]
    middle = float(given.mean())  # lest squares of a large level take what digits there are
    found = _solved(*_sums(times, values - middle, lines)[:2])
    rest = given - middle - _design(times[finite], lines) @ found
    # Never 0, lest nothing ever join the estimate.
    scale = max(winsorised(rest)[1], ROUNDING * float(np.abs(given).max()), 1e-300)
    return middle + float(found[0]), found[1 : 1 + lines.size] - 1j * found[1 + lines.size :], scale


def tamed(values: Array, period: float) -> Array:
    """`values [n]` with NaN for the wild ones: those unlike the values of that time in the cycles before and after.

    Where there is but one such cycle no one knows which of the two is wild, and both go.
    """
    lag = round(period)
    change = np.abs(values[lag:] - values[:-lag])
    finite = np.isfinite(change)
    if not finite.any():
        return values
    far = change > WILD * max(winsorised(change[finite])[1], 1e3 * ROUNDING * float(np.nanmax(np.abs(values))))
    wild = np.ones(values.size, bool)
    wild[lag:] &= far
    wild[:-lag] &= far
    wild[values.size - lag : lag] = False  # no cycle beside them
    return np.where(wild, np.nan, values) if wild.mean() < 0.1 else values


def lines_of(values: Array, periods: Sequence[float], level: float = LEVEL) -> Array:
    """Frequencies `[K]`, in cycles a value, of the harmonics of `periods` that stand out of `values [n]`. See above.

    Two passes: a strong harmonic that falls between two frequencies of the spectrum hides weaker ones. At most a
    quarter as many as there are values in the longest period, the strongest.
    """
    harmonics = np.array([k / period for period in periods for k in range(1, HARMONICS + 1) if 2 * k < period])
    candidates = harmonics[np.unique(np.round(harmonics, 12), return_index=True)[1]]  # a week's seventh is its day's
    times = np.arange(values.size, dtype=np.float64)
    finite = np.isfinite(values)
    whole = int(values.size // max(periods) * max(periods))
    places = np.rint(candidates * whole).astype(np.int64)
    noise = np.setdiff1d(np.arange(1, whole // 2), places)
    chosen = np.zeros(candidates.size, bool)
    strength = np.zeros(candidates.size)
    rest = values
    for _ in range(2):
        filled = np.interp(times, times[finite], rest[finite])[-whole:]
        power = np.abs(np.fft.rfft(filled - filled.mean())) ** 2
        for i, place in enumerate(places):
            right = np.searchsorted(noise, place)
            near = noise[max(right - BESIDE, 0) : right + BESIDE]
            near = near[np.argsort(np.abs(near - place), kind="stable")[:BESIDE]]
            usual = float(power[near].mean()) if near.size else math.inf
            if not chosen[i] and power[place] > usual * fdtri(2, 2 * max(near.size, 1), 1 - level):
                chosen[i], strength[i] = True, power[place]
        most = int(max(periods)) // 4
        if chosen.sum() > most:
            chosen &= strength >= np.sort(strength)[-most]
        _, weights, _ = fitted(times, values, candidates[chosen])
        rest = values - cycle_at(times, candidates[chosen], weights)
    return candidates[chosen]


def period_of(values: Array) -> int | None:
    """The period, in values, of the strongest cycle that a recording `[n]` holds CYCLES times; None: there is none.

    It is near the lag of the highest peak of the autocorrelation beyond its first fall below 0 (before that, values
    resemble each other because they are near), or a shorter one with a peak nearly as high, since a cycle's multiples
    are cycles too; and there the period of which six harmonics explain most. One of its harmonics must stand out of the
    spectrum at LEVEL for all lags and harmonics together.
    """
    finite = np.isfinite(values)
    if finite.sum() < ENOUGH:
        return None
    times = np.arange(values.size, dtype=np.float64)
    filled = np.interp(times, times[finite], values[finite])
    filled -= np.polyval(np.polyfit(times, filled, 1), times)
    spectrum = np.fft.rfft(filled, 2 * filled.size)
    covariance = np.fft.irfft(spectrum * spectrum.conj())[: filled.size // CYCLES + 1]
    covariance /= filled.size - np.arange(covariance.size)
    below = np.flatnonzero(covariance < 0)
    inner = np.arange(max(int(below[0]) + 1, 4) if below.size else covariance.size, covariance.size - 1)
    peaks = inner[(covariance[inner] >= covariance[inner - 1]) & (covariance[inner] > covariance[inner + 1])]
    peaks = peaks[covariance[peaks] > 0]
    if not peaks.size:
        return None
    period = int(peaks[covariance[peaks] >= 0.9 * covariance[peaks].max()][0])
    for step in (max(period // 100, 1), 1):
        near = [p for p in range(period - 10 * step, period + 11 * step, step) if 4 <= p <= filled.size // CYCLES]
        period = min(near, key=lambda p: fitted(times, values, np.arange(1, min(7, (p + 1) // 2)) / p)[2])
    return period if lines_of(values, [period], LEVEL / HARMONICS / covariance.size).size else None
