"""NAB's scoring against values worked out by hand from the definitions of Lavin and Ahmad (2015)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trimtab.drift.nab import NEVER, PROFILES, Scored, corpus_score, probation, sigmoid, weights

STANDARD = PROFILES["standard"]


def rows(n: int, **at: float) -> np.ndarray:
    """Scores of n rows, 0 but for row_<i>."""
    scores = np.zeros(n)
    for name, value in at.items():
        scores[int(name.removeprefix("row_"))] = value
    return scores


def test_the_sigmoid_of_the_paper() -> None:
    # 2 / (1 + e^{5x}) - 1 = -tanh(5x / 2).
    assert sigmoid(-1.0) == pytest.approx(math.tanh(2.5))
    assert sigmoid(-1.0) == pytest.approx(0.98661, abs=1e-5)
    assert sigmoid(0.0) == 0.0
    assert sigmoid(0.5) == pytest.approx(-0.84828, abs=1e-5)
    assert sigmoid(3.0) == pytest.approx(-1.0, abs=1e-6)
    assert sigmoid(3.01) == -1.0


def test_the_probation() -> None:
    assert [probation(n) for n in (1127, 1882, 4032, 5000, 22695)] == [169, 282, 604, 750, 750]


def test_what_rows_are_worth() -> None:
    worth, member = weights(12, [(4, 7)])
    assert member.tolist() == [-1] * 4 + [0] * 4 + [-1] * 4
    assert worth[:4].tolist() == [-1.0] * 4
    # x = -4/4, -3/4, -2/4, -1/4 in the window; then 1/3, 2/3, 1, 4/3.
    top = math.tanh(2.5)
    expected = [math.tanh(2.5 * x) / top for x in (1, 0.75, 0.5, 0.25)]
    assert worth[4:8] == pytest.approx(expected)
    assert worth[8:] == pytest.approx([-math.tanh(2.5 * x) for x in (1 / 3, 2 / 3, 1, 4 / 3)])


def test_nothing_and_all() -> None:
    windows = [(30, 39), (70, 79)]
    nothing = corpus_score([Scored(np.full(100, 0.5), windows)], STANDARD, NEVER)
    assert (nothing.score, nothing.found, nothing.missed, nothing.false) == (0.0, 0, 2, 0)
    for profile in PROFILES.values():
        best = corpus_score([Scored(rows(100, row_30=1.0, row_70=1.0), windows)], profile)
        assert best.score == pytest.approx(100.0)
        assert (best.threshold, best.found, best.false) == (1.0, 2, 0)


def test_a_corpus_by_hand() -> None:
    # Row 5 is in the probation (15 of 100 rows). Row 20 is false, before any window: -0.11. Row 34, x = -(39-34+1)/10
    # = -0.6, tanh(1.5)/tanh(2.5) = 0.91743; row 36 is later in the same window and adds nothing. Row 43 is false,
    # x = 4/9: -0.11 tanh(10/9) = -0.08848. The second window is missed: -1.
    one = Scored(rows(100, row_5=0.9, row_20=0.8, row_34=0.7, row_36=0.95, row_43=0.6), [(30, 39), (70, 79)])
    two = Scored(np.zeros(50), [])
    raw = math.tanh(1.5) / math.tanh(2.5) - 0.11 * (1 + math.tanh(10 / 9)) - 1.0
    at = corpus_score([one, two], STANDARD, 0.6)
    assert at.score == pytest.approx(100 * (raw + 2) / 4)
    assert (at.found, at.missed, at.false) == (1, 1, 2)
    # At 0.7, without row 43: 0.91743 - 0.11 - 1 = -0.19257. At 0.95, row 36 alone: tanh(1)/tanh(2.5) - 1 = -0.22806.
    best = corpus_score([one, two], STANDARD)
    assert best.threshold == 0.7
    assert best.score == pytest.approx(100 * (math.tanh(1.5) / math.tanh(2.5) - 0.11 - 1.0 + 2) / 4)
    high = corpus_score([one, two], STANDARD, 0.95)
    assert high.score == pytest.approx(100 * (math.tanh(1.0) / math.tanh(2.5) + 1) / 4)
    low_fn = corpus_score([one, two], PROFILES["reward_low_fn"], 0.6)
    assert low_fn.score == pytest.approx(100 * (raw - 1 + 4) / (2 + 4))
    low_fp = corpus_score([one, two], PROFILES["reward_low_fp"], 0.6)
    assert low_fp.score == pytest.approx(100 * (raw - 0.11 * (1 + math.tanh(10 / 9)) + 2) / 4)


def test_a_threshold_cannot_part_equal_scores() -> None:
    scores = rows(100, row_30=0.5, row_50=0.5, row_60=0.5)
    best = corpus_score([Scored(scores, [(30, 39)])], STANDARD)
    assert best.false == 2


def test_windows_in_the_probation_count_neither_way() -> None:
    result = corpus_score([Scored(rows(100, row_30=1.0), [(5, 9), (30, 39)])], STANDARD)
    assert result.score == pytest.approx(100.0)
    assert result.missed == 0


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="no labelled window"):
        corpus_score([Scored(np.zeros(100), [])], STANDARD)
    with pytest.raises(ValueError, match="one is NaN"):
        corpus_score([Scored(np.full(100, np.nan), [(30, 39)])], STANDARD)
    with pytest.raises(ValueError, match="window 1 from row 35 to 50 is not in order within 100 rows"):
        weights(100, [(30, 39), (35, 50)])
