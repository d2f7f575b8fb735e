"""`trimtab drift`: drift and anomaly detectors on recordings, without a model."""

from __future__ import annotations

import csv
from contextlib import ExitStack
from pathlib import Path

import click

from trimtab.drift.scoring import scorer
from trimtab.runtime.calibrations import read
from trimtab.runtime.cli.drift_calibrate import calibrate
from trimtab.runtime.cli.drift_eval import evaluate
from trimtab.runtime.cli.key_value import periods, season_option, settings
from trimtab.runtime.errors import ConfigError, RecordingError
from trimtab.runtime.series import rows as rows_of

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
@season_option
@click.option(
    "--calibration", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="A file of `trimtab drift calibrate`, which says rate, options and season, and what is normal.",
)  # fmt: skip
@click.option("--no-range-rule", is_flag=True, help="HTM detectors: do not alarm at values beyond the range seen.")
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
) -> None:
    """Give each row of RECORDING an anomaly score from 0 to 1.

    RECORDING is a CSV file with a header; its column `timestamp` holds ISO 8601 dates and times or seconds since 1970
    and may be missing. The file written has a row `timestamp,value,anomaly_score,alarm` for each of its rows, which
    depends on rows up to it alone.
    """
    if "auto" in seasons:
        raise click.UsageError("--season auto needs a recording to find it in; use `trimtab drift calibrate`")
    reference = None
    given = settings(options)
    if calibration is not None:
        if given or seasons:
            raise click.UsageError("--option and --season are the calibration's; leave them out, or --calibration")
        known = read(calibration)
        chosen = known.choose(calibration, name, every)
        known.verify(calibration, chosen)
        every, given, reference = chosen.every, chosen.options, known.reference()
    try:
        given |= periods(seasons, None)
        score_row = scorer(name, every=every, options=given, reference=reference, range_rule=not no_range_rule)
    except (ValueError, ModuleNotFoundError) as error:
        raise ConfigError(str(error)) from None
    rows = alarms = 0
    with ExitStack() as files:
        lines = files.enter_context(recording.open(newline="", encoding="utf-8-sig"))
        table = rows_of(recording, csv.DictReader(lines), column)
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


drift.add_command(evaluate)
drift.add_command(calibrate)
