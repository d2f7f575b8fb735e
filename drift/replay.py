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
They are not shrunk where a recording is too short for the run length asked (`too_short`): it is then often of few
people, or of one day, and levels of others lie further out.

**How sure that is.** Of n / `every` alarms that a recording of n values holds, the number is uncertain by its root, and
so is the logarithm of a run length by sqrt(every / n) at most. The mean rate of many such thresholds is then larger
than the rate at the middle one, by exp(every / 2n): they are set for so much rarer alarms (`rarer`), but where the
levels are wider for the same reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hankel
from scipy.signal import lfilter

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
"""Alarms' worth of values below which a recording has not seen enough of what is rare: see `too_short`."""

FORGOTTEN = 0.05
"""Share of a value that is left of it, at most, a block later; 0.02 in an autoregression of one value."""


def rarer(size: int, every: float) -> float:
    """The run length to set a threshold for by a recording of `size` values, where `every` is asked. See the module."""
    return every if too_short(size, every) else every * math.exp(0.5 * every / size)


def too_short(size: int, every: float) -> bool:
    """Whether a recording of `size` values may not lower a threshold for independent Gaussian values."""
    return size < FEW * every


def duration(every: float) -> int:
    """Values of each stream in a replay. As many as `every`, what a chart takes to begin with makes no difference."""
    return int(min(max(every, 64.0), LENGTH))


def share(length: int, every: float) -> float:
    """Of streams of this length that alarm, at this run length."""
    return -math.expm1(-length / every)


def highest(
    step: Callable[[Array], Array], baseline: Baseline, every: float, length: int, streams: int = STREAMS
) -> Array:
    """The highest statistics `[..., streams]` of replays of `baseline`'s recording, over what raises their thresholds.

    `step`: takes z, one a stream, and gives the statistics `[..., streams]`. A replay begins as all runs but the first
    do, after an alarm: with a level learnt from a warm-up. Where `every` is longer than a replay, it lies in the middle
    of that time instead, when a stream's baseline has settled. Raises ValueError without a recording.
    """
    if baseline.recorded is None or baseline.known is None:
        raise ValueError("there is no recording to replay")
    rng = np.random.default_rng(0)
    mean, deviation = baseline.known
    block, warmup = block_length(baseline.correlation), baseline.warmup
    wider = too_short(baseline.recorded.size, every)
    values = mean + deviation * replayed(baseline.recorded, block, streams, warmup + length, rng, wider)
    baselines = Baselines([baseline] * streams)
    older = max((every - length) / 2, 0.0)
    if older > 0:
        baselines.age(older)
    else:
        baselines.relearn(np.arange(streams))
    for row in values[:warmup]:
        baselines.take(row)
    found = np.zeros(1)
    for row in values[warmup:]:
        z, _ = baselines.take(row)
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
    values: Array, block: int, streams: int, length: int, rng: np.random.Generator, wider: bool = False
) -> Array:
    """`[length, streams]` of values like `values [n]`, from blocks of so many, whose levels may be `wider` than those
    recorded; see the module."""
    mean = float(values.mean())
    weights = autoregression(values - mean, block)
    filtered = np.concatenate(([1.0], -weights))
    residuals = lfilter(filtered, [1.0], values - mean)[weights.size :]
    residuals -= residuals.mean()
    drawn = resample(residuals, block, streams, length, rng, smoothing=True, wider=wider)
    if weights.size:
        # Each stream goes on from some place in the recording: one that swings for long takes long to begin.
        places = rng.integers(weights.size, values.size + 1, (streams, 1)) - np.arange(1, weights.size + 1)
        drawn, _ = lfilter([1.0], filtered, drawn, axis=1, zi=(values - mean)[places] @ hankel(weights))
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
