"""The charts of single detectors, for many streams side by side in NumPy: what replays and banks are made of.

Each takes one z a stream, and its statistic after that is the scalar chart's up to rounding. All of a chart's memory is
in `moving`, arrays whose last axis is the stream, which are 0 where nothing has been seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.mixture import GREATEST

Array = NDArray[np.float64]


class Charts(Protocol):
    """Statistics of independent N(0, 1) values, one a stream."""

    @property
    def moving(self) -> list[NDArray[Any]]: ...

    def step(self, z: Array) -> Array:
        """Take one value a stream `[S]`; the statistics after it `[S]`, at least 0."""
        ...

    def onset(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Values ago at which a change would have begun in the streams `places`."""
        ...


class Cusums:
    """`max(0, S + d (z - d/2))` up and down for each shift d, over its height, at 1 the alarm: see trimtab.drift.sprt.

    sizes `[K, S]`: the shifts. bounds `[K, S]`: where |z| is clipped for each. heights `[2, K, S]`: upwards, downwards.
    """

    def __init__(self, sizes: Array, bounds: Array, heights: Array) -> None:
        self._sizes, self._bounds = sizes, bounds
        self._inverse = (1 / heights).reshape(-1, sizes.shape[1])
        self._sums = np.zeros(self._inverse.shape)
        self._lengths = np.zeros(self._inverse.shape, np.int32)
        self.moving: list[NDArray[Any]] = [self._sums, self._lengths]

    def step(self, z: Array) -> Array:
        return np.asarray(self.parts(z).max(axis=0))

    def parts(self, z: Array) -> Array:
        """Take one value a stream; the statistics of all charts `[2 x K, S]`, upwards first."""
        gain = np.clip(z, -self._bounds, self._bounds)
        gain *= self._sizes
        half = 0.5 * self._sizes**2
        up, down = np.split(self._sums, 2)
        up += gain
        up -= half
        down -= gain
        down -= half
        _restart(self._sums, self._lengths)
        return self._sums * self._inverse

    def onset(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return _begun(self._sums[:, places] * self._inverse[:, places], self._lengths[:, places])


class Ewma:
    """See trimtab.drift.ewma."""

    def __init__(self, streams: int, weight: float) -> None:
        self._weight = weight
        self._deviation = math.sqrt(weight / (2 - weight))
        self._average = np.zeros(streams)
        self._lengths = np.zeros(streams, np.int32)
        self.moving: list[NDArray[Any]] = [self._average, self._lengths]

    def step(self, z: Array) -> Array:
        average, before = self._average, self._average.copy()
        average += self._weight * (z - before)
        self._lengths *= before * average > 0
        self._lengths += 1
        return np.abs(average) / self._deviation

    def onset(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._lengths[places].astype(np.int64) - 1


class Glr:
    """See trimtab.drift.glr."""

    def __init__(self, streams: int, window: int) -> None:
        self._half = 0.5 / np.arange(1, window + 1)[:, None]
        self._sums = np.zeros((window, streams))
        self._ratios = np.zeros((window, streams))
        self.moving: list[NDArray[Any]] = [self._sums]

    def step(self, z: Array) -> Array:
        sums = self._sums
        np.add(sums[:-1], z, out=self._ratios[1:])
        self._ratios[0] = z
        sums[:] = self._ratios
        self._ratios *= sums
        self._ratios *= self._half
        return np.asarray(self._ratios.max(axis=0))

    def onset(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(self._ratios[:, places].argmax(axis=0))


class Mixture:
    """See trimtab.drift.mixture; `gains(z)` gives the logarithms of the factors `[parts, S]`."""

    def __init__(self, streams: int, parts: int, gains: Callable[[Array], Array]) -> None:
        self._gains = gains
        self._ratios = np.zeros((parts, streams))
        self._sums = np.zeros((parts, streams))
        self._lengths = np.zeros((parts, streams), np.int32)
        self.moving: list[NDArray[Any]] = [self._ratios, self._sums, self._lengths]

    def step(self, z: Array) -> Array:
        gains = self._gains(z)
        self._sums += gains
        _restart(self._sums, self._lengths)
        self._ratios += 1.0
        self._ratios *= np.exp(gains, out=gains)
        np.minimum(self._ratios, GREATEST, out=self._ratios)
        return np.asarray(np.log1p(self._ratios.mean(axis=0)))

    def onset(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return _begun(self._ratios[:, places], self._lengths[:, places])


class Variances:
    """See trimtab.drift.cusum_variance."""

    def __init__(self, streams: int, ratio: float) -> None:
        self._steps = [((1 - r**-2) / 2, math.log(r)) for r in (ratio, 1 / ratio)]
        self._sums = np.zeros((2, streams))
        self._lengths = np.zeros((2, streams), np.int32)
        self.moving: list[NDArray[Any]] = [self._sums, self._lengths]

    def step(self, z: Array) -> Array:
        square = z * z
        for row, (a, log) in zip(self._sums, self._steps, strict=True):
            row += a * square - log
        _restart(self._sums, self._lengths)
        return np.asarray(self._sums.max(axis=0))

    def onset(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return _begun(self._sums[:, places], self._lengths[:, places])


def _restart(sums: Array, lengths: NDArray[np.int32]) -> None:
    """Sums below 0 start again there; `lengths` counts values since."""
    np.maximum(sums, 0.0, out=sums)
    lengths += 1
    lengths *= sums > 0


def _begun(evidence: Array, lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    """Values before the last since the part of the most evidence `[parts, S]` left 0."""
    largest = lengths[evidence.argmax(axis=0), np.arange(evidence.shape[1])]
    return np.asarray(np.maximum(largest.astype(np.int64) - 1, 0))
