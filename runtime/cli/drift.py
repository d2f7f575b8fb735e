"""`trimtab drift`: drift and anomaly detectors on recordings, without a model."""

from __future__ import annotations

import csv
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from trimtab.drift.scoring import WITH_TIME, Score, VectorScore, columns_scorer, scorer
from trimtab.runtime.calibrations import read
from trimtab.runtime.cli.drift_calibrate import calibrate
from trimtab.runtime.cli.drift_eval import evaluate
from trimtab.runtime.cli.drift_train_combiner import train_combiner
from trimtab.runtime.cli.key_value import periods, season_option, settings
from trimtab.runtime.cli.written import check_written
from trimtab.runtime.errors import ConfigError, RecordingError
from trimtab.runtime.series import Row, named, opened
from trimtab.runtime.series import rows as rows_of


@click.group()
def drift() -> None:
    """Watch recordings for drift and anomalies."""


@drift.command()
@click.argument("recording", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--detector", "name", required=True, help="A detector of `trimtab detectors`.")
@click.option("--column", default="value", show_default=True, help="The column to score; for htm, several: A,B,...")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The CSV file to write.")
@click.option("--every", type=float, help="Accepted records between false alarms.  [default: 10000; htm_sprt: 100000]")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the detector.")
@season_option
@click.option(
    "--calibration", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="A file of `trimtab drift calibrate`, which says rate, options and season, and what is normal.",
)  # fmt: skip
@click.option("--no-range-rule", is_flag=True, help="HTM detectors: do not alarm at values beyond the range seen.")
@click.option(
    "--combiner", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="htm: a network that combines the columns' scores, by `trimtab drift train-combiner`.",
)  # fmt: skip
def score(
    recording: Path,
    name: str,
    column: str,
    out: Path,
    every: float | None,
    options: tuple[str, ...],
    seasons: tuple[float | str, ...],
    calibration: Path | None,
    no_range_rule: bool,
    combiner: Path | None,
) -> None:
    """Give each row of RECORDING an anomaly score from 0 to 1.

    RECORDING is a CSV file with a header; its column `timestamp` holds ISO 8601 dates and times or seconds since 1970
    and may be missing. The file written has a row `timestamp,value,anomaly_score,alarm` for each of its rows, which
    depends on rows up to it alone. Of several columns, their names stand in the place of `value`.
    """
    if "auto" in seasons:
        raise click.UsageError("--season auto needs a recording to find it in; use `trimtab drift calibrate`")
    check_written(out, "--out", recording, *(file for file in (calibration, combiner) if file is not None))
    reference = None
    given = settings(options)
    if seasons and "season" in given:
        raise click.UsageError("--season and --option season=... are the same; leave one out")
    if calibration is not None:
        if given or seasons:
            raise click.UsageError("--option and --season are the calibration's; leave them out, or --calibration")
        if name in WITH_TIME:
            raise click.UsageError(f"{name} learns what is normal from the stream alone; leave --calibration out")
        known = read(calibration)
        chosen = known.choose(calibration, name, every)
        known.verify(calibration, chosen)
        every, given, reference = chosen.every, chosen.options, known.reference()
    rows = alarms = 0
    with ExitStack() as files:
        reader = files.enter_context(opened(recording))
        columns = named(reader, column)
        several = len(columns) > 1 or combiner is not None
        if several and calibration is not None:
            raise click.UsageError("--calibration is of one column; give one with --column, and no --combiner")
        try:
            how: dict[str, Any] = {"every": every, "options": given | periods(seasons, None)}
            if several:
                score_row = columns_scorer(name, columns, combiner=combiner, range_rule=not no_range_rule, **how)
            else:
                score_row = _first(scorer(name, reference=reference, range_rule=not no_range_rule, **how))
        except (ValueError, ImportError) as error:
            raise ConfigError(str(error)) from None
        table = rows_of(recording, reader, columns)
        row: Row | None = next(table, None)
        if row is None:
            raise RecordingError(f"{recording} has no rows to score")
        try:
            written = files.enter_context(out.open("w", newline="", encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{out}: cannot be written ({error.strerror}); name another file") from None
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(["timestamp", *(columns if several else ["value"]), "anomaly_score", "alarm"])
        while row is not None:
            found, alarm = score_row(row.time, row.values)
            writer.writerow([row.stamp, *row.texts, repr(found), int(alarm)])
            rows += 1
            alarms += alarm
            row = next(table, None)
    click.echo(f"{rows} rows scored, {alarms} alarms, written to {out}")


def _first(score_value: Score) -> VectorScore:
    """A score of one value as one of records with one column."""
    return lambda time, values: score_value(time, values[0])


drift.add_command(evaluate)
drift.add_command(calibrate)
drift.add_command(train_combiner)
