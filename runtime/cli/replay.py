"""`trimtab replay`: a recording through the daemon's pipeline, and the closing table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import click

from trimtab.runtime.bundle import Bundle, load_bundle
from trimtab.runtime.cli.written import check_written
from trimtab.runtime.config import Config, load_config, said_of
from trimtab.runtime.decisions import Event, Step
from trimtab.runtime.errors import ConfigError, RecordingError
from trimtab.runtime.late import REMEMBERED
from trimtab.runtime.recordings import Recording
from trimtab.runtime.replay import DecisionsFile, SignalsFile, Sink, static
from trimtab.runtime.replay import replay as run_replay
from trimtab.runtime.summary import Summary, Tally, table, timing
from trimtab.runtime.watch import watched_signals


class Speed(click.ParamType[float | None]):
    """`max`, or how many times faster than recorded."""

    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if value is None or value == "max":
            return None
        try:
            speed = float(value)
        except ValueError:
            speed = 0.0
        if not 0 < speed < float("inf"):
            self.fail(f"{value!r} is no speed; give max, or a number such as 1 or 20", param, ctx)
        return speed


@click.command()
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("--bundle", "folder", type=click.Path(path_type=Path), help="The exported model; default: the config's.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="As for `trimtab run`.")
@click.option("--speed", type=Speed(), default="max", help="`max` (default), or times real time: 1, 20, ...")
@click.option("--compare", type=click.Choice(["static"]), help="Also run without adaptation, side by side.")
@click.option(
    "--label-delay",
    type=click.IntRange(0, REMEMBERED - 1),
    default=0,
    metavar="WINDOWS",
    help="drift.errors: windows after which a recorded label is known (default 0).",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the run as a PNG file.")
@click.option("--out", type=click.Path(path_type=Path), help="Write each decision as a line of JSON.")
@click.option("--signals", type=click.Path(path_type=Path), help="Write what detectors saw of each window as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print the closing figures as one JSON document.")
@click.option("--publish", is_flag=True, help="Send the rows to the config's broker instead, as a sensor would.")
def replay(
    recording: Path,
    folder: Path | None,
    config_file: Path | None,
    speed: float | None,
    compare: str | None,
    label_delay: int,
    plot: Path | None,
    out: Path | None,
    signals: Path | None,
    as_json: bool,
    publish: bool,
) -> None:
    """Run RECORDING (CSV, Parquet, NPZ or JSON lines) through the daemon's own pipeline on a simulated clock.

    The same input gives the same decisions, bit for bit, at any speed.
    """
    for file, option in ((out, "--out"), (signals, "--signals"), (plot, "--plot")):
        check_written(file, option, recording)
    config = configuration(folder, config_file)
    bundle = load_bundle(config.bundle)
    source = Recording(recording, bundle.manifest)
    if publish:
        from trimtab.runtime.publish import publish_recording

        if config_file is None:
            raise ConfigError("--publish: the broker and the topic are in a configuration; give it with --config")
        with said_of(config_file):
            count = publish_recording(source, bundle, config, speed)
        click.echo(f"{count:,} messages published")
        return
    from trimtab.runtime.plot import Trace, draw

    trace = Trace() if plot is not None else None
    events = Events()
    with ExitStack() as stack:
        sinks: list[Sink] = [events, *([trace] if trace is not None else [])]
        if out is not None:
            sinks.append(DecisionsFile(stack.enter_context(writing(out, "--out"))))
        with said_of(config_file):
            if signals is not None:
                watched = watched_signals(bundle, config.drift)
                sinks.append(SignalsFile(stack.enter_context(writing(signals, "--signals")), watched))
            adapted = one_run(bundle, config, source, sinks, speed, label_delay, "replay")
        if config.drift.errors is not None and not adapted.total.score.labelled:
            click.echo(f"drift.errors: {recording} has no labels, so that no errors were watched", err=True)
    plain = None
    plain_trace = Trace() if plot is not None and compare else None
    if compare is not None:
        others: list[Sink] = [plain_trace] if plain_trace is not None else []
        plain = one_run(bundle, static(config), source, others, speed, label_delay, "without adaptation")
    if plot is not None and trace is not None:
        draw(
            plot, trace, plain_trace, bundle.source.reference, f"{bundle.manifest.name}: {recording.name}",
            task=bundle.manifest.task,
        )  # fmt: skip
    if as_json:
        document = {
            "recording": str(recording),
            "bundle": bundle.manifest.name,
            "adapted": adapted.as_dict(),
            "static": plain.as_dict() if plain is not None else None,
            "events": [{"topic": e.topic, **e.payload} for e in events.seen],
        }
        click.echo(json.dumps(document, indent=1))
        return
    click.echo(table(adapted, plain))
    click.echo(timing(adapted))
    for file in (out, signals, plot):
        if file is not None:
            click.echo(f"written: {file}")


def writing(file: Path, option: str) -> IO[str]:
    """A file opened to be written. Raises RecordingError where that cannot be."""
    try:
        return file.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise RecordingError(f"{file}: cannot be written ({error.strerror}); give another {option}") from None


def configuration(folder: Path | None, file: Path | None) -> Config:
    """The configuration of a replay: the file's, with `--bundle` in place of its bundle.

    Raises ConfigError where neither is given, or the file is wrong.
    """
    if file is not None:
        config = load_config(file)
        return config if folder is None else config.model_copy(update={"bundle": folder})
    if folder is None:
        raise ConfigError("--bundle: is missing; give the bundle's folder, or a configuration with --config")
    return Config(bundle=folder)


class Events:
    """Keeps the drift and adaptation events, not the changes of state."""

    def __init__(self) -> None:
        self.seen: list[Event] = []

    def take(self, step: Step, seconds: float) -> None:
        self.seen += [e for e in step.events if not e.topic.startswith("state/")]


def one_run(
    bundle: Bundle,
    config: Config,
    source: Recording,
    sinks: list[Sink],
    speed: float | None,
    label_delay: int,
    label: str,
) -> Summary:
    """Replay once, with a progress bar on a terminal. Raises RecordingError where no window came of it."""
    tally = Tally(bundle.manifest.task)
    begun = time.perf_counter()
    with progress_bar(source, label) as progress:
        busy = run_replay(
            bundle, config, source.blocks(), [tally, *sinks], speed=speed, progress=progress, label_delay=label_delay
        )
    if tally.total.windows == 0 and bundle.manifest.window is not None:
        window = bundle.manifest.window
        pace = f" at {window.rate:g} rows a second" if window.rate is not None else ""
        raise RecordingError(
            f"{source.path}: gave no window: the bundle takes {window.rows} rows{pace} without a gap; "
            "give a longer recording, or mend its times"
        )
    return tally.summary(busy, time.perf_counter() - begun)


@contextmanager
def progress_bar(source: Recording, label: str) -> Iterator[Any]:
    """A bar on the terminal's stderr; nothing where there is none."""
    if not sys.stderr.isatty():
        yield None
        return
    shown = 0
    with click.progressbar(length=1000, label=label, file=sys.stderr, show_pos=False) as bar:

        def progress() -> None:
            nonlocal shown
            now = 1000 * source.done // max(1, source.total)
            if now > shown:
                bar.update(now - shown)
                shown = now

        yield progress
        bar.update(1000 - shown)
