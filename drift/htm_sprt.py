"""HTM x SPRT: a hierarchical temporal memory turns a stream into surprise, sequential tests decide what it means.

After Bandyopadhyay, Bose and Roy Chowdhury (2025), "A Hybrid Framework for Real-Time Data Drift and Anomaly
Identification Using Hierarchical Temporal Memory and Statistical Tests", of which only the abstract was at hand: HTM's
anomaly output feeds a sequential probability ratio test that decides anomaly and drift. **Our reading:**

The raw score x is standardised by what is usual, z = (x - m) / d, with m and d the mean and deviation of the mean of
AVERAGED = 10 scores (score_baseline): d is what is left of the noise after averaging, so that scores which hang
together are not taken for independent ones. A rise of the mean by s d then has the log-likelihood ratio

    s / 10 (z - s / 2)    a record.

On what HTM knows well, d is so small that one surprised record, as at the edge of a square wave whose period is
longer than HTM's memory of it, would decide alone. So a record counts for at most ALONE of what an alarm takes: an
anomaly is more than one record's surprise.

1. *Anomaly.* Wald's tests of s = 1, 2, 4 and 8 (SHIFTS) against s = 0, each repeated (S = max(0, S + ratio), see
   run_length), since how great a surprise will be is not known: they decide for an anomaly where the logarithm of
   the mean of exp(S) reaches ln(`every`). By Lorden (1971), and Shin, Ramdas and Rinaldo (2022, "E-detectors") for
   the mean, that has an average run length of at least `every` where the model holds; scores are not normal, so that
   it is approximate.
2. *Drift.* After an anomaly, Wald's test of s = LASTING against s = 0, with both boundaries (error rates ALPHA for
   "drift", BETA for "no drift"), tells whether surprise lasts. z is at most LASTING in it, so that no short surprise,
   however great, is a drift: that takes 35 records at least. If it lasts, the stream has changed: what is usual is
   learnt anew, for 100 records. Else watching goes on `hold` records after the anomaly. No other anomaly is told in
   between: one event, one alarm.
3. *Rate.* Scores of some streams are far from normal: they burst every now and then. So the threshold rises by RAISE
   with each event that is told, and falls by RAISE / `every` with each record, never below ln(`every`): a stream that
   has more events than asked gets a higher one (stochastic approximation, Robbins and Monro 1951; adaptive conformal
   inference, Gibbs and Candes 2021).

Against the anomaly likelihood, which looks at ten records at a time, the tests look as far back as evidence goes: a
smaller rise that lasts longer counts too.

**HtmSprt**, for the catalogue, has a second test beside it, of the level of the values (`level_test`), since what has
no sequence surprises always, and a shift of its mean too little more. Each of the two has half of the accepted rate
(`combine.apart`). What the test of the level finds is a drift at once.

**HtmSprtAnomaly**, for recordings with times, adds the time of day, the range rule, and a test of single values
(`tail_test`): HTM tells that a sequence breaks, but in noise, where every value surprises it, a burst no more than the
rest. A value is an anomaly, too, where its distance from what is usual has a chance of one in a window of them. All of
them share one threshold's rise: one stream, one rate.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.combine import apart
from trimtab.drift.detector import Finding, State
from trimtab.drift.htm_score import HUGE, HtmScore
from trimtab.drift.level_test import LevelTest
from trimtab.drift.range_rule import RANGE_TOLERANCE, RangeRule
from trimtab.drift.run_length import wald_boundaries
from trimtab.drift.score_baseline import AVERAGED, ScoreBaseline, Usual
from trimtab.drift.tail_test import WINDOW, TailTest

SHIFTS, LASTING = (1.0, 2.0, 4.0, 8.0), 2.0
ALPHA, BETA = 1e-3, 1e-2
SPAN = 4000.0
ALONE = 0.7
RAISE = 1.0
"""In nats: an alarm makes the next one e times as rare."""

TAIL_THRESHOLD = math.log(WINDOW)
"""In nats: a value as far off is expected once in the window that says how far values lie off."""

WATCHING, EVENT, NO_DRIFT = "watching", "event", "no drift"
"""What is going on; `NO_DRIFT`: an event which the second test has decided about."""


class ScoreTest:
    """The two tests on raw scores; see the module."""

    def __init__(self, *, every: float, hold: int) -> None:
        self._every = every
        self._hold = hold
        self._lower, self._upper = wald_boundaries(ALPHA, BETA)
        self._baseline = ScoreBaseline(span=SPAN)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._baseline.reset()
        self.raised = 0.0
        """What the events that were told have added to thresholds."""
        self.threshold = math.log(self._every)
        """What the evidence of the newest record is held against."""
        self._sums = [0.0] * len(SHIFTS)
        self._lengths = [0] * len(SHIFTS)
        self._phase = WATCHING
        self._elapsed = 0
        self._lasting = 0.0

    def update(self, score: float) -> tuple[bool, bool]:
        """Take a raw score, from 0 to 1: whether it completes an anomaly, and whether a drift."""
        usual = self._baseline.update(score)[1]
        self.raised = max(self.raised - RAISE / self._every, 0.0)
        asked = math.log(self._every)
        self.threshold = asked + self.raised
        if self._phase != WATCHING:
            self._elapsed += 1
            drift = usual is not None and self._lasts(score, usual)
            if drift:
                self._baseline.restart()
            if drift or self._elapsed >= self._hold:
                self._watch()
            return False, drift
        if usual is None:
            self._watch()
            return False, False
        ratios = [min(_ratio(score, usual, shift), ALONE * asked) for shift in SHIFTS]
        self._sums = [max(0.0, s + ratio) for s, ratio in zip(self._sums, ratios, strict=True)]
        self._lengths = [n + 1 if s > 0 else 0 for n, s in zip(self._lengths, self._sums, strict=True)]
        if self.evidence < self.threshold:
            return False, False
        self.begin()
        return True, False

    @property
    def evidence(self) -> float:
        """For an anomaly, in nats: ln of the mean of exp(S), at least 0."""
        highest = max(self._sums)
        return highest + math.log(math.fsum(math.exp(s - highest) for s in self._sums) / len(SHIFTS))

    @property
    def onset(self) -> int:
        """Records ago at which the greatest of the sums began to grow."""
        return max(self._lengths[self._sums.index(max(self._sums))] - 1, 0)

    @property
    def watching(self) -> bool:
        """Whether an anomaly would be told; not during an event."""
        return self._phase == WATCHING

    def begin(self) -> None:
        """An event is told: from now on the question is whether it lasts."""
        self.raised += RAISE
        self._phase, self._elapsed, self._lasting = EVENT, 0, 0.0

    def _watch(self) -> None:
        self._phase, self._sums, self._lengths = WATCHING, [0.0] * len(SHIFTS), [0] * len(SHIFTS)

    def _lasts(self, score: float, usual: Usual) -> bool:
        if self._phase == EVENT:
            highest = usual.mean + LASTING * usual.deviation
            self._lasting += _ratio(min(score, highest), usual, LASTING)
            if self._lasting <= self._lower:
                self._phase = NO_DRIFT
        return self._phase == EVENT and self._lasting >= self._upper

    def state(self) -> State:
        """All of the memory."""
        return {
            "baseline": self._baseline.state(),
            "raised": self.raised,
            "threshold": self.threshold,
            "sums": list(self._sums),
            "lengths": list(self._lengths),
            "phase": self._phase,
            "elapsed": self._elapsed,
            "lasting": self._lasting,
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`."""
        self._baseline.restore(state["baseline"])
        self.raised = float(state["raised"])
        self.threshold = float(state["threshold"])
        self._sums = [float(s) for s in state["sums"]]
        self._lengths = [int(n) for n in state["lengths"]]
        self._phase = str(state["phase"])
        self._elapsed = int(state["elapsed"])
        self._lasting = float(state["lasting"])


class HtmSprtAnomaly:
    """Anomaly scores of (time, value) records, from 0 to 1, at least 0.5 for an anomaly; see the module.

    every: about how many records lie between false anomalies of the test of raw scores. range_rule: whether values
    beyond the range seen are anomalies. hold: records of an event. seed: of what is random in the HTM. After each
    record, `decision` is "anomaly", "drift" or None.
    """

    def __init__(
        self,
        *,
        every: float = 1e5,
        range_rule: bool = True,
        hold: int = 100,
        columns: int = 2048,
        cells: int = 32,
        segments: int = 32768,
        regions: int = 1,
        seed: int = 0,
    ) -> None:
        self._score = HtmScore(columns=columns, cells=cells, segments=segments, regions=regions, seed=seed)
        self._test = ScoreTest(every=every, hold=hold)
        self._tail = TailTest()
        self._range = RangeRule(RANGE_TOLERANCE) if range_rule else None
        self.alarm_at = 0.5
        self.decision: str | None = None

    def update(self, time: float | None, value: float) -> float:
        """Take a record: `time` in seconds since 1970 of the local clock (None: unknown). 0 where it is skipped."""
        self.decision = None
        if not -HUGE < value < HUGE:
            return 0.0
        watched = self._test.watching
        raw = self._score.update(time, value)
        anomaly, drift = self._test.update(raw or 0.0)
        score = _share(self._test.evidence, self._test.threshold)
        score = max(score, _share(self._tail.update(time, value), TAIL_THRESHOLD + self._test.raised))
        if self._range is not None and self._range.update(value):
            score = 1.0
        if not watched:
            self.decision = "drift" if drift else None
            return 0.0
        if score >= self.alarm_at:
            self.decision = "anomaly"
            if not anomaly:
                self._test.begin()
        return score

    def state(self) -> State:
        """All of the memory."""
        return {
            "score": self._score.state(),
            "test": self._test.state(),
            "tail": self._tail.state(),
            "range": None if self._range is None else self._range.state(),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of other options."""
        if (state["range"] is None) != (self._range is None):
            raise ValueError("this state is of an HTM with other options; reset the detector")
        self._score.restore(state["score"])
        self._test.restore(state["test"])
        self._tail.restore(state["tail"])
        if self._range is not None:
            self._range.restore(state["range"])


class HtmSprt:
    """Detector by HTM and sequential tests; see the module.

    every: about how many values lie between false alarms. hold: values of an event, in which there is no other alarm.
    columns, cells, segments, regions: the HTM's size. reference: calibrates the test of the level; what is normal in
    sequence is learnt from the stream. After each value, `decision` is "anomaly", "drift" or None: an alarm is one of
    them, and whether an anomaly lasts, and so was a drift, shows within `hold` values.
    """

    name = "htm_sprt"

    def __init__(
        self,
        *,
        every: float,
        hold: int = 100,
        columns: int = 2048,
        cells: int = 32,
        segments: int = 32768,
        regions: int = 1,
        reference: NDArray[np.float64] | None = None,
    ) -> None:
        self._score = HtmScore(columns=columns, cells=cells, segments=segments, regions=regions)
        self._test = ScoreTest(every=apart(every, 2), hold=hold)
        self._level = LevelTest(every=apart(every, 2), reference=reference)
        self.decision: str | None = None

    def reset(self) -> None:
        """Forget everything."""
        self._score.reset()
        self._test.reset()
        self._level.reset()
        self.decision = None

    def update(self, value: float) -> Finding:
        """Take one value: a few tenths of a millisecond at 2,048 x 32."""
        if not -HUGE < value < HUGE:
            self.decision = None
            return Finding(False, self._evidence(), self._test.threshold, None)
        return self.decide(self._score.update(None, value), value)

    def decide(self, raw: float | None, value: float) -> Finding:
        """Take one finite value whose raw anomaly score is `raw`; None: not known yet."""
        test = self._test
        if self._level.explains(value):
            return self._rate(value)
        watched = test.watching
        anomaly, drift = (False, False) if raw is None else test.update(raw)
        level = self._level.update(value)
        moved = level is not None and level.alarm
        self.decision = "anomaly" if anomaly else "drift" if drift or moved else None
        if anomaly:
            return Finding(True, test.evidence, test.threshold, test.onset)
        if moved and watched and level is not None:
            test.begin()
            return Finding(True, level.statistic / level.threshold * test.threshold, test.threshold, level.onset)
        evidence = self._evidence()
        if test.watching and level is not None:
            # Of the two, whichever stands nearer to its threshold.
            evidence = max(evidence, level.statistic / level.threshold * test.threshold)
        return Finding(False, min(evidence, math.nextafter(test.threshold, 0.0)), test.threshold, None)

    def _rate(self, value: float) -> Finding:
        """Of a value in a stream of two kinds, which alarms by their rate alone."""
        found = self._level.update(value)
        self.decision = "drift" if found is not None and found.alarm else None
        return found or Finding(False, 0.0, self._test.threshold, None)

    def _evidence(self) -> float:
        return self._test.evidence if self._test.watching else 0.0

    def state(self) -> State:
        """All of the memory."""
        return {
            "detector": self.name,
            "version": 2,
            "score": self._score.state(),
            "test": self._test.state(),
            "level": self._level.state(),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector, version or size."""
        if state.get("detector") != self.name or state.get("version") != 2:
            raise ValueError(f"this state is not of {self.name}; reset the detector")
        self._score.restore(state["score"])
        self._test.restore(state["test"])
        self._level.restore(state["level"])
        self.decision = None


def _share(evidence: float, threshold: float) -> float:
    """From 0 to 1; 0.5 where evidence reaches its threshold."""
    return evidence / (evidence + threshold)


def _ratio(score: float, usual: Usual, shift: float) -> float:
    return shift / AVERAGED * ((score - usual.mean) / usual.deviation - shift / 2)
