"""Raw anomaly scores of a scalar stream: encoders in front of one or more HTM regions.

**Resolution.** One bucket of the scalar encoder is a BUCKETS-th of the range of values, or STEP of the median step from
a value to the next, whichever is more: in noise, finer buckets never come in the same order twice, so that every value
surprises, and a burst no more than the rest. (Not so where no time is known: without the hour to tell contexts apart,
HTM soon expects anything after anything in wide buckets, and the rare rest alarms.) Numenta's detector is told the
range of the whole recording; a stream's is not known beforehand. So nothing is learnt from the first CALIBRATE[0]
values; then they are all taken at once, at the resolution that they give. At the later marks, where that has grown by
a fifth, new regions learn all values so far at the new one. A record at a mark takes as long as learning all before
it; a record's score depends on records up to it alone. A stream that has not moved has no range: it is waited for.

**Regions.** Which cell learns what is chance, and with it when exactly a surprise is seen. The mean score of several
regions of different seeds varies less.
"""

from __future__ import annotations

import numpy as np

from trimtab.drift.detector import State
from trimtab.drift.encoders import ScalarEncoder, TimeOfDayEncoder
from trimtab.drift.htm_region import Region

BUCKETS = 130
"""Numenta's choice (getScalarMetricWithTimeOfDayAnomalyParams)."""

STEP = 0.25
CALIBRATE = (150, 300, 750)
GROWTH = 1.2
HUGE = 1e150
"""Values beyond this are skipped, as those that are not finite."""


class HtmScore:
    """Raw anomaly scores of (time, value) records; see the module. None while the resolution is not known."""

    def __init__(self, *, columns: int, cells: int, segments: int, regions: int, seed: int = 0) -> None:
        self._sizes = {"columns": columns, "cells": cells, "segments": segments}
        self._seeds = range(seed, seed + regions)
        self._clock = TimeOfDayEncoder()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._seen: list[tuple[float | None, float]] = []
        self._count = 0
        self._resolution = 0.0
        self._offset = 0.0
        self._encoder: ScalarEncoder | None = None
        self._regions: list[Region] = []

    def update(self, time: float | None, value: float) -> float | None:
        """The anomaly score, from 0 to 1, of a finite `value` at `time` (seconds since 1970, local; None: unknown)."""
        if self._count >= CALIBRATE[-1]:
            return self._learn(time, value)
        self._seen.append((time, value))
        # While nothing moves, one value says all.
        low, high = min(v for _, v in self._seen), max(v for _, v in self._seen)
        if low == high and len(self._seen) >= CALIBRATE[0]:
            del self._seen[0]
            return None
        self._count = len(self._seen)
        wanted = self._wanted(low, high) if self._count in CALIBRATE else 0.0
        if wanted > GROWTH * self._resolution:
            score: float | None = self._again(wanted)
        else:
            score = None if self._encoder is None else self._learn(time, value)
        if self._count == CALIBRATE[-1]:
            self._seen = []
        return score

    def _wanted(self, low: float, high: float) -> float:
        """The resolution by the values so far, which reach from `low` to `high`."""
        resolution = high / BUCKETS - low / BUCKETS
        if self._seen[-1][0] is None:
            return resolution
        steps = np.abs(np.diff([value for _, value in self._seen]))
        return max(resolution, STEP * float(np.median(steps)))

    def _again(self, resolution: float) -> float:
        """Learn all that was seen from the beginning, at a new resolution: the score of the last of it."""
        self._resolution, self._offset = resolution, self._seen[0][1]
        self._build()
        score = 1.0
        for time, value in self._seen:
            score = self._learn(time, value)
        return score

    def _build(self) -> None:
        self._encoder = ScalarEncoder(self._resolution, self._offset)
        inputs = self._encoder.size + self._clock.size
        self._regions = [Region(inputs, seed=seed, **self._sizes) for seed in self._seeds]

    def _learn(self, time: float | None, value: float) -> float:
        if self._encoder is None:
            raise ValueError("nothing can be learnt before the resolution is known")
        bits = self._encoder.encode(value)
        if time is not None:
            bits = np.concatenate([bits, self._encoder.size + self._clock.encode(time)])
        return sum(region.update(bits) for region in self._regions) / len(self._regions)

    def state(self) -> State:
        """All of the memory."""
        return {
            "options": self._options(),
            "seen": [list(record) for record in self._seen],
            "count": self._count,
            "resolution": self._resolution,
            "offset": self._offset,
            "regions": [region.state() for region in self._regions],
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of other options."""
        if state.get("options") != self._options():
            raise ValueError("this state is of an HTM with other options; reset the detector")
        self._seen = [(None if t is None else float(t), float(v)) for t, v in state["seen"]]
        self._count = int(state["count"])
        self._resolution = float(state["resolution"])
        self._offset = float(state["offset"])
        self._encoder, self._regions = None, []
        if state["regions"]:
            self._build()
            for region, kept in zip(self._regions, state["regions"], strict=True):
                region.restore(kept)

    def _options(self) -> dict[str, int]:
        return {**self._sizes, "regions": len(self._seeds), "seed": self._seeds.start}
