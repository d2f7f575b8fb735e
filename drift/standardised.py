"""A chart of standard normal values on a baseline that the stream itself gives: what most detectors here are made of.

A chart knows no scale and no threshold: it turns z into a test statistic. `Standardised` gives it z from
trimtab.drift.baseline, holds the statistic against a threshold, and starts both anew at an alarm. z is clipped, so that
one wild value says little (Huber 1965): at CLIP deviations, or further out where alarms are to be so rare that theory,
which knows of no clip, would be wrong with it (`bound`).

**Threshold.** The detector's own, from theory for independent Gaussian values; with a reference the one found by a
replay of it, where that is higher: STREAMS streams of random blocks of the recording (trimtab.drift.reference) go
through the chart, and a Gumbel distribution is fitted to their highest statistics M, P(M < h) = exp(-exp(-(h - a) /
b)), by its moments. Where alarms are rare they are a Poisson process, P(M < h) = exp(-length / ARL), which gives h for
the ARL asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from trimtab.drift.baseline import Baseline
from trimtab.drift.detector import Finding, State
from trimtab.drift.reference import block_length, margin, resample, smoothing

CLIP = 4.0
"""The least number of deviations at which z is clipped."""

RARER = 10.0
"""So many times rarer than alarms are the Gaussian values that are clipped: run lengths hold within a few per cent."""

STREAMS, LENGTH = 64, 1024
"""Streams that a reference is replayed in, and the most values of each: 0.3 s at 5 microseconds a value."""


class Chart(Protocol):
    """A test statistic of independent N(0, 1) values."""

    def clear(self) -> None:
        """Forget everything."""
        ...

    def step(self, z: float) -> float:
        """Take one value; the statistic after it, at least 0."""
        ...

    def onset(self) -> int:
        """Values ago at which a change would have begun, by what the chart has seen (0: the last value)."""
        ...

    def state(self) -> State: ...

    def restore(self, state: State) -> None:
        """Raises ValueError where the state does not fit the chart's options."""
        ...


class Standardised:
    """A chart on a self-starting baseline. See the module.

    name: the detector's. make, options: `make(*options)` is the chart. theory: the threshold for independent Gaussian
    values. every: run length, for replays. spread: the chart also looks at the deviation, of which a stream that has
    been constant has told nothing yet: values like those before are then no evidence. weighed: where values hang
    together, z counts by the root of their variance inflation less, so that sums of it vary as those of independent
    values do; else thresholds are raised.

    Raises ValueError where warmup, memory or the reference are out of range.
    """

    def __init__(
        self,
        name: str,
        make: Callable[..., Chart],
        options: tuple[Any, ...],
        theory: Callable[[], float],
        *,
        every: float,
        warmup: int,
        memory: int,
        reference: NDArray[np.float64] | None,
        spread: bool = False,
        weighed: bool = False,
    ) -> None:
        self.name = name
        self._chart = make(*options)
        self._spread = spread
        self._weighed = weighed
        self._baseline = Baseline(warmup, memory, reference)
        recorded = self._baseline.recorded
        self._bound = bound(every)
        self._height = theory()
        if recorded is not None and self._height < math.inf:
            found = replayed(make, options, recorded.tobytes(), self._baseline.correlation, every)
            self._height = max(self._height, found)
        self._statistic = 0.0

    def reset(self) -> None:
        """Forget everything; with a reference, its baseline holds again."""
        self._baseline.reset()
        self._clear()

    def _clear(self) -> None:
        self._chart.clear()
        self._statistic = 0.0

    def update(self, value: float) -> Finding:
        """Take one value."""
        unknown = self._spread and self._baseline.flat
        z = self._baseline.take(value)
        if z is None or (unknown and -1 < z < 1):
            return Finding(False, self._statistic, self._height * self._baseline.excess, None)
        z = min(max(z, -self._bound), self._bound)
        if self._weighed:
            z /= math.sqrt(self._baseline.correlation * self._baseline.excess)
        statistic = self._chart.step(z)
        height = self._height * self._baseline.excess
        if statistic < height:
            self._statistic = statistic
            return Finding(False, statistic, height, None)
        finding = Finding(True, statistic, height, self._chart.onset())
        self.relearn()
        return finding

    def relearn(self) -> None:
        """Begin anew as after an alarm: the baseline is learnt from what comes."""
        self._baseline.relearn()
        self._clear()

    def onset(self) -> int:
        """Values ago at which a change would have begun (0: the last one)."""
        return self._chart.onset()

    def state(self) -> State:
        """All of the memory; calibration follows from the options and the reference, and is not in it."""
        return {
            "detector": self.name,
            "version": 2,
            "statistic": self._statistic,
            "baseline": self._baseline.state(),
            "chart": self._chart.state(),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector, version or options."""
        if state.get("detector") != self.name or state.get("version") != 2:
            raise ValueError(f"this state is not of {self.name}; reset the detector")
        self._chart.restore(state["chart"])
        self._baseline.restore(state["baseline"])
        self._statistic = float(state["statistic"])


def bound(every: float) -> float:
    """Deviations at which z is clipped where one alarm in `every` values is accepted."""
    return max(CLIP, -float(ndtri(0.5 / (RARER * every))))


@lru_cache(maxsize=64)
def replayed(make: Callable[..., Chart], options: tuple[Any, ...], z: bytes, correlation: float, every: float) -> float:
    """The threshold at which a chart alarms once in `every` values like `z` (float64 as bytes), with a `margin`."""
    recorded = np.frombuffer(z)
    apart = margin(recorded.size, every) * every
    length = int(min(max(2 * apart, 64), LENGTH))
    block = block_length(correlation)
    spread = smoothing(recorded.size, block, correlation)
    streams = resample(recorded, block, STREAMS, length, np.random.default_rng(0), spread)
    highest = []
    chart = make(*options)
    for stream in np.clip(streams, -bound(every), bound(every)).tolist():
        chart.clear()
        highest.append(max(map(chart.step, stream)))
    return gumbel_height(np.array(highest), length, apart)


def gumbel_height(highest: NDArray[np.float64], length: int, every: float) -> float:
    """The height that is reached once in `every` values, by the `highest [n]` of streams `length` values long."""
    scale = float(highest.std(ddof=1)) * math.sqrt(6) / math.pi
    centre = float(highest.mean()) - float(np.euler_gamma) * scale
    return centre - scale * math.log(length / every)
