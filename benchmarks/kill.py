"""`kill -9` at random moments while windows stream: is a decision lost, or contradicted?

    python -m benchmarks.kill [--kills 20] [--windows 1000]

A sender publishes one stream through Mosquitto (QoS 1, persistent session), slowly enough that the kills fall among
its windows; a listener keeps everything that the daemon publishes. The daemon is killed at random moments, start-up
included, and started again at once. Lost: a window number without a decision. Contradictory: two decisions of one
number that differ in a byte. A third figure, repeated, counts decisions that came again, unchanged, as QoS 1 allows.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import numpy as np
import paho.mqtt.client as paho
import yaml

from benchmarks import report
from benchmarks.brokers import mosquitto
from benchmarks.mqtt import BUNDLE, client
from trimtab.runtime.bundle import Manifest, load_bundle
from trimtab.runtime.payloads import encode

PATIENCE = 120.0


def start(file: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        command = [sys.executable, "-c", "from trimtab.runtime.cli import main; main()", "run", str(file)]
        return subprocess.Popen(command, stdout=output, stderr=output)


class Listener:
    """Every decision that is published, by window number."""

    def __init__(self, port: int, windows: int) -> None:
        self.decisions: dict[int, list[bytes]] = {}
        self.online = threading.Event()
        self.last = threading.Event()
        self._windows = windows
        self._client = client(port)
        self._client.on_message = self._on_message
        self._client.subscribe([("out/decision/#", 1), ("out/available", 1)])

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        if message.topic == "out/available":
            if message.payload == b"online":
                self.online.set()
            return
        number = json.loads(message.payload)["sequence"]
        self.decisions.setdefault(number, []).append(message.payload)
        if number == self._windows - 1:
            self.last.set()


def blocks(manifest: Manifest, windows: int) -> list[bytes]:
    """Messages of one hop each that make `windows` windows."""
    window = manifest.window
    if window is None:
        raise SystemExit("this benchmark needs a bundle with a window")
    rng = np.random.default_rng(0)
    count = windows - 1 + -(-window.rows // window.hop)
    rows = rng.normal(size=(count, window.hop, manifest.inputs[0].shape[0])).astype(np.float32)
    hop = window.hop / (window.rate or 50.0)
    return [encode(part, "json", time=1e9 + i * hop, sequence=i) for i, part in enumerate(rows)]


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), default=BUNDLE, show_default=True)
@click.option("--kills", default=20, show_default=True)
@click.option("--windows", default=1000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(bundle: Path, kills: int, windows: int, seed: int) -> None:
    rng = random.Random(seed)
    os.environ["OMP_NUM_THREADS"] = "1"
    sent = blocks(load_bundle(bundle).manifest, windows)
    with tempfile.TemporaryDirectory() as name, mosquitto("5") as port:
        folder = Path(name)
        file = folder / "config.yaml"
        config = {
            "bundle": str(bundle.resolve()),
            "node": "kill",
            "mqtt": {"host": "127.0.0.1", "port": port, "prefix": "out", "reconnect_max": 0.5},
            "streams": [{"topic": "in/+"}],
        }
        file.write_text(yaml.safe_dump(config))
        listener = Listener(port, windows)
        process = start(file, folder / "log")
        listener.online.wait(PATIENCE)

        done = threading.Event()
        pace = 2.8 * kills / len(sent)  # a start-up and a wait: about what a kill takes

        def send() -> None:
            sender = client(port)
            for payload in sent:
                sender.publish("in/s", payload, qos=1).wait_for_publish(PATIENCE)
                time.sleep(pace * rng.random() * 2)
            sender.disconnect()
            sender.loop_stop()
            done.set()

        threading.Thread(target=send, daemon=True).start()
        begun = time.monotonic()
        killed = 0
        early = 0
        while killed < kills:
            listener.online.clear()
            # Mostly while it serves; every fourth time at any moment of its start-up.
            if killed and killed % 4 != 3:
                listener.online.wait(PATIENCE)
            time.sleep(rng.uniform(0.0, 1.5))
            early += not listener.online.is_set() and killed > 0
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            process = start(file, folder / "log")
        among = not done.is_set()
        listener.last.wait(PATIENCE)
        listener.online.wait(PATIENCE)
        process.terminate()
        status = process.wait(PATIENCE)
        spent = time.monotonic() - begun
    found = listener.decisions
    lost = [n for n in range(windows) if n not in found]
    contradictory = [n for n, payloads in found.items() if len(set(payloads)) > 1]
    repeated = sum(len(payloads) - 1 for payloads in found.values())
    report.write(
        "kill",
        [
            {
                "windows": windows,
                "kills": killed,
                "during start-up": early,
                "lost": len(lost),
                "contradictory": len(contradictory),
                "repeated, same": repeated,
            }
        ],
        seconds=spent,
        windows_were_still_coming_at_the_last_kill=among,
        exit_status_of_the_last=status,
    )
    if lost or contradictory or set(found) - set(range(windows)):
        raise SystemExit(f"lost {lost[:10]}, contradictory {contradictory[:10]}")


if __name__ == "__main__":
    main()
