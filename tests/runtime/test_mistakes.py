"""Every mistake of the table gets its one sentence, wherever it is made; and the daemon stays up."""

from __future__ import annotations

import base64
import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.runtime import mistakes
from tests.runtime.mistakes import CASES, LINES, RIGHT, TOPIC, Case, judge
from trimtab.runtime import cli
from trimtab.runtime.bundle import Bundle
from trimtab.runtime.config import Stream
from trimtab.runtime.errors import ConfigError, PayloadError
from trimtab.runtime.payloads import Form, decode, encode
from trimtab.runtime.recordings import Recording
from trimtab.runtime.topics import captured, overlap

LEAST = {"config": 30, "bundle": 20, "payload": 30, "recording": 25}
Start = Callable[..., Any]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.name}")
def test_it_gets_its_sentence(case: Case, tmp_path: Path, tiny_bundle: Bundle) -> None:
    verdict = judge(case, tmp_path, tiny_bundle)
    assert verdict.faults == [], verdict.sentence


def test_the_table_is_long_enough_and_no_case_is_there_twice() -> None:
    assert min((Counter(case.kind for case in CASES) - Counter(LEAST)).values()) >= 0
    assert {case.kind for case in CASES} == set(LEAST)
    assert max(Counter((case.kind, case.name) for case in CASES).values()) == 1
    assert mistakes.SPRUNG == []


def test_what_is_right_is_taken(tmp_path: Path, tiny_bundle: Bundle) -> None:
    """What the cases differ from: without the mistake there is nothing to say."""
    (tmp_path / "bundle").symlink_to(tiny_bundle.path)
    (tmp_path / "config.yaml").write_text(RIGHT)
    mistakes.start(tmp_path / "config.yaml")
    mistakes.use(tmp_path / "bundle")
    (tmp_path / "r.csv").write_text("\n".join(LINES))
    assert sum(len(b.values) for b in Recording(tmp_path / "r.csv", tiny_bundle.manifest).blocks()) == len(LINES) - 1
    decode(b'{"values": [[1, 2, 3]], "battery": true}', TOPIC, Stream(topic=TOPIC), Form.of(tiny_bundle.manifest), 0.0)


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("config.yaml: queue: is 0; give at least 1", None),
        ("config.yaml: queue: is 0", "what to do"),
        ("config.yaml: queue: is 0; it must be 1", "what to do"),
        ("config.yaml: queue: is 0; use another", "give at least 1"),
        ("config.yaml: is 0; give at least 1", "does not tell queue"),
        ("queue: is 0; give at least 1", "does not begin with"),
        ("config.yaml: queue: is 0. Then; give at least 1", "more than one sentence"),
        ("config.yaml: queue: is 0\n; give at least 1", "more than one line"),
        ("config.yaml: queue: Input should be 1; give at least 1", "Input should"),
        ("config.yaml: queue: is 0; give at least 1" + " or more" * 40, "characters"),
    ],
)
def test_the_judgement_itself(sentence: str, fault: str | None, tmp_path: Path, tiny_bundle: Bundle) -> None:
    def attempt(folder: Path, bundle: Bundle) -> str:
        raise ConfigError(sentence)

    case = Case("config", "any", attempt, "queue", "give at least 1", ConfigError, r"config\.yaml")
    faults = judge(case, tmp_path, tiny_bundle).faults
    assert faults == [] if fault is None else any(fault in f for f in faults)


def test_another_exception_and_acceptance_are_faults(tmp_path: Path, tiny_bundle: Bundle) -> None:
    def broken(folder: Path, bundle: Bundle) -> str:
        raise KeyError("queue")

    for attempt, fault in ((broken, "KeyError"), (lambda folder, bundle: "", "accepted")):
        case = Case("config", "any", attempt, "", "", ConfigError, "")
        assert fault in judge(case, tmp_path, tiny_bundle).faults[0]


# -- the command line -------------------------------------------------------------------------------------------------


def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What `trimtab` writes to stderr as it leaves with status 2."""
    monkeypatch.setattr("sys.argv", ["trimtab", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    assert (left.value.code, out) == (2, "")
    return err


def process(*arguments: object) -> str:
    """The same, in a process of its own."""
    command = [sys.executable, "-c", "from trimtab.runtime.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def config_file(folder: Path, bundle: Bundle, **sections: Any) -> Path:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({"bundle": str(bundle.path), "streams": [{"topic": "s"}], **sections}))
    return file


def test_run_refuses_in_one_sentence(tmp_path: Path, tiny_bundle: Bundle) -> None:
    file = config_file(tmp_path, tiny_bundle, mqtt={"tls": {"ca": "nowhere.pem"}})
    wanted = f"trimtab: {file}: mqtt.tls.ca: {tmp_path}/nowhere.pem is no file; give a PEM file\n"
    assert process("run", file) == wanted


def test_replay_refuses_in_one_sentence(
    tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("\n".join([*LINES[:6], "1000.5,1,oops,3,no"]))
    wanted = f"trimtab: {wrong}: line 7: b: 'oops' is no number; give a number, or leave it empty for NaN\n"
    assert process("replay", wrong, "--bundle", tiny_bundle.path) == wanted
    right = tmp_path / "right.csv"
    right.write_text("\n".join(LINES))
    said = main(monkeypatch, capsys, "replay", right)
    assert said == "trimtab: --bundle: is missing; give the bundle's folder, or a configuration with --config\n"
    said = main(monkeypatch, capsys, "replay", right, "--bundle", tmp_path / "nowhere")
    assert said == f"trimtab: {tmp_path}/nowhere: no such folder; give the folder that `trimtab export` wrote\n"
    short = tmp_path / "short.csv"
    short.write_text("\n".join(LINES[:9]))
    said = main(monkeypatch, capsys, "replay", short, "--bundle", tiny_bundle.path)
    assert said.startswith(f"trimtab: {short}: gave no window: ")
    assert said.count("\n") == 1
    # What only shows when the pipeline is built names the file that it is in, too.
    file = config_file(tmp_path, tiny_bundle, drift={"options": {"warmpu": 64}})
    said = main(monkeypatch, capsys, "replay", right, "--config", file)
    assert said.startswith(f"trimtab: {file}: drift.options: ")
    assert said.count("\n") == 1


def test_config_check_says_the_same(
    tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(tmp_path, tiny_bundle, sesions={"slots": 2})
    said = main(monkeypatch, capsys, "config", "check", file)
    assert said == f"trimtab: {file}: sesions: there is no such key; did you mean 'sessions'?\n"
    for wrong, key in (
        ({"drift": {"options": {"warmpu": 64}}}, "drift.options"),
        ({"drift": {"detector": "sprit"}}, "drift.detector"),
        ({"drift": {"false_alarms": {"every": 1e-9, "per": "windows"}}}, "drift.false_alarms.every"),
        ({"adaptation": {"options": {"norm_statistics": {"prio": 1}}}}, "adaptation.options.norm_statistics"),
    ):
        file = config_file(tmp_path, tiny_bundle, **wrong)
        said = main(monkeypatch, capsys, "config", "check", file)
        assert said.startswith(f"trimtab: {file}: {key}: ")
        assert said.count("\n") == 1


def test_what_a_detector_needs_is_missed_only_where_it_is_configured(tmp_path: Path, tiny_bundle: Bundle) -> None:
    without = "import sys; sys.modules['numba'] = None; from trimtab.runtime.cli import main; main()"
    command = [sys.executable, "-c", without, "config", "check"]
    file = config_file(tmp_path, tiny_bundle)
    assert subprocess.run([*command, file], capture_output=True, timeout=60).returncode == 0
    file = config_file(tmp_path, tiny_bundle, drift={"detector": "htm"})
    done = subprocess.run([*command, file], capture_output=True, text=True, timeout=60)
    wanted = f"trimtab: {file}: drift.detector: HTM needs numba, which is not installed; install trimtab[htm]\n"
    assert (done.returncode, done.stderr) == (2, wanted)


# -- the daemon -------------------------------------------------------------------------------------------------------


@pytest.mark.broker
def test_the_daemon_stays_up(
    daemon: Start, client: Start, broker: Any, tmp_path: Path, tiny_bundle: Bundle, tiny: Any
) -> None:
    """All wrong payloads come, each ends as a dead letter with its reason, and a right one is then decided on."""
    form = Form.of(tiny_bundle.manifest)
    config = {
        "bundle": str(tiny_bundle.path),
        "node": "mistakes",
        "mqtt": {"host": "127.0.0.1", "port": broker.port, "reconnect_max": 0.2},
        "streams": [{"topic": f"wrong/{kind}", "payload": kind} for kind in ("json", "msgpack", "raw")],
    }
    ear = client(broker, "trimtab/mistakes/#")
    process = daemon(config).started()
    assert ear.next("trimtab/mistakes/available") == "online"
    wrong = [case.payload for case in CASES if case.payload is not None and case.payload.live]
    assert len(wrong) >= 30
    for payload in wrong:
        ear.publish(f"wrong/{payload.format}", payload.data)
    for payload in wrong:
        letter = ear.next("trimtab/mistakes/deadletter")
        with pytest.raises(PayloadError) as reason:
            decode(payload.data, "s", Stream(topic="s", payload=payload.format), form, 0.0)  # type: ignore[arg-type]
        assert (letter["topic"], letter["reason"]) == (f"wrong/{payload.format}", str(reason.value))
        assert letter["bytes"] == len(payload.data)
        assert base64.b64decode(letter["payload"]) == payload.data[: len(base64.b64decode(letter["payload"]))]
    for kind in ("json", "msgpack", "raw"):
        rows = np.random.default_rng(3).normal(0, 2, (16, 3)).astype(np.float32)
        ear.publish(f"wrong/{kind}", encode(rows, kind))  # type: ignore[arg-type]
        decision = ear.next(f"trimtab/mistakes/decision/wrong/{kind}")
        expected = tiny.reference(tiny.source, rows.T[None])[0].argmax()
        assert (decision["sequence"], decision["label"]) == (0, ["no", "yes"][expected])
    assert process.process.poll() is None
    assert "Traceback" not in process.log.read_text()


@pytest.mark.broker
def test_a_reload_with_a_mistake_is_refused(
    daemon: Start, client: Start, broker: Any, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    """Also where the mistake is in a file that only the connection needs: the old configuration serves on."""
    right = {
        "bundle": str(tiny_bundle.path),
        "node": "reloaded",
        "mqtt": {"host": "127.0.0.1", "port": broker.port, "reconnect_max": 0.2},
        "streams": [{"topic": "reloaded/+"}],
    }
    ear = client(broker, "trimtab/reloaded/#")
    process = daemon(right).started()
    assert ear.next("trimtab/reloaded/available") == "online"
    secret = right["mqtt"] | {"username": "u", "password_file": "nowhere"}  # type: ignore[operator]
    for wrong, key in (
        (right | {"queue": 0}, "queue"),
        (right | {"mqtt": secret}, "mqtt.password_file"),
        (right | {"drift": {"detector": "nosuch"}}, "drift.detector"),
    ):
        process.write(wrong)
        ear.publish("trimtab/reloaded/set/reload", {"id": key})
        answer = ear.next("trimtab/reloaded/result/reload")
        assert not answer["ok"]
        assert answer["error"].startswith(f"{process.file}: {key}: ")
    rows = np.zeros((16, 3), np.float32)
    ear.publish("reloaded/s", encode(rows, "json"))
    assert ear.next("trimtab/reloaded/decision/reloaded/s")["sequence"] == 0
    assert process.process.poll() is None


# -- topic filters ----------------------------------------------------------------------------------------------------


LEVELS = ["a", "b", "+", "#", ""]


def test_filters_overlap_where_a_topic_matches_both() -> None:
    """Against all topics of up to three levels, for all filters of up to three."""
    topics = ["/".join(t) for n in (1, 2, 3, 4) for t in itertools.product(["a", "b", "", "z"], repeat=n)]
    filters = [
        "/".join(f) for n in (1, 2, 3) for f in itertools.product(LEVELS, repeat=n) if "#" not in f[:-1] and any(f)
    ]
    matched = {f: {t for t in topics if captured(f, t) is not None} for f in filters}
    for one, other in itertools.combinations_with_replacement(filters, 2):
        assert overlap(one, other) == bool(matched[one] & matched[other]), (one, other)
    assert overlap("$share/g/a/+", "a/b")
    assert not overlap("#", "$SYS/broker")
