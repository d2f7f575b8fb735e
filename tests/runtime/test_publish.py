"""The embedded broker, and a recording published through it."""

from __future__ import annotations

import json
import queue
import socket
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import paho.mqtt.client as paho
import pytest
import yaml
from click.testing import CliRunner
from paho.mqtt.enums import CallbackAPIVersion

from tests.runtime.conftest import Tiny
from trimtab.runtime.cli import cli
from trimtab.runtime.config import Config, Mqtt, Stream, parse_config
from trimtab.runtime.embedded_broker import embedded_broker, free_port
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.payloads import Form, decode
from trimtab.runtime.publish import Publisher, publish_recording, topic_of
from trimtab.runtime.recordings import Recording

PATIENCE = 10.0


class Listener:
    """Subscribes to everything, and is there before anything is published."""

    def __init__(self, port: int, version: str) -> None:
        self.messages: queue.SimpleQueue[paho.MQTTMessage | None] = queue.SimpleQueue()
        protocol = paho.MQTTv5 if version == "5" else paho.MQTTv311
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        self.client.on_subscribe = lambda *_: self.messages.put(None)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.messages.get(timeout=PATIENCE) is None

    def take(self) -> paho.MQTTMessage:
        message = self.messages.get(timeout=PATIENCE)
        assert message is not None
        return message

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    lines = ["time,stream,a,b,c,label"]
    for i in range(40):
        for name in ("left", "right"):
            lines.append(f"{50 + i / 16},{name}," + ",".join(f"{v:.4f}" for v in rng.normal(0, 2, 3)) + ",yes")
    (tmp_path / "two.csv").write_text("\n".join(lines))
    return tmp_path / "two.csv"


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_recording_arrives_as_it_was(version: Literal["5", "3.1.1"], tiny: Tiny, recording: Path) -> None:
    with embedded_broker(version) as port:
        listener = Listener(port, version)
        stream = {"topic": "sensors/+/raw", "payload": "msgpack"}
        mqtt = {"host": "127.0.0.1", "port": port, "version": version}
        config = parse_config({"bundle": "b", "streams": [stream], "mqtt": mqtt}, "test")
        source = Recording(recording, tiny.bundle.manifest)
        assert publish_recording(source, tiny.bundle, config, 100.0) == 10
        form = Form.of(tiny.bundle.manifest)
        counts = {"left": 0, "right": 0}
        for sent in source.blocks():
            message = listener.take()
            assert (message.topic, message.qos) == (f"sensors/{sent.stream}/raw", 1)
            got = decode(message.payload, message.topic, config.streams[0], form, 0.0)
            np.testing.assert_array_equal(np.asarray(got.values), np.asarray(sent.values))
            assert (got.time, got.sequence, got.labels) == (sent.time, counts[sent.stream], None)
            counts[sent.stream] += 1
        listener.close()


def test_the_command_publishes(tiny: Tiny, recording: Path, tmp_path: Path) -> None:
    with embedded_broker() as port:
        listener = Listener(port, "5")
        file = tmp_path / "config.yaml"
        settings = {
            "bundle": str(tiny.bundle.path),
            "streams": [{"topic": "in/+"}],
            "mqtt": {"host": "127.0.0.1", "port": port},
        }
        file.write_text(yaml.safe_dump(settings))
        result = CliRunner().invoke(cli, ["replay", str(recording), "--config", str(file), "--publish"])
        assert (result.exit_code, result.output) == (0, "10 messages published\n")
        assert set(json.loads(listener.take().payload)) == {"time", "sequence", "values"}
        listener.close()


def test_topics(tiny: Tiny, recording: Path) -> None:
    block = next(Recording(recording, tiny.bundle.manifest).blocks())
    assert topic_of(block, Stream(topic="sensors/#")) == "sensors/left"
    assert topic_of(block, Stream(topic="$share/group/+/x")) == "left/x"
    assert topic_of(block, Stream(topic="plain")) == "plain"
    with pytest.raises(ConfigError, match="has several wildcards; name one topic"):
        topic_of(block, Stream(topic="+/+"))


def test_one_topic_cannot_carry_two_streams(tiny: Tiny, recording: Path) -> None:
    with embedded_broker() as port:
        mqtt = Mqtt(host="127.0.0.1", port=port)
        config = Config(bundle=Path("b"), streams=[Stream(topic="plain")], mqtt=mqtt)
        with pytest.raises(ConfigError, match=r"has no wildcard, but the recording has several streams; put a \+"):
            publish_recording(Recording(recording, tiny.bundle.manifest), tiny.bundle, config, None)
        nothing = config.model_copy(update={"streams": []})
        with pytest.raises(ConfigError, match="streams: is empty"):
            publish_recording(Recording(recording, tiny.bundle.manifest), tiny.bundle, nothing, None)


def test_no_broker_is_one_sentence() -> None:
    port = free_port()
    with pytest.raises(ConfigError, match=f"no broker answers at 127.0.0.1:{port}"):
        Publisher(Mqtt(host="127.0.0.1", port=port)).__enter__()


def test_another_protocol_version_is_refused() -> None:
    with embedded_broker("3.1.1") as port, pytest.raises(ConfigError, match="lets nobody in"):
        Publisher(Mqtt(host="127.0.0.1", port=port, version="5")).__enter__()


def test_the_embedded_broker_listens_on_loopback_only_and_lets_its_port_go() -> None:
    with embedded_broker() as port:
        bound = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in Path(table).read_text().splitlines()[1:]:
                address, number = line.split()[1].rsplit(":", 1)
                if int(number, 16) == port and line.split()[3] == "0A":
                    bound.add(address)
        assert bound == {"0100007F"}
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_without_iotcore_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "iotcore", None)
    with pytest.raises(ConfigError, match=r"needs iotcore; pip install 'trimtab\[demo\]'"), embedded_broker():
        pass
