"""`trimtab versions`: what each stream's parameters have been, and why."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trimtab.runtime.audit import accounts, document, table
from trimtab.runtime.bundle import load_bundle
from trimtab.runtime.config import load_config
from trimtab.runtime.errors import JournalError


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--stream", metavar="NAME", help="This stream alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with all evidence.")
def versions(config: Path, stream: str | None, as_json: bool) -> None:
    """Show each stream's state and parameter versions.

    They are read from the journal of CONFIG, also while the daemon runs. An asterisk marks the version in use.
    """
    found = load_config(config)
    journal = found.journal or config.with_suffix(".journal.db")
    listed = accounts(journal, load_bundle(found.bundle).digest)
    if stream is not None:
        names = ", ".join(a.stream for a in listed) or "none yet"
        listed = [a for a in listed if a.stream == stream]
        if not listed:
            raise JournalError(f"{journal}: knows no stream {stream!r}; there are {names}")
    if as_json:
        click.echo(json.dumps({"node": found.node, "streams": [document(a) for a in listed]}, indent=1))
    elif not listed:
        click.echo(f"{journal}: no stream has sent anything yet")
    else:
        click.echo("\n\n".join(table(a) for a in listed))
