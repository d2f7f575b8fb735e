"""Synthetic streams whose changes are known, to try detectors on: what changes, and in what noise.

Each is a plain function (n, rng) -> (values `[n]`, change points): a change point is the index of the first value of
what is new. Noise has unit deviation unless it is said otherwise, so that shifts are in deviations. Changes come at
random places, so that no detector's clock is in step with them, and not before EARLIEST of the stream is over. The
kinds of drift follow Gama et al. 2014 ("A survey on concept drift adaptation", figure 2).

Detectors here take scalars. A drift of nothing but the correlation of several channels shows in none of them;
`correlation` is the scalar that `departure` (trimtab.drift.signals) makes of them all, as a model's norm layers do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from trimtab.drift.signals import departure, moment_whitening

Array = NDArray[np.float64]
Draw = Callable[[int, np.random.Generator], tuple[Array, tuple[int, ...]]]

EARLIEST = 0.2
"""Share of a stream in which nothing changes."""

SHORTEST = 100
"""Values that a stream must have."""

DAY = 288
"""Values in a day: one in five minutes."""

HOURS = 24
"""Values in a day: one an hour."""


def stable(n: int, rng: np.random.Generator) -> tuple[Array, tuple[int, ...]]:
    """Independent Gaussian values; nothing changes."""
    return rng.standard_normal(n), ()


def abrupt(n: int, rng: np.random.Generator) -> tuple[Array, tuple[int, ...]]:
    """Independent Gaussian values; the mean rises by 1 at once."""
    at = _middle(n, rng)
    return rng.standard_normal(n) + _after(n, at), (at,)


def gradual(n: int, rng: np.random.Generator) -> tuple[Array, tuple[int, ...]]:
    """Independent Gaussian values; the mean rises by 2, evenly, over an eighth of the stream from the change on."""
    at = _middle(n, rng)
    return rng.standard_normal(n) + 2 * np.clip((np.arange(n) - at + 1) / (n // 8), 0, 1), (at,)


def recurring(n: int, rng: np.random.Generator) -> tuple[Array, tuple[int, ...]]:
    """Independent Gaussian values; the mean rises by 1.5, falls back, and rises again, a quarter of the stream each."""
    first, jitter = n // 4, n // 20
    at = tuple(int(i * first + rng.integers(-jitter, jitter + 1)) for i in (1, 2, 3))
    level = 1.5 * (_after(n, at[0]) - _after(n, at[1]) + _after(n, at[2]))
    return rng.standard_normal(n) + level, at


def variance(n: int, rng: np.random.Generator) -> tuple[Array, tuple[int, ...]]:
    """Independent Gaussian values; the deviation doubles, the mean stays."""
    at = _middle(n, rng)
    return rng.standard_normal(n) * (1 + _after(n, at)), (at,)


def seasonal(n: int, rng: np.random.Generator) -> tuple[Array, tuple[int, ...]]:
    """A daily cycle of DAY values, from -2.1 to 4, in independent Gaussian noise; the mean rises by 3.

    The cycle begins anywhere in the day, and is no change.
    """
    at = _middle(n, rng)
    phase = 2 * np.pi * (np.arange(n) + rng.integers(DAY)) / DAY
    return 3 * np.sin(phase) - np.cos(2 * phase) + rng.standard_normal(n) + 3 * _after(n, at), (at,)


def seasonal_amplitude(n: int, rng: np.random.Generator) -> tuple[Array, tuple[int, ...]]:
    """As `seasonal`, but that each day's cycle has a size of its own, by 20 %."""
    at = _middle(n, rng)
    times = np.arange(n) + rng.integers(DAY)
    phase = 2 * np.pi * times / DAY
    cycle = (1 + 0.2 * rng.standard_normal(n // DAY + 2))[times // DAY] * (3 * np.sin(phase) - np.cos(2 * phase))
    return cycle + rng.standard_normal(n) + 3 * _after(n, at), (at,)


def seasonal_week(n: int, rng: np.random.Generator) -> tuple[Array, tuple[int, ...]]:
    """A day of HOURS values with two working shifts, not at weekends, in Gaussian noise; the mean rises by 2.

    The week begins anywhere.
    """
    at = _middle(n, rng)
    times = np.arange(n) + rng.integers(7 * HOURS)
    hour, day = times % HOURS, times // HOURS % 7
    working = (day < 5) & (hour >= 6) & (hour < 22)
    return 3 * working + np.sin(2 * np.pi * hour / HOURS) + rng.standard_normal(n) + 2 * _after(n, at), (at,)


def correlation(n: int, rng: np.random.Generator) -> tuple[Array, tuple[int, ...]]:
    """`departure` of windows of 16 rows of 4 channels that hang together by 0.8; one channel is turned round.

    Each channel's values, and so its means and variances, stay what they were. What is usual was learnt from 500 other
    windows.
    """
    at = _middle(n, rng)
    common, own = rng.standard_normal((500 + n, 16, 1)), rng.standard_normal((500 + n, 16, 4))
    rows = math.sqrt(0.8) * common + math.sqrt(0.2) * own
    rows[500 + at :, :, 0] *= -1
    moments = np.stack([rows.mean(axis=1), rows.var(axis=1)], axis=1)
    return departure(moments[500:], *moment_whitening(moments[:500])), (at,)


def autocorrelated(n: int, rng: np.random.Generator) -> tuple[Array, tuple[int, ...]]:
    """A Gaussian autoregressive process, x_t = 0.7 x_(t-1) + noise, of unit deviation; the mean rises by 2."""
    at = _middle(n, rng)
    noise = np.sqrt(1 - 0.7**2) * rng.standard_normal(n + 100)
    return np.asarray(lfilter([1.0], [1.0, -0.7], noise)[100:]) + 2 * _after(n, at), (at,)


def heavy_tailed(n: int, rng: np.random.Generator) -> tuple[Array, tuple[int, ...]]:
    """Independent values of Student's t with 3 degrees of freedom, of unit deviation; the mean rises by 1."""
    at = _middle(n, rng)
    return rng.standard_t(3, n) / np.sqrt(3) + _after(n, at), (at,)


def error_rate(n: int, rng: np.random.Generator) -> tuple[Array, tuple[int, ...]]:
    """Errors of a model, each 0 or 1, independent; their rate rises from 0.1 to 0.3."""
    at = _middle(n, rng)
    return (rng.random(n) < 0.1 + 0.2 * _after(n, at)).astype(np.float64), (at,)


STREAMS: dict[str, Draw] = {
    "stable": stable,
    "abrupt": abrupt,
    "gradual": gradual,
    "recurring": recurring,
    "variance": variance,
    "seasonal": seasonal,
    "seasonal_amplitude": seasonal_amplitude,
    "seasonal_week": seasonal_week,
    "correlation": correlation,
    "autocorrelated": autocorrelated,
    "heavy_tailed": heavy_tailed,
    "error_rate": error_rate,
}


def draw(name: str, n: int, repeat: int, seed: int = 0) -> tuple[Array, tuple[int, ...]]:
    """Stream `name`, drawn by a seed of its own: the same whichever others are drawn. Values `[n]`, change points.

    Raises ValueError where there is no such stream, or n is below SHORTEST.
    """
    if name not in STREAMS:
        raise ValueError(f"stream {name!r} is unknown; choose one of {', '.join(STREAMS)}")
    if n < SHORTEST:
        raise ValueError(f"a stream must have {SHORTEST} values or more, not {n}")
    return STREAMS[name](n, np.random.default_rng([seed, repeat, crc32(name.encode())]))


def _middle(n: int, rng: np.random.Generator) -> int:
    """A place from 40 to 60 % of the stream."""
    return int(rng.integers(2 * n // 5, 3 * n // 5 + 1))


def _after(n: int, at: int) -> Array:
    """0 before, 1 from `at` on `[n]`."""
    return (np.arange(n) >= at).astype(np.float64)
