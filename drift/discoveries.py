"""Alarms of many streams, with several signals each, of which at most a share is false: e-values put together.

Each stream's time is cut into periods, and each period is one test of "nothing changes here". A signal's e-detector
(trimtab.drift.e_detector) holds R, and R_n - n is a supermartingale, from wherever it stands at the period's beginning:

    e = R_n / (R_0 + period)

has a mean of at most 1 at any moment of the period, given all that was known at its beginning. The signals' mean of it
is an e-value however they hang together (trimtab.drift.combine), and e-LOND (trimtab.drift.e_lond) decides, the moment
that it suffices, however streams hang together. A stream that has alarmed learns its baselines anew.

Nobody sets a threshold for a stream: while nothing has been found evidence must be strong, the stronger the more
periods there have been, and once many streams drift a little is enough. The guarantee is that of the e-values: it is
subject to the baselines, which values that hang together, or are skewed, do not keep to (`bounded` asks for less).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.combine import average
from trimtab.drift.detector import State
from trimtab.drift.e_detector import e_process
from trimtab.drift.e_lond import ELond
from trimtab.drift.spending import DECAY
from trimtab.drift.standardised import Standardised


@dataclass(slots=True)
class _Stream:
    detectors: dict[str, Standardised]
    number: int
    """Of the test that is under way."""
    seen: int = 0
    """Values in its period."""
    began: dict[str, float] = field(default_factory=dict)
    """R_0 of each signal."""
    reached: dict[str, float] = field(default_factory=dict)
    """R_n"""


class Discoveries:
    """See the module for the method.

    signals: of each stream. level: the accepted share of false alarms among alarms. period: values of a test; a change
    is found within the one that it falls into, or in the next. references: recordings without drift `[n]` by signal,
    for those that have one. bounded, warmup, memory: as for `e_detector`; decay: as for `ELond`.

    Raises ValueError where an option is out of range.
    """

    def __init__(
        self,
        signals: Sequence[str],
        *,
        level: float,
        period: int = 1000,
        references: Mapping[str, NDArray[np.float64]] | None = None,
        bounded: bool = False,
        warmup: int = 64,
        memory: int = 5000,
        decay: float = DECAY,
    ) -> None:
        if not signals or len(set(signals)) < len(signals):
            raise ValueError("give one signal or more, each once")
        if period < 1:
            raise ValueError(f"period must be 1 value or more, not {period}")
        known = references or {}
        self._make = {
            s: partial(e_process, reference=known.get(s), bounded=bounded, warmup=warmup, memory=memory)
            for s in signals
        }
        self._period = period
        self._rule = ELond(level, decay=decay)
        self._streams: dict[str, _Stream] = {}
        for make in self._make.values():
            make()  # a wrong option shows itself here

    def update(self, stream: str, values: Mapping[str, float]) -> bool:
        """Whether the stream alarms at these values of its signals: one that is missing or not finite tells nothing.

        Raises KeyError on a signal that is not watched.
        """
        found = self._streams.get(stream)
        if found is None:
            found = self._streams[stream] = _Stream({s: make() for s, make in self._make.items()}, self._rule.begin())
            found.began = dict.fromkeys(self._make, 0.0)
            found.reached = dict.fromkeys(self._make, 0.0)
        found.seen += 1
        for signal, value in values.items():
            statistic = found.detectors[signal].update(value).statistic
            found.reached[signal] = math.expm1(statistic)
        e_value = float(average([r / (found.began[s] + self._period) for s, r in found.reached.items()]))
        if e_value >= 1 / self._rule.allowance(found.number):
            self._rule.decide(found.number, e_value)
            for detector in found.detectors.values():
                detector.relearn()
            self._next(found, dict.fromkeys(self._make, 0.0))
            return True
        if found.seen == self._period:
            self._next(found, dict(found.reached))
        return False

    def _next(self, stream: _Stream, began: dict[str, float]) -> None:
        """A new period, and a new test."""
        stream.number = self._rule.begin()
        stream.seen = 0
        stream.began, stream.reached = began, dict(began)

    def state(self) -> State:
        """All of the memory, JSON-able."""
        return {
            "version": 1,
            "period": self._period,
            "rule": self._rule.state(),
            "streams": {
                name: {
                    "detectors": {s: d.state() for s, d in found.detectors.items()},
                    "number": found.number,
                    "seen": found.seen,
                    "began": dict(found.began),
                    "reached": dict(found.reached),
                }
                for name, found in self._streams.items()
            },
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of other signals or options."""
        if state.get("version") != 1 or state["period"] != self._period:
            raise ValueError("this state is of another version or period; start anew")
        if any(set(found["detectors"]) != set(self._make) for found in state["streams"].values()):
            raise ValueError("this state is of other signals; start anew")
        self._rule.restore(state["rule"])
        self._streams = {}
        for name, found in state["streams"].items():
            detectors = {s: make() for s, make in self._make.items()}
            for signal, detector in detectors.items():
                detector.restore(found["detectors"][signal])
            self._streams[name] = _Stream(
                detectors,
                int(found["number"]),
                int(found["seen"]),
                {s: float(found["began"][s]) for s in self._make},
                {s: float(found["reached"][s]) for s in self._make},
            )
