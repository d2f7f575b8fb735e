"""`trimtab command`: tell a running daemon what to do."""

from __future__ import annotations

from pathlib import Path

import click

from trimtab.runtime.commands import NAMES, ask
from trimtab.runtime.config import load_config, said_of


@click.command()
@click.argument("name", type=click.Choice(NAMES))
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--stream", metavar="NAME", help="This stream alone; default: all.")
@click.option("--version", type=click.IntRange(min=0), help="What to pin; default: the version in use.")
@click.option(
    "--timeout", type=click.FloatRange(0, 3600, min_open=True), default=10.0, show_default=True,
    help="Seconds to wait for the answer.",
)  # fmt: skip
@click.pass_context
def command(
    context: click.Context, name: str, config: Path, stream: str | None, version: int | None, timeout: float
) -> None:
    """Send a command to a running daemon, and wait.

    It is carried out by the daemon that serves CONFIG, wherever that runs: it is reached over the broker. The exit
    status is 0 if it was done, 1 if the daemon refused, 2 if there was no answer.
    """
    if version is not None and name != "pin":
        raise click.UsageError(f"--version goes with pin, not with {name}")
    if stream is not None and name == "reload":
        raise click.UsageError("--stream does not go with reload, which is for the whole daemon")
    found = load_config(config)
    with said_of(config):
        refusal = ask(found, name, stream, version, timeout)
    where = f"{found.node}: {name}" + (f" {stream}" if stream is not None else "")
    if refusal is not None:
        click.echo(f"trimtab: {where}: {refusal}", err=True)
        context.exit(1)
    click.echo(f"{where}: done")
