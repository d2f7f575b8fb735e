"""Hierarchical temporal memory on a scalar stream: learns its sequences, and tells when what comes is not one of them.

The raw anomaly score of a region (htm_score) goes to the anomaly likelihood (anomaly_likelihood), as in Numenta's
detectors (Ahmad, Lavin, Purdy and Agha 2017).

**HtmAnomaly**, for recordings with times: a score from 0 to 1, the likelihood on its logarithmic scale. The range
rule of Numenta's NAB detector adds spatial anomalies: a value beyond all those seen by a twentieth of their range
scores 1 at once. After a score of `alarm_at`, which a chance of 1 / `every` gives, the next `hold` ones that would
reach it are 0: one event, one alarm.

**Htm**, for the catalogue: alarms where a mean of ten raw scores as high as this has a chance of 1 / `every` or less,
and then learns anew what is usual. Means of ten hang together, so that the chance is met less often than once in
`every`; scores are not normal, so that it may be met more often: the rate is approximate.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.anomaly_likelihood import log_scale, tail
from trimtab.drift.detector import Finding, State
from trimtab.drift.hold import Hold
from trimtab.drift.htm_score import HUGE, HtmScore
from trimtab.drift.range_rule import RANGE_TOLERANCE, RangeRule
from trimtab.drift.score_baseline import ScoreBaseline


class HtmAnomaly:
    """Anomaly scores of (time, value) records, from 0 to 1; see the module.

    every: one over the chance of an alarm. range_rule: whether values beyond the range seen are anomalies. hold:
    records after an alarm without another. seed: of what is random in the HTM.
    """

    def __init__(
        self,
        *,
        every: float = 1e4,
        range_rule: bool = True,
        hold: int = 100,
        columns: int = 2048,
        cells: int = 32,
        segments: int = 32768,
        regions: int = 1,
        seed: int = 0,
    ) -> None:
        self._score = HtmScore(columns=columns, cells=cells, segments=segments, regions=regions, seed=seed)
        self._baseline = ScoreBaseline()
        self._range = RangeRule(RANGE_TOLERANCE) if range_rule else None
        self.alarm_at = log_scale(1.0 / every)
        self._hold = Hold(hold)

    def update(self, time: float | None, value: float) -> float:
        """Take a record: `time` in seconds since 1970 of the local clock (None: unknown). 0 where it is skipped."""
        if not -HUGE < value < HUGE:
            return 0.0
        raw = self._score.update(time, value)
        average, usual = self._baseline.update(raw or 0.0)
        score = 0.0 if usual is None or raw is None else log_scale(tail(average, usual))
        if self._range is not None and self._range.update(value):
            score = 1.0
        return 0.0 if self._hold.holds_back(score >= self.alarm_at) else score

    def state(self) -> State:
        """All of the memory."""
        return {
            "score": self._score.state(),
            "baseline": self._baseline.state(),
            "range": None if self._range is None else self._range.state(),
            "held": self._hold.left,
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of other options."""
        if (state["range"] is None) != (self._range is None):
            raise ValueError("this state is of an HTM with other options; reset the detector")
        self._score.restore(state["score"])
        self._baseline.restore(state["baseline"])
        if self._range is not None:
            self._range.restore(state["range"])
        self._hold.left = int(state["held"])


class Htm:
    """Detector by HTM's anomaly likelihood; see the module.

    every: about how many values lie between false alarms. columns, cells, segments, regions: the HTM's size. A
    `reference` is not used: what is normal is learnt in sequence, from the stream.
    """

    name = "htm"

    def __init__(
        self,
        *,
        every: float,
        columns: int = 2048,
        cells: int = 32,
        segments: int = 32768,
        regions: int = 1,
        reference: NDArray[np.float64] | None = None,
    ) -> None:
        self._score = HtmScore(columns=columns, cells=cells, segments=segments, regions=regions)
        self._threshold = math.log(every)
        self._baseline = ScoreBaseline()
        self._statistic = 0.0

    def reset(self) -> None:
        """Forget everything."""
        self._score.reset()
        self._baseline.reset()
        self._statistic = 0.0

    def update(self, value: float) -> Finding:
        """Take one value: a few tenths of a millisecond at 2,048 x 32."""
        raw = self._score.update(None, value) if -HUGE < value < HUGE else None
        if raw is None:
            return Finding(False, min(self._statistic, math.nextafter(self._threshold, 0.0)), self._threshold, None)
        average, usual = self._baseline.update(raw)
        self._statistic = 0.0 if usual is None else -math.log(max(tail(average, usual), 1e-300))
        alarm = self._statistic >= self._threshold
        if alarm:
            self._baseline.reset()
        return Finding(alarm, self._statistic, self._threshold, None)

    def state(self) -> State:
        """All of the memory."""
        return {
            "detector": self.name,
            "version": 1,
            "score": self._score.state(),
            "baseline": self._baseline.state(),
            "statistic": self._statistic,
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector, version or size."""
        if state.get("detector") != self.name or state.get("version") != 1:
            raise ValueError(f"this state is not of {self.name}; reset the detector")
        self._score.restore(state["score"])
        self._baseline.restore(state["baseline"])
        self._statistic = float(state["statistic"])
