"""The daemon through Mosquitto on loopback, QoS 1, beside a bare paho echo under the same load.

    python -m benchmarks.mqtt [--bundle FOLDER]

Throughput: the broker holds a backlog for a consumer that is away (a persistent session); the consumer is started, and
`mosquitto_sub`, which is written in C and costs next to nothing, notes when each answer comes. So neither the sender
nor the listener is part of what is measured. One message makes one window and one decision; the echo answers each
message with one of a decision's size. Latency: one sender at a moderate rate; an answer's time less its message's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import click
import numpy as np
import paho.mqtt.client as paho
import yaml
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks import report
from benchmarks.brokers import mosquitto
from trimtab.runtime.bundle import Manifest, Window, load_bundle

BUNDLE = Path(__file__).parents[1] / "examples" / "watch" / "bundle"
STREAMS = 8
PATIENCE = 120.0
DECISION = 130
"""Bytes of an echo's answer: about a decision's."""


class Consumer:
    """What is measured: a process that answers messages on `in/#` with messages on `out/#`."""

    def __init__(self, name: str, command: list[str], client_id: str) -> None:
        self.name = name
        self.command = command
        self.client_id = client_id

    @contextmanager
    def running(self, log: Path) -> Iterator[None]:
        with log.open("ab") as file:
            process = subprocess.Popen(self.command, stdout=file, stderr=file)
            try:
                yield
            finally:
                process.terminate()
                process.wait(PATIENCE)


def client(port: int, client_id: str = "", *, keep: bool = False) -> paho.Client:
    """A connected MQTT 5 client, its network loop started; `keep`: with a session that stays."""
    made = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
    made.max_inflight_messages_set(512)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600 if keep else 0
    properties.ReceiveMaximum = 512
    made.connect("127.0.0.1", port, 30, clean_start=not keep, properties=properties)
    made.loop_start()
    return made


def echo(port: int, client_id: str) -> None:
    """The bare consumer: nothing but paho. An answer has the message's number and a decision's size."""
    made = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
    made.max_inflight_messages_set(512)
    padding = b" " * DECISION

    def on_message(made: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        begin = message.payload.index(b'"sequence":') + 11
        number = message.payload[begin : message.payload.index(b",", begin)]
        made.publish("out/" + message.topic, (b'{"sequence":' + number + b"}" + padding)[:DECISION], qos=1)

    made.on_message = on_message
    made.on_connect = lambda *_: made.subscribe("in/#", qos=1)
    made.on_subscribe = lambda *_: made.publish("out/echo/available", b"online", qos=1)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    properties.ReceiveMaximum = 512
    made.connect("127.0.0.1", port, 30, clean_start=False, properties=properties)
    made.loop_forever()


def messages(manifest: Manifest, count: int, first: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` messages, each of one hop of rows: JSON, as a sensor would send them, shared among STREAMS streams."""
    window = _window(manifest)
    channels = manifest.inputs[0].shape[0]
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(64, window.hop, channels)).round(3)
    texts = [json.dumps(part.tolist(), separators=(",", ":")) for part in rows]
    hop = window.hop / (window.rate or 50.0)
    for i in range(first * STREAMS, first * STREAMS + count):
        number, stream = divmod(i, STREAMS)
        text = f'{{"time":{1e9 + number * hop},"sequence":{number},"values":{texts[i % 64]}}}'
        yield f"in/{stream}", text.encode()


def daemon(folder: Path, bundle: Path, port: int, deadline: float | None) -> Consumer:
    name = "daemon" if deadline is None else f"daemon, deadline {deadline:g} s"
    file = folder / f"{name.replace(' ', '-').replace(',', '')}.yaml"
    config = {
        "bundle": str(bundle),
        "node": file.stem.replace(".", "-"),
        "mqtt": {"host": "127.0.0.1", "port": port, "prefix": f"out/{file.stem}"},
        "streams": [{"topic": "in/+"}],
        "adaptation": {"policy": "off"},  # noise is no drift to adapt to; it is detected all the same
    }
    if deadline is not None:
        config["batch"] = {"deadline": deadline}
    file.write_text(yaml.safe_dump(config))
    return Consumer(
        name,
        [sys.executable, "-c", "from trimtab.runtime.cli import main; main()", "run", str(file)],
        f"trimtab-{config['node']}",
    )


def forget(port: int, client_id: str) -> None:
    """End a client's session at the broker: no other consumer's backlog is to be held for it."""
    made = client(port, client_id)
    made.disconnect()
    made.loop_stop()


def throughput(consumer: Consumer, manifest: Manifest, port: int, count: int, folder: Path) -> float:
    """Answers per second between the first and the last tenth of a backlog of `count` messages."""
    subscribed = threading.Event()
    holder = client(port, consumer.client_id, keep=True)
    holder.on_subscribe = lambda *_: subscribed.set()
    holder.subscribe("in/#" if consumer.name == "echo" else "in/+", qos=1)
    subscribed.wait(PATIENCE)
    holder.disconnect()
    holder.loop_stop()

    sender = client(port)
    sent = [sender.publish(topic, payload, qos=1) for topic, payload in messages(manifest, count)]
    for info in sent:
        info.wait_for_publish(PATIENCE)
    sender.disconnect()
    sender.loop_stop()

    answers = count if consumer.name == "echo" else count - STREAMS * (_first_window(manifest) - 1)
    topics = ["-t", "out/in/#"] if consumer.name == "echo" else ["-t", "out/+/decision/#"]
    listener = subprocess.Popen(
        ["mosquitto_sub", "-p", str(port), "-V", "5", "-q", "1", *topics, "-C", str(answers), "-F", "%U"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with consumer.running(folder / "log"):
        output, _ = listener.communicate(timeout=PATIENCE)
    times = [float(line) for line in output.split()]
    forget(port, consumer.client_id)
    tenth = len(times) // 10
    return (len(times) - 2 * tenth) / (times[-tenth - 1] - times[tenth])


def _first_window(manifest: Manifest) -> int:
    """Messages until a stream's first window."""
    window = _window(manifest)
    return -(-window.rows // window.hop)


def _window(manifest: Manifest) -> Window:
    if manifest.window is None:
        raise SystemExit("this benchmark needs a bundle with a window")
    return manifest.window


def latency(
    consumer: Consumer, manifest: Manifest, port: int, rate: float, seconds: float, folder: Path
) -> list[float]:
    """Seconds from each message to its answer, sent one by one at `rate` per second."""
    delay = 0 if consumer.name == "echo" else _first_window(manifest) - 1
    sent: dict[tuple[str, int], float] = {}
    spent: list[float] = []
    online = threading.Event()

    def on_message(_client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        now = time.perf_counter()
        if message.topic.endswith("/available"):
            if message.payload == b"online":
                online.set()
            return
        stream = message.topic.rsplit("/", 1)[1]
        begun = sent.pop((stream, json.loads(message.payload)["sequence"] + delay), None)
        if begun is not None:
            spent.append(now - begun)

    listener = client(port)
    listener.on_message = on_message
    answers = "out/in/#" if consumer.name == "echo" else "out/+/decision/#"
    listener.subscribe([(answers, 1), ("out/+/available", 1)])
    with consumer.running(folder / "log"):
        sender = client(port)
        online.wait(PATIENCE)
        start = time.perf_counter()
        for i, (topic, payload) in enumerate(messages(manifest, int(rate * seconds))):
            time.sleep(max(0.0, start + i / rate - time.perf_counter()))
            number = i // STREAMS
            sent[topic.removeprefix("in/"), number] = time.perf_counter()
            sender.publish(topic, payload, qos=1)
        time.sleep(0.5)
        sender.disconnect()
        sender.loop_stop()
    listener.disconnect()
    listener.loop_stop()
    forget(port, consumer.client_id)
    return spent


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), default=BUNDLE, show_default=True)
@click.option("--count", default=8000, show_default=True, help="Messages of a backlog.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--rate", default=100.0, show_default=True, help="Messages per second where latency is measured.")
@click.option("--echo", "echo_port", type=int, hidden=True)
def main(bundle: Path, count: int, rounds: int, rate: float, echo_port: int | None) -> None:
    if echo_port is not None:
        echo(echo_port, "echo")
        return
    if shutil.which("mosquitto_sub") is None:
        raise SystemExit("mosquitto_sub is not installed: apt-get install mosquitto-clients")
    os.environ["OMP_NUM_THREADS"] = "1"
    manifest = load_bundle(bundle).manifest
    with tempfile.TemporaryDirectory() as name, mosquitto("5") as port:
        folder = Path(name)
        bare = Consumer("echo", [sys.executable, "-m", "benchmarks.mqtt", "--echo", str(port)], "echo")
        served = daemon(folder, bundle, port, None)
        speeds: dict[str, list[float]] = {bare.name: [], served.name: []}
        for _ in range(rounds):
            for consumer in (bare, served):
                speeds[consumer.name].append(throughput(consumer, manifest, port, count, folder))
                for journal in folder.glob("*.journal.db*"):
                    journal.unlink()
        rows = []
        for consumer in (bare, served, daemon(folder, bundle, port, 0.0)):
            times = latency(consumer, manifest, port, rate, 10.0, folder)
            cuts = quantiles(times, n=100)
            speed = speeds.get(consumer.name)
            rows.append(
                {
                    "consumer": consumer.name,
                    **({"messages/s": median(speed)} if speed else {}),
                    "p50 ms": cuts[49] * 1e3,
                    "p99 ms": cuts[98] * 1e3,
                    "answers": len(times),
                }
            )
    share = median(speeds["daemon"]) / median(speeds["echo"])
    report.write(
        "mqtt",
        rows,
        payload_bytes=len(next(messages(manifest, 1))[1]),
        rounds=rounds,
        rate=rate,
        share_of_echo=share,
        target_share=0.5,
        added_p50_ms=rows[1]["p50 ms"] - rows[0]["p50 ms"],
        added_p99_ms=rows[1]["p99 ms"] - rows[0]["p99 ms"],
        added_p50_ms_deadline_0=rows[2]["p50 ms"] - rows[0]["p50 ms"],
        added_p99_ms_deadline_0=rows[2]["p99 ms"] - rows[0]["p99 ms"],
    )


if __name__ == "__main__":
    main()
