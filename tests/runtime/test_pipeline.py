"""The pipeline over a real bundle and real sessions: what it decides, when, and what a restart continues from."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.runtime.conftest import CHANNELS, ROWS, Tiny
from trimtab.adapters.parameters import ParameterLayout
from trimtab.drift import input_signals, swift
from trimtab.runtime import watch
from trimtab.runtime.blocks import Block
from trimtab.runtime.clock import SimulatedClock
from trimtab.runtime.config import Config, parse_config
from trimtab.runtime.decisions import Decision, Step
from trimtab.runtime.errors import ConfigError, PayloadError
from trimtab.runtime.executors import InlineExecutor
from trimtab.runtime.pipeline import Pipeline
from trimtab.runtime.sessions import Engine
from trimtab.runtime.watch import calibrated, false_alarm_run

HOP, RATE = 8, 16.0


def config(**sections: Any) -> Config:
    return parse_config({"bundle": "b", "node": "n", "adaptation": {"policy": "off"}, **sections}, "test")


class Desk:
    """A pipeline with its clock, and all that it said."""

    def __init__(self, tiny: Tiny, conf: Config, resumable: bool = False) -> None:
        self.clock = SimulatedClock(1000.0)
        executor = InlineExecutor()
        engine = Engine(tiny.bundle, conf.sessions, executor)
        self.pipeline = Pipeline(tiny.bundle, conf, engine, self.clock, executor, resumable)
        self.decisions: list[Decision] = []
        self.tokens: list[object] = []
        self.steps: list[Step] = []

    def offer(self, values: NDArray[np.float32], stream: str = "s", **more: Any) -> None:
        self.pipeline.offer(Block(stream, self.clock.now(), values, **more))

    def turn(self) -> Step:
        step = self.pipeline.step()
        self.steps.append(step)
        self.decisions += step.decisions
        self.tokens += step.tokens
        return step

    def drain(self) -> None:
        while (due := self.pipeline.due()) is not None:
            self.clock.advance_to(due)
            self.turn()


@pytest.fixture
def desk(tiny: Tiny) -> Desk:
    return Desk(tiny, config())


def rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 2, (count, CHANNELS)).astype(np.float32)


def test_every_window_is_decided_as_the_model_decides(desk: Desk, tiny: Tiny) -> None:
    values = rows(ROWS + 20 * HOP)
    desk.offer(values)
    desk.drain()
    x = np.stack([values[k * HOP : k * HOP + ROWS].T for k in range(21)])
    y, _, _ = tiny.reference(tiny.source, x)
    p = np.exp(y - y.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    assert [d.sequence for d in desk.decisions] == list(range(21))
    assert [d.output for d in desk.decisions] == [tiny.bundle.manifest.classes[k] for k in y.argmax(axis=1)]
    np.testing.assert_allclose([d.score for d in desk.decisions], p.max(axis=1), atol=1e-5)
    assert {d.version for d in desk.decisions} == {0}


def test_what_is_published_has_these_keys(desk: Desk) -> None:
    desk.offer(rows(ROWS))
    desk.drain()
    payload = json.loads(json.dumps(desk.decisions[0].payload()))
    assert list(payload) == ["stream", "sequence", "time", "label", "score", "version", "state"]
    assert payload["stream"] == "s"
    assert payload["time"] == 1000.0
    assert payload["state"] == "stable"


def test_a_batch_waits_for_its_deadline_or_until_it_is_full(tiny: Tiny) -> None:
    desk = Desk(tiny, config(batch={"size": 3, "deadline": 0.5}))
    assert desk.pipeline.due() is None
    desk.offer(rows(ROWS), "a")
    assert desk.pipeline.due() == 1000.5
    desk.clock.advance_to(1000.2)
    desk.offer(rows(ROWS), "b")
    assert desk.pipeline.due() == 1000.5
    desk.offer(rows(ROWS), "c")
    due = desk.pipeline.due()
    assert due is not None
    assert due <= desk.clock.now()
    assert [d.stream for d in desk.turn().decisions] == ["a", "b", "c"]
    assert desk.pipeline.due() is None


def test_without_machine_code_it_decides_the_same(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.concatenate([rows(ROWS + 200 * HOP), 3.0 * rows(100 * HOP, seed=1)])
    found = []
    for _ in range(2):
        desk = Desk(tiny, config())
        for part in np.split(values, range(7 * HOP, len(values), 7 * HOP)):
            desk.offer(part)
            desk.turn()
        desk.drain()
        found.append(desk)
        for module in (swift, watch):
            monkeypatch.setattr(module, "possible", lambda: False)
    compiled, plain = found
    assert [d.payload() for d in plain.decisions] == [d.payload() for d in compiled.decisions]
    for one, other in zip(plain.decisions, compiled.decisions, strict=True):
        assert one.signals == pytest.approx(other.signals, rel=1e-4, abs=1e-5)
    told = [[(e.topic, e.payload["sequence"]) for step in desk.steps for e in step.events] for desk in found]
    assert told[0] == told[1]
    assert any(topic.startswith("drift/") for topic, _ in told[0])


def test_signals_of_the_inputs_are_those_of_the_windows(tiny: Tiny) -> None:
    desk = Desk(tiny, config(drift={"signals": ["raw", "spectra", "entropy"]}))
    values = rows(ROWS + 3 * HOP)
    desk.offer(values)
    desk.drain()
    x = np.stack([values[k * HOP : k * HOP + ROWS].T for k in range(4)])
    for name, usual in tiny.bundle.source.usual.items():
        expected = input_signals.unusual(input_signals.figures(name, [x]), usual)
        np.testing.assert_allclose([(d.signals or {})[name] for d in desk.decisions], expected, rtol=1e-6)


def test_signals_of_the_inputs_see_what_a_calibration_leaves(tiny: Tiny) -> None:
    """One of two streams has a sensor of half the gain, and a vector that mends it."""
    desk = Desk(tiny, config(drift={"signals": ["raw", "spectra"]}))
    values = rows(ROWS + 3 * HOP)
    theta = tiny.source.copy()
    tiny.bundle.layout.view(theta, "input.x.gain")[:] = 2.0
    tiny.bundle.layout.view(theta, "input.x.offset")[:] = -1.0
    desk.pipeline.stream("weak").adaptation.versions.add(theta, "input_calibration", {}, 0.0)
    desk.pipeline.engine.bind("weak", theta)
    desk.offer(values, "usual")
    desk.offer((values + 1.0) / 2.0, "weak")
    desk.drain()
    by_stream = {name: [d for d in desk.decisions if d.stream == name] for name in ("usual", "weak")}
    for usual, mended in zip(*by_stream.values(), strict=True):
        assert mended.version == 1
        assert mended.signals == pytest.approx(usual.signals, rel=1e-3)


def test_calibrated_inputs_are_those_that_graphs_see() -> None:
    """Channels in the vector's order, then gain and offset; inputs that are no sensors stay."""
    layout = ParameterLayout.of(
        [("input.x.order", "input.order", "x", 3), ("input.x.gain", "input.gain", "x", 3),
         ("input.x.offset", "input.offset", "x", 3)]
    )  # fmt: skip
    theta = np.array([2, 0, 1, 1, -1, 2, 0, 10, 0], np.float32)
    x, tokens = rows(12).reshape(2, 3, 6), np.ones((2, 4), np.float32)
    found = calibrated({"x": x, "tokens": tokens}, [None, theta], layout)
    np.testing.assert_array_equal(found["x"][0], x[0])
    np.testing.assert_array_equal(found["x"][1], np.stack([x[1, 2], 10 - x[1, 0], 2 * x[1, 1]]))
    np.testing.assert_array_equal(found["tokens"], tokens)
    assert calibrated({"x": x}, [None, None], layout)["x"] is x


@pytest.mark.parametrize(
    ("signal", "fault"),
    [("raw", lambda v: v + np.array([0, 2, 0], np.float32)), ("spectra", lambda v: v.repeat(2, axis=0))],
)
def test_a_fault_of_a_sensor_shows_in_the_inputs(tiny: Tiny, signal: str, fault: Any) -> None:
    """Alarms are asked for rarely: these windows overlap, those of the reference do not, and `raw` hangs together."""
    desk = Desk(tiny, config(drift={"signals": ["raw", "spectra"], "false_alarms": {"every": 100000}}))
    desk.offer(rows(300 * HOP))
    desk.drain()
    usual = len(desk.steps)
    desk.offer(fault(rows(300 * HOP, 1)))
    desk.drain()
    told = [[e.payload for s in part for e in s.events if e.topic.startswith("drift/")]
            for part in (desk.steps[:usual], desk.steps[usual:])]  # fmt: skip
    assert told[0] == []
    assert told[1][0]["signal"] == signal


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_window_with_nan_or_infinity_gets_a_reason_and_no_label(desk: Desk, value: float) -> None:
    values = rows(ROWS + 4 * HOP)
    values[ROWS, 0] = value
    desk.offer(values)
    desk.drain()
    reasons = [d.reason for d in desk.decisions]
    assert [r is not None for r in reasons] == [False, True, True, False, False]
    payload = desk.decisions[1].payload()
    assert payload["label"] is None
    assert payload["reason"] == "the window holds NaN or infinity"


def test_a_block_of_another_shape_is_refused_and_changes_nothing(desk: Desk) -> None:
    desk.offer(rows(ROWS - 1))
    with pytest.raises(PayloadError, match=r"s: values: the model takes rows of 3 channels, found shape \[4, 5\]"):
        desk.pipeline.offer(Block("s", 1000.0, np.zeros((4, 5), np.float32)))
    desk.offer(rows(1))
    desk.drain()
    assert len(desk.decisions) == 1


def test_only_every_nth_window_is_observed(tiny: Tiny) -> None:
    desk = Desk(tiny, config(drift={"observe_every": 4}))
    desk.offer(rows(ROWS + 20 * HOP))
    desk.drain()
    observed = [d.sequence for d in desk.decisions if d.signals is not None]
    assert observed == [0, 4, 8, 12, 16, 20]
    assert [d.sequence for d in desk.decisions] == list(range(21))


def test_an_onset_and_the_quiet_after_an_alarm_are_in_windows_though_few_are_observed(tiny: Tiny) -> None:
    desk = Desk(tiny, config(drift={"observe_every": 4, "refractory": 400, "false_alarms": {"every": 20000}}))
    desk.pipeline._reference = {}
    desk.offer(jumping(HOP * 1200, at=HOP * 800))
    desk.drain()
    alarms = [e.payload for step in desk.steps for e in step.events if e.topic == "drift/s"]
    first = next(a for a in alarms if a["sequence"] >= 796)
    assert first["sequence"] - 799 >= 12  # so that an onset in observed windows would be too late
    assert abs(first["onset"] - 799) <= 8
    assert all(b["sequence"] - a["sequence"] > 400 for a, b in pairwise(alarms))


def test_a_stream_that_begins_anew_goes_on_counting_over_a_restart(tiny: Tiny) -> None:
    first = Desk(tiny, config(), resumable=True)
    [event] = first.pipeline.renumber("s", 7)
    assert event.retain
    assert (event.payload["state"], event.payload["version"], event.payload["sequence"]) == ("stable", 0, 7)
    second = Desk(tiny, config(), resumable=True)
    second.pipeline.restore("s", through_json(first.pipeline.snapshot("s")))
    second.offer(rows(ROWS + HOP))
    second.drain()
    assert [d.sequence for d in second.decisions] == [7, 8]


def test_there_are_so_many_streams_and_no_more(tiny: Tiny) -> None:
    desk = Desk(tiny, config(max_streams=2))
    desk.offer(rows(ROWS), "a")
    desk.offer(rows(ROWS), "b")
    with pytest.raises(PayloadError, match=r"^c: would be one stream more than the 2 of max_streams; raise it"):
        desk.offer(rows(ROWS), "c")
    desk.offer(rows(HOP), "a")
    desk.drain()
    assert [d.stream for d in desk.decisions] == ["a", "b", "a"]


def test_a_command_for_all_streams_passes_over_those_that_cannot(drifting: Desk, tiny: Tiny) -> None:
    pipeline = drifting.pipeline
    for name in ("a", "b", "c"):
        pipeline.stream(name)
    pipeline.streams["b"].adaptation.versions.add(tiny.theta(1), "test", {}, 0.0)
    step = pipeline.command("rollback", None)
    assert step.streams == ["b"]
    assert pipeline.streams["b"].adaptation.version == 0
    assert [e.topic for e in step.events if e.topic.startswith("adaptation/")] == ["adaptation/b"]
    assert [r.split(" ")[0] for r in step.refused] == ["a", "c"]
    with pytest.raises(ValueError, match=r"^a is at version 0, which has none before it"):
        pipeline.command("rollback", None)


def test_what_a_command_says_is_of_the_last_window(drifting: Desk) -> None:
    """Also of a stream that was calm all along."""
    drifting.offer(rows(ROWS + 4 * HOP))
    drifting.drain()
    assert {d.state for d in drifting.decisions} == {"stable"}
    [state] = drifting.pipeline.command("adapt", "s").events
    assert (state.payload["state"], state.payload["sequence"]) == ("drifted", 4)


def test_a_block_is_done_with_when_its_windows_are_decided(tiny: Tiny) -> None:
    desk = Desk(tiny, config(batch={"size": 2, "deadline": 0.1}), resumable=True)
    values = rows(ROWS + 3 * HOP)
    desk.offer(values[:ROWS], token="one window")
    desk.offer(values[ROWS : ROWS + HOP // 2], token="none")
    desk.offer(values[ROWS + HOP // 2 :], token="three windows")
    assert desk.turn().tokens == ["one window", "none"]
    assert desk.turn().tokens == ["three windows"]


def test_rows_that_complete_no_window_are_done_with_after_the_deadline(tiny: Tiny) -> None:
    desk = Desk(tiny, config(batch={"size": 2, "deadline": 0.1}), resumable=True)
    desk.offer(rows(3), token="a")
    assert desk.pipeline.due() == pytest.approx(1000.1)
    desk.drain()
    assert desk.tokens == ["a"]
    assert desk.decisions == []


def through_json(snapshot: dict[str, Any]) -> dict[str, Any]:
    """As the journal keeps it: JSON, and the rows as bytes."""
    if snapshot["window"] is None:  # No block has been finished yet.
        return dict(json.loads(json.dumps(snapshot)))
    window = dict(snapshot["window"])
    raw = window.pop("rows")
    back: dict[str, Any] = json.loads(json.dumps({**snapshot, "window": window}))
    back["window"]["rows"] = raw
    return back


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 40), min_size=4, max_size=14), data=st.data())
def test_killed_anywhere_nothing_is_lost_and_nothing_contradicts(
    tiny: Tiny, sizes: list[int], data: st.DataObject
) -> None:
    """A broker sends again what was not acknowledged; the journal holds each step that was published."""
    conf = config(batch={"size": 3, "deadline": 0.1})
    values = rows(sum(sizes), seed=3)
    ends = np.cumsum(sizes)
    blocks = [(i, values[end - size : end]) for i, (end, size) in enumerate(zip(ends, sizes, strict=True))]

    undisturbed = Desk(tiny, conf, resumable=True)
    for i, part in blocks:
        undisturbed.offer(part, token=i)
        undisturbed.drain()
    right = {d.sequence: d.output for d in undisturbed.decisions}

    published: dict[int, str] = {}
    snapshot: dict[str, Any] | None = None
    acknowledged: set[object] = set()
    for _ in range(3):
        desk = Desk(tiny, conf, resumable=True)
        if snapshot is not None:
            desk.pipeline.restore("s", through_json(snapshot))
        steps_to_live = data.draw(st.integers(0, 6))
        for i, part in blocks:
            if i in acknowledged:
                continue
            desk.offer(part, token=i)
            if steps_to_live and data.draw(st.booleans()):
                steps_to_live -= 1
                step = desk.turn()
                for decision in step.decisions:
                    assert published.setdefault(decision.sequence, str(decision.output)) == decision.output
                    assert decision.sequence in right
                snapshot = desk.pipeline.snapshot("s")
                acknowledged |= set(step.tokens)
        # ... and here the process dies.
    desk = Desk(tiny, conf, resumable=True)
    if snapshot is not None:
        desk.pipeline.restore("s", through_json(snapshot))
    for i, part in blocks:
        if i not in acknowledged:
            desk.offer(part, token=i)
    desk.drain()
    again = [d.sequence for d in desk.decisions if d.sequence in published]
    assert again == []
    published |= {d.sequence: str(d.output) for d in desk.decisions}
    assert published == right


def test_streams_share_a_batch_and_keep_their_own_windows(desk: Desk, tiny: Tiny) -> None:
    a, b = rows(ROWS + HOP, seed=1), rows(ROWS + HOP, seed=2)
    for k in range(0, ROWS + HOP, 4):
        desk.offer(a[k : k + 4], "a")
        desk.offer(b[k : k + 4], "b")
    desk.drain()
    for name, values in (("a", a), ("b", b)):
        x = np.stack([values[:ROWS].T, values[HOP : HOP + ROWS].T])
        y, _, _ = tiny.reference(tiny.source, x)
        want = [tiny.bundle.manifest.classes[k] for k in y.argmax(axis=1)]
        assert [d.output for d in desk.decisions if d.stream == name] == want


def test_an_adapted_stream_is_decided_with_its_own_vector(desk: Desk, tiny: Tiny) -> None:
    theta = tiny.theta(5)
    stream = desk.pipeline.stream("b")
    version = stream.adaptation.versions.add(theta, "test", {}, 0.0)
    desk.pipeline.engine.bind("b", theta)
    values = rows(ROWS + 40 * HOP, seed=4)
    for name in ("a", "b"):
        desk.offer(values, name)
    desk.drain()
    x = np.stack([values[k * HOP : k * HOP + ROWS].T for k in range(41)])
    for name, vector in (("a", tiny.source), ("b", theta)):
        y, _, _ = tiny.reference(vector, x)
        want = [tiny.bundle.manifest.classes[k] for k in y.argmax(axis=1)]
        assert [d.output for d in desk.decisions if d.stream == name] == want
    assert {d.version for d in desk.decisions if d.stream == "b"} == {version.number}


def test_false_alarms_per_time_become_a_run_length_in_observed_windows(tiny: Tiny) -> None:
    per_day = parse_config({"bundle": "b", "drift": {"false_alarms": {"every": 1, "per": "day"}}}, "test").drift
    assert false_alarm_run(per_day, tiny.bundle) == pytest.approx(86400 * RATE / HOP)
    every_fourth = per_day.model_copy(update={"observe_every": 4})
    assert false_alarm_run(every_fourth, tiny.bundle) == pytest.approx(86400 * RATE / HOP / 4)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"drift": {"detector": "nosuch"}}, "drift.*nosuch.*choose sprt"),
        ({"drift": {"options": {"nosuch": 1}}}, "drift.*no option 'nosuch'"),
        ({"adaptation": {"options": {"norm_statistics": {"nosuch": 1}}}}, "adaptation.options.norm_statistics.*nosuch"),
        (
            {"adaptation": {"methods": ["bias_vector"], "options": {"norm_statistics": {}}}},
            "adaptation.options.norm_statistics: .*adaptation.methods",
        ),
    ],
)
def test_a_wrong_setting_is_told_at_the_start(tiny: Tiny, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Desk(tiny, parse_config({"bundle": "b", **sections}, "test"))


def jumping(count: int, at: int, seed: int = 0) -> NDArray[np.float32]:
    values = rows(count, seed)
    values[at:] = -3 * values[at:] + 4
    return values


@pytest.fixture
def drifting(tiny: Tiny) -> Desk:
    conf = parse_config(
        {"bundle": "b", "drift": {"false_alarms": {"every": 5000}}, "adaptation": {"minimum": 32, "retry": 16}}, "test"
    )
    desk = Desk(tiny, conf)
    # The tiny bundle's reference signals are made up: learn the baseline from the stream.
    desk.pipeline._reference = {}
    return desk


def test_a_jump_alarms_once_and_the_state_is_told(drifting: Desk) -> None:
    drifting.offer(jumping(HOP * 500, at=HOP * 300))
    drifting.drain()
    events = [e for step in drifting.steps for e in step.events]
    alarms = [e for e in events if e.topic == "drift/s"]
    assert alarms
    first = alarms[0].payload
    assert 297 <= first["sequence"] <= 330
    assert abs(first["onset"] - 299) <= 6
    assert first["statistic"] >= first["threshold"]
    states = [e.payload["state"] for e in events if e.topic == "state/s"]
    assert "drifted" in states
    assert states.index("drifted") <= states.index("adapting")
    assert all(e.retain for e in events if e.topic == "state/s")
    tries = [e.payload for e in events if e.topic == "adaptation/s"]
    assert tries
    assert {"stream", "sequence", "time", "from", "to", "accepted", "methods", "trail"} <= set(tries[0])
    json.dumps([e.payload for e in events], allow_nan=False)


def test_two_runs_are_equal_to_the_last_bit(tiny: Tiny) -> None:
    def run() -> str:
        desk = Desk(tiny, parse_config({"bundle": "b", "adaptation": {"minimum": 32, "retry": 16}}, "test"))
        desk.pipeline._reference = {}
        desk.offer(jumping(HOP * 500, at=HOP * 300))
        desk.drain()
        said = [d.payload() for d in desk.decisions] + [e.payload for step in desk.steps for e in step.events]
        return json.dumps(said)

    assert run() == run()


def test_commands(drifting: Desk, tiny: Tiny) -> None:
    pipeline = drifting.pipeline
    drifting.offer(rows(ROWS))
    drifting.drain()
    adaptation = pipeline.streams["s"].adaptation
    with pytest.raises(ValueError, match="no stream 'x'; there are 's'"):
        pipeline.command("reset", "x")
    with pytest.raises(ValueError, match=r"no command 'dance'; there are pause, .* and reload"):
        pipeline.command("dance", "s")
    with pytest.raises(ValueError, match="version 0, which has none before it"):
        pipeline.command("rollback", "s")
    with pytest.raises(ValueError, match="there is no version 7"):
        pipeline.command("pin", "s", 7)
    adaptation.versions.add(tiny.theta(1), "test", {}, 0.0)
    [report] = [e for e in pipeline.command("rollback", "s").events if e.topic == "adaptation/s"]
    assert (report.payload["from"], report.payload["to"]) == (1, 0)
    pipeline.command("pin", "s", 1)
    assert adaptation.version == 1
    assert adaptation.versions.pinned == 1
    with pytest.raises(ValueError, match="pinned"):
        pipeline.command("reset", "s")
    pipeline.command("unpin", None)
    pipeline.command("reset", None)
    assert adaptation.version == 0
    pipeline.command("adapt", "s")
    assert adaptation.state == "drifted"
    pipeline.command("pause", "s")
    assert adaptation.paused
    pipeline.command("resume", "s")
    assert not adaptation.paused


def test_a_bundle_without_taps_is_watched_by_its_entropy(tiny_served: Tiny) -> None:
    desk = Desk(tiny_served, config())
    desk.offer(rows(ROWS))
    desk.drain()
    assert desk.decisions[0].signals is not None
    assert set(desk.decisions[0].signals) == {"entropy"}


def test_no_signal_at_all_is_told(tiny_served: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"drift.signals: .* gives none of divergence; name another"):
        Desk(tiny_served, config(drift={"signals": ["divergence"]}))


def test_a_batch_that_the_model_fails_on_gets_a_reason_and_the_pipeline_goes_on(desk: Desk) -> None:
    """A sample of the wrong length cannot come through `offer`; put one where a fault of the model would be."""
    desk.offer(rows(ROWS))
    [(_, sample)] = desk.pipeline._pending
    sample.inputs[0] = np.zeros((CHANNELS + 1, ROWS), np.float32)
    step = desk.turn()
    assert step.failure is not None
    assert "Got: 4 Expected: 3" in step.failure
    assert step.decisions[0].reason == "the model failed on this window"
    assert step.decisions[0].output is None
    desk.offer(rows(HOP))
    desk.drain()
    assert desk.decisions[-1].reason is None
