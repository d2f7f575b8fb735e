"""Streams that alarm together, in the pipeline: who alarms, wherever batches are cut and whenever it is restarted."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.runtime.conftest import ROWS, Tiny
from tests.runtime.test_pipeline import HOP, Desk, config
from trimtab.runtime.config import Config
from trimtab.runtime.errors import ConfigError

STREAMS = ("a", "b", "c")
WINDOWS = 300


def settings(**more: Any) -> Config:
    drift = {"signals": ["raw", "spectra"], "discoveries": {"level": 0.1, "period": 200}, "refractory": 40}
    return config(drift=drift, **more)


def offered(desk: Desk, part: range) -> None:
    """Windows of three streams in turn, of which `b` is moved from window 200 on."""
    for k in part:
        for i, stream in enumerate(STREAMS):
            rng = np.random.default_rng([i, k])
            values = rng.normal(0, 2, (ROWS if k == 0 else HOP, 3)).astype(np.float32)
            desk.offer(values + np.float32(2 * (stream == "b" and k >= 200)), stream)
        while desk.pipeline.waiting >= desk.pipeline.config.batch.size:
            desk.turn()
    desk.drain()


def told(desk: Desk) -> list[dict[str, Any]]:
    return [e.payload for step in desk.steps for e in step.events if e.topic.startswith("drift/")]


def decided(desk: Desk) -> dict[str, list[Any]]:
    return {s: [(d.sequence, d.state, d.signals) for d in desk.decisions if d.stream == s] for s in STREAMS}


@pytest.fixture(scope="module")
def whole(tiny: Tiny) -> Desk:
    desk = Desk(tiny, settings(batch={"size": 64, "deadline": 5}))
    offered(desk, range(WINDOWS))
    return desk


def test_the_stream_that_moves_alarms(whole: Desk) -> None:
    found = told(whole)
    assert {(e["stream"], e["detector"], e["kind"]) for e in found} == {("b", "discoveries", "virtual")}
    assert found[0]["signal"] == "raw"
    assert 200 <= found[0]["sequence"] < 220
    assert abs(found[0]["onset"] - 200) <= 3
    assert found[0]["statistic"] >= found[0]["threshold"]
    states = dict(zip(STREAMS, ({s for _, s, _ in of} for of in decided(whole).values()), strict=True))
    assert "drifted" in states["b"]
    assert "drifted" not in states["a"] | states["c"]


def test_windows_that_are_not_observed_count(tiny: Tiny) -> None:
    drift = {"signals": ["raw"], "discoveries": {"level": 0.1, "period": 200}, "refractory": 300, "observe_every": 3}
    desk = Desk(tiny, config(drift=drift))
    for k in range(700):
        values = np.random.default_rng([4, k]).normal(0, 2, (ROWS if k == 0 else HOP, 3)).astype(np.float32)
        desk.offer(values + np.float32(1.2 * (k >= 300) + 2 * (k >= 650)), "a")
    desk.drain()
    first, second = told(desk)
    assert 306 < first["sequence"] < 330
    assert abs(first["onset"] - 300) <= 9
    assert 650 <= second["sequence"] < 665, "the rest is over"


def test_where_batches_are_cut_makes_no_difference(tiny: Tiny, whole: Desk) -> None:
    desk = Desk(tiny, settings(batch={"size": 7, "deadline": 5}))
    offered(desk, range(WINDOWS))
    assert told(desk) == told(whole)
    assert decided(desk) == decided(whole)


@pytest.mark.parametrize("cut", [120, 230])
def test_a_restart_goes_on(tiny: Tiny, whole: Desk, cut: int) -> None:
    first = Desk(tiny, settings(batch={"size": 64, "deadline": 5}), resumable=True)
    offered(first, range(cut))
    kept: dict[str, dict[str, Any]] = {}
    for name in STREAMS:
        kept[name] = first.pipeline.snapshot(name)
        kept[name]["discoveries"] = json.loads(json.dumps(kept[name]["discoveries"]))
    second = Desk(tiny, settings(batch={"size": 64, "deadline": 5}), resumable=True)
    for name in reversed(STREAMS):
        second.pipeline.restore(name, kept[name])
    offered(second, range(cut, WINDOWS))
    assert told(first) + told(second) == told(whole)
    for name in STREAMS:
        assert [s for _, _, s in decided(first)[name] + decided(second)[name]] == [
            s for _, _, s in decided(whole)[name]
        ]


def test_a_vector_begins_the_stream_anew(tiny: Tiny) -> None:
    desk = Desk(tiny, settings())
    offered(desk, range(205))
    discoveries = desk.pipeline._discoveries
    assert discoveries is not None
    before = discoveries.state("b")
    stream = desk.pipeline.stream("b")
    stream.adaptation.rebaseline = True
    desk.pipeline._after(stream)
    after = discoveries.state("b")
    assert discoveries.pressure("b") == 0.0
    assert after["number"] == before["rule"]["tests"] + 1
    assert set(after["reached"].values()) == {0.0}


@pytest.mark.parametrize(
    ("drift", "said"),
    [
        ({"options": {"warmup": 32}}, "discoveries does without a detector: leave out discoveries, or options"),
        ({"detector": "ks", "calibrations": ["a.json"]}, "leave out discoveries, or calibrations and detector"),
        ({"discoveries": {"level": 1}}, "discoveries.level"),
        ({"discoveries": {"period": 0}}, "discoveries.period"),
        ({"discoveries": None}, "drift.discoveries: is empty; give `{}` for its defaults, or leave discoveries out"),
    ],
)
def test_what_does_not_go_together_is_said(drift: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(drift={"discoveries": {}, **drift})
