"""Signals of the inputs themselves, before any model: a window's levels and spreads (`raw`), and its spectra.

A window is described by a vector, linear in its means and in the logarithm of its variances or powers. The signal is
that vector's Mahalanobis distance from the source's, per dimension, as `departure` takes it of norm inputs: one figure
for all channels, in which one that leaves its place shows, and so does one that leaves the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.signals import LOG_FLOOR, VARIANCE_FLOOR, Distance, vector_whitening

SIGNALS = ("raw", "spectra")

SHORTEST = 8
"""Rows from which on a window has a spectrum worth the name: three octaves."""

ROUNDED = 1e-6
"""A variance that is smaller than so much of the squared mean is rounding, in float32 sums at least."""

Array = NDArray[np.floating[Any]]


class Usual(NamedTuple):
    """How the source's windows are described, D figures each."""

    floor: NDArray[np.float64]
    """`[D]`, added to variances and powers before their logarithm is taken; 0: a mean, taken as it is."""
    centre: NDArray[np.float64]
    """`[D]`"""
    whitening: NDArray[np.float32]
    """`[R, D]`, see `trimtab.drift.signals.vector_whitening`."""


class Layout(NamedTuple):
    """What each of the D figures of a window is."""

    channel: NDArray[np.int64]
    """`[D]`, its channel, counted over all inputs."""
    power: NDArray[np.bool_]
    """`[D]`, whether it is a variance or a power: from 0 up, and to be taken by its logarithm."""


def layout(signal: str, shapes: Sequence[Sequence[int]]) -> Layout:
    """The figures that `signal` takes of inputs whose samples have these `shapes`, channels first.

    Raises ValueError, one sentence, where `signal` is none of SIGNALS, or there is nothing that it could be taken of.
    """
    if signal not in SIGNALS:
        raise ValueError(f"signal {signal!r} is unknown; choose one of {', '.join(SIGNALS)}")
    channel: list[int] = []
    power: list[bool] = []
    first = 0
    for shape in shapes:
        channels = list(range(first, first + shape[0]))
        first += shape[0]
        if signal == "raw":
            spread = channels if len(shape) > 1 else []
            channel += channels + spread
            power += [False] * len(channels) + [True] * len(spread)
        elif _has_rows(shape):
            bands = _bands(shape[1])
            channel += [c for c in channels for _ in range(bands)]
            power += [True] * bands * len(channels)
    if not channel:
        wanted = f" of shape [channels, rows], {SHORTEST} rows or more" if signal == "spectra" else ""
        raise ValueError(f"{signal} takes a sensor's input{wanted}, and there is none")
    return Layout(np.array(channel), np.array(power))


def figures(signal: str, inputs: Sequence[Array]) -> NDArray[np.float64]:
    """The figures of N samples `[N, D]` that `signal` is made of, as `layout` says; inputs: each `[N, C, ...]`."""
    parts: list[NDArray[np.float64]] = []
    for x in inputs:
        if signal == "raw":
            parts += _levels(x)
        elif _has_rows(x.shape[1:]):
            parts.append(octaves(x).reshape(len(x), -1))
    return np.concatenate(parts, axis=1)


def usual(found: NDArray[np.float64], of: Layout) -> Usual:
    """What is to be known of the source, by the figures `[n, D]` of its samples.

    Nothing is said in units: floors are shares of a channel's own variance (1 where it never moves). Raises ValueError
    where n < 8 or a figure is not finite.
    """
    if not np.isfinite(found).all():
        raise ValueError("the source holds values that are not finite, or too large to be squared")
    level, spread = np.where(of.power, 0.0, found), np.where(of.power, found, 0.0)
    size = int(of.channel.max()) + 1
    within = np.bincount(of.channel, level.var(axis=0) + spread.mean(axis=0), size)
    scale = within + ROUNDED * np.bincount(of.channel, level.mean(axis=0) ** 2, size)
    floor = VARIANCE_FLOOR * np.where(scale > 0, scale, 1.0)[of.channel]
    added = np.where(of.power, floor, 0.0)
    centre, whitening = vector_whitening(_vectors(found, added), np.where(of.power, LOG_FLOOR, np.sqrt(floor)))
    return Usual(added, centre, whitening.astype(np.float32))


class Unusual:
    """How far samples lie from the source: called with their figures `[N, D]` it gives `[N]`, about 1 on the source.

    A sample with a figure that is not finite gives NaN or infinity.
    """

    def __init__(self, source: Usual) -> None:
        self._floor = source.floor
        self._distance = Distance(source.centre, source.whitening)

    def __call__(self, found: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return self._distance(_vectors(found, self._floor))


def unusual(found: NDArray[np.float64], source: Usual) -> NDArray[np.float64]:
    """`Unusual` of figures `[N, D]`: `[N]`."""
    return Unusual(source)(found)


def _vectors(found: NDArray[np.float64], floor: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[N, D]`: means as they are, logarithms of variances and powers."""
    power = floor > 0
    with np.errstate(all="ignore"):
        return np.where(power, np.log(np.where(power, found, 1.0) + floor), found)


def _has_rows(shape: Sequence[int]) -> bool:
    """Whether a sample of this shape is a window with a time axis."""
    return len(shape) == 2 and shape[1] >= SHORTEST


def _levels(x: Array) -> list[NDArray[np.float64]]:
    """Means `[N, C]`, and population variances `[N, C]` where there is an axis to vary over."""
    flat = x.reshape(len(x), x.shape[1], -1).astype(np.float64)
    size = flat.shape[2]
    with np.errstate(all="ignore"):
        mean = np.add.reduce(flat, axis=2) / size
        if x.ndim == 2:
            return [mean]
        flat -= mean[:, :, None]
        return [mean, np.einsum("nct,nct->nc", flat, flat) / size]


def _bands(rows: int) -> int:
    """Octave bands in the spectrum of a window."""
    return (rows // 2).bit_length() - 1


def octaves(x: Array) -> NDArray[np.float64]:
    """Power of each channel in octave bands, of windows `x [N, C, T]`, T >= 4: `[N, C, B]`, B = floor(log2(T / 2)).

    Bands are halved from the Nyquist frequency down, highest first: (T/4, T/2], (T/8, T/4], ... cycles a window, and
    the lowest takes what is left but the mean. So a band means the same frequencies however long the window is. Windows
    are tapered by Hann's, without which a strong slow movement leaks into all bands above it (Harris 1978), and powers
    scaled so that all bands together come to about the variance.
    """
    taper, starts = _taper(x.shape[2])
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        wide -= np.add.reduce(wide, axis=2, keepdims=True) / x.shape[2]
        spectrum = np.fft.rfft(wide * taper, axis=2)
        power = spectrum.real**2 + spectrum.imag**2
        if x.shape[2] % 2 == 0:
            power[..., -1] /= 2  # the Nyquist frequency has no negative twin
        return np.add.reduceat(power, starts, axis=2)[..., ::-1]


@lru_cache
def _taper(rows: int) -> tuple[NDArray[np.float64], list[int]]:
    """Hann's window (periodic), scaled for powers, and the first frequency of each band, lowest band first."""
    taper = np.hanning(rows + 1)[:rows]
    starts = [rows // 2 ** (k + 2) + 1 for k in range(_bands(rows) - 1)]
    return taper * np.sqrt(2 / (rows * (taper**2).sum())), [1, *reversed(starts)]
