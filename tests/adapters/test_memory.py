from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.adapters.memory import BalancedMemory


def fill(memory: BalancedMemory, classes: list[int], start: int = 0) -> None:
    for i, predicted in enumerate(classes, start):
        memory.add({"x": np.full((2, 3), i, np.float32)}, i, predicted)


def test_keeps_what_it_was_given_oldest_first() -> None:
    memory = BalancedMemory(8, 3)
    fill(memory, [0, 2, 1, 0])
    windows = memory.windows()
    assert windows.sequence.tolist() == [0, 1, 2, 3]
    assert windows.predicted.tolist() == [0, 2, 1, 0]
    assert windows.inputs["x"][:, 0, 0].tolist() == [0, 1, 2, 3]
    assert np.isnan(windows.labels).all()


def test_a_long_run_of_one_class_does_not_push_the_others_out() -> None:
    memory = BalancedMemory(30, 3, horizon=10**6)
    fill(memory, [0] * 10 + [1] * 10 + [2] * 2000)
    counts = np.bincount(memory.windows().predicted, minlength=3)
    assert counts.tolist() == [10, 10, 10]


def test_a_class_stays_spread_over_time_and_densest_at_the_newest() -> None:
    memory = BalancedMemory(16, 1, horizon=10**6)
    fill(memory, [0] * 1000)
    sequence = memory.windows().sequence
    assert sequence[0] < 100
    assert sequence[-1] == 999
    gaps = np.diff(sequence)
    assert gaps[: len(gaps) // 2].mean() > 3 * gaps[len(gaps) // 2 :].mean()


def test_more_classes_than_room() -> None:
    memory = BalancedMemory(1, 2)
    fill(memory, [0, 1])
    assert memory.windows().sequence.tolist() == [1]


def test_what_is_older_than_the_horizon_goes_first() -> None:
    memory = BalancedMemory(16, 2, horizon=100)
    fill(memory, [0] * 500)
    assert memory.windows().sequence[0] >= 500 - 100 - 16


@settings(max_examples=50, deadline=None)
@given(
    capacity=st.integers(1, 12),
    classes=st.integers(0, 4),
    stream=st.lists(st.integers(-1, 5), max_size=80),
)
def test_is_bounded_holds_the_newest_and_is_deterministic(capacity: int, classes: int, stream: list[int]) -> None:
    one, two = BalancedMemory(capacity, classes), BalancedMemory(capacity, classes)
    for memory in (one, two):
        fill(memory, stream)
    if not stream:
        assert len(one) == 0
        return
    windows = one.windows()
    assert len(windows) == len(one) == min(capacity, len(stream))
    assert windows.sequence[-1] == len(stream) - 1
    assert (np.diff(windows.sequence) > 0).all()
    assert np.array_equal(windows.sequence, two.windows().sequence)
    assert np.array_equal(windows.inputs["x"][:, 0, 0], windows.sequence)


def test_a_late_label_finds_its_window_while_it_is_remembered() -> None:
    memory = BalancedMemory(4, 2, horizon=4)
    fill(memory, [0, 0, 0])
    assert memory.label(1, 1.0)
    fill(memory, [0] * 20, start=3)
    assert not memory.label(1, 1.0)
    assert memory.label(22, 0.0)
    assert memory.windows().labels[-1] == 0.0
    assert np.isnan(memory.windows().labels[:-1]).all()


def test_a_window_that_comes_again_is_passed_over() -> None:
    memory = BalancedMemory(4, 2)
    fill(memory, [0, 1])
    fill(memory, [1], start=1)
    assert len(memory) == 2


def test_what_it_gives_is_a_copy() -> None:
    memory = BalancedMemory(4, 2)
    fill(memory, [0])
    memory.windows().inputs["x"][:] = 7
    assert memory.windows().inputs["x"].max() == 0


def test_clear() -> None:
    memory = BalancedMemory(4, 2)
    fill(memory, [0, 1, 1, 1, 1])
    memory.clear()
    assert len(memory) == 0
    fill(memory, [1])
    assert memory.windows().sequence.tolist() == [0]


def test_needs_room() -> None:
    with pytest.raises(ValueError, match="room for at least one"):
        BalancedMemory(0, 2)
