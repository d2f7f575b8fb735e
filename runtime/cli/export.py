"""`trimtab export`: a PyTorch model becomes a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from trimtab.runtime.bundle import Calibration, Window
from trimtab.runtime.errors import ExportError


def listed(of: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """The callback of an option that takes values separated by commas."""

    def one(text: str) -> list[Any]:
        try:
            return [of(part.strip()) for part in text.split(",") if part.strip()]
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a list of numbers separated by commas") from None

    def parse(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if isinstance(value, tuple):
            return [one(text) for text in value]
        return one(value) if value is not None else None

    return parse


def described(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a model's inputs and outputs are: those of `export` and `import`."""
    data = "Source data: .npz with x [n, ...] (an array per input) and, if known, labels y [n]."
    window = "How a stream's rows become samples [channels, rows]; RATE in rows a second."
    order = "An order of the channels that a mounting may give; repeatable."
    path = click.Path(path_type=Path)
    options = [
        click.option("--out", required=True, type=path, help="Folder of the bundle."),
        click.option("--data", type=path, help=data),
        click.option("--name", help="The bundle's name."),
        click.option("--classes", callback=listed(str), metavar="A,B,...", help="Names of the classes."),
        click.option("--targets", callback=listed(str), metavar="A,B,...", help="Names of the values of a regression."),
        click.option("--window", callback=listed(float), metavar="ROWS,HOP[,RATE]", help=window),
        click.option(
            "--channels", callback=listed(str), metavar="A,B,...", help="Names of the first input's channels."
        ),
        click.option(
            "--mean",
            callback=listed(float),
            metavar="NUMBER,...",
            help="Per channel of the first input, in sensor units: subtracted.",
        ),
        click.option(
            "--std", callback=listed(float), metavar="NUMBER,...", help="Per channel of the first input: divided by."
        ),
        click.option(
            "--signs",
            callback=listed(int),
            metavar="CHANNEL,...",
            help="Channels whose sign a mounting may flip, counted from 0.",
        ),
        click.option("--order", "orders", callback=listed(int), metavar="CHANNEL,...", multiple=True, help=order),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as the exporters' arguments."""
    signs, orders, window = options.pop("signs"), options.pop("orders"), options.pop("window")
    found = {key: value for key, value in options.items() if value}
    if signs or orders:
        found["calibration"] = Calibration(signs=signs or [], orders=list(orders), gain=True)
    if window:
        if len(window) not in (2, 3) or any(v != int(v) or v < 1 for v in window[:2]):
            raise ExportError("--window: give ROWS,HOP or ROWS,HOP,RATE, as in --window 100,50,50")
        found["window"] = Window(rows=int(window[0]), hop=int(window[1]), rate=window[2] if len(window) == 3 else None)
    return found


@click.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@described
@click.option("--head", help="Dotted name of the last layer, whose input are the features.")
@click.option(
    "--frozen", multiple=True, help="Dotted name of a norm (or a module of norms) to be left as is; repeatable."
)
@click.option(
    "--methods",
    callback=listed(str),
    metavar="A,B,...",
    help="Methods of adaptation to be compiled into step graphs; see `trimtab methods`.",
)
def export(target: str, out: Path, data: Path | None, **options: Any) -> None:
    """Make a PyTorch model into a bundle.

    MODULE:ATTRIBUTE is a torch.nn.Module, a trimtab.exporters.ExportSpec, or a function that returns one of them;
    the current folder is searched first. A spec says everything itself, and options replace what it says; a plain
    module needs --data and --classes or --targets.
    """
    from trimtab.exporters.target import spec_of

    for line in spec_of(target, data, given(options)).export(out).lines():
        click.echo(line)
