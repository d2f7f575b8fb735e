"""When a stream adapts: over a real bundle and engine, with the methods and the guard that decide in earnest."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.runtime.conftest import CHANNELS, ROWS, Tiny
from trimtab.drift.monitor import Alarm
from trimtab.runtime.adaptation import Adaptation
from trimtab.runtime.blocks import Sample
from trimtab.runtime.clock import SimulatedClock
from trimtab.runtime.config import parse_config
from trimtab.runtime.decisions import Event
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.executors import InlineExecutor, Job
from trimtab.runtime.pipeline import Pipeline
from trimtab.runtime.sessions import Engine
from trimtab.runtime.tries import Attempt

NOT_SETTLED = dict.fromkeys(("divergence", "distance", "entropy"), 1e9)


class Later:
    """Holds jobs until they are asked for: the daemon's thread, at a moment of the test's choosing."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def work(self) -> None:
        for job in self.jobs:
            job()
        self.jobs.clear()


class Stream:
    """One stream's adaptation, fed window by window."""

    def __init__(self, tiny: Tiny, executor: Any = None, **sections: Any) -> None:
        adaptation = {"minimum": 32, "retry": 16, "memory": 64, "guard": {"probation": 40, "holdout": 32}}
        config = parse_config({"bundle": "b", "adaptation": adaptation} | sections, "test")
        self.executor = executor or InlineExecutor()
        self.engine = Engine(tiny.bundle, config.sessions, InlineExecutor())
        self.pipeline = Pipeline(tiny.bundle, config, self.engine, SimulatedClock(0.0), self.executor)
        self.adaptation: Adaptation = self.pipeline.stream("s").adaptation
        self.sequence = 0
        self.events: list[Event] = []
        self.rng = np.random.default_rng(0)

    def sample(self, flip: bool = True) -> Sample:
        x = self.rng.normal(0.3, 1.5, (CHANNELS, ROWS)).astype(np.float32)
        sample = Sample("s", self.sequence, float(self.sequence), [-x if flip else x], True)
        self.sequence += 1
        return sample

    def alarm(self) -> None:
        found = Alarm("distance", "sprt", 9.0, 8.0, 3, {})
        self.events += self.adaptation.alarmed(found, self.sample())

    def see(self, count: int, flip: bool = True) -> None:
        for i in range(count):
            self.events += self.adaptation.saw(self.sample(flip), i // 8 % 2, NOT_SETTLED)
            self.collect()

    def collect(self) -> None:
        for job in self.pipeline.plan.finished():
            self.events += self.adaptation.collect(job, float(self.sequence))

    def states(self) -> list[str]:
        return [e.payload["state"] for e in self.events if e.topic == "state/s"]

    def reports(self) -> list[dict[str, Any]]:
        return [e.payload for e in self.events if e.topic == "adaptation/s"]


def always(theta: NDArray[np.float32]) -> Callable[..., Attempt]:
    """A method's and the guard's outcome, where the test is about what comes after it."""
    return lambda *_: Attempt(theta=theta, accepted=["chosen"], trail=[{"method": "chosen", "accepted": True}])


@pytest.fixture
def chosen(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float32]:
    """Every try ends in this vector."""
    theta = tiny.theta(3)
    monkeypatch.setattr("trimtab.runtime.adaptation.attempted", always(theta))
    return theta


def test_nothing_is_gathered_while_calm(tiny: Tiny) -> None:
    stream = Stream(tiny)
    stream.see(5)
    assert stream.events == []
    assert stream.adaptation.calm


def test_a_try_comes_after_the_minimum_and_then_every_retry(tiny: Tiny) -> None:
    stream = Stream(tiny)
    stream.alarm()
    stream.see(31)
    assert stream.reports() == []
    stream.see(1)
    assert [r["sequence"] for r in stream.reports()] == [32]
    stream.see(32)
    assert [r["sequence"] for r in stream.reports()] == [32, 48, 64]
    assert stream.states()[:3] == ["drifted", "adapting", "drifted"]
    json.dumps([e.payload for e in stream.events], allow_nan=False)


def test_an_accepted_vector_is_used_put_on_probation_and_judged(
    tiny: Tiny, chosen: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(tiny)
    stream.alarm()
    stream.see(32)
    assert stream.states() == ["drifted", "adapting", "probation"]
    assert stream.adaptation.version == 1
    np.testing.assert_array_equal(stream.adaptation.versions.current.theta, chosen)
    x = tiny.x(5)
    y, _, _ = tiny.reference(chosen, x)
    np.testing.assert_allclose(stream.engine.infer({"x": x}, ["s"] * 5, False).y, y, atol=1e-4)
    assert stream.adaptation.rebaseline
    # Probation lasts until the memory (64) is full and the minimum (32) passed since the alarm at window 0.
    monkeypatch.setattr("trimtab.runtime.adaptation.attempted", lambda *_: Attempt())
    stream.see(64)
    assert stream.states()[-1] in ("stable", "rolled_back")
    assert [e.payload["sequence"] for e in stream.events if e.topic == "state/s"][-1] == 96


def test_a_vector_that_proves_worse_is_rolled_back(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard judges for real at the end of probation: a vector that throws the model off is undone."""
    bad = tiny.source.copy()
    tiny.bundle.layout.view(bad, "input.x.gain")[:] = [40.0, -35.0, 30.0]
    tiny.bundle.layout.view(bad, "input.x.offset")[:] = 100.0
    stream = Stream(tiny)
    stream.alarm()
    monkeypatch.setattr("trimtab.runtime.adaptation.attempted", always(bad))
    stream.see(32, flip=False)
    assert stream.adaptation.version == 1
    monkeypatch.setattr("trimtab.runtime.adaptation.attempted", lambda *_: Attempt())
    stream.see(120, flip=False)
    assert "rolled_back" in stream.states()
    last = stream.reports()[-1]
    assert last["rolled_back"] is True
    assert (last["from"], last["to"]) == (1, 0)
    assert stream.adaptation.version == 0
    x = tiny.x(5)
    y, _, _ = tiny.reference(tiny.source, x)
    np.testing.assert_allclose(stream.engine.infer({"x": x}, ["s"] * 5, False).y, y, atol=1e-4)
    stream.see(60, flip=False)
    assert stream.states()[-1] == "stable"


def test_an_alarm_on_probation_begins_anew(tiny: Tiny, chosen: NDArray[np.float32]) -> None:
    stream = Stream(tiny)
    stream.alarm()
    stream.see(32)
    stream.alarm()
    assert stream.states()[-1] == "drifted"
    assert stream.adaptation.version == 1


def test_a_try_that_an_alarm_has_overtaken_changes_nothing(tiny: Tiny, chosen: NDArray[np.float32]) -> None:
    later = Later()
    stream = Stream(tiny, later)
    stream.alarm()
    stream.see(32)
    assert stream.states()[-1] == "adapting"
    stream.alarm()
    later.work()
    stream.collect()
    assert stream.adaptation.version == 0
    assert stream.states()[-1] == "drifted"


@pytest.mark.parametrize("command", ["pause", "pin", "reset"])
def test_a_try_that_a_command_has_overtaken_changes_nothing(
    tiny: Tiny, chosen: NDArray[np.float32], command: str
) -> None:
    later = Later()
    stream = Stream(tiny, later)
    stream.alarm()
    stream.see(32)
    stream.pipeline.command(command, "s")
    later.work()
    stream.collect()
    assert stream.adaptation.version == 0
    assert stream.adaptation.state == ("drifted" if command == "pause" else "stable")


def test_pinned_it_stays_whatever_comes(tiny: Tiny, chosen: NDArray[np.float32]) -> None:
    stream = Stream(tiny)
    stream.pipeline.command("pin", "s")
    stream.alarm()
    stream.see(200)
    assert stream.adaptation.version == 0
    assert [r["methods"] for r in stream.reports()] == []
    with pytest.raises(ValueError, match="s: version 0 is pinned; unpin it first"):
        stream.pipeline.command("adapt", "s")
    stream.pipeline.command("unpin", "s")
    stream.pipeline.command("adapt", "s")
    stream.see(40)
    assert stream.adaptation.version == 1


def test_paused_it_tries_nothing(tiny: Tiny, chosen: NDArray[np.float32]) -> None:
    stream = Stream(tiny)
    stream.pipeline.command("pause", "s")
    stream.alarm()
    stream.see(100)
    assert stream.reports() == []
    stream.pipeline.command("resume", "s")
    stream.see(1)
    assert stream.adaptation.version == 1


def test_a_full_bank_is_a_failed_try_and_nothing_else(tiny: Tiny, chosen: NDArray[np.float32]) -> None:
    stream = Stream(tiny, sessions={"slots": 1})
    stream.engine.bind("another", tiny.theta(9))
    stream.alarm()
    stream.see(32)
    [report] = stream.reports()
    assert report["accepted"] is False
    assert "sessions.slots" in report["failure"]
    assert stream.adaptation.version == 0
    assert stream.states()[-1] == "drifted"
    stream.adaptation.versions.add(chosen, "test", {}, 0.0)
    stream.adaptation.versions.recall(0, 0.0)
    with pytest.raises(ConfigError, match=r"sessions\.slots"):
        stream.pipeline.command("pin", "s", 1)
    assert stream.adaptation.version == 0
    assert stream.adaptation.versions.pinned is None


def test_a_drift_that_goes_away_by_itself_ends(tiny: Tiny) -> None:
    stream = Stream(tiny)
    stream.alarm()
    as_usual = {name: float(np.median(values)) for name, values in tiny.bundle.source.reference.items()}
    for _ in range(80):
        stream.events += stream.adaptation.saw(stream.sample(flip=False), 0, as_usual)
        stream.collect()
    assert stream.states()[-1] == "stable"
    assert stream.adaptation.calm


def test_an_alarm_on_probation_throws_nothing_away_but_a_second_does(tiny: Tiny, chosen: NDArray[np.float32]) -> None:
    stream = Stream(tiny)
    stream.alarm()
    stream.see(40)
    assert stream.adaptation.state == "probation"
    stream.alarm()
    assert stream.states()[-1] == "drifted"
    stream.see(17)  # the next try comes after `retry`, not after `minimum` windows
    assert stream.states()[-2:] == ["adapting", "probation"]
    stream.alarm()
    tried = len(stream.reports())
    stream.see(31)
    assert len(stream.reports()) == tried
    stream.see(1)
    assert len(stream.reports()) == tried + 1


def test_a_vector_that_is_not_surely_better_gives_way_to_the_source(tiny: Tiny) -> None:
    stream = Stream(tiny, adaptation={"minimum": 32, "retry": 16, "memory": 128, "guard": {"holdout": 32}})
    theta = tiny.source.copy()
    theta[-1] += 1e-3
    version = stream.adaptation.versions.add(theta, "chosen", {}, 0.0).number
    stream.alarm()
    as_usual = {name: float(np.median(values)) for name, values in tiny.bundle.source.reference.items()}
    for i in range(160):  # as the source again, and nothing else is found
        stream.events += stream.adaptation.saw(stream.sample(flip=False), i // 8 % 2, as_usual)
        stream.collect()
    switches = [(r["from"], r["to"], r["methods"]) for r in stream.reports() if r["from"] != r["to"]]
    assert switches[0] == (version, 0, ["recall of version 0"])
    # Not before the memory was full: on few windows nothing is sure.
    assert next(r["sequence"] for r in stream.reports() if r["to"] == 0) >= 120


def test_late_labels_reach_the_windows_that_are_remembered(tiny: Tiny) -> None:
    stream = Stream(tiny)
    assert not stream.pipeline.label("s", 3, "yes")
    stream.alarm()
    stream.see(20)
    assert stream.pipeline.label("s", 3, "yes")
    assert not stream.pipeline.label("s", 999, "yes")
    assert not stream.pipeline.label("nosuch", 3, "yes")
    with pytest.raises(ValueError, match="label 'maybe' is none of the classes no, yes"):
        stream.pipeline.label("s", 3, "maybe")


def test_a_restart_goes_on_with_the_vector_in_use(tiny: Tiny, chosen: NDArray[np.float32]) -> None:
    first = Stream(tiny)
    first.alarm()
    first.see(32)
    kept, versions = first.adaptation.snapshot(), first.adaptation.versions
    second = Stream(tiny)
    second.adaptation.versions.restore(json.loads(json.dumps(versions.state())), versions.to_rows())
    assert second.adaptation.restore(json.loads(json.dumps(kept)), 0.0) == []
    assert second.adaptation.version == 1
    assert second.adaptation.state == "probation"
    x = tiny.x(3)
    y, _, _ = tiny.reference(chosen, x)
    np.testing.assert_allclose(second.engine.infer({"x": x}, ["s"] * 3, False).y, y, atol=1e-4)


def test_evidence_of_a_version_is_that_of_what_was_accepted(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    trail = [
        {"method": "one", "accepted": True, "gain": 2.0},
        {"method": "two", "accepted": False, "gain": -5.0},
    ]
    attempt = Attempt(theta=tiny.theta(4), accepted=["one"], trail=trail)
    monkeypatch.setattr("trimtab.runtime.adaptation.attempted", lambda *_: attempt)
    stream = Stream(tiny)
    stream.alarm()
    stream.see(32)
    assert stream.adaptation.versions.current.method == "one"
    assert dict(stream.adaptation.versions.current.evidence) == {"gain": 2.0}


def told(stream: Stream) -> tuple[str, int]:
    """What the broker keeps of the stream: its last retained message."""
    last = [e.payload for e in stream.events if e.topic == "state/s" and e.retain][-1]
    return last["state"], last["version"]


def test_what_the_broker_keeps_has_the_version_in_use(tiny: Tiny, chosen: NDArray[np.float32]) -> None:
    stream = Stream(tiny)
    stream.alarm()
    stream.see(32)
    assert told(stream) == ("probation", 1)
    stream.events += stream.pipeline.command("pin", "s", 1).events
    assert told(stream) == ("stable", 1)
    stream.events += stream.pipeline.command("unpin", "s").events
    stream.events += stream.pipeline.command("reset", "s").events
    assert stream.states()[-2:] == ["stable", "stable"]
    assert told(stream) == ("stable", 0)


def test_a_try_that_a_restart_has_ended_is_told(tiny: Tiny) -> None:
    first = Stream(tiny, Later())
    first.alarm()
    first.see(32)
    assert told(first) == ("adapting", 0)
    second = Stream(tiny)
    second.events += second.adaptation.restore(json.loads(json.dumps(first.adaptation.snapshot())), 5.0)
    assert told(second) == ("drifted", 0)


def on_probation(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, chosen: NDArray[np.float32], executor: Any) -> Stream:
    stream = Stream(tiny, executor)
    stream.alarm()
    stream.see(32)
    executor.work()
    stream.collect()
    assert stream.adaptation.state == "probation"
    monkeypatch.setattr("trimtab.runtime.adaptation.attempted", lambda *_: Attempt())
    return stream


def test_probation_does_not_end_before_somebody_had_time_to_judge(
    tiny: Tiny, chosen: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Later):
        full = False

        def submit(self, job: Job) -> None:
            if self.full:
                raise queue.Full
            job()

    executor = Full()
    stream = on_probation(tiny, monkeypatch, chosen, executor)
    executor.full = True
    stream.see(200)
    assert stream.adaptation.state == "probation"
    executor.full = False
    stream.see(200)
    assert stream.adaptation.state in ("stable", "rolled_back")


def test_a_roll_back_that_a_full_bank_forbids_is_tried_again(
    tiny: Tiny, chosen: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(tiny, sessions={"slots": 2})
    earlier = stream.adaptation.versions.add(tiny.theta(4), "test", {}, 0.0)
    stream.engine.bind("s", earlier.theta)
    stream.alarm()
    stream.see(32)
    assert told(stream) == ("probation", 2)
    monkeypatch.setattr("trimtab.runtime.adaptation.attempted", lambda *_: Attempt())
    monkeypatch.setattr("trimtab.runtime.adaptation.judged", lambda *_: Attempt(worse=True))
    stream.engine.bind("twin", chosen)  # so that its row does not become free
    stream.engine.bind("another", tiny.theta(9))
    stream.see(80)
    assert told(stream) == ("probation", 2)
    stream.engine.bind("another", None)
    stream.see(400)
    assert told(stream)[1] == 1
    assert "rolled_back" in stream.states()
