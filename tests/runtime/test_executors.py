"""Executors: order, bounds, and a thread that outlives a failing job."""

from __future__ import annotations

import queue
import threading

import pytest

from trimtab.runtime.executors import InlineExecutor, ThreadExecutor


def test_inline_jobs_are_done_before_submit_returns() -> None:
    done: list[int] = []
    InlineExecutor().submit(lambda: done.append(1))
    assert done == [1]


def test_a_thread_does_jobs_in_order_away_from_the_caller() -> None:
    executor, done, end = ThreadExecutor(), [], threading.Event()
    for n in range(20):
        executor.submit(lambda n=n: done.append((n, threading.get_ident())))  # type: ignore[misc]
    executor.submit(end.set)
    assert end.wait(30)
    assert [n for n, _ in done] == list(range(20))
    assert {ident for _, ident in done}.isdisjoint({threading.get_ident()})
    assert executor.close(30)


def test_a_failing_job_is_logged_and_the_next_is_done(caplog: pytest.LogCaptureFixture) -> None:
    executor, end = ThreadExecutor(), threading.Event()

    def fail() -> None:
        raise KeyError("nothing there")

    executor.submit(fail)
    executor.submit(end.set)
    assert end.wait(30)
    assert "a background job failed" in caplog.text
    assert "nothing there" in caplog.text
    executor.close()


def test_the_queue_is_bounded_and_closing_drops_what_waits() -> None:
    executor = ThreadExecutor(capacity=2)
    begun, go, done = threading.Event(), threading.Event(), []

    def hold() -> None:
        begun.set()
        go.wait(30)

    executor.submit(hold)
    assert begun.wait(30)
    executor.submit(lambda: done.append(1))
    executor.submit(lambda: done.append(2))
    with pytest.raises(queue.Full):
        executor.submit(lambda: done.append(3))
    assert not executor.close(0.01), "the job under way has not ended"
    go.set()
    assert executor.close(30)
    assert done == []
    with pytest.raises(RuntimeError, match="closed"):
        executor.submit(hold)


def test_a_job_may_submit_another() -> None:
    executor, end = ThreadExecutor(capacity=1), threading.Event()
    executor.submit(lambda: executor.submit(end.set))
    assert end.wait(30)
    executor.close()
