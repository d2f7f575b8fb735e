"""`trimtab detectors`: what there is to watch streams with."""

from __future__ import annotations

import json

import click

from trimtab.drift.catalogue import Option, describe, names

VALUES = {"0..1": "from 0 to 1", "0..": "from 0 up"}


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def detectors(name: str | None, as_json: bool) -> None:
    """List the drift detectors with their options, or describe NAME alone.

    They stand in a configuration under `drift: {detector: NAME, options: {...}}`.
    """
    if name is not None and name not in names():
        raise click.UsageError(f"detector {name!r} is unknown; choose one of {', '.join(names())}")
    chosen = [name] if name is not None else names()
    if as_json:
        click.echo(json.dumps({n: _plain(n) for n in chosen}, indent=2))
        return
    for n in chosen:
        entry = describe(n)
        click.echo(f"{click.style(n, bold=True)}: {entry.watches}")
        click.echo(f"  values       {VALUES.get(entry.values, 'any')}")
        click.echo(f"  calibration  {entry.calibration}")
        click.echo(f"  reference    {entry.reference}")
        for key, option in entry.options.items():
            click.echo(f"  {key:<12} {option.meaning} ({_bounds(option)})")
        click.echo("")


def _bounds(option: Option) -> str:
    default = "none" if option.default is None else f"{option.default:g}"
    return f"default {default}, from {option.low:g} to {option.high:g}"


def _plain(name: str) -> dict[str, object]:
    entry = describe(name)
    return {
        "watches": entry.watches,
        "values": entry.values,
        "calibration": entry.calibration,
        "reference": entry.reference,
        "options": {
            key: {
                "type": option.kind.__name__,
                "default": option.default,
                "minimum": option.low,
                "maximum": option.high,
                "meaning": option.meaning,
            }
            for key, option in entry.options.items()
        },
    }
