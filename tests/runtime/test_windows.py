"""Windows do not depend on how the rows were cut into messages."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trimtab.runtime.blocks import Block, Sample
from trimtab.runtime.bundle import Window
from trimtab.runtime.windows import Windower

CHANNELS = 3


def rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, CHANNELS)).astype(np.float32)


def cut(values: NDArray[np.float32], sizes: list[int]) -> list[NDArray[np.float32]]:
    parts, begin = [], 0
    for size in sizes:
        parts.append(values[begin : begin + size])
        begin += size
    parts.append(values[begin:])
    return parts


def expected(values: NDArray[np.float32], window: Window) -> list[NDArray[np.float32]]:
    starts = range(0, len(values) - window.rows + 1, window.hop)
    return [values[s : s + window.rows].T for s in starts]


def feed(windower: Windower, parts: list[NDArray[np.float32]], rate: float = 10.0) -> list[Sample]:
    samples, done = [], 0
    for part in parts:
        done += len(part)
        samples += windower.push(Block("s", 100.0 + (done - 1) / rate, part))
    return samples


windows = st.builds(Window, rows=st.integers(1, 9), hop=st.integers(1, 14), rate=st.just(10.0))


@settings(max_examples=150, deadline=None)
@given(window=windows, count=st.integers(0, 120), sizes=st.lists(st.integers(0, 30), max_size=12))
def test_any_cut_gives_the_same_windows(window: Window, count: int, sizes: list[int]) -> None:
    values = rows(count)
    samples = feed(Windower("s", CHANNELS, window), cut(values, sizes))
    want = expected(values, window)
    assert [s.sequence for s in samples] == list(range(len(want)))
    for sample, right in zip(samples, want, strict=True):
        np.testing.assert_array_equal(sample.inputs[0], right)
    last_rows = [s * window.hop + window.rows - 1 for s in range(len(want))]
    np.testing.assert_allclose([s.time for s in samples], [100.0 + r / 10.0 for r in last_rows], rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(window=windows, before=st.integers(0, 60), after=st.integers(0, 60))
def test_a_restored_window_continues_as_if_nothing_happened(window: Window, before: int, after: int) -> None:
    values = rows(before + after)
    first = Windower("s", CHANNELS, window)
    head = feed(first, [values[:before]]) if before else []
    state = first.state()
    raw = state.pop("rows")
    through_json: dict[str, Any] = {**json.loads(json.dumps(state)), "rows": raw}
    second = Windower("s", CHANNELS, window)
    second.restore(through_json)
    tail = second.push(Block("s", 100.0 + (before + after - 1) / 10.0, values[before:])) if after else []
    whole = feed(Windower("s", CHANNELS, window), [values])
    assert [s.sequence for s in head + tail] == [s.sequence for s in whole]
    for a, b in zip(head + tail, whole, strict=True):
        np.testing.assert_array_equal(a.inputs[0], b.inputs[0])


def test_a_block_larger_than_the_buffer_is_taken_whole() -> None:
    window = Window(rows=16, hop=4, rate=50.0)
    values = rows(20_000)
    samples = feed(Windower("s", CHANNELS, window), [values])
    want = expected(values, window)
    assert len(samples) == len(want)
    np.testing.assert_array_equal(samples[-1].inputs[0], want[-1])


@settings(max_examples=80, deadline=None)
@given(bad=st.integers(0, 59), value=st.sampled_from([np.nan, np.inf, -np.inf]), size=st.integers(1, 25))
def test_just_the_windows_over_a_bad_row_are_marked(bad: int, value: float, size: int) -> None:
    window = Window(rows=8, hop=4, rate=10.0)
    values = rows(60)
    values[bad, 1] = value
    samples = feed(Windower("s", CHANNELS, window), cut(values, [size] * (60 // size)))
    for sample in samples:
        covered = sample.sequence * 4 <= bad < sample.sequence * 4 + 8
        assert sample.finite is not covered


def test_huge_finite_values_are_finite() -> None:
    window = Window(rows=4, hop=4)
    values = np.full((8, CHANNELS), 3e38, np.float32)
    assert [s.finite for s in Windower("s", CHANNELS, window).push(Block("s", 0.0, values))] == [True, True]


def test_no_window_spans_a_long_silence() -> None:
    window = Window(rows=10, hop=10, rate=10.0)
    windower = Windower("s", CHANNELS, window)
    assert windower.push(Block("s", 0.6, rows(7))) == []
    # 5 s of silence, longer than the window of 1 s: the seven rows are of no use any more.
    assert windower.push(Block("s", 5.9, rows(4, seed=1))) == []
    assert windower.dropped == 7
    later = rows(6, seed=2)
    [sample] = windower.push(Block("s", 6.5, later))
    np.testing.assert_array_equal(sample.inputs[0], np.concatenate([rows(4, seed=1), later]).T)
    assert sample.sequence == 0


def test_labels_come_from_the_last_row() -> None:
    window = Window(rows=4, hop=2)
    labels: list[Any] = list("aabbccdd")
    samples = Windower("s", CHANNELS, window).push(Block("s", 0.0, rows(8), labels=labels))
    assert [s.label for s in samples] == ["b", "c", "d"]


def test_an_open_window_of_other_channels_is_refused() -> None:
    state = Windower("s", 3, Window(rows=4, hop=2)).state() | {"rows": b"\0" * 4 * 4}
    with pytest.raises(ValueError, match="other channels"):
        Windower("s", 3, Window(rows=4, hop=2)).restore(state)
