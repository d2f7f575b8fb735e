"""Where work beside the loop is done: at once (a replay), or on a thread of its own (the daemon)."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

Job = Callable[[], None]


class Executor(Protocol):
    def submit(self, job: Job) -> None:
        """Have `job` done, now or later. Raises queue.Full where it can take no more: the job is then not done."""
        ...


class InlineExecutor:
    """Does each job at once, in the caller's thread: what a replay needs to be the same every time."""

    def submit(self, job: Job) -> None:
        job()


YIELDING = 5
"""By how much nicer a background thread is than the one that serves."""


class ThreadExecutor:
    """Does jobs one after another on one daemon thread; at most `capacity` wait.

    Where the system knows priorities of threads (Linux), it runs at a lower one: seconds of trying out candidates
    must not delay what is served on the same cores.

    A job that fails is logged and the thread goes on: the jobs behind it are other people's.
    """

    def __init__(self, name: str = "trimtab-work", capacity: int = 64) -> None:
        self._jobs: queue.Queue[Job | None] = queue.Queue(capacity)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue `job`. Raises queue.Full where `capacity` jobs wait, RuntimeError after `close()`.

        It never blocks, so that a job may submit another one from within the thread.
        """
        if self._closed.is_set():
            raise RuntimeError("this executor is closed")
        self._jobs.put_nowait(job)

    def close(self, timeout: float | None = None) -> bool:
        """Take no more jobs, drop those that wait, and wait `timeout` seconds (None: as long as it takes) for the
        one under way. Returns whether the thread has ended."""
        self._closed.set()
        while True:
            try:
                self._jobs.put_nowait(None)
                break
            except queue.Full:
                # Make room for the end mark; the thread may be quicker, which is as well.
                try:
                    self._jobs.get_nowait()
                except queue.Empty:
                    continue
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, os.nice(0) + YIELDING))
        while (job := self._jobs.get()) is not None:
            if self._closed.is_set():
                continue
            try:
                job()
            except Exception:
                # The thread serves everyone: one caller's fault must not end it.
                log.exception("a background job failed")
