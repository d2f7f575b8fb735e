"""`trimtab config`: check a configuration file, and describe what it may hold."""

from __future__ import annotations

from pathlib import Path

import click

from trimtab.runtime import reference
from trimtab.runtime.bundle import load_bundle
from trimtab.runtime.config import load_config, said_of


@click.group()
def config() -> None:
    """Check a configuration file, or describe what it may hold."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Validate FILE and the bundle that it names, and say what it would serve."""
    # Their packages take a second to load, which `--help` should not cost.
    from trimtab.runtime.tries import configured_methods
    from trimtab.runtime.watch import new_error_detector, new_monitor, references, watched_signals

    found = load_config(file)
    bundle = load_bundle(found.bundle)
    with said_of(file):
        watched = watched_signals(bundle, found.drift)
        new_monitor(bundle, found.drift, watched, references(bundle, found.drift, watched))
        new_error_detector(bundle, found.drift)
        configured_methods(found.adaptation, bundle)
    manifest = bundle.manifest
    topics = ", ".join(s.topic for s in found.streams) or "no topics (enough for a replay)"
    click.echo(f"{file}: is valid; {manifest.name} ({manifest.task}, {len(manifest.outputs)} outputs) for {topics}")


@config.command()
def schema() -> None:
    """Print the JSON Schema of a configuration file."""
    click.echo(reference.schema_text(), nl=False)


@config.command()
def docs() -> None:
    """Print the reference of all keys (docs/config.md)."""
    click.echo(reference.markdown(), nl=False)
