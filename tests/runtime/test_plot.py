"""The averages that the picture draws; the picture itself is drawn in the replay's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trimtab.runtime.decisions import Decision, Step
from trimtab.runtime.plot import Trace, draw, rolling


@given(
    values=st.lists(st.floats(-100, 100) | st.just(float("nan")), min_size=1, max_size=60),
    starts=st.sets(st.integers(1, 59), max_size=4),
    span=st.integers(1, 20),
    least=st.integers(1, 5),
)
def test_rolling_is_the_mean_of_the_last_values_of_a_segment(
    values: list[float], starts: set[int], span: int, least: int
) -> None:
    begins = np.array([0, *sorted(s for s in starts if s < len(values))])
    places, means = rolling(np.array(values), begins, span, least)
    assert places.tolist() == list(range(len(values)))
    for i, mean in enumerate(means):
        begin = max(i + 1 - span, int(begins[begins <= i][-1]))
        known = [v for v in values[begin : i + 1] if v == v]
        if len(known) < least:
            assert np.isnan(mean)
        else:
            np.testing.assert_allclose(mean, np.mean(known), atol=1e-9)


def test_a_run_without_labels_signals_or_segments_can_be_drawn(tmp_path: Path) -> None:
    trace = Trace()
    trace.take(Step(decisions=[Decision("s", i, i, "yes", 0.9, 0, "stable") for i in range(3)]), 0.1)
    draw(tmp_path / "bare.png", trace, None, {}, "bare")
    assert (tmp_path / "bare.png").stat().st_size > 1000


def test_a_regression_can_be_drawn(tmp_path: Path) -> None:
    trace = Trace()
    decisions = [Decision("s", i, i, {"v": 1.0}, None, i // 50, "stable", None, 0.5) for i in range(100)]
    trace.take(Step(decisions=decisions), 0.1)
    draw(tmp_path / "r.png", trace, None, {}, "regression", task="regression")
    assert (tmp_path / "r.png").stat().st_size > 1000


def test_only_one_stream_is_traced() -> None:
    trace = Trace()
    decisions = [Decision(s, i, i, "yes", 0.9, 0, "stable", signals={"entropy": 1.0}) for i in range(3) for s in "ab"]
    trace.take(Step(decisions=decisions), 0.1)
    assert (trace.stream, len(trace.score), len(trace.signals["entropy"])) == ("a", 3, 3)
