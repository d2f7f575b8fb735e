"""`trimtab drift train-combiner`: the network that combines the scores of HTM columns, from a labelled recording."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from trimtab.drift.catalogue import checked
from trimtab.runtime.cli.key_value import settings
from trimtab.runtime.cli.written import check_written
from trimtab.runtime.errors import ConfigError, ExportError, RecordingError
from trimtab.runtime.series import named, opened
from trimtab.runtime.series import rows as rows_of


@click.command("train-combiner")
@click.argument("recording", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--column", required=True, metavar="A,B,...", help="The columns to watch, one HTM each.")
@click.option("--labels", required=True, metavar="COLUMN", help="The column that is 1 in anomalous rows, else 0.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The ONNX file to write.")
@click.option(
    "--every", type=float, default=10000.0, show_default="10000", help="Accepted records between false alarms."
)
@click.option(
    "--history", type=click.IntRange(1, 1000), default=10, show_default=True, help="Records that it looks at."
)
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the detector htm.")
def train_combiner(
    recording: Path, column: str, labels: str, out: Path, every: float, history: int, options: tuple[str, ...]
) -> None:
    """Train a small network to combine the HTM scores of several columns of RECORDING.

    RECORDING is a CSV file with a header, in order, with labelled anomalies: two at least, twenty or more are better.
    Each part of it is judged by a network trained on the others: from that come the threshold and what is printed.
    Needs PyTorch; what it writes does not: see `trimtab drift score --combiner`.
    """
    check_written(out, "--out", recording)
    try:
        from trimtab.exporters.combiner import check_every, train
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ExportError("PyTorch is not installed here; pip install 'trimtab[export]'") from None
    try:
        from trimtab.drift.htm_columns import HOLD, HtmColumns

        chosen = checked("htm", settings(options))
    except (ValueError, ImportError) as error:
        raise ConfigError(str(error)) from None
    check_every(every, HOLD)
    with opened(recording) as reader:
        columns = named(reader, column)
        if labels in columns:
            raise ConfigError(f"--column names {labels}, which holds the labels; leave it out")
        detector = HtmColumns(len(columns), **chosen)
        scores, marks = [], []
        for row in rows_of(recording, reader, [*columns, labels]):
            *values, mark = row.values
            if mark not in (0.0, 1.0):
                line = reader.reader.line_num
                raise RecordingError(
                    f"{recording}, line {line}: {labels} is {row.texts[-1]!r}; give 0 or 1 in every row"
                )
            detector.update(row.time, values)
            scores.append(detector.scores)
            marks.append(mark == 1.0)
    trained = train(
        np.array(scores).reshape(-1, len(columns)),
        np.array(marks, bool),
        columns,
        every=every,
        history=history,
        hold=HOLD,
        options=chosen,
    )
    try:
        out.write_bytes(trained.model.SerializeToString())
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from None
    click.echo(f"{len(scores)} rows, {trained.anomalies} labelled anomalies; each part judged by the others:")
    click.echo(f"found          {trained.found} of {trained.anomalies}")
    asked = trained.normal / every
    click.echo(f"false alarms   {trained.false} in {trained.normal} normal rows; {asked:.2f} were accepted")
    click.echo(f"threshold      {trained.recipe.threshold:.6g}")
    click.echo(f"written to {out}")
