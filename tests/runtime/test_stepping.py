"""Step graphs in the pipeline, the replay and the daemon: the policies, what is kept over a restart, and commands."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import trimtab.adapters
from trimtab.runtime.adaptation import Adaptation
from trimtab.runtime.blocks import Block
from trimtab.runtime.bundle import Bundle, load_bundle
from trimtab.runtime.clock import SimulatedClock
from trimtab.runtime.config import Config, parse_config
from trimtab.runtime.decisions import Decision, Event
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.executors import InlineExecutor
from trimtab.runtime.journal import Journal, Turn
from trimtab.runtime.payloads import encode
from trimtab.runtime.pipeline import Pipeline
from trimtab.runtime.replay import DecisionsFile, replay
from trimtab.runtime.sessions import Engine
from trimtab.runtime.tries import configured_methods

BATCH = 32
ALWAYS = {"policy": "always", "methods": ["tent"], "options": {"tent": {"lr": 0.01, "batch": BATCH}}, "patience": 60.0}
TRIED = {"methods": ["tent"], "options": {"tent": {"lr": 0.01, "span": 64, "batch": 32, "passes": 2}}}


@pytest.fixture(scope="module")
def bundle(waves: Any) -> Bundle:
    return load_bundle(waves.path)


def settings(waves: Any, **adaptation: Any) -> Config:
    return parse_config({"bundle": str(waves.path), "node": "n", "adaptation": adaptation}, "test")


def labels(count: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 3, count)


class Box:
    """A pipeline fed one window a second, and all that it said."""

    def __init__(self, bundle: Bundle, config: Config) -> None:
        self.clock = SimulatedClock(0.0)
        self.engine = Engine(bundle, config.sessions, InlineExecutor())
        self.pipeline = Pipeline(bundle, config, self.engine, self.clock, InlineExecutor(), resumable=True)
        self.decisions: list[Decision] = []
        self.events: list[Event] = []
        self.tokens: list[object] = []

    def feed(self, x: NDArray[np.float32], first: int = 0, stream: str = "s") -> None:
        """Windows `[n, 3, 16]`, the first of which has the number `first`."""
        for number, window in enumerate(x, first):
            self.clock.advance_to(float(number))
            self.pipeline.offer(Block(stream, float(number), np.ascontiguousarray(window.T), token=number))
            while (due := self.pipeline.due()) is not None and due <= number + 0.5:
                self.turn()

    def turn(self, flush: bool = False) -> None:
        due = self.pipeline.due()
        if due is not None:
            self.clock.advance_to(max(due, self.clock.now()))
        step = self.pipeline.step(flush=flush)
        self.decisions += step.decisions
        self.events += step.events
        self.tokens += step.tokens

    def drain(self) -> None:
        while self.pipeline.due() is not None:
            self.turn(flush=True)

    def told(self, topic: str) -> list[dict[str, Any]]:
        return [e.payload for e in self.events if e.topic == topic]

    def right(self, wanted: NDArray[np.int64]) -> float:
        """The share of the last decisions that are right."""
        names = self.pipeline.bundle.manifest.classes
        last = self.decisions[-len(wanted) :]
        return float(np.mean([d.output == names[k] for d, k in zip(last, wanted, strict=True)]))

    @property
    def adaptation(self) -> Adaptation:
        return self.pipeline.stream("s").adaptation


@pytest.fixture
def box(bundle: Bundle) -> Iterator[Callable[[Config], Box]]:
    opened: list[Box] = []

    def make(config: Config) -> Box:
        opened.append(Box(bundle, config))
        return opened[-1]

    yield make
    for one in opened:
        one.engine.close()


# -- always ----------------------------------------------------------------------------------------------------------


def test_it_decides_as_the_guarded_method_does_on_the_same_batches(waves: Any, box: Callable[[Config], Box]) -> None:
    truth = labels(960)
    x = waves.windows(truth, 3, faulty=True)
    here = box(settings(waves, **ALWAYS))
    here.feed(x)
    guarded = trimtab.adapters.guarded(waves.path, "tent", threads=1, lr=0.01)
    wanted, trusted = [], []
    for start in range(0, len(x), BATCH):
        wanted += guarded.step(x[start : start + BATCH]).argmax(axis=1).tolist()
        trusted += [guarded.trusted] * BATCH
    classes = here.pipeline.bundle.manifest.classes
    assert [d.output for d in here.decisions] == [classes[k] for k in wanted]
    assert [d.method for d in here.decisions] == ["tent" if t else None for t in trusted]
    assert here.right(truth[640:]) > 0.9
    assert [d.sequence for d in here.decisions] == list(range(960))
    assert here.decisions[-1].payload()["method"] == "tent"
    [taken] = here.told("adaptation/s")
    assert (taken["accepted"], taken["methods"], taken["from"], taken["to"]) == (True, ["tent"], 0, 0)
    assert taken["trail"][0]["evidence"] == "prior"
    assert taken["trail"][0]["strange"] > 0.5
    json.dumps(taken, allow_nan=False)


def test_a_collapse_is_undone_and_told(waves: Any, box: Callable[[Config], Box]) -> None:
    here = box(settings(waves, **ALWAYS))
    stepping = here.pipeline.stream("s").stepping
    assert stepping is not None
    adapter = stepping.guarded.adapter
    adapter.restore({**adapter.state(), "theta": np.zeros_like(adapter.theta)})
    truth = labels(640)
    here.feed(waves.windows(truth, 3))
    assert here.right(truth) > 0.98
    [undone] = here.told("adaptation/s")
    assert (undone["accepted"], undone["rolled_back"]) == (False, True)
    assert undone["trail"][0]["back_to"] == "start"
    assert "predicts 1.0 classes" in undone["trail"][0]["reason"]


def test_a_window_waits_for_its_batch_but_not_for_ever(waves: Any, box: Callable[[Config], Box]) -> None:
    here = box(settings(waves, **{**ALWAYS, "patience": 5.0}))
    x = waves.windows(labels(4), 3)
    here.feed(x)
    assert (here.decisions, here.tokens) == ([], [])
    # One that cannot go through a model waits, too: decisions come in order.
    here.feed(np.full((1, 3, 16), np.nan, np.float32), 4)
    assert here.pipeline.due() == pytest.approx(5.0, abs=0.1)
    here.turn()
    assert [d.output is None for d in here.decisions] == [False] * 4 + [True]
    assert here.tokens == [0, 1, 2, 3, 4]
    assert here.pipeline.due() is None


def test_streams_have_states_of_their_own(waves: Any, box: Callable[[Config], Box]) -> None:
    here = box(settings(waves, **ALWAYS))
    for start in range(0, 256, BATCH):
        some = labels(BATCH, start)
        here.feed(waves.windows(some, start, faulty=True), start, "a")
        here.feed(waves.windows(some, start), start, "b")
    states = [here.pipeline.stream(name).stepping for name in "ab"]
    assert all(s is not None for s in states)
    first, second = (s.guarded.adapter.theta for s in states if s is not None)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("kills", [(70,), (33, 600, 601), (512,)])
def test_killed_anywhere_it_goes_on_bit_for_bit(
    waves: Any, box: Callable[[Config], Box], tmp_path: Path, kills: tuple[int, ...]
) -> None:
    config = settings(waves, **ALWAYS)
    x = waves.windows(labels(800), 3, faulty=True)
    undisturbed = box(config)
    undisturbed.feed(x)
    decisions: list[Decision] = []
    acknowledged: set[object] = set()
    journal = Journal(tmp_path / "j.db", "bundle")
    for end in (*kills, len(x)):
        here = box(config)
        for name, (_, snapshot) in journal.streams().items():
            assert snapshot is not None
            here.pipeline.restore(name, snapshot)
        for number in range(end):
            if number not in acknowledged:
                here.feed(x[number : number + 1], number)
                journal.write(Turn(streams={"s": here.pipeline.snapshot("s")}))
                acknowledged |= set(here.tokens)
        decisions += here.decisions
        journal.close()  # what was not acknowledged is sent again
        journal = Journal(tmp_path / "j.db", "bundle")
    journal.close()
    assert decisions == undisturbed.decisions
    assert any(d.method for d in decisions)


def test_a_journalled_state_of_another_method_is_left(
    waves: Any, box: Callable[[Config], Box], caplog: pytest.LogCaptureFixture
) -> None:
    here = box(settings(waves, **ALWAYS))
    here.feed(waves.windows(labels(64), 3))
    there = box(settings(waves, policy="always", methods=["prior_correction"], patience=60.0))
    there.pipeline.restore("s", here.pipeline.snapshot("s"))
    assert "its step graph starts anew: it is of tent, and prior_correction is configured" in caplog.text
    there.feed(waves.windows(labels(64), 3), 64)
    there.drain()
    assert [d.sequence for d in there.decisions] == list(range(64, 128))


def test_commands_hold_for_a_step_graph(waves: Any, box: Callable[[Config], Box]) -> None:
    here = box(settings(waves, **ALWAYS))
    x = waves.windows(labels(1600), 3, faulty=True)
    stepping = here.pipeline.stream("s").stepping
    assert stepping is not None
    adapter = stepping.guarded.adapter
    start = adapter.theta
    here.feed(x[:800])
    assert here.decisions[-1].method == "tent"
    for command, back in (("pause", "resume"), ("pin", "unpin")):
        here.pipeline.command(command, "s")
        theta = adapter.theta
        count = len(here.decisions)
        here.feed(x[count : count + 64], count)
        assert {d.method for d in here.decisions[count:]} == {None}
        np.testing.assert_array_equal(adapter.theta, theta)
        here.pipeline.command(back, "s")
        count = len(here.decisions)
        here.feed(x[count : count + 64], count)
        assert here.decisions[-1].method == "tent"
    here.pipeline.command("reset", "s")
    np.testing.assert_array_equal(adapter.theta, start)
    assert not stepping.guarded.trusted
    for command, reason in (("adapt", "policy is always"), ("rollback", "none before it")):
        with pytest.raises(ValueError, match=reason):
            here.pipeline.command(command, "s")


def test_two_replays_are_the_same_bit_for_bit(waves: Any, bundle: Bundle) -> None:
    x = waves.windows(labels(800), 3, faulty=True)

    def decided() -> str:
        file = io.StringIO()
        blocks = [Block("s", float(n), np.ascontiguousarray(window.T)) for n, window in enumerate(x)]
        replay(bundle, settings(waves, **ALWAYS), blocks, [DecisionsFile(file)])
        return file.getvalue()

    first = decided()
    assert first == decided()
    assert len(first.splitlines()) == 800
    assert '"method":"tent"' in first


@pytest.mark.broker
def test_a_daemon_that_is_killed_goes_on(
    waves: Any, daemon: Callable[..., Any], client: Callable[..., Any], broker: Any
) -> None:
    node = "always"
    config = {
        "bundle": str(waves.path),
        "node": node,
        "mqtt": {"host": "127.0.0.1", "port": broker.port, "reconnect_max": 0.2},
        "streams": [{"topic": f"{node}/+"}],
        "batch": {"size": 16, "deadline": 0.005},
        "adaptation": ALWAYS,
    }
    ear = client(broker, f"trimtab/{node}/decision/#", f"trimtab/{node}/available")
    mouth = client(broker)
    x = waves.windows(labels(800), 3, faulty=True)
    go = threading.Event()

    def stream() -> None:
        go.wait()
        for number, window in enumerate(x):
            mouth.publish(f"{node}/s", encode(window.T, "json", time=1000.0 + number, sequence=number))

    def found(messages: list[Any]) -> dict[int, dict[str, Any]]:
        payloads = [json.loads(m.payload) for m in messages if m.topic.endswith("/decision/always/s")]
        return {p["sequence"]: p for p in payloads}

    sender = threading.Thread(target=stream)
    sender.start()
    process = daemon(config).started()
    ear.wait(lambda ms: any(m.topic.endswith("/available") for m in ms))
    go.set()
    ear.wait(lambda ms: len(found(ms)) >= 40)
    process.kill()
    daemon(config).started()
    ear.wait(lambda ms: 799 in found(ms))
    sender.join()
    decisions = found(ear.messages)
    assert sorted(decisions) == list(range(800))
    # Killed or not, what is decided is what the guarded method says of whole batches.
    guarded = trimtab.adapters.guarded(waves.path, "tent", threads=1, lr=0.01)
    wanted = np.concatenate([guarded.step(x[i : i + BATCH]).argmax(axis=1) for i in range(0, 800, BATCH)])
    names = ["low", "middle", "high"]
    assert [decisions[n]["label"] for n in range(800)] == [names[k] for k in wanted]
    assert any("method" in d for d in decisions.values())


# -- tries -----------------------------------------------------------------------------------------------------------


def faulted(waves: Any, here: Box, count: int = 400) -> None:
    """The sensor is well for a while, and then it is not."""
    truth = labels(160 + count)
    here.feed(waves.windows(truth[:160], 3))
    here.feed(waves.windows(truth[160:], 4, faulty=True), 160)
    assert here.right(truth[-100:]) > 0.8


def test_on_drift_a_step_graph_is_tried_like_any_other_method(waves: Any, box: Callable[[Config], Box]) -> None:
    here = box(settings(waves, minimum=64, memory=128, guard={"holdout": 48}, **TRIED))
    faulted(waves, here)
    assert here.told("drift/s")
    accepted = [r for r in here.told("adaptation/s") if r["accepted"]]
    assert accepted[0]["methods"] == ["tent"]
    assert accepted[0]["trail"][-1]["steps"] > 0
    current = here.adaptation.versions.current
    assert current.number > 0
    assert set(current.states) == {"tent"}

    # The state belongs to the version: in the journal, and after it.
    versions = here.adaptation.versions
    again = box(settings(waves, minimum=64, memory=128, guard={"holdout": 48}, **TRIED))
    kept = again.adaptation.versions
    kept.restore(json.loads(json.dumps(versions.state())), versions.to_rows())
    again.pipeline.restore("s", here.pipeline.snapshot("s"))
    restored = again.adaptation.versions.current
    assert restored.number == current.number
    for name, value in current.states["tent"].items():
        np.testing.assert_array_equal(restored.states["tent"][name], value)
    again.pipeline.command("reset", "s")
    assert again.adaptation.versions.current.states == {}
    here.pipeline.command("rollback", "s")
    assert here.adaptation.version == current.parent


@pytest.mark.parametrize("schedule", [{"every": 200}, {"every": 200, "per": "second"}])
def test_by_schedule_it_is_tried_without_an_alarm(
    waves: Any, box: Callable[[Config], Box], schedule: dict[str, Any]
) -> None:
    config = settings(
        waves, policy="scheduled", schedule=schedule, minimum=64, memory=128, guard={"holdout": 48}, **TRIED
    )
    here = box(config)
    here.feed(waves.windows(labels(500), 3))
    # Nothing is wrong, so nothing is found; and nobody is told of a drift.
    reports = here.told("adaptation/s")
    assert [r["sequence"] // 10 for r in reports] == [26, 46]
    assert not any(r["accepted"] for r in reports)
    assert {s["state"] for s in here.told("state/s")} <= {"stable", "suspect"}
    assert here.told("drift/s") == []
    # A restart keeps the clock of the schedule.
    again = box(config)
    again.pipeline.restore("s", here.pipeline.snapshot("s"))
    again.feed(waves.windows(labels(200, 5), 5), 500)
    assert [r["sequence"] // 10 for r in again.told("adaptation/s")] == [66]


# -- wrong settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adaptation", "message"),
    [
        (
            {"methods": ["tnet"]},
            r"adaptation\.methods\.0: 'tnet' is unknown, .* step graphs tent, .*did you mean 'tent'",
        ),
        (
            {"methods": ["prior_correction"]},
            r"adaptation\.methods: prior_correction cannot be tried, .*`policy: always`",
        ),
        ({"policy": "always"}, r"adaptation\.methods: the policy `always` takes one step graph .*name one of tent"),
        ({"policy": "always", "methods": ["tent", "prior_correction"]}, r"takes one step graph"),
        (
            {"methods": ["tent"], "options": {"tent": {"lr": 20}}},
            r"adaptation\.options\.tent: lr is 20; give one from 0 to 10",
        ),
        (
            {"methods": ["tent"], "options": {"tent": {"rate": 1}}},
            r"options\.tent: tent has no option 'rate'; use one of lr, .*batch, passes, span",
        ),
        ({"methods": ["tent"], "options": {"tent": {"batch": 2.5}}}, r"tent: batch is 2\.5; give a whole number"),
        ({"methods": ["tent"], "options": {"tent": {"lr": "1"}}}, r"tent: lr is '1'; give a number"),
        (
            {"policy": "always", "methods": ["tent"], "options": {"tent": {"passes": 2}}},
            r"tent has no option 'passes'; use one of lr, .*batch",
        ),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    waves: Any, box: Callable[[Config], Box], adaptation: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        box(settings(waves, **adaptation))


def test_a_bundle_without_step_graphs_says_so(tiny_bundle: Bundle) -> None:
    for adaptation, message in (
        ({"methods": ["tent"]}, "has no step graphs; use one of input_calibration"),
        ({"policy": "always", "methods": ["bias_vector"]}, "export the bundle with methods="),
    ):
        with pytest.raises(ConfigError, match=message):
            Box(tiny_bundle, parse_config({"bundle": "b", "adaptation": adaptation}, "test"))


def test_always_is_not_for_a_regression(waves: Any, bundle: Bundle) -> None:
    manifest = bundle.manifest.model_copy(update={"task": "regression", "classes": [], "targets": ["a", "b", "c"]})
    with pytest.raises(ConfigError, match="guards a step graph by the classes"):
        configured_methods(settings(waves, **ALWAYS).adaptation, Bundle(bundle.path, manifest))


def test_a_journal_of_an_older_trimtab_is_taken_over(tmp_path: Path, tiny_bundle: Bundle) -> None:
    import sqlite3

    from trimtab.adapters.versions import Versions

    file = tmp_path / "old.db"
    versions = Versions(tiny_bundle.source.theta)
    journal = Journal(file, "b")
    journal.write(Turn(versions={"s": (versions.state(), versions.to_rows())}))
    journal.close()
    with sqlite3.connect(file) as db:
        db.execute("DROP TABLE stepped")
        db.execute("ALTER TABLE versions DROP COLUMN states")
    db.close()
    again = Journal(file, "b")
    assert again.versions()["s"][1] == versions.to_rows()
    again.close()


def test_the_command_line_checks_methods(waves: Any, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from trimtab.runtime.cli.config import check

    file = tmp_path / "c.yaml"
    for adaptation, status in ((ALWAYS, 0), ({**ALWAYS, "methods": ["eata"]}, 1)):
        file.write_text(yaml.safe_dump({"bundle": str(waves.path), "adaptation": adaptation}))
        assert (CliRunner().invoke(check, [str(file)]).exit_code != 0) == bool(status)
