"""A picture of a replay: how right it was, what the detectors saw, and which state and version the stream was in."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.runtime.decisions import Step
from trimtab.runtime.errors import RecordingError

SPAN = 100
"""Windows over which scores are averaged and signals smoothed."""

INK, FAINT, GRID = "#22303c", "#7b8794", "#e4e8ec"
ADAPTED, STATIC, ALARM, SWITCH = "#0b6e99", "#c98a3b", "#c0392b", "#2e8b57"
SIGNALS = {
    "divergence": "#5b4b8a",
    "departure": "#8a6d3b",
    "distance": "#2a9d8f",
    "entropy": "#d1495b",
    "raw": "#3d6db5",
    "spectra": "#7a9a2e",
}
STATES = {
    "stable": "#b7dfc3",
    "suspect": "#fbe6a2",
    "drifted": "#f2a391",
    "adapting": "#d67ab1",
    "probation": "#9cc5e8",
    "rolled_back": "#b8b8b8",
}
SHADES = ("#f4f6f8", "#e6edf3")


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a window."""

    sequence: int
    kind: str
    """`alarm`, `switch` or `rolled_back`."""
    text: str


class Trace:
    """Remembers one stream of a replay for its picture: the first one, where none is named."""

    def __init__(self, stream: str | None = None) -> None:
        self.stream = stream
        self.streams: set[str] = set()
        self.score = array("d")
        """Per window: 1 or 0 (classification), the squared error (regression), NaN without a label."""
        self.version = array("q")
        self.state: list[str] = []
        self.segment: list[str] = []
        self.signals: dict[str, array[float]] = {}
        self.marks: list[Mark] = []

    def take(self, step: Step, seconds: float) -> None:
        for decision in step.decisions:
            self.streams.add(decision.stream)
            if self.stream is None:
                self.stream = decision.stream
            if decision.stream != self.stream:
                continue
            truth, output = decision.truth, decision.output
            score = float("nan")
            if isinstance(truth, str):
                score = float(output == truth)
            elif truth is not None and isinstance(output, dict):
                score = (next(iter(output.values())) - truth) ** 2
            n = len(self.score)
            self.score.append(score)
            self.version.append(decision.version)
            self.state.append(decision.state)
            self.segment.append(decision.segment or "")
            for name, value in (decision.signals or {}).items():
                self.signals.setdefault(name, array("d", [float("nan")] * n)).append(value)
            for values in self.signals.values():
                if len(values) == n:
                    values.append(float("nan"))
        for event in step.events:
            payload = event.payload
            if payload["stream"] != self.stream:
                continue
            kind = event.topic.partition("/")[0]
            if kind == "drift":
                self.marks.append(Mark(payload["sequence"], "alarm", str(payload["signal"])))
            elif kind == "adaptation" and payload.get("rolled_back"):
                self.marks.append(Mark(payload["sequence"], "rolled_back", "rolled back"))
            elif kind == "adaptation" and payload["accepted"]:
                text = "\n".join(str(m).replace("_", " ") for m in payload["methods"])
                self.marks.append(Mark(payload["sequence"], "switch", text))


def draw(
    file: str | Path,
    trace: Trace,
    static: Trace | None,
    reference: Mapping[str, NDArray[np.float64]],
    title: str,
    *,
    subtitle: str = "",
    task: str = "classification",
) -> None:
    """Write the picture of `trace` as PNG (or what else `file`'s name says), beside `static` where it is given.

    `reference` holds the signals on the source data: a signal is drawn in units of its median there. Raises
    RecordingError, one sentence, where matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RecordingError(f"{file}: drawing needs matplotlib; pip install 'trimtab[replay]'") from None
    figure = Figure(figsize=(11, 6.6), dpi=110, facecolor="white")
    scored = not np.isnan(trace.score).all()
    heights = [3.4, 2.2, 0.75] if scored else [0.01, 3, 0.75]
    top, middle, band = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    figure.subplots_adjust(left=0.075, right=0.865, top=0.865, bottom=0.085, hspace=0.12)
    figure.text(0.075, 0.955, title, fontsize=14, fontweight="bold", color=INK)
    figure.text(0.075, 0.922, subtitle, fontsize=10, color=FAINT)
    _segments([top, middle], trace)
    if scored:
        _scores(top, trace, static, task)
    else:
        top.set_axis_off()
    _signals(middle, trace, reference)
    _band(band, trace)
    for axes in (top, middle, band):
        axes.set_xlim(0, max(1, len(trace.score) - 1))
        axes.tick_params(which="both", colors=FAINT, labelsize=9, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    band.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    band.set_xlabel(f"window of stream {trace.stream}", color=INK, fontsize=10)
    try:
        figure.savefig(file, pil_kwargs={"optimize": True} if Path(file).suffix.lower() == ".png" else {})
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RecordingError(f"{file}: cannot be written ({reason}); give the name of a PNG file") from None


def _segments(panels: Sequence[Any], trace: Trace) -> None:
    """Shade the segments, and name them above the first panel."""
    for number, (begin, end, name) in enumerate(_runs(trace.segment)):
        for axes in panels:
            axes.axvspan(begin, end, color=SHADES[number % 2], linewidth=0, zorder=0)
        if name:
            panels[0].text(
                (begin + end) / 2,
                1.03,
                name,
                transform=panels[0].get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=10.5,
                fontweight="bold",
                color=INK,
            )


def _scores(axes: Any, trace: Trace, static: Trace | None, task: str) -> None:
    named = [("adapted", trace, ADAPTED)] if static is not None else [("", trace, ADAPTED)]
    if static is not None:
        named.insert(0, ("static", static, STATIC))
    lasts = []
    for label, run, colour in named:
        x, y = rolling(np.array(run.score), np.array(_starts(run.segment)), least=SPAN // 5)
        y = 100 * y if task == "classification" else np.sqrt(y)
        axes.plot(x, y, color=colour, linewidth=2.2, zorder=4, solid_capstyle="round")
        if label and np.isfinite(y).any():
            lasts.append((float(y[np.isfinite(y)][-1]), label, colour))
    if task == "classification":
        axes.set_ylim(0, 104)
        axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
        axes.set_ylabel(f"accuracy, last {SPAN} windows", color=INK, fontsize=10)
    else:
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"error (RMSE), last {SPAN} windows", color=INK, fontsize=10)
    axes.grid(axis="y", color=GRID, linewidth=0.9, zorder=1)
    low, high = axes.get_ylim()
    _line_ends(axes, lasts, gap=(high - low) * 0.075)
    switches = [m for m in trace.marks if m.kind != "alarm"]
    for mark in switches:
        colour = SWITCH if mark.kind == "switch" else FAINT
        axes.axvline(mark.sequence, color=colour, linewidth=1.2, linestyle=(0, (4, 2)), zorder=3)
    width = max(1, len(trace.score))
    placed: list[tuple[int, int]] = []  # where texts stand, so that close ones go below each other
    for mark in switches:
        level = 0
        while any(abs(mark.sequence - x) < 0.13 * width and level == taken for x, taken in placed):
            level += 1
        if level > 2:
            continue
        placed.append((mark.sequence, level))
        axes.annotate(
            mark.text,
            (mark.sequence, low + (high - low) * (0.03 + 0.13 * level)),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8,
            color=SWITCH if mark.kind == "switch" else FAINT,
            va="bottom",
            linespacing=1.05,
            zorder=5,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1.0},
        )


def _signals(axes: Any, trace: Trace, reference: Mapping[str, NDArray[np.float64]]) -> None:
    """Each signal, smoothed, in units of its median on the source data; alarms on top."""
    lasts = []
    for name, values in trace.signals.items():
        unit = float(np.nanmedian(reference[name])) if name in reference and len(reference[name]) else 1.0
        x, y = rolling(np.array(values), np.array(_starts(trace.segment)), span=max(8, SPAN // 4))
        y = np.clip(y / unit if unit > 0 else y, 1e-3, None)
        axes.plot(x, y, color=SIGNALS.get(name, FAINT), linewidth=1.5, zorder=4)
        finite = y[np.isfinite(y)]
        if len(finite):
            lasts.append((float(np.log10(finite[-1])), name, SIGNALS.get(name, FAINT)))
    axes.set_yscale("log")
    axes.axhline(1, color=FAINT, linewidth=0.9, linestyle=(0, (1, 2)), zorder=2)
    axes.grid(axis="y", color=GRID, linewidth=0.9, zorder=1)
    axes.set_ylabel("drift signals\n(source's median = 1)", color=INK, fontsize=10)
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = np.log10(axes.get_ylim())
    high += 0.16 * (high - low)
    axes.set_ylim(10**low, 10**high)
    _line_ends(axes, lasts, gap=(high - low) * 0.115, log=True)
    alarms = [m.sequence for m in trace.marks if m.kind == "alarm"]
    for sequence in alarms:
        axes.axvline(sequence, color=ALARM, linewidth=1.0, alpha=0.55, zorder=3)
    if alarms:
        axes.plot(
            alarms,
            [0.94] * len(alarms),
            transform=axes.get_xaxis_transform(),
            marker="v",
            markersize=7,
            linestyle="none",
            color=ALARM,
            zorder=6,
            clip_on=False,
        )
        axes.annotate(
            "alarm" if len(alarms) == 1 else "alarms",
            (alarms[0], 0.94),
            xycoords=axes.get_xaxis_transform(),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=ALARM,
        )


def _band(axes: Any, trace: Trace) -> None:
    """Drift states as colours, versions as numbers in them."""
    for begin, end, state in _runs(trace.state):
        axes.axvspan(begin, end, ymin=0.0, ymax=0.46, color=STATES.get(state, FAINT), linewidth=0)
    for number, (begin, end, version) in enumerate(_runs([str(v) for v in trace.version])):
        axes.axvspan(begin, end, ymin=0.54, ymax=1.0, color=("#dde3e9", "#c5ced8")[number % 2], linewidth=0)
        if end - begin > 0.02 * len(trace.version):
            text = f"version {version}" if end - begin > 0.09 * len(trace.version) else version
            axes.text((begin + end) / 2, 0.76, text, ha="center", va="center", fontsize=8.5, color=INK)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    seen = [s for s in STATES if s in set(trace.state)]
    for i, state in enumerate(seen):
        axes.text(
            1.012,
            0.97 - i * 0.3,
            state.replace("_", " "),
            transform=axes.transAxes,
            fontsize=8,
            va="center",
            color=INK,
            bbox={"facecolor": STATES[state], "linewidth": 0, "pad": 1.2},
        )


def _line_ends(axes: Any, lasts: list[tuple[float, str, str]], *, gap: float, log: bool = False) -> None:
    """Name the lines at their right ends, pushed apart where they meet."""
    previous = None
    for value, name, colour in sorted(lasts):
        at = value if previous is None else max(value, previous + gap)
        previous = at
        axes.annotate(
            name,
            (1.0, 10**at if log else at),
            xycoords=axes.get_yaxis_transform(),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            fontweight="bold",
            color=colour,
            annotation_clip=False,
        )


def rolling(
    values: NDArray[np.float64], starts: NDArray[np.int64], span: int = SPAN, least: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Mean of the last `span` values at each place, begun anew at each of `starts`; NaN values are passed over.

    Returns the places and the means, both `[n]`; NaN where there are fewer than `least` values.
    """
    n = len(values)
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    end = np.arange(1, n + 1)
    begin = np.maximum(end - span, 0)
    if len(starts):
        begin = np.maximum(begin, starts[np.searchsorted(starts, end - 1, side="right") - 1])
    number = count[end] - count[begin]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (total[end] - total[begin]) / np.where(number >= least, number, np.nan)
    return end - 1, mean


def _runs(values: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """`(begin, end, value)` of each run of equal values."""
    begin = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or values[i] != values[begin]:
            yield begin, i, values[begin]
            begin = i


def _starts(values: Sequence[str]) -> list[int]:
    return [begin for begin, _, _ in _runs(values)]
