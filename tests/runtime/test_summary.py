"""The closing figures, from decisions and events made by hand."""

from __future__ import annotations

import json

import pytest

from trimtab.runtime.decisions import Decision, Event, Step
from trimtab.runtime.summary import SETTLE, Tally, table, timing


def decision(sequence: int, output: object, truth: object, segment: str | None, stream: str = "s") -> Decision:
    return Decision(stream, sequence, float(sequence), output, 0.5, 0, "stable", None, truth, segment)  # type: ignore[arg-type]


def event(kind: str, sequence: int, stream: str = "s", **payload: object) -> Event:
    return Event(f"{kind}/{stream}", {"stream": stream, "sequence": sequence, **payload})


def course(right_in_left: int) -> Tally:
    """300 windows on the right, 300 on the left (every `right_in_left`-th wrong), 300 on the right again."""
    tally = Tally("classification")
    for i in range(900):
        segment = "left" if 300 <= i < 600 else "right"
        wrong = segment == "left" and i % right_in_left == 0
        step = Step(decisions=[decision(i, "no" if wrong else "yes", "yes", segment)])
        if i == 320:
            step.events = [
                event("drift", 307),
                event("adaptation", 320, accepted=False),
                event("adaptation", 320, accepted=True),
                event("state", 320),
            ]
        if i == 650:
            step.events = [
                event("drift", 605),
                event("drift", 640),
                event("adaptation", 650, accepted=False, rolled_back=True),
            ]
        tally.take(step, 0.001 if i % 10 else 0.004)
    return tally


def test_the_table_of_one_run() -> None:
    assert table(course(4).summary(1.0, 2.0)) == (
        "segment    windows  accuracy  after 256 windows  alarms  delay  adaptations  rolled back\n"
        "─────────  ───────  ────────  ─────────────────  ──────  ─────  ───────────  ───────────\n"
        "right          300   100.0 %            100.0 %       0      -            0            0\n"
        "left           300    75.0 %             75.0 %       1      7            1            0\n"
        "right (2)      300   100.0 %            100.0 %       2      5            0            1\n"
        "─────────  ───────  ────────  ─────────────────  ──────  ─────  ───────────  ───────────\n"
        "all            900    91.7 %             91.7 %       3                   1            1"
    )


def test_the_table_beside_the_static_run() -> None:
    assert table(course(4).summary(1.0, 2.0), course(2).summary(1.0, 2.0)) == (
        "                        accuracy      after 256 windows\n"
        "segment    windows   static  adapted    static  adapted  alarms  delay  adaptations  rolled back\n"
        "─────────  ───────  ───────  ───────  ────────  ───────  ──────  ─────  ───────────  ───────────\n"
        "right          300  100.0 %  100.0 %   100.0 %  100.0 %       0      -            0            0\n"
        "left           300   50.0 %   75.0 %    50.0 %   75.0 %       1      7            1            0\n"
        "right (2)      300  100.0 %  100.0 %   100.0 %  100.0 %       2      5            0            1\n"
        "─────────  ───────  ───────  ───────  ────────  ───────  ──────  ─────  ───────────  ───────────\n"
        "all            900   83.3 %   91.7 %    83.3 %   91.7 %       3                   1            1"
    )


def test_the_document() -> None:
    document = course(4).summary(1.5, 2.0).as_dict()
    assert json.loads(json.dumps(document)) == document
    assert document["segments"][1] == {
        "segment": "left",
        "windows": 300,
        "undecided": 0,
        "labelled": 300,
        "accuracy": 0.75,
        "accuracy_settled": pytest.approx(33 / 44),
        "alarms": 1,
        "alarms_virtual": 1,
        "alarms_real": 0,
        "delays": [7],
        "adaptations": 1,
        "declined": 1,
        "rolled_back": 0,
    }
    assert document["latency_ms"] == {"p50": 1.0, "p90": 1.3, "p99": 4.0, "max": 4.0}
    assert (document["windows_per_second"], document["pipeline_seconds"], document["seconds"]) == (600.0, 1.5, 2.0)


def test_timing_is_one_line() -> None:
    assert timing(course(4).summary(1.5, 2.0)) == (
        "latency of a window: p50 1.00 ms  p90 1.30 ms  p99 4.00 ms  max 4.00 ms; 600 windows/s in the pipeline"
    )
    assert timing(Tally("classification").summary(0.0, 0.0)) == "no window was decided"


def test_without_labels_and_segments_there_are_no_scores() -> None:
    tally = Tally("classification")
    tally.take(Step(decisions=[decision(0, "yes", None, None), decision(1, None, None, None)]), 0.01)
    assert table(tally.summary(1.0, 1.0)) == (
        "segment  windows  alarms  delay  adaptations  rolled back  undecided\n"
        "───────  ───────  ──────  ─────  ───────────  ───────────  ─────────\n"
        "all            2       0      -            0            0          1"
    )


def test_regression_has_an_error() -> None:
    tally = Tally("regression")
    outputs = [({"speed": 1.0}, 4.0), ({"speed": 2.0}, -2.0), (None, 1.0), ({"speed": 3.0}, None)]
    tally.take(Step(decisions=[decision(i, y, t, None) for i, (y, t) in enumerate(outputs)]), 0.01)
    document = tally.summary(1.0, 1.0).as_dict()
    assert document["total"]["rmse"] == pytest.approx(12.5**0.5, abs=1e-6)
    assert (document["total"]["labelled"], document["total"]["undecided"]) == (2, 1)
    assert "3.536" in table(tally.summary(1.0, 1.0))


def test_an_undecided_window_counts_as_wrong() -> None:
    tally = Tally("classification")
    tally.take(Step(decisions=[decision(0, None, "yes", None), decision(1, "yes", "yes", None)]), 0.01)
    assert tally.total.score.accuracy() == 0.5


def test_virtual_and_real_alarms_stand_apart() -> None:
    tally = course(4)
    drifts = [Event("drift/s", {"stream": "s", "sequence": n, "kind": k}) for n, k in ((700, "real"), (350, "virtual"))]
    tally.take(Step(events=drifts), 0.001)
    run = tally.summary(1.0, 1.0)
    assert [(p.alarms, p.real) for p in run.parts] == [(0, 0), (2, 0), (3, 1)]
    assert table(run).splitlines()[:2] == [
        " " * 53 + "alarms",
        "segment    windows  accuracy  after 256 windows  virtual  real  delay  adaptations  rolled back",
    ]
    assert table(run).splitlines()[-1].split()[-4:] == ["4", "1", "1", "1"]


def test_streams_settle_and_alarm_each_for_itself() -> None:
    tally = Tally("classification")
    for stream, first in (("a", 4), ("b", 8)):
        for i in range(SETTLE + 20):
            segment = "one" if i < 10 else "two"
            tally.take(Step(decisions=[decision(i, "yes", "yes", segment, stream)]), 0.001)
        tally.take(Step(events=[event("drift", 10 + first, stream), event("drift", 5, stream)]), 0.001)
    one, two = tally.summary(1.0, 1.0).parts
    assert (one.windows, one.alarms, one.delays) == (20, 2, [])
    assert (two.windows, two.settled.labelled, two.delays) == (2 * (SETTLE + 10), 20, [4, 8])
