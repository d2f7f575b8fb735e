"""Counting of alarms, by hand; run lengths against a published survival curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.drift.catalogue import build
from trimtab.drift.detector import Detector, Finding, State
from trimtab.drift.evaluation import Array, Labelled, count, evaluate, run_length


class Above:
    """Alarms at each value above 0.5."""

    name = "above"

    def update(self, value: float) -> Finding:
        return Finding(value > 0.5, value, 0.5, None)

    def reset(self) -> None: ...

    def state(self) -> State:
        return {}

    def restore(self, state: State) -> None: ...


def make(_: Array | None) -> Detector:
    return Above()


def stream(alarms: list[int], changes: tuple[int, ...], n: int) -> Labelled:
    values = np.zeros(n)
    values[alarms] = 1
    return Labelled(values, changes)


def test_a_hit_a_repeat_a_late_and_an_early_alarm() -> None:
    counts = count([9, 50, 55, 59, 60, 99], [50], 100, margin=10)
    assert counts.delays == [1]
    assert counts.repeats == 2  # at 55 and 59, the last within the margin
    assert counts.false == 3
    assert (counts.values, counts.quiet, counts.changes) == (100, 90, 1)
    # From the start to 9; 10..49 is cut short by the change; 60 and 99 each end a run that an alarm began.
    assert counts.runs == [10, 1, 39]
    assert counts.cut == [40]


def test_an_alarm_belongs_to_the_latest_change() -> None:
    counts = count([25], [10, 20, 80], 100, margin=50)
    assert counts.delays == [6]
    assert counts.quiet == 10 + 10  # 0..9 and 70..79
    assert (counts.runs, counts.cut) == ([], [10, 54])


def test_a_late_alarm_is_false_and_its_run_does_not_count() -> None:
    counts = count([70], [50], 100, margin=10)
    assert (counts.delays, counts.false, counts.runs, counts.cut) == ([], 1, [], [50, 29])


def test_no_alarm_and_no_change() -> None:
    counts = count([], [], 100, margin=10)
    assert (counts.delays, counts.false, counts.repeats, counts.quiet) == ([], 0, 0, 100)
    assert (counts.runs, counts.cut) == ([], [100])


@settings(max_examples=200, deadline=None)
@given(st.sets(st.integers(0, 199), max_size=40), st.sets(st.integers(0, 199), max_size=5), st.integers(1, 250))
def test_every_alarm_is_counted_once(raised: set[int], changes: set[int], margin: int) -> None:
    counts = count(sorted(raised), sorted(changes), 200, margin)
    assert len(counts.delays) + counts.repeats + counts.false == len(raised)
    assert len(counts.delays) <= len(changes)
    assert all(1 <= d <= margin for d in counts.delays)
    assert 0 <= counts.quiet <= 200
    assert len(counts.runs) <= counts.false
    assert sum(counts.runs) + sum(counts.cut) <= 200


def test_run_lengths_are_kaplan_and_meiers_estimate() -> None:
    # Freireich et al. 1963, remission of 21 patients on 6-MP in weeks, the usual example: survival 0.857 after 6,
    # 0.753 after 10, 0.690 after 13, 0.538 after 22, 0.448 after 23 (Cox and Oakes 1984, table 1.1).
    whole = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    cut = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    assert run_length(whole, cut, 0.14) == 6
    assert run_length(whole, cut, 0.24) == 10
    assert run_length(whole, cut, 0.30) == 13
    assert run_length(whole, cut, 0.5) == 23
    assert run_length(whole, cut, 0.95) is None
    assert run_length([], [100], 0.05) is None
    assert run_length([1, 2, 3, 4], [], 0.5) == 2


def test_scores_by_hand() -> None:
    streams = {"two": [stream([10, 52, 54], (50,), 100), stream([], (40,), 100)], "none": [stream([3], (), 50)]}
    two, none = evaluate({"above": make}, streams, margin=10)
    assert (two.detector, two.stream, two.streams, two.values) == ("above", "two", 2, 200)
    assert (two.changes, two.missed, two.repeats, two.false) == (2, 1, 1, 1)
    assert (two.median_delay, two.mean_delay) == (3.0, 3.0)
    assert two.false_per_10000 == pytest.approx(1e4 / 180)
    # Precision 1/3, recall 1/2: their harmonic mean.
    assert two.f1 == pytest.approx(0.4)
    # Runs 11, and at least 39, 45 and 40: the shortest of four is a quarter of all.
    assert two.run_lengths == (11, None, None)
    assert two.longest_run == 45
    assert two.microseconds > 0
    assert (none.changes, none.missed, none.median_delay, none.f1, none.false) == (0, 0, None, None, 1)
    assert none.false_per_10000 == pytest.approx(200)


def test_the_reference_is_given_and_not_counted() -> None:
    given_to: list[Array | None] = []

    def remember(reference: Array | None) -> Detector:
        given_to.append(reference)
        return Above()

    (score,) = evaluate({"above": remember}, {"s": [stream([5, 52], (50,), 100)]}, margin=10, reference=20)
    assert given_to[0] is not None
    assert given_to[0].shape == (20,)
    assert (score.values, score.false, score.median_delay) == (80, 0, 3.0)
    with pytest.raises(ValueError, match="stream s changes or ends within the 51 values taken as reference"):
        evaluate({"above": make}, {"s": [stream([], (50,), 100)]}, margin=10, reference=51)


@pytest.mark.parametrize("changes", [(100,), (-1,), (50, 50), (60, 50)])
def test_changes_lie_in_the_stream_and_rise(changes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="changes must be rising places in a stream of 100 values"):
        Labelled(np.zeros(100), changes)


def test_a_margin_below_1_is_told() -> None:
    with pytest.raises(ValueError, match="margin must be 1 or more, not 0"):
        count([], [], 10, 0)


def test_a_real_detector_finds_a_large_shift_at_once() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(1000)
    values[500:] += 10
    (score,) = evaluate(
        {"sprt": lambda r: build("sprt", every=1e6, reference=r)}, {"shift": [Labelled(values, (500,))]}, margin=50
    )
    assert (score.missed, score.false, score.repeats, score.f1) == (0, 0, 0, 1.0)
    assert score.median_delay is not None
    assert score.median_delay <= 8
