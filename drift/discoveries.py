"""Alarms of many streams, with several signals each, of which at most a share is false: e-values put together.

Each stream's time is cut into periods, and each period is one test of "nothing changes here". A signal's e-detector
(trimtab.drift.e_detector) holds R, and R_n - n is a supermartingale, from wherever it stands at the period's beginning:

    e = R_n / (R_0 + period)

has a mean of at most 1 at any moment of the period, given all that was known at its beginning. The signals' mean of it
is an e-value however they hang together (trimtab.drift.combine), and e-LOND (trimtab.drift.e_lond) decides, the moment
that it suffices, however streams hang together. A stream that has alarmed learns its baselines anew.

Nobody sets a threshold for a stream: while nothing has been found evidence must be strong, the stronger the more
periods there have been, and once many streams drift a little is enough.

The guarantee holds for values that are independent and Gaussian (or tamer) about their baselines. Those that hang
together are weighed by their reference's variance inflation, and the stream's own beyond that, so that it holds about:
for their sums over longer than they hang together. Without a reference they are taken to be independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.catalogue import usable
from trimtab.drift.combine import average
from trimtab.drift.detector import State
from trimtab.drift.e_detector import e_process
from trimtab.drift.e_lond import ELond
from trimtab.drift.monitor import Alarm
from trimtab.drift.spending import DECAY
from trimtab.drift.standardised import Standardised


@dataclass(slots=True)
class _Stream:
    detectors: dict[str, Standardised]
    reached: dict[str, float]
    """R_n of each signal."""
    began: dict[str, float]
    """R_0 of each signal in the period."""
    number: int
    """Of the test that is under way."""
    seen: int = 0
    """Values in the period."""
    quiet: int = 0
    """Values after which the next test begins."""
    share: float = 0.0
    """How near it stands to an alarm."""


class Discoveries:
    """See the module for the method.

    signals: of each stream. level: the accepted share of false alarms among alarms. period: values of a test; a change
    is found within the one that it falls into, or in the next. refractory: values after a stream's alarm until its next
    test begins. references: recordings without drift `[n]` by signal, for those that have one. warmup, memory: as
    for `e_detector`; decay: as for `ELond`.

    Raises ValueError where an option is out of range.
    """

    name = "discoveries"

    def __init__(
        self,
        signals: Sequence[str],
        *,
        level: float,
        period: int = 1000,
        refractory: int = 0,
        references: Mapping[str, NDArray[np.float64]] | None = None,
        warmup: int = 64,
        memory: int = 5000,
        decay: float = DECAY,
    ) -> None:
        if not signals or len(set(signals)) < len(signals):
            raise ValueError("give one signal or more, each once")
        if period < 1 or refractory < 0:
            raise ValueError(f"period must be 1 value or more, and refractory 0 or more, not {period} and {refractory}")
        known = references or {}
        self._make = {
            s: partial(e_process, reference=usable(known.get(s)), warmup=warmup, memory=memory) for s in signals
        }
        self._period = period
        self._refractory = refractory
        self._rule = ELond(level, decay=decay)
        self._streams: dict[str, _Stream] = {}
        for make in self._make.values():
            make()  # a wrong option shows itself here

    def update(self, stream: str, values: Mapping[str, float]) -> Alarm | None:
        """Take a stream's signals: one that is missing or not finite tells nothing.

        The alarm's statistic and threshold are logarithms, of the e-value and of what it must reach. Raises KeyError on
        a signal that is not watched.
        """
        found = self._stream(stream)
        for signal, value in values.items():
            found.reached[signal] = math.expm1(found.detectors[signal].update(value).statistic)
        if found.quiet:
            found.quiet -= 1
            if not found.quiet:
                self._begin(found)
            return None
        found.seen += 1
        e_values = {s: r / (found.began[s] + self._period) for s, r in found.reached.items()}
        e_value = float(average(list(e_values.values())))
        needed = 1 / self._rule.allowance(found.number)
        found.share = math.log(max(e_value, 1.0)) / math.log(needed)
        if self._rule.decide(found.number, e_value):
            return self._alarm(found, e_values, e_value, needed)
        if found.seen == self._period:
            self._begin(found)
        return None

    def _stream(self, name: str) -> _Stream:
        found = self._streams.get(name)
        if found is None:
            nothing = dict.fromkeys(self._make, 0.0)
            detectors = {s: make() for s, make in self._make.items()}
            found = self._streams[name] = _Stream(detectors, nothing, dict(nothing), self._rule.begin())
        return found

    def _begin(self, stream: _Stream) -> None:
        """A new period, and a new test."""
        stream.number, stream.seen, stream.began = self._rule.begin(), 0, dict(stream.reached)

    def _alarm(self, stream: _Stream, e_values: Mapping[str, float], e_value: float, needed: float) -> Alarm:
        signal = max(e_values, key=lambda s: e_values[s])
        shares = {s: math.log(max(e, 1.0)) / math.log(needed) for s, e in e_values.items()}
        onset = stream.detectors[signal].onset()
        for s, detector in stream.detectors.items():
            detector.relearn()
            stream.reached[s] = 0.0
        stream.share, stream.quiet = 0.0, self._refractory
        if not stream.quiet:
            self._begin(stream)
        return Alarm(signal, self.name, math.log(e_value), math.log(needed), onset, shares)

    def pressure(self, stream: str) -> float:
        """How near a stream stands to an alarm: the logarithm of its e-value as a share of what it must reach."""
        return self._streams[stream].share if stream in self._streams else 0.0

    def reset(self, stream: str) -> None:
        """Begin a stream anew: with a reference, its baseline holds again. What has been tested stays so."""
        if (found := self._streams.get(stream)) is not None:
            for signal, detector in found.detectors.items():
                detector.reset()
                found.reached[signal] = 0.0
            found.quiet, found.share = 0, 0.0
            self._begin(found)

    def state(self, stream: str) -> State:
        """All of the memory of a stream, and of the tests of all, JSON-able."""
        found = self._stream(stream)
        return {
            "version": 1,
            "period": self._period,
            "rule": self._rule.state(),
            "detectors": {s: d.state() for s, d in found.detectors.items()},
            "reached": dict(found.reached),
            "began": dict(found.began),
            "number": found.number,
            "seen": found.seen,
            "quiet": found.quiet,
            "share": found.share,
        }

    def restore(self, stream: str, state: State) -> None:
        """Continue a stream exactly from `state`; of all tests, from the latest state that a stream was restored from.

        Raises ValueError where it is of other signals or options; nothing is changed then.
        """
        if state.get("version") != 1 or state["period"] != self._period or set(state["detectors"]) != set(self._make):
            raise ValueError("this state is of other signals or options, or of another version; start anew")
        detectors = {s: make() for s, make in self._make.items()}
        for signal, detector in detectors.items():
            detector.restore(state["detectors"][signal])
        self._rule.join(state["rule"])
        self._streams[stream] = _Stream(
            detectors,
            {s: float(state["reached"][s]) for s in self._make},
            {s: float(state["began"][s]) for s in self._make},
            int(state["number"]),
            int(state["seen"]),
            int(state["quiet"]),
            float(state["share"]),
        )
