"""A real broker and a real daemon process for the tests that want them. Nothing here sleeps to wait for something."""

from __future__ import annotations

import json
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import yaml

# As the command line does, before NumPy is imported: see `trimtab.runtime.cli.main`.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

PATIENCE = 20.0
"""Seconds after which something that did not come will not come."""


def free_port() -> int:
    """Below the range that outgoing connections take their ports from: whoever tries a port of that range while nobody
    listens may in the end connect to himself, and hold it."""
    for port in random.sample(range(15000, 32000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


class Broker:
    """Mosquitto on a loopback port, with sessions that outlive it."""

    def __init__(self, folder: Path, lines: str = "allow_anonymous true", ca: Path | None = None) -> None:
        program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.fail("these tests talk to a real broker; install it: apt-get install mosquitto", pytrace=False)
        folder.mkdir(parents=True, exist_ok=True)
        self.program = program
        self.port = free_port()
        self.ca = ca
        self.folder = folder
        user = "" if os.getuid() else "user root\n"
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\n{user}persistence true\npersistence_location {folder}/\n"
            f"max_inflight_messages 0\nset_tcp_nodelay true\n{lines}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Broker:
        log = (self.folder / "mosquitto.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [self.program, "-c", str(self.folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        end = time.monotonic() + PATIENCE
        while True:  # it has no other way to say that it listens
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    pytest.fail((self.folder / "mosquitto.log").read_text())
                threading.Event().wait(0.01)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE)
            self.process = None


class Client:
    """A subscriber and publisher that can be waited on."""

    def __init__(self, broker: Broker, *topics: str, login: tuple[str, str] | None = None) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self._news: queue.SimpleQueue[paho.MQTTMessage] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.max_inflight_messages_set(1000)
        if login is not None:
            self._client.username_pw_set(*login)
        if broker.ca is not None:
            self._client.tls_set(str(broker.ca))
        self._client.on_connect = lambda *_: self._client.subscribe([(t, 1) for t in (*topics, "$SYS/none")])
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _c, _u, message: self._news.put(message)
        self._client.connect("localhost" if broker.ca else "127.0.0.1", broker.port)
        self._client.loop_start()
        assert self._ready.wait(PATIENCE)

    def publish(self, topic: str, payload: bytes | str | dict[str, Any], **more: Any) -> None:
        """Until the broker has it."""
        data = json.dumps(payload) if isinstance(payload, dict) else payload
        self._client.publish(topic, data, qos=1, **more).wait_for_publish(PATIENCE)

    def wait(self, wanted: Callable[[list[paho.MQTTMessage]], bool]) -> list[paho.MQTTMessage]:
        """All messages so far, as soon as they are what is `wanted`."""
        end = time.monotonic() + PATIENCE
        while not wanted(self.messages):
            try:
                self.messages.append(self._news.get(timeout=max(0.0, end - time.monotonic())))
            except queue.Empty:
                pytest.fail(f"did not come; came: {[(m.topic, m.payload[:200]) for m in self.messages[-20:]]}")
        return self.messages

    def next(self, topic: str) -> Any:
        """The first message of `topic`, as JSON where it is; it is taken away."""
        self.wait(lambda messages: any(m.topic == topic for m in messages))
        found = next(m for m in self.messages if m.topic == topic)
        self.messages.remove(found)
        try:
            return json.loads(found.payload)
        except ValueError:
            return found.payload.decode()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Process:
    """`trimtab run` in a process of its own, heard through systemd's notification socket."""

    def __init__(self, folder: Path, config: dict[str, Any], watchdog: float | None = None) -> None:
        self.file = folder / "config.yaml"
        self.write(config)
        self.log = folder / "daemon.log"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = folder / "notify"
        address.unlink(missing_ok=True)
        self.socket.bind(str(address))
        self.socket.settimeout(PATIENCE)
        environment = {**os.environ, "NOTIFY_SOCKET": str(address), "OMP_NUM_THREADS": "1"}
        if watchdog is not None:
            environment["WATCHDOG_USEC"] = str(round(watchdog * 1e6))
        with self.log.open("ab") as log:
            command = [sys.executable, "-c", "from trimtab.runtime.cli import main; main()", "run", str(self.file)]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def write(self, config: dict[str, Any]) -> None:
        self.file.write_text(yaml.safe_dump(config))

    def heard(self, word: str) -> str:
        """The next notification that begins with `word`."""
        while True:
            try:
                message = self.socket.recv(4096).decode()
            except TimeoutError:
                pytest.fail(f"no {word} from the daemon:\n{self.log.read_text()}")
            if message.startswith(word):
                return message

    def started(self) -> Process:
        self.heard("READY=1")
        return self

    def logged(self, words: str) -> None:
        """As soon as `words` are in the log."""
        end = time.monotonic() + PATIENCE
        while words not in self.log.read_text():
            if time.monotonic() > end:
                pytest.fail(f"{words!r} is not in the log:\n{self.log.read_text()}")
            threading.Event().wait(0.01)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """The exit status, as soon as there is one."""
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        self.ended()
        self.socket.close()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for everyone; tests keep apart by their topics."""
    found = Broker(tmp_path_factory.mktemp("broker")).start()
    yield found
    found.stop()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Start a broker with lines of configuration of one's own."""
    started: list[Broker] = []

    def start(*args: Any, **more: Any) -> Broker:
        started.append(Broker(tmp_path / f"broker{len(started)}", *args, **more).start())
        return started[-1]

    yield start
    for found in started:
        found.stop()


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    """Connect a client to a broker, subscribed to topics."""
    clients: list[Client] = []

    def connect(*args: Any, **more: Any) -> Client:
        clients.append(Client(*args, **more))
        return clients[-1]

    yield connect
    for found in clients:
        found.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start `trimtab run` with a configuration (a mapping). It is killed at the end of the test."""
    processes: list[Process] = []

    def start(config: dict[str, Any], **more: Any) -> Process:
        processes.append(Process(tmp_path, config, **more))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


@pytest.fixture(scope="session")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bundle with step graphs: see `tests.waves.Waves`."""
    from tests.waves import exported

    return exported(tmp_path_factory.mktemp("waves") / "bundle")
