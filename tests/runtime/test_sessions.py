"""The engine: folded and banked vectors, what `bind` promises, and that no sample sees half of a swap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.runtime import sessions
from trimtab.runtime.config import Sessions
from trimtab.runtime.errors import BundleError, ConfigError
from trimtab.runtime.executors import InlineExecutor, ThreadExecutor
from trimtab.runtime.sessions import CHUNK, Engine, Graph

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


class Later:
    """Keeps jobs until they are asked for: shows what holds before a build is done, and after."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def submit(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def work(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()


class Full:
    def submit(self, job: Callable[[], None]) -> None:
        raise queue.Full


def folded_streams(engine: Engine, *names: str) -> list[str]:
    return [name for name in names if engine.is_folded(name)]


@pytest.fixture
def engine(tiny: Any) -> Iterator[Engine]:
    engine = Engine(tiny.bundle, Sessions(slots=4, folded=2), InlineExecutor())
    yield engine
    engine.close()


def check(tiny: Any, outputs: Any, thetas: list[Any], x: Any, observed: bool = True) -> None:
    """Each sample as numpy has it with its own vector."""
    expected = [tiny.reference(theta, sample[None]) for theta, sample in zip(thetas, x, strict=True)]
    np.testing.assert_allclose(outputs.y, np.concatenate([e[0] for e in expected]), **TOLERANCE)
    if observed:
        np.testing.assert_allclose(outputs.features, np.concatenate([e[1] for e in expected]), **TOLERANCE)
        np.testing.assert_allclose(outputs.moments, np.concatenate([e[2] for e in expected]), **TOLERANCE)
    else:
        assert outputs.features is None
        assert outputs.moments is None


@pytest.mark.parametrize("observe", [False, True])
def test_a_stream_that_is_not_bound_has_the_source_vector(tiny: Any, engine: Engine, observe: bool) -> None:
    x = tiny.x(3)
    check(tiny, engine.infer({"x": x}, ["a", "b", "a"], observe), [tiny.source] * 3, x, observe)
    assert engine.providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("observe", [False, True])
@pytest.mark.parametrize("folded", [0, 2])
def test_a_bound_stream_has_its_own_vector_folded_and_banked(tiny: Any, observe: bool, folded: int) -> None:
    engine = Engine(tiny.bundle, Sessions(slots=4, folded=folded), InlineExecutor())
    engine.bind("a", tiny.theta(1))
    assert engine.is_folded("a") is (folded > 0)
    x = tiny.x(5)
    check(tiny, engine.infer({"x": x}, ["a"] * 5, observe), [tiny.theta(1)] * 5, x, observe)
    check(tiny, engine.infer({"x": x[:1]}, ["a"], observe), [tiny.theta(1)], x[:1], observe)
    engine.bind("a", None)
    check(tiny, engine.infer({"x": x}, ["a"] * 5, observe), [tiny.source] * 5, x, observe)


BOUND = {"s1": 1, "s2": 2, "s3": 3, "s4": 3}


@pytest.fixture(scope="module")
def mixed(tiny: Any) -> Engine:
    """Streams with folded, banked and source vectors."""
    engine = Engine(tiny.bundle, Sessions(slots=4, folded=2), InlineExecutor())
    for stream, seed in BOUND.items():
        engine.bind(stream, tiny.theta(seed))
    assert folded_streams(engine, *BOUND) == ["s2", "s3", "s4"]
    return engine


@settings(max_examples=40, deadline=None)
@given(streams=st.lists(st.sampled_from(["s0", *BOUND]), min_size=1, max_size=40), observe=st.booleans())
def test_any_mixture_of_streams_keeps_its_order(tiny: Any, mixed: Engine, streams: list[str], observe: bool) -> None:
    x = tiny.x(len(streams), seed=len(streams))
    thetas = [tiny.theta(BOUND[s]) if s in BOUND else tiny.source for s in streams]
    check(tiny, mixed.infer({"x": x}, streams, observe), thetas, x, observe)


@settings(max_examples=15, deadline=None)
@given(
    folded=st.integers(0, 2),
    binds=st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 4)), min_size=1, max_size=12),
)
def test_after_any_binds_each_stream_has_its_last_vector(tiny: Any, folded: int, binds: list[tuple[str, int]]) -> None:
    """With as many rows as streams, no bind is ever refused, and rows that are freed are used again."""
    engine = Engine(tiny.bundle, Sessions(slots=5, folded=folded), InlineExecutor())
    last = dict.fromkeys("abcde", 0)
    x = tiny.x(5)
    for stream, seed in binds:
        engine.bind(stream, tiny.theta(seed) if seed else None)
        last[stream] = seed
        thetas = [tiny.theta(seed) if seed else tiny.source for seed in last.values()]
        check(tiny, engine.infer({"x": x}, list(last), True), thetas, x)
        adapted = {seed for seed in last.values() if seed}
        distinct = {seed for stream, seed in last.items() if seed and engine.is_folded(stream)}
        assert len(distinct) == min(folded, len(adapted))


def test_the_bank_serves_until_the_folded_sessions_are_ready(tiny: Any) -> None:
    later = Later()
    engine = Engine(tiny.bundle, Sessions(slots=4, folded=2), later)
    x = tiny.x(2)
    engine.bind("a", tiny.theta(1))
    assert not engine.is_folded("a")
    check(tiny, engine.infer({"x": x}, ["a", "a"], True), [tiny.theta(1)] * 2, x)
    later.work()
    assert engine.is_folded("a")
    check(tiny, engine.infer({"x": x}, ["a", "a"], True), [tiny.theta(1)] * 2, x)


def test_equal_vectors_share_a_row_and_a_session(tiny: Any) -> None:
    later = Later()
    engine = Engine(tiny.bundle, Sessions(slots=1, folded=1), later)
    for stream in ("a", "b", "c"):
        engine.bind(stream, tiny.theta(1).copy())
    assert len(later.jobs) == 1
    later.work()
    assert folded_streams(engine, "a", "b", "c") == ["a", "b", "c"]


def test_the_source_vector_takes_no_row_even_when_it_is_given_as_a_vector(tiny: Any) -> None:
    engine = Engine(tiny.bundle, Sessions(slots=1, folded=1), InlineExecutor())
    engine.bind("a", tiny.source)
    engine.bind("b", tiny.theta(1))
    assert folded_streams(engine, "a", "b") == ["a", "b"]


def test_more_vectors_than_rows_are_refused_and_nothing_changes(tiny: Any, engine: Engine) -> None:
    for n in range(4):
        engine.bind(f"s{n}", tiny.theta(n))
    with pytest.raises(ConfigError, match=r"^sessions\.slots: all 4 rows .*; raise it to the number of streams$"):
        engine.bind("one more", tiny.theta(9))
    x = tiny.x(5)
    streams = ["s0", "s1", "s2", "s3", "one more"]
    check(tiny, engine.infer({"x": x}, streams, True), [*(tiny.theta(n) for n in range(4)), tiny.source], x)
    # A stream that moves on gives its own row up, so that it can move when all are taken.
    engine.bind("s0", tiny.theta(9))
    check(tiny, engine.infer({"x": x[:1]}, ["s0"], True), [tiny.theta(9)], x[:1])
    # And one that is unbound makes room.
    engine.bind("s1", None)
    engine.bind("one more", tiny.theta(10))
    check(tiny, engine.infer({"x": x[:2]}, ["one more", "s1"], True), [tiny.theta(10), tiny.source], x[:2])


def test_the_vectors_bound_last_are_folded_and_others_move_up_when_one_leaves(tiny: Any, engine: Engine) -> None:
    for n in (1, 2, 3):
        engine.bind(f"s{n}", tiny.theta(n))
    assert folded_streams(engine, "s1", "s2", "s3") == ["s2", "s3"]
    engine.bind("s3", None)
    assert folded_streams(engine, "s1", "s2") == ["s1", "s2"]
    engine.bind("s4", tiny.theta(1))
    assert folded_streams(engine, "s1", "s2", "s4") == ["s1", "s2", "s4"]
    engine.bind("s5", tiny.theta(5))
    assert folded_streams(engine, "s1", "s2", "s4", "s5") == ["s1", "s4", "s5"]


def test_a_wish_that_was_overtaken_is_not_built(tiny: Any) -> None:
    later = Later()
    engine = Engine(tiny.bundle, Sessions(slots=4, folded=1), later)
    engine.bind("a", tiny.theta(1))
    engine.bind("a", tiny.theta(2))
    later.work()
    x = tiny.x(1)
    assert engine.is_folded("a")
    check(tiny, engine.infer({"x": x}, ["a"], True), [tiny.theta(2)], x)


def test_what_the_caller_does_to_its_vector_later_changes_nothing(tiny: Any, engine: Engine) -> None:
    theta, x = tiny.theta(1), tiny.x(1)
    engine.bind("a", theta)
    theta[:] = 0
    check(tiny, engine.infer({"x": x}, ["a"], True), [tiny.theta(1)], x)


def test_a_vector_that_is_no_vector_is_refused(tiny: Any, engine: Engine) -> None:
    with pytest.raises(ValueError, match="shape"):
        engine.bind("a", tiny.source[:-1])
    broken = tiny.theta(1)
    broken[3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        engine.bind("a", broken)
    with pytest.raises(ValueError, match="no samples"):
        engine.infer({"x": tiny.x(0)}, [], True)


def test_an_executor_that_is_full_leaves_the_vector_banked_until_the_next_bind(
    tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(tiny.bundle, Sessions(slots=4, folded=2), Full())
    x = tiny.x(1)
    engine.bind("a", tiny.theta(1))
    assert "too much other work" in caplog.text
    check(tiny, engine.infer({"x": x}, ["a"], True), [tiny.theta(1)], x)
    later = Later()
    engine._executor = later
    engine.bind("b", tiny.theta(2))
    later.work()
    assert folded_streams(engine, "a", "b") == ["a", "b"]


def test_a_build_that_fails_is_logged_and_the_bank_serves_on(
    tiny: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = ThreadExecutor()
    engine = Engine(tiny.bundle, Sessions(slots=4, folded=2), executor)
    x, done = tiny.x(1), threading.Event()
    # A patched graph that ONNX Runtime cannot read stands for whatever may go wrong.
    with monkeypatch.context() as patch:
        patch.setattr(engine._serve, "patched", lambda theta: b"no graph")
        engine.bind("a", tiny.theta(1))
        executor.submit(done.set)
        assert done.wait(30)
    assert not engine.is_folded("a")
    assert "the bank serves on" in caplog.text
    check(tiny, engine.infer({"x": x}, ["a"], True), [tiny.theta(1)], x)
    done.clear()
    engine.bind("b", tiny.theta(2))
    executor.submit(done.set)
    assert done.wait(30)
    assert engine.is_folded("b")
    executor.close()


def test_without_a_banked_graph_binding_folds_before_it_returns(tiny_folded: Any) -> None:
    later = Later()
    engine = Engine(tiny_folded.bundle, Sessions(slots=8, folded=2), later)
    engine.bind("a", tiny_folded.theta(1))
    engine.bind("b", tiny_folded.theta(2))
    assert not later.jobs
    x = tiny_folded.x(4)
    thetas = [tiny_folded.theta(1), tiny_folded.theta(2), tiny_folded.theta(1), tiny_folded.source]
    check(tiny_folded, engine.infer({"x": x}, ["a", "b", "a", "c"], True), thetas, x)
    with pytest.raises(ConfigError, match=r"^sessions\.folded: .* no more than 2 "):
        engine.bind("c", tiny_folded.theta(3))
    engine.bind("a", tiny_folded.theta(3))
    check(tiny_folded, engine.infer({"x": x[:1]}, ["a"], True), [tiny_folded.theta(3)], x[:1])
    with pytest.raises(BundleError, match="no 'probe' graph"):
        engine.probe({"x": x}, np.stack(thetas), np.arange(4))


def test_without_an_observe_graph_there_are_no_taps(tiny_served: Any) -> None:
    engine = Engine(tiny_served.bundle, Sessions(slots=4, folded=1), InlineExecutor())
    engine.bind("a", tiny_served.theta(1))
    engine.bind("b", tiny_served.theta(2))
    x = tiny_served.x(2)
    thetas = [tiny_served.theta(1), tiny_served.theta(2)]
    check(tiny_served, engine.infer({"x": x}, ["a", "b"], True), thetas, x, observed=False)
    check(tiny_served, engine.infer({"x": x[1:]}, ["b"], True), thetas[1:], x[1:], observed=False)


def test_candidates_are_probed_in_chunks(tiny: Any, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.stack([tiny.theta(n) for n in range(3)])
    slot = np.random.default_rng(0).integers(0, 3, 50)
    x = tiny.x(50)
    thetas = [rows[s] for s in slot]
    check(tiny, engine.probe({"x": x}, rows, slot), thetas, x)
    monkeypatch.setattr(sessions, "CHUNK", 16)
    check(tiny, engine.probe({"x": x}, rows, slot), thetas, x)
    assert CHUNK == 1024
    with pytest.raises(ValueError, match="no samples"):
        engine.probe({"x": x[:0]}, rows, slot[:0])


def test_a_bound_run_gives_what_a_plain_run_gives(tiny: Any) -> None:
    """IO binding is what CUDA and TensorRT run with; it works on the CPU as well."""
    session = onnxruntime.InferenceSession(tiny.bundle.graph("probe"), providers=["CPUExecutionProvider"])
    bound = Graph(session, "cpu", 0)
    bound._run = bound._run_bound
    bank = np.stack([tiny.theta(n) for n in range(3)])
    x, slot = tiny.x(6), np.array([0, 1, 2, 2, 1, 0])
    for rows in (bank, bank, bank[::-1].copy()):
        check(tiny, bound({"x": x, "slot": slot, "bank": rows}), [rows[s] for s in slot], x)


def test_no_sample_is_lost_or_sees_two_vectors_while_another_thread_binds(tiny: Any) -> None:
    """Each call is made of one stream's samples, and of many streams'; each sample's y must be that of one of the
    vectors that the stream has had, and as many come back as were sent."""
    executor = ThreadExecutor()
    engine = Engine(tiny.bundle, Sessions(slots=3, folded=1), executor)
    thetas = [tiny.theta(n) for n in range(6)]
    x = tiny.x(12)
    known = np.stack([tiny.reference(theta, x)[0] for theta in [tiny.source, *thetas]])
    # The vectors tell each sample apart by far more than the tolerance.
    distance = np.abs(known[:, None] - known[None]).max(axis=3)
    assert distance[~np.eye(len(known), dtype=bool)].min() > 1e-3
    stop, failures = threading.Event(), []

    def bind() -> None:
        n = 0
        try:
            while not stop.is_set():
                engine.bind("a", thetas[n % 6])
                engine.bind("b", thetas[(n + 3) % 6] if n % 4 else None)
                n += 1
        except (ConfigError, ValueError) as error:
            failures.append(error)

    binder = threading.Thread(target=bind)
    binder.start()
    try:
        seen = set()
        for call in range(400):
            streams = ["a"] * 12 if call % 2 else ["a", "b", "c"] * 4
            outputs = engine.infer({"x": x}, streams, observe=call % 3 == 0)
            assert outputs.y.shape == (12, 2)
            off = np.abs(known - outputs.y).max(axis=2)
            which = off.argmin(axis=0)
            assert off.min(axis=0).max() < 1e-4
            assert (which[2::3] == 0).all() or call % 2
            # All samples of one stream in one call have the same vector.
            assert len(set(which[0::3])) == 1
            assert len(set(which[1::3])) == 1
            seen.add(int(which[0]))
        assert len(seen) > 1
    finally:
        stop.set()
        binder.join(30)
        executor.close()
    assert not failures


def test_a_closed_engine_ignores_a_build_that_comes_late(tiny: Any) -> None:
    later = Later()
    engine = Engine(tiny.bundle, Sessions(slots=4, folded=2), later)
    engine.bind("a", tiny.theta(1))
    engine.close()
    later.work()
    assert not later.jobs
