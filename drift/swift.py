"""The SPRTs of one stream's signals side by side, as machine code: the same to the bit as each alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.drift import advance
from trimtab.drift.compiled import compiled_with, possible, works
from trimtab.drift.detector import Detector
from trimtab.drift.sprt import Sprt, padded

Array = NDArray[np.float64]


class Together:
    """`detectors` as they go on while none alarms. Their memory is here from `take` to `give_back`."""

    def __init__(self, detectors: Sequence[Sprt]) -> None:
        self._detectors = detectors
        self._run = _machine_code()
        self._fixed = np.array([d.fixed for d in detectors])
        self._shifts = padded(detectors)
        self._tests = np.zeros((*self._shifts.shape[:2], 4))
        self._levels = np.empty((0, 0))
        self._fresh = False
        """Whether what is here holds: so it does after `give_back`, until the detectors are told something."""
        self._ahead = False
        """Whether the detectors are to be told what happened here."""

    def take(self, windows: Sequence[Sequence[float]]) -> list[float] | None:
        """Take windows, each a value for every signal: the greatest share after each, and last each signal's own.

        None where a baseline is being learnt, a value is not finite, or there is an alarm: then nothing is taken.
        """
        if not self._fresh:
            self._read()
        if self._learning:
            return None
        told = np.empty(len(windows) + len(self._detectors))
        values = np.array(windows)
        if not self._run(values, self._levels, self._fixed, self._shifts, self._tests, told):
            return None
        self._ahead = True
        return told.tolist()

    def _read(self) -> None:
        self._levels = np.array([d.baseline.level for d in self._detectors])
        self._learning = any(d.baseline.learning for d in self._detectors)
        for own, detector in zip(self._tests, self._detectors, strict=True):
            own[: len(detector.tests)] = detector.tests
        self._fresh = True

    def give_back(self) -> None:
        """Let the detectors know what was taken."""
        if self._ahead:
            for detector, level, tests in zip(
                self._detectors, self._levels.tolist(), self._tests.tolist(), strict=True
            ):
                detector.baseline.level = tuple(level)
                detector.tests[:] = tests[: len(detector.tests)]
            self._ahead = False

    def forget(self) -> None:
        """The detectors have changed by themselves."""
        self._fresh = self._ahead = False


@cache
def _machine_code() -> Any:
    found = compiled_with(advance.together, advance=advance.advance)
    level, fixed = np.ones((1, len(advance.LEVEL))), np.ones((1, 4))
    values, shifts, tests, told = np.zeros((1, 1)), np.ones((1, 1, 5)), np.zeros((1, 1, 4)), np.zeros(2)
    # Compiled now, which takes seconds, and not when a window waits.
    return found if works(lambda: found(values, level, fixed, shifts, tests, told), "detectors") else None


def swift(detectors: Iterable[Detector]) -> Together | None:
    """The detectors together; None where they are not all SPRTs, or nothing can be compiled."""
    found = list(detectors)
    alike = [d for d in found if isinstance(d, Sprt)]
    if not alike or len(alike) < len(found) or not possible() or _machine_code() is None:
        return None
    return Together(alike)
