"""`trimtab doctor`: what this box can run, and how fast."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from trimtab.runtime.doctor import examine, lines


@click.command()
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Time this bundle's graphs instead of a built-in model."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(context: click.Context, bundle: Path | None, as_json: bool) -> None:
    """Say which execution providers work here, why others do not, and how long a call takes.

    The exit status is 0 if at least one provider works, else 1.
    """
    report = examine(bundle)
    if as_json:
        click.echo(json.dumps({"usable": report.usable, **asdict(report)}, indent=1))
    else:
        for line in lines(report):
            click.echo(line)
    context.exit(0 if report.usable else 1)
