"""One stream's detectors side by side, and one alarm per drift."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trimtab.drift.detector import Detector, Finding, State, Stretch, many
from trimtab.drift.seasonal import Seasonal
from trimtab.drift.swift import Together, swift


@dataclass(frozen=True, slots=True)
class Alarm:
    """A drift was noticed."""

    signal: str
    """The signal that raised it: of several at once, the one furthest beyond its threshold."""
    detector: str
    statistic: float
    threshold: float
    onset: int | None
    """Estimated number of windows ago at which the change began (0: this window); None where it gives no estimate."""
    evidence: dict[str, float]
    """Every signal's statistic as a share of its threshold, at its latest value: 1 is an alarm."""


Update = Callable[[Sequence[float]], Stretch]


class Monitor:
    """Watches several signals of one stream; raises one alarm, then none for `refractory` windows.

    Detectors go on within the refractory period: those that alarm then are seeing the same drift, are not heard, and
    learn the new level like the first. So a drift that lasts is told once; a further one after the period is told
    again. Where an adaptation has brought the model back to its source, `reset()` puts detectors back to theirs.

    The periods of a season count windows, whether a signal was seen in them or not.
    """

    def __init__(self, detectors: Mapping[str, Detector], refractory: int) -> None:
        self._detectors = dict(detectors)
        self._refractory = refractory
        self._watched = [
            (signal, many(detector), isinstance(detector, Seasonal)) for signal, detector in self._detectors.items()
        ]
        self._together: Together | None = None
        self.reset()

    def compile(self) -> None:
        """Go on by machine code, where that is possible: the same to the bit.

        The first time on a machine it takes seconds.
        """
        self._together = swift(self._detectors.values())

    def reset(self) -> None:
        """Forget everything, the refractory period included."""
        for detector in self._detectors.values():
            detector.reset()
        if self._together is not None:
            self._together.forget()
        self._quiet = 0
        self._windows = 0
        # For each signal, in order: values seen, and the share of the threshold after the latest window.
        self._values = [0] * len(self._detectors)
        self._shares = [0.0] * len(self._detectors)

    def update(self, values: Mapping[str, float]) -> Alarm | None:
        """Take one window's signals. A signal may be missing (the window was not observed) or not finite: skipped.

        Raises KeyError on a signal that is not watched.
        """
        if unknown := set(values) - set(self._detectors):
            raise KeyError(unknown.pop())
        return self.update_many([[values.get(signal, math.nan) for signal in self._detectors]])[0].get(0)

    def update_many(self, windows: Sequence[Sequence[float]]) -> tuple[dict[int, Alarm], list[float]]:
        """`update` of each of `windows`, in order, and the same to the last bit wherever they are cut.

        Each holds a value for every signal, in order; NaN where it is missing. Returns the alarms by their place among
        the windows, and `pressure` after each window.
        """
        if not windows:
            return {}, []
        count = len(windows)
        raised: dict[int, Alarm] = {}
        if self._together is not None and (told := self._together.take(windows)) is not None:
            pressures, self._shares = told[:count], told[count:]
            self._values = [seen + count for seen in self._values]
        else:
            raised, pressures = self._one_by_one(list(zip(*windows, strict=True)))
        self._windows += count
        self._quiet = max(self._quiet - count, 0)
        return raised, pressures

    def _one_by_one(self, columns: Sequence[Sequence[float]]) -> tuple[dict[int, Alarm], list[float]]:
        """Each detector by itself, with its signal's values."""
        if self._together is not None:
            self._together.give_back()
            self._together.forget()
        count = len(columns[0])
        found: dict[int, list[tuple[int, Finding, int]]] = {}
        shares: list[list[float]] = []
        for i, (_, update, seasonal) in enumerate(self._watched):
            column = columns[i]
            seen: Sequence[int] = range(count)
            if math.isfinite(sum(column)):
                own, alarms = update(column)
            else:
                seen = [place for place, value in enumerate(column) if math.isfinite(value)]
                own, alarms = _with_gaps(update, seasonal, column, seen, self._shares[i])
            for place, finding in alarms:
                found.setdefault(place, []).append((i, finding, self._values[i] + bisect_right(seen, place)))
            self._values[i] += len(seen)
            shares.append(own)
        raised = self._heard(found, shares) if found else {}
        self._shares = [own[-1] for own in shares]
        return raised, list(map(max, *shares)) if len(shares) > 1 else list(*shares)

    def _heard(
        self, found: Mapping[int, Sequence[tuple[int, Finding, int]]], shares: Sequence[Sequence[float]]
    ) -> dict[int, Alarm]:
        """Those of the alarms `found`, by window, that are not in the refractory period after one of them."""
        raised: dict[int, Alarm] = {}
        for place in sorted(found):
            if place < self._quiet:
                continue
            self._quiet = place + 1 + self._refractory
            i, finding, values = max(found[place], key=lambda raiser: shares[raiser[0]][place])
            onset = finding.onset
            if onset is not None:
                # Values are counted in windows by their average spacing, should windows have gone unobserved.
                onset = round(onset * (self._windows + place + 1) / values)
            signal = self._watched[i][0]
            evidence = {name: own[place] for name, own in zip(self._detectors, shares, strict=True)}
            name = self._detectors[signal].name
            raised[place] = Alarm(signal, name, finding.statistic, finding.threshold, onset, evidence)
        return raised

    @property
    def pressure(self) -> float:
        """How near the nearest detector stands to an alarm: its statistic as a share of its threshold."""
        return max(self._shares, default=0.0)

    def state(self) -> State:
        """All of the memory, JSON-able."""
        if self._together is not None:
            self._together.give_back()
        return {
            "version": 1,
            "quiet": self._quiet,
            "windows": self._windows,
            "values": dict(zip(self._detectors, self._values, strict=True)),
            "evidence": dict(zip(self._detectors, self._shares, strict=True)),
            "detectors": {signal: detector.state() for signal, detector in self._detectors.items()},
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of other signals, detectors or options."""
        if state.get("version") != 1 or set(state["detectors"]) != set(self._detectors):
            raise ValueError("this drift state is of other signals or of another version; reset the stream's detectors")
        if self._together is not None:
            self._together.forget()
        for signal, detector in self._detectors.items():
            detector.restore(state["detectors"][signal])
        self._quiet = int(state["quiet"])
        self._windows = int(state["windows"])
        self._values = [int(state["values"][signal]) for signal in self._detectors]
        self._shares = [float(state["evidence"][signal]) for signal in self._detectors]


def _with_gaps(update: Update, seasonal: bool, column: Sequence[float], seen: Sequence[int], share: float) -> Stretch:
    """`update` on the values that were `seen`; in the windows between, the share stays and time goes by."""
    given, alarms = update(column if seasonal else [column[place] for place in seen])
    if seasonal:
        told = {place: given[place] for place in seen}
    else:
        told = dict(zip(seen, given, strict=True))
        alarms = [(seen[place], finding) for place, finding in alarms]
    shares: list[float] = []
    for place in range(len(column)):
        share = told.get(place, share)
        shares.append(share)
    return shares, alarms
