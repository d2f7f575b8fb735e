"""One stream's detectors side by side, and one alarm per drift."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from trimtab.drift.detector import Detector, State
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
        self._seasonal = [(signal, d) for signal, d in self._detectors.items() if isinstance(d, Seasonal)]
        self.reset()

    def reset(self) -> None:
        """Forget everything, the refractory period included."""
        for detector in self._detectors.values():
            detector.reset()
        self._quiet = 0
        self._windows = 0
        self._values = dict.fromkeys(self._detectors, 0)
        self._evidence = dict.fromkeys(self._detectors, 0.0)

    def update(self, values: Mapping[str, float]) -> Alarm | None:
        """Take one window's signals. A signal may be missing (the window was not observed) or not finite: skipped.

        Raises KeyError on a signal that is not watched.
        """
        self._windows += 1
        quiet = self._quiet > 0
        self._quiet -= quiet
        for signal, seasonal in self._seasonal:
            if not math.isfinite(values.get(signal, math.nan)):
                seasonal.update(math.nan)
        raised: list[tuple[float, Alarm]] = []
        evidence, counts = self._evidence, self._values
        for signal, value in values.items():
            detector = self._detectors[signal]
            if not math.isfinite(value):
                continue
            finding = detector.update(float(value))
            alarm, statistic, threshold, _ = finding
            counts[signal] += 1
            evidence[signal] = share = statistic / threshold if threshold > 0 else float(alarm)
            if alarm and not quiet:
                # Values are counted in windows by their average spacing, should windows have gone unobserved.
                spacing = self._windows / self._values[signal]
                onset = None if finding.onset is None else round(finding.onset * spacing)
                raised.append((share, Alarm(signal, detector.name, statistic, threshold, onset, {})))
        if not raised:
            return None
        self._quiet = self._refractory
        first = max(raised, key=lambda found: found[0])[1]
        first.evidence.update(self._evidence)
        return first

    @property
    def pressure(self) -> float:
        """How near the nearest detector stands to an alarm: its statistic as a share of its threshold."""
        return max(self._evidence.values(), default=0.0)

    def state(self) -> State:
        """All of the memory, JSON-able."""
        return {
            "version": 1,
            "quiet": self._quiet,
            "windows": self._windows,
            "values": dict(self._values),
            "evidence": dict(self._evidence),
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
        self._evidence = {signal: float(state["evidence"][signal]) for signal in self._detectors}
