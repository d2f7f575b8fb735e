"""`trimtab drift eval`: detectors side by side on streams whose changes are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from trimtab.drift.calibration import Calibration, unfit
from trimtab.drift.catalogue import ENOUGH, build
from trimtab.drift.detector import Detector
from trimtab.drift.evaluation import Labelled, Make, Score
from trimtab.drift.evaluation import score as score_of
from trimtab.drift.streams import SHORTEST, STREAMS, draw
from trimtab.runtime.calibrations import read
from trimtab.runtime.cli.key_value import has_season, of_each, of_each_option, periods, season_option
from trimtab.runtime.corpora import corpus
from trimtab.runtime.errors import ConfigError, RecordingError
from trimtab.runtime.evaluation_plot import require_drawing
from trimtab.runtime.evaluation_plot import write as write_plot
from trimtab.runtime.series import column_of

DETECTORS = ("sprt", "glr", "ewma", "e_detector", "conformal_martingale", "ks", "adwin", "page_hinkley")
"""Where none is named: one of each kind that takes less than a tenth of a millisecond a value."""

HEADINGS = ("detector", "median", "mean", "missed", "false/10k", "run length 5/50/95 %", "F1", "us")
WIDTHS = (20, 7, 8, 9, 9, 21, 5, 7)


@click.command("eval")
@click.option(
    "--detector", "names", multiple=True, metavar="NAME",
    help=f"A detector of `trimtab detectors`; may be repeated.  [default: {', '.join(DETECTORS)}]",
)  # fmt: skip
@click.option(
    "--stream", "kinds", multiple=True, type=click.Choice(list(STREAMS)), help="May be repeated; default: all."
)
@click.option("--recording", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A CSV file to try them on, alone or beside the streams named.")  # fmt: skip
@click.option(
    "--corpus", "corpora", multiple=True, metavar="PATH",
    help="Real series to try them on, alone or beside others: a folder of NAB or TCPD, the gas sensors' .npz file, or"
    " water_flow (river's); may be repeated.",
)  # fmt: skip
@click.option("--column", default="value", show_default=True, help="The recording's column.")
@click.option(
    "--changes", metavar="ROWS",
    help="Rows of the recording, counted from 0, from which on something is new: 1200,3400, or a file with one a line;"
    " '' where nothing changes.",
)  # fmt: skip
@click.option(
    "--every", type=float, default=10000.0, show_default="10000", help="Accepted values between false alarms."
)
@click.option(
    "--margin", type=click.IntRange(1), default=500, show_default=True,
    help="Values within which an alarm after a change has found it.",
)  # fmt: skip
@click.option(
    "--repeats", type=click.IntRange(1), default=10, show_default=True, help="Streams of each kind, drawn anew."
)
@click.option("--length", type=click.IntRange(SHORTEST), default=4000, show_default=True, help="Values of a stream.")
@click.option(
    "--reference", type=click.IntRange(0), default=0, show_default=True,
    help=f"First values of each stream that detectors are calibrated by, not tried on: {ENOUGH} or more, 0 for none.",
)  # fmt: skip
@of_each_option
@season_option
@click.option(
    "--calibration", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="A file of `trimtab drift calibrate`: try what it holds, made from its recording.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the streams.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Draw delay against false alarms into this PNG file.")  # fmt: skip
def evaluate(
    names: tuple[str, ...],
    kinds: tuple[str, ...],
    recording: Path | None,
    corpora: tuple[str, ...],
    column: str,
    changes: str | None,
    every: float,
    margin: int,
    repeats: int,
    length: int,
    reference: int,
    options: tuple[str, ...],
    seasons: tuple[float | str, ...],
    calibration: Path | None,
    seed: int,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Hold detectors against streams whose changes are known, side by side.

    All get the same streams. A detector's first alarm within the margin after a change has found it; its delay is how
    many values of what is new that took. Other alarms outside margins are false. A table has a row for each detector
    and stream: median and mean delay, missed changes, false alarms per 10,000 values, quantiles of the run length
    (`>N`: longer than was watched), F1, and microseconds per update. Detectors that a stream's values are
    not for are left out there.
    """
    if (recording is None) != (changes is None):
        raise click.UsageError("--recording and --changes go together")
    if 0 < reference < ENOUGH:
        raise click.UsageError(f"--reference {reference} is too short to calibrate by; give {ENOUGH} or more, or 0")
    if "auto" in seasons and not reference:
        raise click.UsageError("--season auto needs a --reference to find it in")
    if calibration is not None and (options or seasons or reference):
        raise click.UsageError("--option, --season and --reference are the calibration's; leave them out")
    if plot is not None:
        require_drawing(plot)
    alone = recording is not None or bool(corpora)
    try:
        if calibration is None:
            names = tuple(dict.fromkeys(names or DETECTORS))
            given = of_each(options, names)
            makers = {name: _maker(name, every, given[name], seasons, len(names) == 1) for name in names}
        else:
            makers = _calibrated(calibration, names)
        drawn = {
            kind: [Labelled(*draw(kind, length, repeat, seed)) for repeat in range(repeats)]
            for kind in dict.fromkeys(kinds or (() if alone else STREAMS))
        }
    except (ValueError, ImportError) as error:
        raise ConfigError(str(error)) from None
    if recording is not None and changes is not None:
        drawn[recording.name] = [_labelled(recording, column, changes)]
    for where in corpora:
        drawn |= corpus(where)
    left_out = {}
    for kind, streams in drawn.items():
        # Of real series some change early; of a drawn kind all are alike.
        drawn[kind] = [s for s in streams if reference < min([len(s.values), *(c + 1 for c in s.changes)])]
        left_out[kind] = len(streams) - len(drawn[kind])
        if not drawn[kind] or (left_out[kind] and kind in STREAMS):
            raise ConfigError(
                f"stream {kind} changes or ends within the {reference} values that --reference takes; take fewer"
            )
    scores: list[Score] = []
    for kind, streams in drawn.items():
        if not as_json:
            lengths = {len(s.values) - reference for s in streams}
            long = f"{max(lengths)}" if len(lengths) == 1 else f"{min(lengths)} to {max(lengths)}"
            what = f"{len(streams)} x {long} values"
            early = f"; {left_out[kind]} left out, which change within the reference" if left_out[kind] else ""
            click.echo(f"{kind}: {what}, {sum(len(s.changes) for s in streams)} changes{early}")
            click.echo("  " + _line(HEADINGS))
        for name, make in makers.items():
            takes = next(filter(None, (unfit(name.split()[0], s.values) for s in streams)), None)
            if takes:
                if not as_json:
                    click.echo(f"  {name:<{WIDTHS[0]}}  left out: it takes {takes}")
                continue
            found = score_of(name, kind, make, streams, margin=margin, reference=reference)
            scores.append(found)
            if not as_json:
                click.echo("  " + _line(_cells(found)))
        if not as_json:
            click.echo("")
    if as_json:
        settings = {
            "trimtab": version("trimtab"),
            "every": every,
            "margin": margin,
            "repeats": repeats,
            "length": length,
            "reference": reference,
            "seed": seed,
            "options": list(options),
            "season": list(seasons),
            "calibration": None if calibration is None else calibration.name,
        }
        click.echo(json.dumps({"settings": settings, "scores": [asdict(s) for s in scores]}, indent=2))
    if plot is not None:
        write_plot(plot, scores, every)
        if not as_json:
            click.echo(f"drawn to {plot}")


def _maker(name: str, every: float, options: dict[str, Any], seasons: Sequence[float | str], alone: bool) -> Make:
    """Raises ValueError or ImportError at once, where there is no such detector or option."""

    def make(reference: NDArray[np.float64] | None) -> Detector:
        own = options | (periods(seasons, reference) if has_season(name) or alone else {})
        return build(name, every=every, options=own, reference=reference, follows=True)

    build(name, every=every, options=options | periods([s for s in seasons if s != "auto"] if alone else [], None))
    return make


def _calibrated(file: Path, names: Sequence[str]) -> dict[str, Make]:
    """What makes each detector of a calibration, or those named, by its name, and its rate where it has several."""
    known = read(file)
    chosen = known.calibrations
    if names:
        chosen = [c for name in names for c in known.of(file, name)]
    recorded = known.reference()

    def maker(entry: Calibration) -> Make:
        known.verify(file, entry)
        return lambda _: build(entry.detector, every=entry.every, options=entry.options, reference=recorded)

    held = [c.detector for c in chosen]
    return {c.detector if held.count(c.detector) == 1 else f"{c.detector} {c.every:g}": maker(c) for c in chosen}


def _labelled(recording: Path, column: str, changes: str) -> Labelled:
    values = column_of(recording, column)
    try:
        # A list is no name of a file, and may be too long to be asked for as one.
        listed = not changes.strip("0123456789, ")
        text = changes if listed else Path(changes).read_text(encoding="utf-8")
        rows = tuple(int(number) for number in text.replace(",", " ").split())
    except (OSError, ValueError):
        raise RecordingError(f"--changes {changes} is neither row numbers nor a file of them, one a line") from None
    try:
        return Labelled(values, rows)
    except ValueError as error:
        raise RecordingError(f"{recording}: {error}") from None


def _line(cells: Sequence[str]) -> str:
    first, *rest = zip(cells, WIDTHS, strict=True)
    return "  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in rest)])


def _cells(found: Score) -> list[str]:
    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    runs = "/".join(f">{found.longest_run}" if q is None else str(q) for q in found.run_lengths)
    return [
        found.detector,
        shown(found.median_delay, ".0f"),
        shown(found.mean_delay, ".1f"),
        f"{found.missed} of {found.changes}" if found.changes else "-",
        shown(found.false_per_10000, ".2f"),
        runs,
        shown(found.f1, ".2f"),
        f"{found.microseconds:.1f}",
    ]
