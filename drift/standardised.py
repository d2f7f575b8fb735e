"""A chart of standard normal values on a baseline that the stream itself gives: what most detectors here are made of.

A chart knows no scale and no threshold: it turns z into a test statistic. `Standardised` gives it z from
trimtab.drift.baseline, holds the statistic against a threshold, and starts both anew at an alarm. z is clipped, so that
one wild value says little (Huber 1965): at CLIP deviations, or further out where alarms are to be so rare that theory,
which knows of no clip, would be wrong with it (`bound`).

**Threshold.** The detector's own, from theory for independent Gaussian values; with a reference the one found by a
replay of it (trimtab.drift.replay). Theory's is the least where the detector guarantees its run length, and where the
recording is too short to know better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from trimtab.drift import replay
from trimtab.drift.baseline import Baseline
from trimtab.drift.charts import Charts
from trimtab.drift.detector import Detector, Finding, State

CLIP = 4.0
"""The least number of deviations at which z is clipped."""

RARER = 10.0
"""So many times rarer than alarms are the Gaussian values that are clipped: run lengths hold within a few per cent."""

SLOW = 64
"""Streams of a replay, of a quarter of the length, for charts that do not go side by side."""


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

    name: the detector's. make, options: `make(*options)` is the chart. many: `many(S, *options)` is that of S streams;
    None: there is none. theory: the threshold for independent Gaussian values; guaranteed: it is the least. every: run
    length, for replays. spread: the chart also looks at the deviation, of which a stream that has
    been constant has told nothing yet: values like those before are then no evidence. weighed: where values hang
    together, z counts by the root of their variance inflation less, so that sums of it vary as those of independent
    values do; else thresholds are raised.

    Raises ValueError where warmup, memory or the reference are out of range.
    """

    def __init__(
        self,
        name: str,
        make: Callable[..., Chart],
        many: Callable[..., Charts] | None,
        options: tuple[Any, ...],
        theory: Callable[[], float],
        *,
        every: float,
        warmup: int,
        memory: int,
        reference: NDArray[np.float64] | None,
        spread: bool = False,
        weighed: bool = False,
        guaranteed: bool = False,
    ) -> None:
        self.name = name
        self._chart = make(*options)
        self.spread = spread
        self._many, self._options = many, options
        self._weighed = weighed
        self.baseline = Baseline(warmup, memory, reference)
        recorded = self.baseline.recorded
        self.bound = bound(every)
        self.height = theory()
        if recorded is not None and self.height < math.inf:
            found = _replayed(make, many, options, recorded.tobytes(), warmup, memory, every, spread)
            self.height = max(self.height, found) if guaranteed or replay.too_short(recorded.size, every) else found
        self._statistic = 0.0

    def reset(self) -> None:
        """Forget everything; with a reference, its baseline holds again."""
        self.baseline.reset()
        self._clear()

    def _clear(self) -> None:
        self._chart.clear()
        self._statistic = 0.0

    def update(self, value: float) -> Finding:
        """Take one value."""
        unknown = self.spread and self.baseline.flat
        z = self.baseline.take(value)
        if z is None or (unknown and -1 < z < 1):
            return Finding(False, self._statistic, self.height * self.baseline.excess, None)
        z = min(max(z, -self.bound), self.bound)
        if self._weighed:
            z /= math.sqrt(self.baseline.correlation * self.baseline.excess)
        statistic = self._chart.step(z)
        height = self.height * self.baseline.excess
        if statistic < height:
            self._statistic = statistic
            return Finding(False, statistic, height, None)
        finding = Finding(True, statistic, height, self._chart.onset())
        self.relearn()
        return finding

    def relearn(self) -> None:
        """Begin anew as after an alarm: the baseline is learnt from what comes."""
        self.baseline.relearn()
        self._clear()

    def onset(self) -> int:
        """Values ago at which a change would have begun (0: the last one)."""
        return self._chart.onset()

    def side_by_side(self, detectors: Sequence[Detector]) -> Charts | None:
        """The chart of `detectors` for so many streams; None: there is none. Raises ValueError where they differ."""
        if any((d.name, getattr(d, "_options", None)) != (self.name, self._options) for d in detectors):
            raise ValueError("detectors side by side must be of one kind, with the same options")
        return self._many(len(detectors), *self._options) if self._many else None

    def state(self) -> State:
        """All of the memory; calibration follows from the options and the reference, and is not in it."""
        return {
            "detector": self.name,
            "version": 2,
            "statistic": self._statistic,
            "baseline": self.baseline.state(),
            "chart": self._chart.state(),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector, version or options."""
        if state.get("detector") != self.name or state.get("version") != 2:
            raise ValueError(f"this state is not of {self.name}; reset the detector")
        self._chart.restore(state["chart"])
        self.baseline.restore(state["baseline"])
        self._statistic = float(state["statistic"])


def bound(every: float) -> float:
    """Deviations at which z is clipped where one alarm in `every` values is accepted."""
    return max(CLIP, -float(ndtri(0.5 / (RARER * every))))


@lru_cache(maxsize=64)
def _replayed(
    make: Callable[..., Chart],
    many: Callable[..., Charts] | None,
    options: tuple[Any, ...],
    recorded: bytes,
    warmup: int,
    memory: int,
    every: float,
    spread: bool,
) -> float:
    """The threshold at which a chart alarms once in `every` values like those `recorded` (float64)."""
    values = np.frombuffer(recorded)
    most = bound(every)
    apart = replay.rarer(values.size, every)
    baseline = Baseline(warmup, memory, values)
    streams, length = replay.STREAMS, replay.duration(apart)
    if many is None:
        streams, length = SLOW, length // 4

    def new(more: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
        if many is not None:
            step = many(streams, *options).step
        else:
            charts = [make(*options) for _ in range(streams)]

            def step(z: NDArray[np.float64]) -> NDArray[np.float64]:
                return np.array([chart.step(v) for chart, v in zip(charts, z.tolist(), strict=True)])

        if spread:  # it would alarm at z that are larger; sums of their squares are what varies more
            return lambda z: more * more * step(np.clip(z, -most, most))
        return lambda z: step(np.clip(more * z, -most, most))

    def solve(found: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array(replay.threshold(found, length, apart))

    return float(replay.heights(solve, new, baseline, apart, length, streams))
