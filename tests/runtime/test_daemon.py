"""The daemon as its users see it: a process, a broker, signals."""

from __future__ import annotations

import base64
import json
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from trimtab.drift.catalogue import build
from trimtab.runtime.clock import SystemClock
from trimtab.runtime.config import parse_config
from trimtab.runtime.daemon import Daemon
from trimtab.runtime.errors import TrimtabError
from trimtab.runtime.executors import InlineExecutor
from trimtab.runtime.journal import Journal, Turn
from trimtab.runtime.payloads import encode
from trimtab.runtime.pipeline import Pipeline
from trimtab.runtime.sessions import Engine
from trimtab.runtime.systemd import Notifier

pytestmark = pytest.mark.broker
HOP, ROWS, CHANNELS = 8, 16, 3
Start = Callable[..., Any]


def blocks(count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """`count` blocks of one hop each: they make `count - 1` windows."""
    return list(np.random.default_rng(seed).normal(0, 2, (count, HOP, CHANNELS)).astype(np.float32))


def message(rows: NDArray[np.float32], number: int) -> bytes:
    return encode(rows, "json", time=1000 + number * 0.5, sequence=number)


def decided(messages: list[Any], stream: str) -> dict[int, bytes]:
    """Payloads by window number. Fails where two decisions on one window differ."""
    found: dict[int, bytes] = {}
    for m in messages:
        if m.topic.endswith(f"/decision/{stream}"):
            number = json.loads(m.payload)["sequence"]
            assert found.setdefault(number, m.payload) == m.payload, "two decisions contradict each other"
    return found


def serving(daemon: Start, ear: Any, config: dict[str, Any]) -> Any:
    """A daemon that has subscribed: what is published from now on reaches it."""
    process = daemon(config).started()
    assert ear.next(f"trimtab/{config['node']}/available") == "online"
    return process


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_samples_become_decisions(
    version: str, daemon: Start, client: Start, config: dict[str, Any], broker: Any, tiny: Any
) -> None:
    node = config["node"]
    config["mqtt"]["version"] = version
    config["streams"] = [{"topic": f"{node}/{kind}/+", "payload": kind} for kind in ("json", "msgpack", "raw")]
    config["drift"] = {"signals": ["entropy"]}
    ear = client(broker, f"trimtab/{node}/#")
    serving(daemon, ear, config)
    sent = blocks(4)
    for number, rows in enumerate(sent):
        for kind in ("json", "msgpack", "raw"):
            payload = encode(rows, kind, **({} if kind == "raw" else {"time": 1000 + number / 2, "sequence": number}))
            ear.publish(f"{node}/{kind}/s", payload)
    windows = np.stack([np.concatenate(sent[i : i + 2]).T for i in range(3)])
    expected = tiny.reference(tiny.source, windows)[0].argmax(axis=1)
    for kind in ("json", "msgpack", "raw"):
        for number in range(3):
            decision = ear.next(f"trimtab/{node}/decision/{node}/{kind}/s")
            assert decision["sequence"] == number
            assert decision["label"] == ["no", "yes"][expected[number]]
            assert 0.5 <= decision["score"] <= 1
            assert (decision["version"], decision["stream"]) == (0, f"{node}/{kind}/s")
            if kind != "raw":
                assert decision["time"] == 1000 + (number + 1) / 2


def test_what_cannot_be_read_is_a_dead_letter_and_the_stream_goes_on(
    daemon: Start, client: Start, config: dict[str, Any], broker: Any
) -> None:
    node = config["node"]
    config["streams"][0]["labels"] = f"labels/{node}/+"
    ear = client(broker, f"trimtab/{node}/#")
    serving(daemon, ear, config)
    first, second = blocks(2)
    wrong = [b"\xff\xfe", b"{}", b'{"values": [[1, 2]]}', b"[" * 50_000, b"x" * 10_000]
    ear.publish(f"{node}/s", message(first, 0))
    for payload in wrong:
        ear.publish(f"{node}/s", payload)
    ear.publish(f"labels/{node}/s", {"sequence": 0, "label": True})
    ear.publish(f"{node}/s", message(second, 1))
    assert ear.next(f"trimtab/{node}/decision/{node}/s")["sequence"] == 0
    for payload in wrong:
        letter = ear.next(f"trimtab/{node}/deadletter")
        assert letter["topic"] == f"{node}/s"
        assert letter["reason"]
        assert letter["bytes"] == len(payload)
        assert base64.b64decode(letter["payload"]) == payload[:4096]
    assert "label" in ear.next(f"trimtab/{node}/deadletter")["reason"]


def test_what_labels_told_outlives_a_kill(
    daemon: Start, client: Start, config: dict[str, Any], broker: Any, tiny: Any, tmp_path: Path
) -> None:
    node = config["node"]
    config["journal"] = str(tmp_path / "j.db")
    config["streams"][0]["labels"] = f"labels/{node}/+"
    config["drift"] = {"signals": ["entropy"], "errors": "ddm"}
    ear = client(broker, f"trimtab/{node}/#")
    process = serving(daemon, ear, config)
    for number, rows in enumerate(blocks(2)):
        ear.publish(f"{node}/s", message(rows, number))
    ear.next(f"trimtab/{node}/decision/{node}/s")
    ear.publish(f"labels/{node}/s", {"stream": f"{node}/s", "sequence": 0, "label": "no"})
    ear.publish(f"trimtab/{node}/set/pause", {"stream": "another"})  # journalled with the label, or after it
    ear.next(f"trimtab/{node}/result/pause")
    process.kill()
    assert ear.next(f"trimtab/{node}/available") == "offline"
    journal = Journal(tmp_path / "j.db", tiny.bundle.digest)
    (_, snapshot) = journal.streams()[f"{node}/s"]
    journal.close()
    assert snapshot is not None
    assert snapshot["late"] != build("ddm", every=20_000).state()


def test_a_sender_that_repeats_itself_is_not_heard_twice(
    daemon: Start, client: Start, config: dict[str, Any], broker: Any
) -> None:
    node = config["node"]
    ear = client(broker, f"trimtab/{node}/decision/#", f"trimtab/{node}/available")
    serving(daemon, ear, config)
    for number, rows in enumerate(blocks(3)):
        for _ in range(3):
            ear.publish(f"{node}/s", message(rows, number))
    ear.publish(f"{node}/s", message(blocks(1, seed=9)[0], 3))
    assert [ear.next(f"trimtab/{node}/decision/{node}/s")["sequence"] for _ in range(3)] == [0, 1, 2]
    assert ear.messages == []


def test_commands_are_answered(daemon: Start, client: Start, config: dict[str, Any], broker: Any) -> None:
    node = config["node"]
    ear = client(broker, f"trimtab/{node}/#")
    serving(daemon, ear, config)
    for number, rows in enumerate(blocks(2)):
        ear.publish(f"{node}/s", message(rows, number))
    ear.next(f"trimtab/{node}/decision/{node}/s")

    def order(name: str, payload: Any = b"") -> Any:
        ear.publish(f"trimtab/{node}/set/{name}", payload)
        return ear.next(f"trimtab/{node}/result/{name}")

    for name in ("pause", "resume", "pin", "unpin", "adapt", "reset"):
        assert order(name, {"id": f"1-{name}", "stream": f"{node}/s"}) == {
            "id": f"1-{name}",
            "command": name,
            "ok": True,
            "stream": f"{node}/s",
        }
    assert order("pause") == {"id": None, "command": "pause", "ok": True}
    for name, payload, words in (
        ("rollback", {"id": "a", "stream": f"{node}/s"}, "none before it"),
        ("rollback", {"id": "b"}, "none before it"),
        ("pin", {"version": 7}, "no version 7"),
        ("pause", {"stream": "unknown"}, "no stream"),
        ("pause", {"streams": "s"}, "no such argument"),
        ("pause", b"{", "not JSON"),
        ("explode", {}, "no command"),
    ):
        answer = order(name, payload)
        assert not answer["ok"]
        assert words in answer["error"]
    # The same id is not carried out again, but answered as it was.
    assert order("pin", {"id": "1-pin", "version": 99})["ok"]


def test_a_command_outlives_a_restart(daemon: Start, client: Start, config: dict[str, Any], broker: Any) -> None:
    node = config["node"]
    ear = client(broker, f"trimtab/{node}/#")
    first = serving(daemon, ear, config)
    for number, rows in enumerate(blocks(2)):
        ear.publish(f"{node}/s", message(rows, number))
    ear.next(f"trimtab/{node}/decision/{node}/s")
    ear.publish(f"trimtab/{node}/set/pin", {"stream": f"{node}/s"})
    assert ear.next(f"trimtab/{node}/result/pin")["ok"]
    first.kill()
    assert ear.next(f"trimtab/{node}/available") == "offline"
    serving(daemon, ear, config)
    ear.publish(f"trimtab/{node}/set/pin", {"stream": f"{node}/s", "version": 3, "id": "again"})
    # The first result may come once more: it was perhaps not confirmed when the process died.
    ear.wait(lambda ms: any(m.topic.endswith("/result/pin") and b"no version 3" in m.payload for m in ms))
    for number, rows in enumerate(blocks(2, seed=5), 2):
        ear.publish(f"{node}/s", message(rows, number))
    ear.wait(lambda ms: 1 in decided(ms, f"{node}/s"))


def test_a_backlog_beyond_the_queue_is_not_lost(
    daemon: Start, client: Start, config: dict[str, Any], broker: Any
) -> None:
    """Mosquitto 2.0.11 sends far more than it was asked to; what waits is bounded by not reading it."""
    node = config["node"]
    config |= {"queue": 8, "batch": {"size": 4, "deadline": 0.001}}
    config["mqtt"]["inflight"] = 4
    config["streams"] = [{"topic": f"{node}/+", "payload": "raw"}]
    ear = client(broker, f"trimtab/{node}/#")
    first = serving(daemon, ear, config)
    first.signal(signal.SIGTERM)
    assert first.ended() == 0
    for number, rows in enumerate(blocks(150)):
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.UserProperty = [("time", str(1000 + number / 2)), ("sequence", str(number))]
        ear.publish(f"{node}/s", encode(rows, "raw"), properties=properties)
    process = daemon(config).started()
    ear.wait(lambda ms: 148 in decided(ms, f"{node}/s"))
    found = decided(ear.messages, f"{node}/s")
    assert sorted(found) == list(range(149))
    assert json.loads(found[148])["time"] == 1000 + 149 / 2
    assert "dropped" not in process.log.read_text()


def test_its_last_will_says_that_it_is_gone(daemon: Start, client: Start, config: dict[str, Any], broker: Any) -> None:
    topic = f"trimtab/{config['node']}/available"
    ear = client(broker, topic)
    process = serving(daemon, ear, config)
    process.signal(signal.SIGKILL)
    assert ear.next(topic) == "offline"
    late = client(broker, topic)  # retained
    assert late.next(topic) == "offline"


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_nothing_is_lost_over_a_restart_of_the_broker(
    version: str, daemon: Start, client: Start, config: dict[str, Any], own_broker: Start
) -> None:
    node = config["node"]
    broker = own_broker()
    config["mqtt"] |= {"port": broker.port, "version": version}
    ear = client(broker, f"trimtab/{node}/#")
    process = serving(daemon, ear, config)
    sent = blocks(40)
    for number, rows in enumerate(sent[:20]):
        ear.publish(f"{node}/s", message(rows, number))
    before = list(ear.wait(lambda ms: len(decided(ms, f"{node}/s")) >= 10))
    ear.close()
    broker.stop()
    process.logged("next attempt in")
    broker.start()
    ear = client(broker, f"trimtab/{node}/#")
    for number, rows in enumerate(sent[20:], 20):
        ear.publish(f"{node}/s", message(rows, number))
    after = ear.wait(lambda ms: 38 in decided(ms, f"{node}/s"))
    both = decided([*before, *after], f"{node}/s")
    # What was published while nobody listened is not seen by this client; from its return on, nothing is missing.
    first = min(decided(after, f"{node}/s"))
    assert first <= 19
    assert set(range(first, 39)) <= set(both)
    assert both.keys() >= set(range(10))


def test_sigterm_finishes_what_was_taken(daemon: Start, client: Start, config: dict[str, Any], broker: Any) -> None:
    node = config["node"]
    ear = client(broker, f"trimtab/{node}/#")
    process = serving(daemon, ear, config)
    sent = blocks(120)
    for number, rows in enumerate(sent[:60]):
        ear.publish(f"{node}/s", message(rows, number))
    process.signal(signal.SIGTERM)
    process.heard("STOPPING=1")
    assert process.ended() == 0
    assert ear.next(f"trimtab/{node}/available") == "offline"
    for number, rows in enumerate(sent[60:], 60):
        ear.publish(f"{node}/s", message(rows, number))
    serving(daemon, ear, config)
    ear.wait(lambda ms: 118 in decided(ms, f"{node}/s"))
    assert sorted(decided(ear.messages, f"{node}/s")) == list(range(119))
    numbers = [json.loads(m.payload)["sequence"] for m in ear.messages if "/decision/" in m.topic]
    assert numbers == list(range(119)), "after a clean stop nothing is even published twice"


def test_sighup_takes_up_a_new_configuration(daemon: Start, client: Start, config: dict[str, Any], broker: Any) -> None:
    node = config["node"]
    ear = client(broker, f"trimtab/{node}/#")
    process = serving(daemon, ear, config)
    sent = blocks(4)
    ear.publish(f"{node}/s", message(sent[0], 0))

    process.write({**config, "batch": {"size": 0}})
    process.signal(signal.SIGHUP)
    assert re.search(r"MONOTONIC_USEC=\d+", process.heard("RELOADING=1"))
    process.heard("READY=1")
    ear.publish(f"{node}/s", message(sent[1], 1))
    assert ear.next(f"trimtab/{node}/decision/{node}/s")["sequence"] == 0  # half of it came before
    ear.publish(f"trimtab/{node}/set/reload", {"id": "r"})
    answer = ear.next(f"trimtab/{node}/result/reload")
    assert not answer["ok"]
    assert "batch.size" in answer["error"]

    streams = [*config["streams"], {"topic": f"more/{node}/+", "payload": "raw", "dtype": "float64"}]
    process.write({**config, "streams": streams, "drift": {"signals": ["entropy"]}, "batch": {"size": 7}})
    ear.publish(f"trimtab/{node}/set/reload", {"id": "s"})
    assert ear.next(f"trimtab/{node}/result/reload")["ok"]
    for rows in sent:
        ear.publish(f"more/{node}/x", encode(rows, "raw", dtype="float64"))
    ear.publish(f"{node}/s", message(sent[2], 2))
    assert ear.next(f"trimtab/{node}/decision/more/{node}/x")["sequence"] == 0
    assert ear.next(f"trimtab/{node}/decision/{node}/s")["sequence"] == 1

    # A filter that is gone is gone at the broker too, whose session would have kept it.
    process.write({**config, "drift": {"detector": "sprt"}})
    process.signal(signal.SIGHUP)
    process.heard("RELOADING=1")
    process.heard("READY=1")
    ear.publish(f"{node}/s", message(sent[3], 3))
    assert ear.next(f"trimtab/{node}/decision/{node}/s")["sequence"] == 2
    assert "READY" not in process.log.read_text()


def test_another_bundle_never_gives_a_window_number_twice(
    daemon: Start, client: Start, config: dict[str, Any], broker: Any, tiny_served: Any
) -> None:
    node = config["node"]
    ear = client(broker, f"trimtab/{node}/decision/#", f"trimtab/{node}/available")
    process = serving(daemon, ear, config)
    for number, rows in enumerate(blocks(3)):
        ear.publish(f"{node}/s", message(rows, number))
    for number in (0, 1):
        assert ear.next(f"trimtab/{node}/decision/{node}/s")["sequence"] == number
    process.write({**config, "bundle": str(tiny_served.bundle.path), "drift": {"signals": ["entropy"]}})
    process.signal(signal.SIGHUP)
    process.heard("RELOADING=1")
    process.heard("READY=1")
    for number, rows in enumerate(blocks(2, seed=3), 3):
        ear.publish(f"{node}/s", message(rows, number))
    assert ear.next(f"trimtab/{node}/decision/{node}/s")["sequence"] == 2


def adapted(tiny: Any, config: dict[str, Any], path: Path) -> list[str]:
    """Leave a journal in `path` of two streams, each with a vector of its own in use."""
    names = [f"{config['node']}/{k}" for k in "ab"]
    settings = parse_config(config, "test")
    engine = Engine(tiny.bundle, settings.sessions, InlineExecutor())
    pipeline = Pipeline(tiny.bundle, settings, engine, SystemClock(), InlineExecutor(), resumable=True)
    versions = {}
    for k, name in enumerate(names):
        pipeline.renumber(name, 5)
        kept = pipeline.stream(name).adaptation.versions
        kept.add(tiny.theta(k), "test", {}, 0.0)
        versions[name] = (kept.state(), kept.to_rows())
    journal = Journal(path, tiny.bundle.digest)
    journal.write(Turn(streams={name: pipeline.snapshot(name) for name in names}, versions=versions))
    journal.close()
    config["journal"] = str(path)
    return names


def test_a_bank_too_small_for_what_is_in_use_is_refused(
    daemon: Start, client: Start, config: dict[str, Any], broker: Any, tiny: Any, tmp_path: Path
) -> None:
    node = config["node"]
    names = adapted(tiny, config, tmp_path / "kept.db")
    small = {**config, "sessions": {"slots": 1}}
    process = daemon(small)
    assert process.ended() == 2
    assert "sessions.slots: all 1 rows" in process.log.read_text()

    ear = client(broker, f"trimtab/{node}/#")
    process = serving(daemon, ear, config)
    process.write(small)
    ear.publish(f"trimtab/{node}/set/reload", {"id": "r"})
    answer = ear.next(f"trimtab/{node}/result/reload")
    assert not answer["ok"]
    assert "sessions.slots: all 1 rows" in answer["error"]
    for number, rows in enumerate(blocks(2)):
        for name in names:
            ear.publish(name, message(rows, number))
    for name in names:
        decision = ear.next(f"trimtab/{node}/decision/{name}")
        assert (decision["sequence"], decision["version"]) == (5, 1)


def test_what_the_broker_keeps_of_a_stream_is_true_after_a_change_of_the_bundle(
    daemon: Start, client: Start, config: dict[str, Any], broker: Any, tiny: Any, tiny_served: Any, tmp_path: Path
) -> None:
    node = config["node"]
    names = adapted(tiny, config, tmp_path / "kept.db")
    ear = client(broker, f"trimtab/{node}/available")
    serving(daemon, ear, {**config, "bundle": str(tiny_served.bundle.path), "drift": {"signals": ["entropy"]}})
    late = client(broker, f"trimtab/{node}/state/#")
    for name in names:
        state = late.next(f"trimtab/{node}/state/{name}")
        assert (state["state"], state["version"], state["sequence"]) == ("stable", 0, 5)


def test_killed_again_and_again_it_loses_nothing_and_contradicts_nothing(
    daemon: Start, client: Start, config: dict[str, Any], broker: Any
) -> None:
    node = config["node"]
    config["batch"] = {"size": 8, "deadline": 0.005}
    ear = client(broker, f"trimtab/{node}/decision/#", f"trimtab/{node}/available")
    mouth = client(broker)
    sent = blocks(301)
    go = threading.Event()

    def stream() -> None:
        go.wait()
        for number, rows in enumerate(sent):
            mouth.publish(f"{node}/s", message(rows, number))

    sender = threading.Thread(target=stream)
    sender.start()
    process = serving(daemon, ear, config)
    go.set()
    for mark in (20, 90, 170):
        ear.wait(lambda ms, mark=mark: len(decided(ms, f"{node}/s")) >= mark)  # type: ignore[misc]
        process.kill()
        process = daemon(config).started()
    ear.wait(lambda ms: 299 in decided(ms, f"{node}/s"))
    sender.join()
    assert sorted(decided(ear.messages, f"{node}/s")) == list(range(300))


def test_systemd_hears_that_the_loop_turns(daemon: Start, config: dict[str, Any]) -> None:
    process = daemon(config, watchdog=0.4).started()
    for _ in range(3):
        process.heard("WATCHDOG=1")
    assert "connected" in process.heard("STATUS=")
    process.signal(signal.SIGTERM)
    process.heard("STOPPING=1")
    assert process.ended() == 0


MISTAKES = [
    ({"streams": []}, "streams: is empty"),
    ({"bundle": "nowhere"}, "no such folder"),
    ({"mqtt": {"password_file": "none.txt", "username": "u"}}, "none.txt cannot be read"),
    ({"mqtt": {"tls": {"ca": "none.pem"}}}, "none.pem is no file"),
    ({"journal": "none/j.db"}, "j.db: cannot be written"),
    ({"drift": {"detector": "oracle"}}, "oracle"),
]


@pytest.mark.parametrize(("wrong", "words"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_at_the_start_is_one_sentence(
    wrong: dict[str, Any], words: str, config: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    for _ in range(2):  # it leaves nothing behind that would be in the way of the next start
        file.write_text(yaml.safe_dump({**config, **wrong}))
        with pytest.raises(TrimtabError) as caught:
            Daemon(file, Notifier({}))
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_mistake_ends_with_status_2(daemon: Start, config: dict[str, Any]) -> None:
    process = daemon({**config, "queue": 0})
    assert process.ended() == 2
    (line,) = process.log.read_text().splitlines()
    assert "queue" in line


def test_a_broker_that_is_not_there_is_waited_for(
    daemon: Start, client: Start, config: dict[str, Any], own_broker: Start
) -> None:
    node = config["node"]
    broker = own_broker()
    broker.stop()
    config["mqtt"]["port"] = broker.port
    process = daemon(config).started()
    process.logged("Connection refused")
    broker.start()
    ear = client(broker, f"trimtab/{node}/available")
    assert ear.next(f"trimtab/{node}/available") == "online"
