"""`trimtab drift`: drift and anomaly detectors on recordings, without a model."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from trimtab.drift.scoring import scorer
from trimtab.runtime.errors import ConfigError, RecordingError

HEADER = ["timestamp", "value", "anomaly_score", "alarm"]


@click.group()
def drift() -> None:
    """Watch recordings for drift and anomalies."""


@drift.command()
@click.argument("recording", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--detector", "name", required=True, help="A detector of `trimtab detectors`.")
@click.option("--column", default="value", show_default=True, help="The column to score.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The CSV file to write.")
@click.option("--every", type=float, help="Accepted records between false alarms.  [default: 10000; htm_sprt: 100000]")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the detector.")
@click.option("--no-range-rule", is_flag=True, help="HTM detectors: do not alarm at values beyond the range seen.")
def score(
    recording: Path,
    name: str,
    column: str,
    out: Path,
    every: float | None,
    options: tuple[str, ...],
    no_range_rule: bool,
) -> None:
    """Give each row of RECORDING an anomaly score from 0 to 1.

    RECORDING is a CSV file with a header; its column `timestamp` holds ISO 8601 dates and times or seconds since 1970
    and may be missing. The file written has a row `timestamp,value,anomaly_score,alarm` for each of its rows, which
    depends on rows up to it alone.
    """
    try:
        score_row = scorer(name, every=every, options=dict(map(_option, options)), range_rule=not no_range_rule)
    except (ValueError, ModuleNotFoundError) as error:
        raise ConfigError(str(error)) from None
    rows = alarms = 0
    with ExitStack() as files:
        lines = files.enter_context(recording.open(newline="", encoding="utf-8-sig"))
        table = _rows(recording, csv.DictReader(lines), column)
        first = next(table, None)
        if first is None:
            raise RecordingError(f"{recording} has no rows to score")
        writer = csv.writer(files.enter_context(out.open("w", newline="", encoding="utf-8")), lineterminator="\n")
        writer.writerow(HEADER)
        row: tuple[str, str, float | None, float] | None = first
        while row is not None:
            stamp, text, time, value = row
            found, alarm = score_row(time, value)
            writer.writerow([stamp, text, repr(found), int(alarm)])
            rows += 1
            alarms += alarm
            row = next(table, None)
    click.echo(f"{rows} rows scored, {alarms} alarms, written to {out}")


def _rows(recording: Path, reader: csv.DictReader[str], column: str) -> Iterator[tuple[str, str, float | None, float]]:
    """Timestamp and value as they stand there, and as numbers. Empty values are NaN."""
    names = reader.fieldnames or []
    if column not in names:
        raise RecordingError(f"{recording} has no column {column!r}; it has {', '.join(names) or 'no header'}")
    for row in reader:
        stamp, text = row.get("timestamp") or "", row[column] or ""
        try:
            value = float(text) if text.strip() else math.nan
        except ValueError:
            raise RecordingError(f"{recording}, line {reader.line_num}: {text!r} is not a number") from None
        yield stamp, text, _seconds(recording, reader.line_num, stamp), value


def _seconds(recording: Path, line: int, stamp: str) -> float | None:
    """Seconds since 1970 of the clock that the timestamp tells, whatever its zone: the time of day is what matters."""
    if not stamp:
        return None
    try:
        return float(stamp)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise RecordingError(
            f"{recording}, line {line}: {stamp!r} is neither an ISO 8601 date and time nor seconds since 1970"
        ) from None


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--option {text} must be KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
