"""Time, so that a replay can simulate it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Unix seconds."""
        ...


class SystemClock:
    """The clock on the wall."""

    def now(self) -> float:
        return time.time()


class SimulatedClock:
    """A clock that stands where it was put. It never goes backwards."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def advance_to(self, moment: float) -> None:
        """Move on to `moment` (Unix seconds); an earlier one changes nothing."""
        self._now = max(self._now, moment)


class Pace:
    """Waits until a recording's time has come on the wall, `speed` times faster than recorded."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._begun: tuple[float, float] | None = None

    def wait_for(self, moment: float) -> None:
        """Return when `moment` (seconds of the recording) has come; the first one is now."""
        if self._begun is None:
            self._begun = (moment, time.monotonic())
        start, begun = self._begun
        wait = begun + (moment - start) / self._speed - time.monotonic()
        if wait > 0:
            time.sleep(wait)
