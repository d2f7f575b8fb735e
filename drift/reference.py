"""Thresholds from a recording of what is normal: real signals are skewed, and each value resembles the last.

A model's signals move with the class that is seen: someone repeats an exercise for half a minute, and the level of
entropy or distance stays where that exercise puts it. A threshold for independent Gaussian values then alarms at
every change of class. The remedy is to replay the recording: many long streams are put together from random blocks
of it (moving-block bootstrap, Kuensch 1989), and the threshold is read off the false alarms in them.

A recording's order is often not the one that streams come in: source data are shuffled, or sorted. Where it is known
which class each value belongs to, `in_runs` puts the values into the order to be expected of a stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.run_length import LONGEST, threshold

STREAMS = 256
LENGTH = 2048
"""Simulated values: STREAMS x LENGTH, about 80 ms a call of `thresholds`."""

MARGIN = 2.0
"""Thresholds are set for so many times the run length asked, at most: see `margin`."""

TAIL = 100
"""Largest excursions from which rarer ones are extrapolated."""

BLOCK = 48
"""Shortest block of the bootstrap: what happens once in a while, and lasts, is to be in one piece."""

RUN = (16, 64)
"""Values for which a stream is expected to stay with one class, from and to."""


def in_runs(classes: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    """An order `[n]` of a recording in which one class follows another, each for RUN values, as in a stream.

    `classes [n]`: the class of each value in recorded order. The values of a class stay in recorded order, are cut into
    runs, and all runs are shuffled: so that neither a shuffled nor a sorted recording hides how long a level lasts.
    """
    rng = np.random.default_rng(seed)
    runs: list[NDArray[np.int64]] = []
    for k in np.unique(classes):
        members = np.flatnonzero(classes == k)
        lengths = rng.integers(RUN[0], RUN[1] + 1, members.size // RUN[0] + 1)
        runs += np.split(members, [end for end in np.cumsum(lengths) if end < members.size])
    return np.concatenate([runs[i] for i in rng.permutation(len(runs))])


def as_streamed(values: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """`values [n]` as recorded, or `in_runs` of their `classes [n]`, whichever hang together more.

    A recording made in the order of streams holds more of what lasts than runs of it do: a person, a day.
    """
    rearranged = values[in_runs(classes)]
    return rearranged if inflation(rearranged) > inflation(values) else values


def margin(size: int, every: float) -> float:
    """How many times the run length asked to set a threshold for, by a recording of `size` values.

    A recording is a sample: of size / every alarms to be counted in it the number is uncertain by its root, and the
    rate asked is kept when that goes one deviation the wrong way. MARGIN where it holds two of them and less.
    """
    return min(MARGIN, math.exp(math.sqrt(every / size)))


def block_length(correlation: float) -> int:
    """Values in a block of the bootstrap for a recording of this `inflation`: most sums that alarm lie within one."""
    return max(BLOCK, 16 + math.ceil(2 * correlation))


def smoothing(size: int, block: int, correlation: float) -> float:
    """By how much to move blocks of a recording of `size` standardised values, as a deviation.

    A recording holds few stretches as long as a block, so that a level a little beyond the highest seen is to be
    expected: Silverman's bandwidth times the deviation of a block's mean (smoothed bootstrap, Silverman and Young
    1987).
    """
    return 1.06 * math.sqrt(correlation / block) * float(max(size / block, 1.0) ** -0.2)


def inflation(values: NDArray[np.float64]) -> float:
    """Variance inflation of a mean by autocorrelation: 1 + 2 sum rho_j; at least 1.

    n values then weigh as much as n / inflation independent ones. The sum ends at the first lag m >= 2.5 inflation
    (Sokal's automatic window, 1997, with c = 5: longer sums only add noise).
    """
    centred = values - values.mean()
    size = centred.size
    spectrum = np.fft.rfft(centred, 2 * size)
    covariance = np.fft.irfft(spectrum * spectrum.conj())[: size // 4]
    if not covariance.size or covariance[0] <= 0:
        return 1.0
    total = np.cumsum(covariance) * (2 / covariance[0]) - 1.0
    beyond = np.flatnonzero(np.arange(total.size) >= 2.5 * total)
    return max(1.0, float(total[beyond[0] if beyond.size else -1]))


def resample(
    values: NDArray[np.float64],
    block: int,
    streams: int,
    length: int,
    rng: np.random.Generator,
    spread: float = 0.0,
) -> NDArray[np.float64]:
    """`[streams, length]` of random blocks of `values [n]` (wrapped around), each moved by N(0, `spread`^2)."""
    count = -(-length // block)
    start = rng.integers(0, values.size, (streams, count, 1))
    drawn = values[(start + np.arange(block)) % values.size]
    if spread > 0:
        drawn = drawn + spread * rng.standard_normal((streams, count, 1))
    return np.ascontiguousarray(drawn.reshape(streams, -1)[:, :length])


def excursions(z: NDArray[np.float64], k: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """For each reference value `k [K]`, the heights of all excursions above 0 of S = max(0, S + z - k).

    `z [streams, length]`. A detector that restarts at an alarm gives one false alarm an excursion that reaches its
    threshold, so that these heights hold the false-alarm rate of every threshold at once.
    """
    allowance = k[:, None]
    total = np.zeros((k.size, z.shape[0]))
    peak = np.zeros_like(total)
    heights: list[list[NDArray[np.float64]]] = [[] for _ in k]
    for column in z.T:
        total += column - allowance
        over = (total <= 0) & (peak > 0)
        if over.any():
            for found, row, done in zip(heights, peak, over, strict=True):
                found.append(row[done])
            peak[over] = 0.0
        np.maximum(total, 0.0, out=total)
        np.maximum(peak, total, out=peak)
    return [np.concatenate([*found, row[row > 0]]) for found, row in zip(heights, peak, strict=True)]


def height(heights: NDArray[np.float64], values: int, every: float) -> float:
    """The height that an excursion reaches once in `every` values, from `heights` seen in `values` values.

    Within the sample it is a quantile. Beyond, the tail is taken as exponential, as it is for sums of bounded steps
    with a negative mean (Cramer and Lundberg; Asmussen 2003, chapter XIII, for Markov-modulated steps); its mean
    excess over the TAIL-th largest is the maximum-likelihood estimate.
    """
    ordered = np.sort(heights)[::-1]
    expected = values / every
    if expected >= min(TAIL, ordered.size):
        return float(ordered[int(expected)]) if expected < ordered.size else 0.0
    top = min(TAIL, ordered.size - 1)
    if top < 1:
        return 0.0
    base = float(ordered[top])
    scale = float(ordered[:top].mean()) - base
    return base + scale * math.log(top / expected)


def thresholds(
    z: NDArray[np.float64],
    k: NDArray[np.float64],
    clip: NDArray[np.float64],
    every: Sequence[float],
    correlation: float,
) -> NDArray[np.float64]:
    """Thresholds `[K, 2]` (upwards, downwards) at which each CUSUM alarms once in its `every [K]` values like `z [n]`.

    `k [K]`: reference values; `clip [K]`: bounds of |z|; `correlation`: the `inflation` of z.

    None is under the one for independent Gaussian values: the tail of a short recording ends too soon, and its mean is
    known to be 0.
    """
    block = block_length(correlation)
    spread = smoothing(z.size, block, correlation)
    streams = resample(z, block, STREAMS, LENGTH, np.random.default_rng(0), spread)
    result = np.empty((k.size, 2))
    for row, (allowance, bound, apart) in enumerate(zip(k, clip, every, strict=True)):
        for side, sign in enumerate((1.0, -1.0)):
            (found,) = excursions(np.clip(sign * streams, -bound, bound), np.array([allowance]))
            rare = margin(z.size, apart) * apart
            least = threshold(float(allowance), min(rare, LONGEST), float(bound))
            result[row, side] = max(height(found, streams.size, rare), least)
    return result
