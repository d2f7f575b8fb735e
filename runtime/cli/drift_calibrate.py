"""`trimtab drift calibrate`: a detector's threshold by a recording of what is normal, and whether it holds."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import click

from trimtab.drift.calibration import Calibration
from trimtab.drift.calibration import calibrate as calibrated
from trimtab.runtime.calibrations import digest, write
from trimtab.runtime.cli.key_value import has_season, of_each, of_each_option, periods, season_option
from trimtab.runtime.cli.written import check_written
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.series import column_of


@click.command()
@click.argument("recording", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--detector", "names", multiple=True, default=("sprt",), show_default="sprt",
    help="A detector of `trimtab detectors`; may be repeated.",
)  # fmt: skip
@click.option("--column", default="value", show_default=True, help="The column to calibrate by.")
@click.option(
    "--every", "rates", type=float, multiple=True, default=(10000.0,), show_default="10000",
    help="Accepted values between false alarms; may be repeated.",
)  # fmt: skip
@of_each_option
@season_option
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path),
    help="Write all of it to this JSON file, which `trimtab drift score` and `eval` take by --calibration.",
)  # fmt: skip
def calibrate(
    recording: Path,
    names: tuple[str, ...],
    column: str,
    rates: tuple[float, ...],
    options: tuple[str, ...],
    seasons: tuple[float | str, ...],
    out: Path | None,
) -> None:
    """Calibrate detectors by RECORDING, and say whether that holds.

    RECORDING is a CSV file with a header, recorded in order and without drift. Thresholds come from all of it. As a
    check, a detector made from its first half watches the second: alarms there are false ones. `--season auto` finds
    the period of a cycle in it.
    """
    check_written(out, "--out", recording)
    values = column_of(recording, column)
    names = tuple(dict.fromkeys(names))
    found: list[Calibration] = []
    try:
        given = of_each(options, names)
        season = periods(seasons, values)
        for name in names:
            own = given[name] | (season if has_season(name) or len(names) == 1 else {})
            found += [calibrated(name, values, every=every, options=own) for every in dict.fromkeys(rates)]
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{recording}, column {column}: {error}") from None
    said = [
        ("recording", f"{recording.name}, column {column}, {len(values)} rows"),
        ("sha256", digest(recording)),
        ("made by", f"trimtab {version('trimtab')}"),
    ]
    for calibration in found:
        for key, text in (*said, ("", ""), *_said(calibration)):
            click.echo(f"{key:<14} {text}".rstrip())
        said = []
    if out is not None:
        write(out, recording, column, values, found)
        click.echo(f"\nwritten to {out}")


def _said(found: Calibration) -> list[tuple[str, str]]:
    options = "".join(f", {key} {value}" for key, value in found.options.items())
    least, most = found.run_length
    span = f"{least:.0f} to {most:.0f}" if most is not None else f"{least:.0f} or more"
    lines = [
        ("detector", f"{found.detector}{options}; one false alarm in {found.every:g} values"),
        ("inflation", f"{found.inflation:.2f}: so many values weigh as much as one independent one"),
        ("threshold", f"{found.threshold:.6g} ({found.method})"),
        ("false alarms", f"{found.found} in {found.held_back} held-back values; {found.expected:.2f} were accepted"),
        ("run length", f"{span} values by that (95 %)"),
    ]
    if most is not None and most < found.every:
        why = "the halves differ, or values hang together more than it allows for"
        lines.append(("warning", f"it alarms more often than asked: {why}"))
    elif least < found.every:
        lines.append(("note", "the recording is too short to tell whether it alarms more often than asked"))
    return lines
