"""Recordings of what is normal: real signals are skewed, and each value resembles the last.

A model's signals move with the class that is seen: someone repeats an exercise for half a minute, and the level of
entropy or distance stays where that exercise puts it. A threshold for independent Gaussian values then alarms at
every change of class. The remedy is to replay the recording: many long streams are put together from random blocks
of it (moving-block bootstrap, Kuensch 1989), and the threshold is read off the false alarms in them
(trimtab.drift.replay, and trimtab.drift.windowed).

A recording's order is often not the one that streams come in: source data are shuffled, or sorted. Where it is known
which class each value belongs to, `in_runs` puts the values into the order to be expected of a stream.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MARGIN = 2.0
"""Thresholds are set for so many times the run length asked, at most: see `margin`."""

TAIL = 100
"""Largest heights from which rarer ones are extrapolated."""

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
    smoothing: bool = False,
) -> NDArray[np.float64]:
    """`[streams, length]` of random blocks of `values [n]` (wrapped around), end to end.

    `smoothing`: their levels are moved at random, and drawn together so that their deviation stays as it is. By how
    much is Silverman's bandwidth.
    """
    count = -(-length // block)
    start = rng.integers(0, values.size, (streams, count, 1))
    drawn = values[(start + np.arange(block)) % values.size]
    if smoothing:
        width = 1.06 * max(values.size / block, 1.0) ** -0.2
        shrunk = 1 / math.sqrt(1 + width * width)
        level = drawn.mean(axis=2, keepdims=True)
        moved = width * level.std() * rng.standard_normal(level.shape)
        drawn += (shrunk - 1) * (level - level.mean()) + shrunk * moved
    return np.ascontiguousarray(drawn.reshape(streams, -1)[:, :length])


def height(heights: NDArray[np.float64], expected: float) -> float:
    """The height that `expected` of as many events as had `heights` reach.

    Within the sample it is a quantile. Beyond, the tail is taken as exponential, as it is for sums of bounded steps
    with a negative mean (Cramer and Lundberg; Asmussen 2003, chapter XIII, for Markov-modulated steps); its mean
    excess over the TAIL-th largest is the maximum-likelihood estimate.
    """
    ordered = np.sort(heights)[::-1]
    if expected >= min(TAIL, ordered.size):
        return float(ordered[int(expected)]) if expected < ordered.size else 0.0
    top = min(TAIL, ordered.size - 1)
    if top < 1:
        return 0.0
    base = float(ordered[top])
    scale = float(ordered[:top].mean()) - base
    return base + scale * math.log(top / expected)
