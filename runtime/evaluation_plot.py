"""A picture of an evaluation: for each kind of stream, each detector's delay against its false alarms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.drift.evaluation import Score
from trimtab.runtime.errors import RecordingError

INK, FAINT, GRID = "#22303c", "#7b8794", "#e4e8ec"
COLOURS = ("#0b6e99", "#c0392b", "#2e8b57", "#c98a3b", "#5b4b8a", "#d1495b", "#2a9d8f", "#7a5c3e", "#444f5a", "#9aa33b")
MARKERS = "osD^v<>P"

LINEAR = 0.3
"""False alarms per 10,000 values up to which the axis is linear, so that none has a place on it."""


def require_drawing(file: Path) -> None:
    """Raises RecordingError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise RecordingError(f"{file}: drawing needs matplotlib; pip install 'trimtab[replay]'") from None


def write(file: Path, scores: Sequence[Score], every: float) -> None:
    """Draw `scores` into a PNG file, a panel for each stream that changes.

    A detector stands at its false alarms per 10,000 values and its median delay; hollow where it missed half of the
    changes or more, at the upper edge where it missed all. The dotted line is at the rate asked for.

    Raises RecordingError where matplotlib is missing, nothing changes in any stream, or the file cannot be written.
    """
    require_drawing(file)
    from matplotlib.figure import Figure

    changing = [s for s in scores if s.changes]
    kinds = list(dict.fromkeys(s.stream for s in changing))
    if not kinds:
        raise RecordingError(f"{file}: no stream changes, so that there are no delays to draw")
    detectors = list(dict.fromkeys(s.detector for s in changing))
    columns = min(len(kinds), 4)
    rows = math.ceil(len(kinds) / columns)
    figure = Figure(figsize=(3.2 * columns + 1.9, 2.7 * rows + 0.9), dpi=110, facecolor="white", layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    delays = [s.median_delay for s in changing if s.median_delay is not None]
    edge = 2 * max(delays, default=1.0)
    rates = [s.false_per_10000 or 0.0 for s in changing]
    for kind, axes in zip(kinds, panels.flat, strict=False):
        _panel(axes, kind, edge, every)
        for score in changing:
            if score.stream == kind:
                _point(axes, score, detectors.index(score.detector), edge)
        axes.set_ylim(0.7 * min(delays, default=1.0), 1.4 * edge)
        axes.set_xlim(-0.15 * LINEAR, 2 * max([*rates, 1e4 / every, LINEAR]))
    for axes in panels.flat[len(kinds) :]:
        axes.set_axis_off()
    figure.supxlabel("false alarms per 10,000 values (dotted: asked for)", fontsize=10, color=INK)
    figure.supylabel("median delay, values (hollow: half of the changes missed or more)", fontsize=10, color=INK)
    handles = [_handle(i) for i in range(len(detectors))]
    figure.legend(handles, detectors, loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RecordingError(f"{file}: cannot be written ({reason}); give the name of a PNG file") from None


def _panel(axes: Any, kind: str, edge: float, every: float) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_title(kind, fontsize=10, fontweight="bold", color=INK)
    axes.set_xscale("symlog", linthresh=LINEAR)
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.6g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.axvline(1e4 / every, color=FAINT, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    axes.axhline(edge, color=GRID, linewidth=1, zorder=1)
    axes.text(
        1, edge, "never ", transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=7.5, color=FAINT
    )
    axes.grid(color=GRID, linewidth=0.8, zorder=0)
    axes.tick_params(which="both", colors=FAINT, labelsize=8.5, length=0)
    for side in axes.spines.values():
        side.set_color(GRID)


def _point(axes: Any, score: Score, number: int, edge: float) -> None:
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(
        score.false_per_10000 or 0.0,
        edge if score.median_delay is None else score.median_delay,
        marker=MARKERS[number % len(MARKERS)],
        markersize=7,
        linestyle="none",
        color=colour,
        markerfacecolor="white" if 2 * score.missed >= score.changes else colour,
        markeredgewidth=1.4,
        alpha=0.9,
        zorder=4,
        clip_on=False,
    )


def _handle(number: int) -> Any:
    from matplotlib.lines import Line2D

    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    return Line2D([], [], color=colour, marker=marker, markersize=7, linestyle="none")
