"""One stream's detectors side by side, and one alarm per drift."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trimtab.drift.detector import Detector, Finding, State, Stretch, many
from trimtab.drift.seasonal import Seasonal


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
        self.reset()

    def reset(self) -> None:
        """Forget everything, the refractory period included."""
        for detector in self._detectors.values():
            detector.reset()
        self._quiet = 0
        self._windows = 0
        self._values = dict.fromkeys(self._detectors, 0)
        # Shares of the thresholds after the latest windows, of which the last counts.
        self._evidence = {signal: [0.0] for signal in self._detectors}

    def update(self, values: Mapping[str, float]) -> Alarm | None:
        """Take one window's signals. A signal may be missing (the window was not observed) or not finite: skipped.

        Raises KeyError on a signal that is not watched.
        """
        return self.update_many([values])[0].get(0)

    def update_many(self, windows: Sequence[Mapping[str, float]]) -> tuple[dict[int, Alarm], list[float]]:
        """`update` of each of `windows`, in order, and the same to the last bit wherever they are cut.

        Returns the alarms by their place among the windows, and `pressure` after each window.
        """
        if not windows:
            return {}, []
        count = len(windows)
        found: dict[int, list[tuple[str, Finding, int]]] = {}
        shares: dict[str, list[float]] = {}
        whole = sum(map(len, windows)) == count * len(self._watched)
        if not whole and (unknown := {signal for values in windows for signal in values} - set(self._detectors)):
            raise KeyError(unknown.pop())
        for signal, update, seasonal in self._watched:
            column = [values[signal] if whole else values.get(signal, math.nan) for values in windows]
            seen: Sequence[int] = range(count)
            if math.isfinite(sum(column)):
                shares[signal], alarms = update(column)
            else:
                seen = [place for place, value in enumerate(column) if math.isfinite(value)]
                shares[signal], alarms = self._with_gaps(signal, update, seasonal, column, seen)
            for place, finding in alarms:
                taken = self._values[signal] + bisect_right(seen, place)
                found.setdefault(place, []).append((signal, finding, taken))
            self._values[signal] += len(seen)
        raised = self._heard(found, shares) if found else {}
        self._windows += count
        self._quiet = max(self._quiet - count, 0)
        self._evidence = shares
        return raised, list(map(max, *shares.values())) if len(shares) > 1 else list(*shares.values())

    def _with_gaps(
        self, signal: str, update: Update, seasonal: bool, column: list[float], seen: Sequence[int]
    ) -> Stretch:
        """`update` on the values that were `seen`; in the windows between, the share stays and time goes by."""
        given, alarms = update(column if seasonal else [column[place] for place in seen])
        if seasonal:
            told = {place: given[place] for place in seen}
        else:
            told = dict(zip(seen, given, strict=True))
            alarms = [(seen[place], finding) for place, finding in alarms]
        shares: list[float] = []
        share = self._evidence[signal][-1]
        for place in range(len(column)):
            share = told.get(place, share)
            shares.append(share)
        return shares, alarms

    def _heard(
        self, found: Mapping[int, Sequence[tuple[str, Finding, int]]], shares: Mapping[str, Sequence[float]]
    ) -> dict[int, Alarm]:
        """Those of the alarms `found`, by window, that are not in the refractory period after one of them."""
        raised: dict[int, Alarm] = {}
        for place in sorted(found):
            if place < self._quiet:
                continue
            self._quiet = place + 1 + self._refractory
            signal, finding, values = max(found[place], key=lambda raiser: shares[raiser[0]][place])
            onset = finding.onset
            if onset is not None:
                # Values are counted in windows by their average spacing, should windows have gone unobserved.
                onset = round(onset * (self._windows + place + 1) / values)
            evidence = {name: own[place] for name, own in shares.items()}
            name = self._detectors[signal].name
            raised[place] = Alarm(signal, name, finding.statistic, finding.threshold, onset, evidence)
        return raised

    @property
    def pressure(self) -> float:
        """How near the nearest detector stands to an alarm: its statistic as a share of its threshold."""
        return max((shares[-1] for shares in self._evidence.values()), default=0.0)

    def state(self) -> State:
        """All of the memory, JSON-able."""
        return {
            "version": 1,
            "quiet": self._quiet,
            "windows": self._windows,
            "values": dict(self._values),
            "evidence": {signal: shares[-1] for signal, shares in self._evidence.items()},
            "detectors": {signal: detector.state() for signal, detector in self._detectors.items()},
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of other signals, detectors or options."""
        if state.get("version") != 1 or set(state["detectors"]) != set(self._detectors):
            raise ValueError("this drift state is of other signals or of another version; reset the stream's detectors")
        for signal, detector in self._detectors.items():
            detector.restore(state["detectors"][signal])
        self._quiet = int(state["quiet"])
        self._windows = int(state["windows"])
        self._values = {signal: int(state["values"][signal]) for signal in self._detectors}
        self._evidence = {signal: [float(state["evidence"][signal])] for signal in self._detectors}
