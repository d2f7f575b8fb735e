"""What the demo shows while it runs: a small live chart on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Sequence
from typing import IO, Protocol

import click

from trimtab.runtime.decisions import Decision, Event

BARS = "▁▂▃▄▅▆▇█"
REDRAW = 0.1
"""Seconds between two pictures."""
RECENT = 100
"""Windows over which accuracies are averaged."""
STATE_COLOURS = {
    "stable": "green",
    "suspect": "yellow",
    "drifted": "red",
    "adapting": "magenta",
    "probation": "blue",
    "rolled_back": "white",
}


class View(Protocol):
    def decided(self, decision: Decision, static_right: bool) -> None: ...
    def happened(self, event: Event) -> None: ...
    def close(self) -> None: ...


def describe(event: Event) -> tuple[str, str] | None:
    """An event as `(kind, sentence)`; None for one that is not worth a line."""
    payload = event.payload
    kind = event.topic.partition("/")[0]
    if kind == "drift":
        since = f", since about window {payload['onset']:,}" if payload.get("onset") is not None else ""
        statistic, threshold = payload["statistic"], payload["threshold"]
        return "drift", f"alarm on {payload['signal']}: {statistic:.3g} passes {threshold:.3g}{since}"
    if kind == "adaptation":
        if payload.get("rolled_back"):
            return "rolled back", f"version {payload['from']} was worse after all; back to {payload['to']}"
        if payload["accepted"]:
            how = " + ".join(str(m).replace("_", " ") for m in payload["methods"])
            return "adapted", f"version {payload['from']} -> {payload['to']} by {how}"
        return "declined", "nothing tried was clearly better; the model stays as it is"
    return None


class PlainView:
    """A line for each event, and one for each tenth of the stream."""

    def __init__(self, out: IO[str], total: int) -> None:
        self._out = out
        self._total = total
        self._seen = 0
        self._adapted: deque[bool] = deque(maxlen=RECENT)
        self._static: deque[bool] = deque(maxlen=RECENT)

    def decided(self, decision: Decision, static_right: bool) -> None:
        self._seen += 1
        self._adapted.append(decision.output == decision.truth)
        self._static.append(static_right)
        if self._seen % max(1, self._total // 10) == 0 or self._seen == self._total:
            click.echo(
                f"{self._seen:>6,} / {self._total:,}  {decision.segment}: accuracy {_percent(self._adapted)} "
                f"(static {_percent(self._static)}), {decision.state}, version {decision.version}",
                file=self._out,
            )

    def happened(self, event: Event) -> None:
        found = describe(event)
        if found is not None:
            click.echo(f"{event.payload['sequence']:>6,}  {found[0]}: {found[1]}", file=self._out)

    def close(self) -> None:
        pass


class LiveView:
    """A chart of the whole stream that fills from the left: accuracy of both models, drift state, last events.

    `segments` is the segment of each window; it gives the chart its ruler.
    """

    def __init__(self, out: IO[str], segments: Sequence[str], heading: str) -> None:
        self._out = out
        self._total = len(segments)
        self._segments = segments
        self._heading = heading
        self._adapted: list[bool] = []
        self._static: list[bool] = []
        self._states: list[str] = []
        self._last: Decision | None = None
        self._events: deque[tuple[int, str, str]] = deque(maxlen=6)
        self._drawn = 0
        self._next = 0.0
        self._begun = time.monotonic()
        out.write("\x1b[?25l")

    def decided(self, decision: Decision, static_right: bool) -> None:
        self._adapted.append(decision.output == decision.truth)
        self._static.append(static_right)
        self._states.append(decision.state)
        self._last = decision
        now = time.monotonic()
        if now >= self._next or len(self._adapted) == self._total:
            self._next = now + REDRAW
            self._draw()

    def happened(self, event: Event) -> None:
        found = describe(event)
        if found is not None:
            self._events.append((event.payload["sequence"], *found))

    def close(self) -> None:
        """Draw once more and give the cursor back."""
        self._draw()
        self._out.write("\x1b[?25h")
        self._out.flush()

    def _draw(self) -> None:
        columns = shutil.get_terminal_size((100, 30)).columns
        lines = self._lines(max(40, min(columns, 120)))
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._out.write(up + "".join(f"\r\x1b[2K{line}\n" for line in lines))
        self._out.flush()
        self._drawn = len(lines)

    def _lines(self, width: int) -> list[str]:
        chart = width - 26
        last = self._last
        done = len(self._adapted)
        rate = done / max(1e-9, time.monotonic() - self._begun)
        segment = last.segment or "" if last is not None else ""
        state = last.state if last is not None else "stable"
        version = last.version if last is not None else 0
        dim = {"dim": True}
        lines = [
            click.style("trimtab", bold=True) + click.style(f"  {_fitting(self._heading, width - 10)}", **dim),
            "",
            " " * 10 + self._ruler(chart),
            click.style("adapted   ", fg="cyan", bold=True)
            + click.style(self._bars(self._adapted, chart), fg="cyan")
            + click.style(f"  {_percent(self._adapted[-RECENT:]):>5} now", fg="cyan", bold=True),
            click.style("static    ", fg="yellow")
            + click.style(self._bars(self._static, chart), fg="yellow")
            + click.style(f"  {_percent(self._static[-RECENT:]):>5} now", fg="yellow"),
            "state     " + self._band(chart) + "  " + click.style(state.replace("_", " "), fg=STATE_COLOURS.get(state)),
            "",
            f"window {done:,} of {self._total:,} ({rate:,.0f}/s)   {segment}   parameters: version {version}",
            "",
        ]
        for sequence, kind, text in self._events:
            colour = {"drift": "red", "adapted": "green", "declined": "white", "rolled back": "magenta"}[kind]
            lines.append(f"{sequence:>7,}  {click.style(kind.ljust(12), fg=colour, bold=True)}{text[: width - 22]}")
        lines += [""] * (6 - len(self._events))
        return lines

    def _ruler(self, chart: int) -> str:
        """Names of the segments above their part of the chart."""
        text = [" "] * chart
        begin = 0
        for i in range(1, self._total + 1):
            if i == self._total or self._segments[i] != self._segments[begin]:
                left, right = begin * chart // self._total, i * chart // self._total
                name = self._segments[begin][: max(0, right - left - 2)]
                for k, letter in enumerate(f"│{name}" if begin else name):
                    text[left + k] = letter
                begin = i
        return click.style("".join(text), bold=True)

    def _bars(self, right: Sequence[bool], chart: int) -> str:
        bars = []
        for column in range(chart):
            part = right[column * self._total // chart : (column + 1) * self._total // chart]
            bars.append(BARS[round(7 * sum(part) / len(part))] if part else " ")
        return "".join(bars)

    def _band(self, chart: int) -> str:
        band = []
        for column in range(chart):
            part = self._states[column * self._total // chart : (column + 1) * self._total // chart]
            band.append(click.style("━", fg=STATE_COLOURS.get(part[-1])) if part else " ")
        return "".join(band)


def _fitting(heading: str, width: int) -> str:
    """`heading`, without what stands in brackets at its end where that does not fit."""
    return heading if len(heading) <= width else heading.partition(" (")[0][:width]


def _percent(right: Sequence[bool] | deque[bool]) -> str:
    return f"{100 * sum(right) / len(right):.0f} %" if right else "-"
