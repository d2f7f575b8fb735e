"""The closing figures of a replay: per segment how right it was, what was noticed and done, and how long it took."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trimtab.runtime.decisions import Decision, Event, Step

SETTLE = 256
"""Windows of a segment after which its `settled` figures begin: what adaptation may take its time for."""


@dataclass(slots=True)
class Score:
    """How right a number of decisions were."""

    labelled: int = 0
    correct: int = 0
    squares: float = 0.0

    def add(self, decision: Decision) -> None:
        """Count a decision whose truth is known. One without an output is wrong; in regression it is passed over."""
        if isinstance(decision.truth, str):
            self.labelled += 1
            self.correct += decision.output == decision.truth
        elif isinstance(decision.output, dict):
            value = next(iter(decision.output.values()))
            self.labelled += 1
            self.squares += (value - float(decision.truth or 0.0)) ** 2

    def accuracy(self) -> float | None:
        """Share of right classes, in [0, 1]."""
        return self.correct / self.labelled if self.labelled else None

    def error(self) -> float | None:
        """Root of the mean square of the errors, in the target's unit."""
        return math.sqrt(self.squares / self.labelled) if self.labelled else None


@dataclass(slots=True)
class Part:
    """One segment of the recording, all streams together; or the whole of it."""

    name: str
    windows: int = 0
    undecided: int = 0
    score: Score = field(default_factory=Score)
    settled: Score = field(default_factory=Score)
    """Without the first SETTLE windows of each stream."""
    alarms: int = 0
    real: int = 0
    """Those of them that errors raised (`kind: real`); the others are virtual drift."""
    adaptations: int = 0
    declined: int = 0
    """Tries that found nothing good enough."""
    rolled_back: int = 0
    delays: list[int] = field(default_factory=list)
    """Windows from the segment's beginning to its first alarm, one a stream; none for a stream's first segment."""


@dataclass(slots=True)
class _Course:
    """Where one stream's segments began."""

    segment: str | None = None
    names: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    alarmed: set[int] = field(default_factory=set)
    """Which of `parts` had an alarm."""


class Tally:
    """Counts a replay's decisions and events."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.total = Part("all")
        self._parts: dict[tuple[str, int], Part] = {}
        self._courses: dict[str, _Course] = {}
        self._seconds = array("d")
        self._counts = array("q")

    def take(self, step: Step, seconds: float) -> None:
        if step.decisions:
            self._seconds.append(seconds)
            self._counts.append(len(step.decisions))
        for decision in step.decisions:
            self._decided(decision)
        for event in step.events:
            self._happened(event)

    def _decided(self, decision: Decision) -> None:
        course = self._courses.get(decision.stream)
        if course is None:
            course = self._courses[decision.stream] = _Course()
        if not course.parts or decision.segment != course.segment:
            name = decision.segment or "all"
            # A segment that comes again in a stream is another one: `right`, `left`, `right (2)`.
            course.names.append(name)
            nth = course.names.count(name)
            part = self._parts.setdefault((name, nth), Part(name if nth == 1 else f"{name} ({nth})"))
            course.segment = decision.segment
            course.starts.append(decision.sequence)
            course.parts.append(part)
        part = course.parts[-1]
        settled = decision.sequence - course.starts[-1] >= SETTLE
        for counted in (part, self.total):
            counted.windows += 1
            counted.undecided += decision.output is None
            if decision.truth is not None:
                counted.score.add(decision)
                if settled:
                    counted.settled.add(decision)

    def _happened(self, event: Event) -> None:
        payload = event.payload
        course = self._courses.get(payload["stream"])
        if course is None:
            return
        which = max(0, bisect_right(course.starts, payload["sequence"]) - 1)
        kind = event.topic.partition("/")[0]
        for counted in (course.parts[which], self.total):
            if kind == "drift":
                counted.alarms += 1
                counted.real += payload.get("kind") == "real"
                if which not in course.alarmed and which > 0:
                    counted.delays.append(payload["sequence"] - course.starts[which])
            elif kind == "adaptation":
                if payload.get("rolled_back"):
                    counted.rolled_back += 1
                elif payload["accepted"]:
                    counted.adaptations += 1
                else:
                    counted.declined += 1
        if kind == "drift":
            course.alarmed.add(which)

    def summary(self, busy: float, elapsed: float) -> Summary:
        """The figures so far. `busy`: seconds that the pipeline took; `elapsed`: with reading and waiting."""
        latency: dict[str, float] = {}
        if self._counts:
            each = np.repeat(np.array(self._seconds), np.array(self._counts))
            p50, p90, p99 = np.percentile(each, [50, 90, 99])
            latency = {"p50": p50 * 1e3, "p90": p90 * 1e3, "p99": p99 * 1e3, "max": float(each.max()) * 1e3}
        return Summary(self.task, list(self._parts.values()), self.total, latency, busy, elapsed)


@dataclass(frozen=True, slots=True)
class Summary:
    """The closing figures of one run."""

    task: str
    parts: list[Part]
    """The segments in the order of their beginning; one, `all`, where the recording has none."""
    total: Part
    latency: dict[str, float]
    """Milliseconds that the micro-batch of a window took, as percentiles over windows; without simulated waiting."""
    busy: float
    elapsed: float

    @property
    def throughput(self) -> float:
        """Windows per second of the pipeline's time."""
        return self.total.windows / self.busy if self.busy > 0 else 0.0

    def measure(self, score: Score) -> float | None:
        """Accuracy in [0, 1], or the root-mean-square error of a regression; None without labels."""
        return score.accuracy() if self.task == "classification" else score.error()

    def as_dict(self) -> dict[str, Any]:
        """The figures for a JSON document."""
        return {
            "task": self.task,
            "segments": [self._part(p) for p in self.parts],
            "total": self._part(self.total),
            "latency_ms": {name: round(value, 4) for name, value in self.latency.items()},
            "windows_per_second": round(self.throughput, 1),
            "pipeline_seconds": round(self.busy, 3),
            "seconds": round(self.elapsed, 3),
        }

    def _part(self, part: Part) -> dict[str, Any]:
        name = "accuracy" if self.task == "classification" else "rmse"
        return {
            "segment": part.name,
            "windows": part.windows,
            "undecided": part.undecided,
            "labelled": part.score.labelled,
            name: _rounded(self.measure(part.score)),
            f"{name}_settled": _rounded(self.measure(part.settled)),
            "alarms": part.alarms,
            "alarms_virtual": part.alarms - part.real,
            "alarms_real": part.real,
            "delays": part.delays,
            "adaptations": part.adaptations,
            "declined": part.declined,
            "rolled_back": part.rolled_back,
        }


def table(run: Summary, static: Summary | None = None) -> str:
    """The closing table; with `static`, the run without adaptation, its scores stand beside the run's."""
    named = {p.name: p for p in static.parts} if static is not None else {}
    parts = [*run.parts, run.total] if len(run.parts) > 1 else [run.total]
    what = "accuracy" if run.task == "classification" else "error (RMSE)"
    columns: list[tuple[str, str, list[str]]] = [
        ("", "segment", [p.name for p in parts]),
        ("", "windows", [f"{p.windows:,}" for p in parts]),
    ]
    if run.total.score.labelled:
        for title, settled in ((what, False), (f"after {SETTLE} windows", True)):
            scores = [p.settled if settled else p.score for p in parts]
            if static is not None:
                others = [static.total if p is run.total else named.get(p.name, Part(p.name)) for p in parts]
                before = [p.settled if settled else p.score for p in others]
                columns.append((title, "static", [_shown(static, s) for s in before]))
                columns.append((title, "adapted", [_shown(run, s) for s in scores]))
            else:
                columns.append(("", title, [_shown(run, s) for s in scores]))
    if run.total.real:
        columns.append(("alarms", "virtual", [f"{p.alarms - p.real:,}" for p in parts]))
        columns.append(("alarms", "real", [f"{p.real:,}" for p in parts]))
    else:
        columns.append(("", "alarms", [f"{p.alarms:,}" for p in parts]))
    columns += [
        ("", "delay", [_delay(p) if p is not run.total or len(parts) == 1 else "" for p in parts]),
        ("", "adaptations", [f"{p.adaptations:,}" for p in parts]),
        ("", "rolled back", [f"{p.rolled_back:,}" for p in parts]),
    ]
    if run.total.undecided:
        columns.append(("", "undecided", [f"{p.undecided:,}" for p in parts]))
    return _laid_out(columns, rule_before_last=len(parts) > 1)


def timing(run: Summary) -> str:
    """One line on latency and throughput: the part of the closing figures that differs from machine to machine."""
    if not run.latency:
        return "no window was decided"
    percentiles = "  ".join(f"{name} {value:.2f} ms" for name, value in run.latency.items())
    return f"latency of a window: {percentiles}; {run.throughput:,.0f} windows/s in the pipeline"


def _laid_out(columns: Sequence[tuple[str, str, list[str]]], *, rule_before_last: bool) -> str:
    """Columns `(group, title, cells)` below each other, the first to the left, the others to the right."""
    widths = [max(len(title), *(len(c) for c in cells)) for _, title, cells in columns]
    groups: list[tuple[str, list[int]]] = []  # each group's title and columns; columns without one stand alone
    for i, (group, _, _) in enumerate(columns):
        if groups and group and groups[-1][0] == group:
            groups[-1][1].append(i)
        else:
            groups.append((group, [i]))
    for group, members in groups:
        widths[members[0]] += max(0, len(group) - sum(widths[i] + 2 for i in members) + 2)
    lines = []
    if any(group for group, _ in groups):
        spans = [(group, sum(widths[i] + 2 for i in members) - 2) for group, members in groups]
        lines.append("  ".join(group.center(width) for group, width in spans).rstrip())
    lines.append(_row([title for _, title, _ in columns], widths))
    rule = "  ".join("─" * width for width in widths)
    lines.append(rule)
    count = len(columns[0][2])
    for i in range(count):
        if rule_before_last and i == count - 1:
            lines.append(rule)
        lines.append(_row([cells[i] for _, _, cells in columns], widths))
    return "\n".join(lines)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    return "  ".join([first, *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]).rstrip()


def _shown(run: Summary, score: Score) -> str:
    value = run.measure(score)
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if run.task == "classification" else f"{value:.4g}"


def _delay(part: Part) -> str:
    """Windows to the first alarm: the median, where there are several streams."""
    return f"{np.median(part.delays):.0f}" if part.delays else "-"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
