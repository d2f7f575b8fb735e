"""`trimtab demo`: the smartwatch moves from the right arm to the left and back."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

import click
import numpy as np

from trimtab.runtime.bundle import load_bundle
from trimtab.runtime.errors import ConfigError

NEEDED = {"onnxruntime": "cpu", "iotcore": "demo", "seglearn": "demo", "pandas": "demo", "matplotlib": "demo"}
"""Modules and the extras that bring them."""
TOPIC = "sensors/watch"
TITLE = "A smartwatch moves from the right arm to the left, and back"


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-out"), show_default=True,
    help="Folder for the configuration, the log, the decisions and the picture.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(1, 3600), default=45.0, show_default=True, help="How long the stream takes."
)
def demo(out: Path, seconds: float) -> None:
    """Watch a model notice that its sensor was moved, and adapt.

    A network that knows seven exercises from a watch on the right arm serves people it never saw; then the watch
    moves to the left arm, and back. A real daemon behind a real MQTT broker, both started here, on loopback only.
    """
    check_extras()
    from trimtab.examples.watch import BUNDLE, stream
    from trimtab.runtime.demo import demo as run_demo
    from trimtab.runtime.summary import table

    # Whatever ends us, the daemon and the broker are stopped on the way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    bundle = load_bundle(BUNDLE)
    watch = stream.build()
    recording = out / "stream.npz"
    try:
        out.mkdir(parents=True, exist_ok=True)
        n = len(watch.values)
        np.savez_compressed(
            recording,
            allow_pickle=False,
            x=watch.values,
            time=watch.time,
            stream=np.full(n, TOPIC),
            label=np.array(watch.label),
            segment=np.array(watch.segment),
        )
        outcome = run_demo(bundle, recording, out, seconds, sys.stdout, TITLE)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); give another folder with --out") from None
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
        raise SystemExit(130) from None
    click.echo()
    click.echo(table(outcome.adapted, outcome.static))
    latency = "  ".join(f"{name} {value:.0f} ms" for name, value in outcome.adapted.latency.items())
    click.echo(f"from a window's last row published to its decision received: {latency}")
    click.echo("written: " + ", ".join(str(file) for file in outcome.files))


def check_extras() -> None:
    """Raises ConfigError, one sentence, where a package of the demo is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        extras = ",".join(dict.fromkeys(NEEDED[name] for name in missing))
        raise ConfigError(f"the demo needs {', '.join(missing)}; pip install 'trimtab[{extras}]'")
