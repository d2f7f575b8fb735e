"""Numbers and times of day as sets of active bits, of which near ones share many and far ones hardly any."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

DAY = 24.0


class ScalarEncoder:
    """Random distributed scalar encoder: any number, with no range set beforehand (Purdy 2016, section "RDSE").

    The number's bucket b = round((value - offset) / resolution) turns bits h(b), ..., h(b + active - 1) on, where h
    is a hash into `size` bits: buckets that lie k apart share active - k bits, but for chance. Numenta's own encoder
    draws the bits of one bucket after another and keeps them; a hash needs no memory, and is htm.core's way. Where
    two of the bits fall together, fewer are on.
    """

    def __init__(self, resolution: float, offset: float, size: int = 400, active: int = 21, seed: int = 42) -> None:
        if not (resolution > 0 and math.isfinite(resolution) and math.isfinite(offset)):
            raise ValueError(f"resolution must be above 0 and offset finite, not {resolution} and {offset}")
        if not 0 < active < size:
            raise ValueError(f"active bits must be from 1 to {size - 1}, not {active}")
        self.resolution = resolution
        self.offset = offset
        self.size = size
        self.active = active
        self._seed = seed

    def encode(self, value: float) -> NDArray[np.int64]:
        """The active bits of a finite `value`: ascending indices, at most `active` of them."""
        # Beyond 2**40 buckets from the offset all values are alike; that keeps the hash's argument whole.
        away = min(max((value - self.offset) / self.resolution, -(2.0**40)), 2.0**40)
        first = math.floor(away + 0.5)
        return np.unique([_hashed(first + k, self._seed) % self.size for k in range(self.active)])


class TimeOfDayEncoder:
    """The time of day: `active` neighbouring bits on a ring of day; times further apart than `radius` hours share none.

    After Numenta's date encoder with timeOfDay = (21, 9.49), as its NAB detector sets it: 54 bits.
    """

    def __init__(self, active: int = 21, radius: float = 9.49) -> None:
        if not (active > 0 and 0 < radius < DAY):
            raise ValueError(f"active must be at least 1 and radius from 0 to 24 hours, not {active} and {radius}")
        self.size = math.ceil(active * DAY / radius)
        self.active = active

    def encode(self, time: float) -> NDArray[np.int64]:
        """The active bits of `time`, in seconds since 1970-01-01 of the clock that the sensor's place lives by."""
        hour = (time / 3600.0) % DAY
        centre = int(hour * self.size / DAY)
        return np.sort((centre + np.arange(self.active) - self.active // 2) % self.size)


def _hashed(bucket: int, seed: int) -> int:
    """A number from 0 to 2**64 - 1: the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    x = (bucket * 0x9E3779B97F4A7C15 + seed * 0xD1342543DE82EF95) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)
