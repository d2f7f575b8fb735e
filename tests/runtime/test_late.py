"""Real drift, by late labels, and cycles by the bundle's rate: both in the pipeline, over a real bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.runtime.conftest import ROWS, Tiny
from tests.runtime.test_pipeline import HOP, Desk, config, rows
from trimtab.drift.catalogue import build
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.late import REMEMBERED, LateLabels


def labelled(desk: Desk, first: int, last: int, wrong: float) -> None:
    """The truth about windows, of which a share was decided wrongly."""
    rng = np.random.default_rng(first)
    for decision in desk.decisions[first:last]:
        other = "yes" if decision.output == "no" else "no"
        assert desk.pipeline.label("s", decision.sequence, other if rng.random() < wrong else str(decision.output))
    desk.drain()


def told(desk: Desk) -> list[dict[str, Any]]:
    return [e.payload for step in desk.steps for e in step.events if e.topic == "drift/s"]


@pytest.fixture
def desk(tiny: Tiny) -> Desk:
    desk = Desk(tiny, config(drift={"errors": "sprt_bernoulli", "false_alarms": {"every": 1e6}}))
    desk.pipeline._reference = {}  # the tiny bundle's is made up
    desk.offer(rows(ROWS + 599 * HOP))
    desk.drain()
    return desk


def test_errors_that_no_input_shows_are_real_drift(desk: Desk) -> None:
    labelled(desk, 0, 300, wrong=0.1)
    assert told(desk) == []
    labelled(desk, 300, 450, wrong=0.6)
    (drift,) = told(desk)
    assert (drift["kind"], drift["signal"], drift["detector"]) == ("real", "errors", "sprt_bernoulli")
    assert 300 < drift["sequence"] < 350
    assert drift["statistic"] >= drift["threshold"]
    states = [e.payload["state"] for step in desk.steps for e in step.events if e.topic == "state/s"]
    assert states[-1] == "drifted"


def test_a_change_of_the_input_is_virtual_drift(desk: Desk) -> None:
    desk.offer(3 * rows(ROWS + 100 * HOP, seed=1) + 4)
    desk.drain()
    assert {drift["kind"] for drift in told(desk)} == {"virtual"}


def test_a_new_vector_begins_with_no_errors(desk: Desk) -> None:
    labelled(desk, 0, 300, wrong=0.1)
    stream = desk.pipeline.stream("s")
    assert stream.late is not None
    stream.adaptation.rebaseline = True
    desk.pipeline._after(stream)
    assert stream.late.state() == build("sprt_bernoulli", every=1e6).state()
    assert stream.late.label(400, 0) is None, "it was decided by the vector before"


def test_a_restart_goes_on_with_what_labels_told(desk: Desk, tiny: Tiny) -> None:
    labelled(desk, 0, 300, wrong=0.1)
    other = Desk(tiny, desk.pipeline.config)
    other.pipeline.restore("s", desk.pipeline.snapshot("s"))
    late, before = other.pipeline.stream("s").late, desk.pipeline.stream("s").late
    assert late is not None
    assert before is not None
    assert late.state() == before.state()
    plain = Desk(tiny, config())
    assert plain.pipeline.restore("s", desk.pipeline.snapshot("s")) is not None
    assert plain.pipeline.stream("s").late is None


def test_each_window_has_one_label_and_old_ones_are_forgotten() -> None:
    late = LateLabels(build("ddm", every=1000))
    for sequence in range(REMEMBERED + 1):
        late.decided(sequence, 1)
    assert late.label(0, 1) is None
    assert late.label(1, 1) is not None
    assert late.label(1, 0) is None
    assert late.label(REMEMBERED + 1, 0) is None


@pytest.mark.parametrize("season", ["hour", ["hour"], 7200])
def test_a_season_is_told_as_a_time(tiny: Tiny, season: Any) -> None:
    """At 16 rows a second and 8 a window, an hour has 7,200 windows."""
    desk = Desk(tiny, config(drift={"options": {"season": season}}))
    detectors = desk.pipeline.stream("s").monitor.state()["detectors"]
    assert all(detector["periods"] == [7200.0] for detector in detectors.values())


@pytest.mark.parametrize(
    ("drift", "sentence"),
    [
        ({"errors": "sprt"}, "drift.errors: sprt is no detector of rates; choose ddm, sprt_bernoulli"),
        ({"errors": "psychic"}, "drift.errors: detector 'psychic' is unknown"),
        ({"options": {"season": "month"}}, "drift.options.season: 'month' is no cycle .*; give hour, day, week or a"),
        ({"options": {"season": ["day", "fortnight"]}}, "drift.options.season: 'fortnight' is no cycle that is known"),
        ({"options": {"season": 2}}, "drift.options: detector sprt: option season is \\[2\\]; give"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tiny: Tiny, drift: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")):
        Desk(tiny, config(drift=drift))
