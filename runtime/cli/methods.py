"""`trimtab methods`: what a bundle can adapt by, as step graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from trimtab.runtime.bundle import load_bundle
from trimtab.runtime.errors import ExportError

MANY = "many in one call"


@click.command()
@click.argument("name", required=False)
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="List what this bundle holds; needs no PyTorch, as the others do."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def methods(name: str | None, bundle: Path | None, as_json: bool) -> None:
    """List the methods of adaptation that can be compiled into step graphs, or describe NAME alone.

    With their hyperparameters and defaults, what each may change in the model, and what the exporter computes for it
    from source data.
    """
    found = _of_bundle(bundle) if bundle is not None else _all()
    if name is not None and name not in found:
        raise click.UsageError(f"method {name!r} is unknown; choose one of {', '.join(found) or '(there is none)'}")
    chosen = {name: found[name]} if name is not None else found
    if as_json:
        click.echo(json.dumps(chosen, indent=2))
        return
    for n, entry in chosen.items():
        click.echo(f"{click.style(n, bold=True)}: {entry['does']}")
        click.echo(f"  paper    {entry['paper']}")
        click.echo(f"  changes  {entry['changes'] or 'no parameter'}")
        click.echo(f"  needs    {', '.join(entry['needs']) or 'nothing'} of the source")
        click.echo(f"  streams  {entry['streams']}")
        if entry["optimisers"]:
            click.echo(f"  learns   by {', '.join(entry['optimisers'])}")
        for key, h in entry["hyper"].items():
            click.echo(f"  {key:<10} {h['meaning']} (default {h['default']:g}, from {h['low']:g} to {h['high']:g})")
        click.echo("")


def _all() -> dict[str, dict[str, Any]]:
    try:
        from trimtab.exporters.methods import METHODS
        from trimtab.exporters.steps.compiler import hyperparameters
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ExportError(
            "PyTorch is not installed here; pip install 'trimtab[export]', or list a bundle's methods with --bundle"
        ) from None

    return {
        name: {
            "does": m.does,
            "paper": m.paper,
            "changes": m.changes,
            "needs": list(m.needs),
            "streams": f"one at a time, since {m.alone}" if m.alone else MANY,
            "optimisers": {o: f"{rate:g}" for o, rate in m.learns_by.items()},
            "hyper": {k: vars(h) for k, h in hyperparameters(m, next(iter(m.rates), None)).items()},
        }
        for name, m in METHODS.items()
    }


def _of_bundle(path: Path) -> dict[str, dict[str, Any]]:
    return {
        m.name: {
            "does": m.does,
            "paper": m.paper,
            "changes": ", ".join(p.name for p in m.parameters),
            "needs": [],
            "streams": MANY if m.streams else "one at a time, as exported",
            "optimisers": [m.optimiser] if m.optimiser else [],
            "hyper": {k: h.model_dump() for k, h in m.hyper.items()},
        }
        for m in load_bundle(path).manifest.methods
    }
