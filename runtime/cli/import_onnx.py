"""`trimtab import`: an existing ONNX file becomes a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from trimtab.runtime.cli.export import described, given, listed

SHAPE = "Of one sample of the first input, as in 3,48,192, where the file leaves it open; default: that of --data."


@click.command("import")
@click.argument("model", metavar="MODEL.onnx", type=click.Path(path_type=Path))
@described
@click.option("--shape", callback=listed(int), metavar="SIZE,...", help=SHAPE)
def import_onnx(model: Path, out: Path, data: Path | None, shape: list[int] | None, **options: Any) -> None:
    """Make an ONNX file into a bundle; needs no PyTorch.

    Its batch norms can then be adapted; where none are left, its biases. Without --data the source statistics are
    those that the norms remember.
    """
    from trimtab.exporters import import_onnx as run
    from trimtab.exporters.target import batches, read_data

    extra = given(options)
    shapes: Mapping[str, Sequence[int]] | Sequence[int] = shape or ()
    if data is not None:
        inputs, labels = read_data(data)
        extra["source_batches"] = batches(inputs, labels)
        if not shapes:
            found = {name: values.shape[1:] for name, values in inputs.items()}
            shapes = found if len(found) > 1 else next(iter(found.values()))
    for line in run(model, out, shapes=shapes, **extra).lines():
        click.echo(line)
