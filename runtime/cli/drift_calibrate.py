"""`trimtab drift calibrate`: a detector's threshold by a recording of what is normal, and whether it holds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import click

from trimtab.drift.calibration import Calibration
from trimtab.drift.calibration import calibrate as calibrated
from trimtab.runtime.cli.key_value import settings
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.series import column_of


@click.command()
@click.argument("recording", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--detector", "name", default="sprt", show_default=True, help="A detector of `trimtab detectors`.")
@click.option("--column", default="value", show_default=True, help="The column to calibrate by.")
@click.option(
    "--every", type=float, default=10000.0, show_default="10000", help="Accepted values between false alarms."
)
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the detector.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this JSON file as well.")
def calibrate(
    recording: Path, name: str, column: str, every: float, options: tuple[str, ...], out: Path | None
) -> None:
    """Calibrate a detector by RECORDING, and say whether that holds.

    RECORDING is a CSV file with a header, recorded in order and without drift. The threshold comes from all of it. As a
    check, a detector made from its first half watches the second: alarms there are false ones.
    """
    values = column_of(recording, column)
    try:
        found = calibrated(name, values, every=every, options=settings(options))
    except (ValueError, ModuleNotFoundError) as error:
        raise ConfigError(f"{recording}, column {column}: {error}") from None
    provenance: dict[str, str | int] = {
        "file": recording.name,
        "column": column,
        "rows": len(values),
        "sha256": hashlib.sha256(recording.read_bytes()).hexdigest(),
        "trimtab": version("trimtab"),
    }
    for key, text in _said(found, provenance):
        click.echo(f"{key:<14} {text}")
    if out is not None:
        try:
            out.write_text(json.dumps({**asdict(found), "provenance": provenance}, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{out}: cannot be written ({error.strerror})") from None
        click.echo(f"written to {out}")


def _said(found: Calibration, provenance: dict[str, str | int]) -> list[tuple[str, str]]:
    options = "".join(f", {key} {value}" for key, value in found.options.items())
    least, most = found.run_length
    span = f"{least:.0f} to {most:.0f}" if most is not None else f"{least:.0f} or more"
    lines = [
        ("detector", f"{found.detector}{options}; one false alarm in {found.every:g} values"),
        ("recording", f"{provenance['file']}, column {provenance['column']}, {provenance['rows']} rows"),
        ("sha256", str(provenance["sha256"])),
        ("made by", f"trimtab {provenance['trimtab']}"),
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
