"""Brokers that install with pip, beside Mosquitto: what they can, and how fast they are.

    python -m benchmarks.brokers

Each broker listens on a loopback port of its own. `FEATURES` are the ones that trimtab's daemon uses, each tried with
paho-mqtt and, where the broker speaks it, over both protocol versions. Speed is a sensor's messages (300 bytes, QoS 1,
manual acknowledgement) through an echo and back, as the daemon's traffic is: all brokers take turns, medians count.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import queue
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks import report
from trimtab.runtime.embedded_broker import embedded_broker, free_port

PATIENCE = 5.0
"""Seconds after which something that did not come counts as missing."""
VERSIONS = {"3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}
PAYLOAD = 300
Start = Callable[[str], "Iterator[int]"]


def wait_for(port: int) -> None:
    """Until something accepts connections on loopback `port`; TimeoutError after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


@contextmanager
def mosquitto(version: str) -> Iterator[int]:
    """Debian's broker, in its own process; the measure of the others."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mosquitto.conf"
        file.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\npersistence false\n"
            "max_inflight_messages 512\nset_tcp_nodelay true\n"
        )
        process = subprocess.Popen([mosquitto_path(), "-c", str(file)], stderr=subprocess.DEVNULL)
        try:
            wait_for(port)
            yield port
        finally:
            process.terminate()
            process.wait()


def mosquitto_path() -> str:
    path = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise FileNotFoundError("mosquitto is not installed: apt-get install mosquitto")
    return path


@contextmanager
def amqtt(version: str) -> Iterator[int]:
    """PyPI's amqtt: pure Python on asyncio, here on a thread of this process."""
    from amqtt.broker import Broker

    port = free_port()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "session_expiry_interval": 600,
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }

    async def started() -> Broker:
        broker = Broker(config)
        await broker.start()
        return broker

    broker = asyncio.run_coroutine_threadsafe(started(), loop).result(PATIENCE)
    try:
        yield port
    finally:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(broker.shutdown(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@contextmanager
def iotcore(version: str) -> Iterator[int]:
    """PyPI's iotcore: Rust's rumqttd in a child process; one protocol version a listener."""
    with embedded_broker("5" if version == "5" else "3.1.1") as port:
        yield port


BROKERS: dict[str, Callable[[str], object]] = {"mosquitto": mosquitto, "amqtt": amqtt, "iotcore": iotcore}


class Client:
    """A paho client whose messages wait in a queue until they are asked for, unacknowledged."""

    def __init__(
        self, port: int, version: str, name: str, *, clean: bool = True, will: tuple[str, bytes] | None = None
    ) -> None:
        self.messages: queue.SimpleQueue[mqtt.MQTTMessage] = queue.SimpleQueue()
        self.granted = threading.Event()
        self.connected = threading.Event()
        self.refused = ""
        five = version == "5"
        extra = {} if five else {"clean_session": clean}
        self.mqtt = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, name, protocol=VERSIONS[version], manual_ack=True, **extra
        )
        self.mqtt.max_inflight_messages_set(1000)
        if will is not None:
            self.mqtt.will_set(will[0], will[1], qos=1)
        self.mqtt.on_connect = self._on_connect
        self.mqtt.on_subscribe = lambda *_: self.granted.set()
        self.mqtt.on_message = lambda _c, _u, message: self.messages.put(message)
        if five:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 600
            properties.ReceiveMaximum = 512
            self.mqtt.connect("127.0.0.1", port, 30, clean_start=clean, properties=properties)
        else:
            self.mqtt.connect("127.0.0.1", port, 30)
        self.mqtt.loop_start()
        if not self.connected.wait(PATIENCE) or self.refused:
            self.close()
            raise ConnectionError(self.refused or "no CONNACK")

    def _on_connect(self, _client, _data, _flags, reason, _properties) -> None:  # type: ignore[no-untyped-def]
        if reason.is_failure:
            self.refused = str(reason)
        self.connected.set()

    def subscribe(self, topic: str) -> None:
        self.granted.clear()
        self.mqtt.subscribe(topic, qos=1)
        if not self.granted.wait(PATIENCE):
            raise ConnectionError("no SUBACK")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        info = self.mqtt.publish(topic, payload, qos=1, retain=retain)
        info.wait_for_publish(PATIENCE)
        if not info.is_published():
            raise ConnectionError("no PUBACK")

    def take(self, seconds: float = PATIENCE, *, ack: bool = True) -> bytes | None:
        """The next message, or None after `seconds`."""
        try:
            message = self.messages.get(timeout=seconds)
        except queue.Empty:
            return None
        if ack:
            self.mqtt.ack(message.mid, message.qos)
        return message.payload

    def drop(self) -> None:
        """Go without DISCONNECT, as a killed process does."""
        sock = self.mqtt.socket()
        self.mqtt.loop_stop()
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def close(self) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


def qos1(port: int, version: str) -> bool:
    """QoS 1 in both directions: published, and delivered with QoS 1."""
    a, b = Client(port, version, "a"), Client(port, version, "b")
    try:
        b.subscribe("q/+")
        a.publish("q/1", b"hello")
        message = b.messages.get(timeout=PATIENCE)
        b.mqtt.ack(message.mid, message.qos)
        return bool(message.qos == 1 and message.payload == b"hello")
    except queue.Empty:
        return False
    finally:
        a.close(), b.close()


def redelivery(port: int, version: str) -> bool:
    """What was not acknowledged comes again after the client was killed; what was does not."""
    a, b = Client(port, version, "a"), Client(port, version, "redelivery", clean=False)
    try:
        b.subscribe("r")
        for n in range(3):
            a.publish("r", b"%d" % n)
        got = [b.take(), b.take(ack=False), b.take(ack=False)]
        a.publish("marker", b"")  # a full turn, so that the first acknowledgement has arrived
        b.drop()
        again = Client(port, version, "redelivery", clean=False)
        try:
            back = [again.take(), again.take(), again.take(0.5)]
        finally:
            again.close()
        return got == [b"0", b"1", b"2"] and back == [b"1", b"2", None]
    finally:
        a.close()


def retained(port: int, version: str) -> bool:
    """The last retained message greets a later subscriber."""
    a, b = Client(port, version, "a"), Client(port, version, "b")
    try:
        a.publish("s", b"old", retain=True)
        a.publish("s", b"new", retain=True)
        b.subscribe("s")
        return b.take() == b"new"
    finally:
        a.close(), b.close()


def last_will(port: int, version: str) -> bool:
    """The will is published when a client is killed."""
    a, b = Client(port, version, "a", will=("w", b"gone")), Client(port, version, "b")
    try:
        b.subscribe("w")
        a.drop()
        return b.take() == b"gone"
    finally:
        b.close()


def persistent(port: int, version: str) -> bool:
    """What is published while a client is away waits for it, in order."""
    a, b = Client(port, version, "a"), Client(port, version, "persistent", clean=False)
    try:
        b.subscribe("p")
        b.close()
        for n in range(300):
            a.publish("p", b"%d" % n)
        again = Client(port, version, "persistent", clean=False)
        try:
            return all(again.take() == b"%d" % n for n in range(300))
        finally:
            again.close()
    finally:
        a.close()


def patient(port: int, version: str) -> bool:
    """2,000 messages for a subscriber that acknowledges none until 100 wait: all arrive, in order."""
    a, b = Client(port, version, "a"), Client(port, version, "b")
    try:
        b.subscribe("f")
        for n in range(2000):
            info = a.mqtt.publish("f", b"%d" % n, qos=1)
        held: list[mqtt.MQTTMessage] = []
        seen: list[bytes] = []
        while len(seen) < 2000:
            try:
                message = b.messages.get(timeout=2)
            except queue.Empty:
                break
            seen.append(message.payload)
            held.append(message)
            if len(held) >= 100 or len(seen) == 2000:
                for one in held:
                    b.mqtt.ack(one.mid, one.qos)
                held.clear()
        info.wait_for_publish(PATIENCE)
        return seen == [b"%d" % n for n in range(2000)]
    finally:
        a.close(), b.close()


def loopback_only(port: int, version: str) -> bool:
    """No other address of this machine answers (the kernel's table of listeners says which one is bound)."""
    bound = set()
    for table, width in (("/proc/net/tcp", 8), ("/proc/net/tcp6", 32)):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port and len(address) == width:
                bound.add(address)
    return bound == {"0100007F"}


FEATURES: dict[str, Callable[[int, str], bool]] = {
    "QoS 1 both ways": qos1,
    "manual ack, redelivery": redelivery,
    "retained": retained,
    "last will": last_will,
    "persistent session": persistent,
    "waits for slow readers": patient,
    "loopback only": loopback_only,
}


def try_feature(start: Callable[[str], object], version: str, feature: Callable[[int, str], bool]) -> bool:
    with start(version) as port:  # type: ignore[attr-defined]
        try:
            return feature(port, version)
        except (ConnectionError, TimeoutError, OSError, ValueError, RuntimeError):
            return False


ECHO = """
import sys
import paho.mqtt.client as mqtt

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "echo", protocol=int(sys.argv[2]), manual_ack=True)
client.max_inflight_messages_set(1000)

def on_message(c, _u, m):
    c.publish("out", m.payload, qos=1)
    c.ack(m.mid, m.qos)

client.on_connect = lambda c, *_: c.subscribe("in", qos=1)
client.on_subscribe = lambda *_: print("ready", flush=True)
client.on_message = on_message
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
"""


def speed(start: Callable[[str], object], version: str, messages: int, window: int) -> float:
    """Messages a second through an echo in another process and back, at most `window` under way; NaN: one got lost."""
    with start(version) as port:  # type: ignore[attr-defined]
        echo = subprocess.Popen(
            [sys.executable, "-c", ECHO, str(port), str(int(VERSIONS[version]))], stdout=subprocess.PIPE, text=True
        )
        client = None
        try:
            if echo.stdout is None or echo.stdout.readline() != "ready\n":
                return float("nan")
            client = Client(port, version, "speed")
            client.subscribe("out")
            payload = b"x" * PAYLOAD
            sent = received = 0
            begin = time.perf_counter()
            while received < messages:
                while sent < messages and sent - received < window:
                    client.mqtt.publish("in", payload, qos=1)
                    sent += 1
                if client.take() is None:
                    return float("nan")
                received += 1
            return messages / (time.perf_counter() - begin)
        except ConnectionError:
            return float("nan")
        finally:
            if client is not None:
                client.close()
            echo.kill()
            echo.wait()


def weight(name: str) -> dict[str, object]:
    """Version, number of distributions and MB on disk that installing `name` adds to trimtab's own dependencies."""
    if name == "mosquitto":
        return {"version": "Debian package", "distributions": None, "megabytes": None}
    own = closure("trimtab") | {"trimtab"}
    new = (closure(name) | {name}) - own
    size = 0
    for one in new:
        files = importlib.metadata.distribution(one).files or []
        size += sum(Path(str(f.locate())).stat().st_size for f in files if Path(str(f.locate())).exists())
    return {
        "version": importlib.metadata.version(name),
        "distributions": sorted(new),
        "megabytes": round(size / 1e6, 1),
    }


def closure(name: str) -> set[str]:
    """All distributions that `name` needs without an extra."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [name]
    while waiting:
        try:
            requirements = importlib.metadata.requires(waiting.pop()) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for text in requirements:
            requirement = Requirement(text)
            needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if needed and requirement.name not in found:
                found.add(requirement.name)
                waiting.append(requirement.name)
    return found


@click.command()
@click.option("--messages", default=4000, show_default=True)
@click.option("--window", default=100, show_default=True, help="Messages under way at a time.")
@click.option("--rounds", default=3, show_default=True)
def main(messages: int, window: int, rounds: int) -> None:
    """Compare the brokers, print a table, write benchmarks/out/brokers.json."""
    names = []
    for name in BROKERS:
        try:
            if name == "mosquitto":
                mosquitto_path()
            else:
                importlib.metadata.version(name)
            names.append(name)
        except (FileNotFoundError, importlib.metadata.PackageNotFoundError):
            click.echo(f"{name} is not installed and left out")
    columns = [(name, version) for name in names for version in VERSIONS]
    rows: list[dict[str, object]] = []
    for feature, probe in FEATURES.items():
        row: dict[str, object] = {"": feature}
        for name, version in columns:
            spoken = not rows or rows[0][f"{name} {version}"] == "yes"
            row[f"{name} {version}"] = "yes" if spoken and try_feature(BROKERS[name], version, probe) else "NO"
        rows.append(row)
    rates: dict[tuple[str, str], list[float]] = {column: [] for column in columns}
    for _ in range(rounds):
        for name, version in columns:
            if rows[0][f"{name} {version}"] == "yes":
                rates[name, version].append(speed(BROKERS[name], version, messages, window))
    # As text: a column of the table is either all numbers or none.
    figures = {f"{n} {v}": f"{statistics.median(rates[n, v]):.0f}" if rates[n, v] else "-" for n, v in columns}
    rows.append({"": "echoes a second", **figures})
    report.write(
        "brokers",
        rows,
        messages=messages,
        window=window,
        payload=PAYLOAD,
        **{name: weight(name) for name in names},
    )


if __name__ == "__main__":
    main()
