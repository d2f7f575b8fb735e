"""Thresholds from a recording of what is normal, by a replay of it through the detector itself.

Many streams are put together from the recording and go through the detector's baseline, chart and correction for
values that hang together, as a stream would: whatever these do to its run length is in it. Where alarms are rare they
are a Poisson process, so that a share 1 - exp(-length / `every`) of the streams has alarmed by then: the threshold is
the one that so many of their highest statistics reach (trimtab.drift.reference.height).

**Streams.** A recording's blocks put in a row (moving-block bootstrap, Kuensch 1989) hang together less than it does,
by what is lost at every joint: at an autocorrelation of 0.9, a sixth of the variance of sums. So an autoregression is
fitted to it, the blocks are of its residuals, and it is run over them again (post-blackening; Davison and Hinkley 1997,
section 8.2.3): what is linear is not cut at the joints, and what is not (levels that last, bursts) stays in the blocks.
Quantiles are then mapped to those of the recording (Theiler et al. 1992), so that what is bounded there stays so. A
recording also holds few stretches as long as a block, so that a level a little beyond the highest seen is to be
expected: the blocks' levels are smoothed, and shrunk by as much, which keeps their variance (Silverman and Young 1987).

**How sure that is.** Of n / `every` alarms that a recording of n values holds, the number is uncertain by its root, and
so is the logarithm of a run length by sqrt(every / n) at most. The mean rate of many such thresholds is then larger
than the rate at the middle one, by exp(every / 2n): they are set for so much rarer alarms (`rarer`).

**Short recordings.** One that holds fewer than FEW alarms at the rate asked (`too_short`) may raise thresholds above
those for independent normal values, not lower them, and is doubted in two ways:

- How far sums of its values vary is uncertain. Their variance inflation r is estimated as if by f = n / (5 r + 1)
  chi-squared values (Sokal 1997, equation 3.19, with the window of trimtab.drift.reference.inflation), so that a sum
  over its estimated deviation follows Student's t with f degrees of freedom, not a normal distribution. Sums in its
  replays are taken for larger, by as much as the value that t exceeds with a chance of r / `every` lies further out: it
  is then the mean rate of all such recordings that is as asked, not that of a middle one. Where f is small that would
  make detectors deaf, and one deviation of the estimate, sqrt(2 / f) of the variance, is the most (`doubt`).
- Bursts greater than those it holds are to be expected. Where it follows an autoregression, that is run over normal
  residuals too, which have no greatest value, and thresholds are at least what comes of it (`heights`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hankel
from scipy.signal import lfilter
from scipy.special import ndtri, stdtrit

from trimtab.drift.baseline import Baseline
from trimtab.drift.baselines import Baselines
from trimtab.drift.reference import block_length, height, resample

Array = NDArray[np.float64]

STREAMS, LENGTH = 512, 4096
"""Streams, and the most values of each: about half a second."""

ORDERS = 40
"""The most values that an autoregression looks back."""

QUANTILES = np.linspace(0.0, 1.0, 1001)

FEW = 10.0
"""Alarms of which a recording must hold the values to know how rare they are."""

LIKELIEST = 0.05
"""The greatest chance of an alarm of one of the independent values of a run length."""

FORGOTTEN = 0.05
"""Share of a value that is left of it, at most, a block later; 0.02 in an autoregression of one value."""


def doubt(size: int, correlation: float, every: float) -> float:
    """How many times larger sums of z are to be taken for what so few values do not tell: see the module.

    size: of the recording. correlation: its variance inflation.
    """
    if not too_short(size, every):
        return 1.0
    freedom, chance = max(size / (5 * correlation + 1), 1.0), min(correlation / every, LIKELIEST)
    return min(float(stdtrit(freedom, chance) / ndtri(chance)), math.sqrt(1 + math.sqrt(2 / freedom)))


def rarer(size: int, every: float) -> float:
    """The run length to set a threshold for by a recording of `size` values, where `every` is asked. See the module."""
    return every if too_short(size, every) else every * math.exp(0.5 * every / size)


def too_short(size: int, every: float) -> bool:
    """Whether a recording of `size` values holds too few alarms to know how rare they are. See the module."""
    return size < FEW * every


def duration(every: float) -> int:
    """Values of each stream in a replay. As many as `every`, what a chart takes to begin with makes no difference."""
    return int(min(max(every, 64.0), LENGTH))


def share(length: int, every: float) -> float:
    """Of streams of this length that alarm, at this run length."""
    return -math.expm1(-length / every)


def heights(
    solve: Callable[[Array], Array],
    make: Callable[[float], Callable[[Array], Array]],
    baseline: Baseline,
    every: float,
    length: int,
    streams: int = STREAMS,
) -> Array:
    """What `solve` makes of the highest statistics `[..., streams]` of replays of `baseline`'s recording.

    With one that is too short it is at least what comes of normal values that hang together as its own do. `every`: the
    run length; `length`: values of a replay. `make(more)`: the `step` of new charts, which takes z, one a stream, to
    their statistics `[..., streams]` where sums of z are so many times larger. Raises ValueError without a recording.
    """
    values = baseline.recorded
    if values is None:
        raise ValueError("there is no recording to replay")
    block, count = block_length(baseline.correlation), baseline.warmup + length

    def solved(more: float, normal: bool) -> Array:
        rng = np.random.default_rng(0)
        return solve(highest(make(more), baseline, replayed(values, block, streams, count, rng, normal), every, rng))

    found = solved(doubt(values.size, baseline.correlation, every), normal=False)
    if too_short(values.size, every) and autoregression(values - values.mean(), block).size:
        found = np.maximum(found, solved(1.0, normal=True))
    return found


def highest(
    step: Callable[[Array], Array], baseline: Baseline, values: Array, every: float, rng: np.random.Generator
) -> Array:
    """The highest statistics `[..., streams]` on `values [warmup + length, streams]`, over what raises thresholds.

    `values` are standardised as the recording is that `baseline` knows. A replay begins as all runs but the first do,
    after an alarm: with a level learnt from a warm-up. Where `every` is longer than a replay, it lies in the middle of
    that time instead, when a stream's baseline has settled.
    """
    warmup, streams = baseline.warmup, values.shape[1]
    mean, deviation = baseline.known or (0.0, 1.0)
    baselines = Baselines([baseline] * streams)
    older = max((every - len(values) + warmup) / 2, 0.0)
    if older > 0:
        baselines.age(older, rng)
    else:
        baselines.relearn(np.arange(streams))
    found = np.zeros(1)
    for i, row in enumerate(values):
        z, _ = baselines.take(mean + deviation * row)
        if i >= warmup:
            found = np.maximum(found, step(z) / baselines.excess)
    return found


def threshold(found: Array, length: int, every: float) -> float:
    """What the highest statistics `found [streams]` of `length` values reach once in `every` values.

    Where many are equal, as those of a value that is clipped, it lies just beyond these: alarms are rarer, not more
    frequent, than asked.
    """
    expected = share(length, every) * found.size
    reached = height(found, expected)
    return reached * (1 + 1e-9) if np.count_nonzero(found >= reached) > expected + 1 else reached


def replayed(
    values: Array, block: int, streams: int, length: int, rng: np.random.Generator, normal: bool = False
) -> Array:
    """`[length, streams]` of values like `values [n]`, from blocks of so many, or from a normal distribution.

    See the module.
    """
    mean = float(values.mean())
    weights = autoregression(values - mean, block)
    filtered = np.concatenate(([1.0], -weights))
    residuals = lfilter(filtered, [1.0], values - mean)[weights.size :]
    residuals -= residuals.mean()
    if normal:
        drawn = residuals.std() * rng.standard_normal((streams, length))
    else:
        drawn = resample(residuals, block, streams, length, rng, smoothing=True)
    if weights.size:
        # Each stream goes on from some place in the recording: one that swings for long takes long to begin.
        places = rng.integers(weights.size, values.size + 1, (streams, 1)) - np.arange(1, weights.size + 1)
        drawn, _ = lfilter([1.0], filtered, drawn, axis=1, zi=(values - mean)[places] @ hankel(weights))
        if not normal:
            own, recorded = np.quantile(drawn[:, : 2 * block], QUANTILES), np.quantile(values - mean, QUANTILES)
            drawn = np.interp(drawn, own, recorded)
    return np.ascontiguousarray(drawn.T) + mean


def autoregression(centred: Array, block: int) -> Array:
    """Weights `[p]` of the last values, newest first, in a prediction of the next; stable, and as few as say enough.

    None `[0]` where it would remember more than FORGOTTEN of a value after a `block`: what swings for so long is a
    cycle, and blocks hold it better.

    Yule and Walker's equations solved by Levinson and Durbin's recursion (Brockwell and Davis 1991, section 5.2), p by
    Schwarz's criterion (1978).
    """
    n = centred.size
    most = min(ORDERS, n // 10)
    spectrum = np.fft.rfft(centred, 2 * n)
    covariance = np.fft.irfft(spectrum * spectrum.conj())[: most + 1] / n
    weights, rest = np.zeros(0), float(covariance[0])
    best, cost = weights, n * math.log(rest)
    for p in range(1, most + 1):
        last = float(covariance[p] - weights @ covariance[p - 1 : 0 : -1]) / rest
        weights = np.append(weights - last * weights[::-1], last)
        rest *= 1 - last * last
        if rest <= 1e-9 * covariance[0]:
            break  # nothing but rounding is left
        if n * math.log(rest) + p * math.log(n) < cost:
            best, cost = weights, n * math.log(rest) + p * math.log(n)
    slowest = np.abs(np.roots(np.concatenate(([1.0], -best)))).max(initial=0.0)
    return best if slowest**block <= FORGOTTEN else np.zeros(0)
