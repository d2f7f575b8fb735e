"""The smartwatch recordings that PyPI's `seglearn` ships: who did which exercise with the watch on which arm.

Ten people do seven shoulder exercises with either arm (Burns et al. 2018, "Shoulder physiotherapy exercise
recognition: machine learning the inertial signals from a smartwatch"), 50 Hz, accelerometer in g and gyroscope in
rad/s. Nothing is downloaded; NumPy is all that the arrays need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Arm = Literal["left", "right"]

CHANNELS = ["ax", "ay", "az", "wx", "wy", "wz"]
EXERCISES = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]
"""Pendulum, abduction, forward elevation, internal and external rotation, trapezius extension, upright row."""
RATE = 50.0
"""Rows a second."""
ROWS = 128
"""Rows of a window."""
HOP = 32
"""Rows between two windows."""
PEOPLE = tuple(range(1, 11))
UNSEEN = (8, 9, 10)
"""People that the shipped model was not trained on."""


@dataclass(frozen=True, slots=True)
class Recording:
    person: int
    exercise: int
    """Index into EXERCISES."""
    arm: Arm
    rows: NDArray[np.float32]
    """[n, 6]"""


def load() -> list[Recording]:
    """All 140 recordings, ordered by person, exercise and arm.

    Raises ModuleNotFoundError where seglearn or pandas is not installed.
    """
    from seglearn.datasets import load_watch

    data = load_watch()
    found = [
        Recording(int(person), int(exercise), "right" if side else "left", np.asarray(rows, np.float32))
        for rows, exercise, person, side in zip(data["X"], data["y"], data["subject"], data["side"], strict=True)
    ]
    return sorted(found, key=lambda r: (r.person, r.exercise, r.arm))


def worn(recordings: Iterable[Recording], people: Sequence[int], arm: Arm) -> list[Recording]:
    """The recordings of `people`, in their order, with the watch on `arm`, exercise by exercise."""
    chosen = [r for r in recordings if r.person in people and r.arm == arm]
    return sorted(chosen, key=lambda r: (people.index(r.person), r.exercise))


def windows(recordings: Iterable[Recording]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Windows `[n, 6, 128]` cut from each recording by itself, and their exercises `[n]`."""
    cut, exercises = [], []
    for recording in recordings:
        view = np.lib.stride_tricks.sliding_window_view(recording.rows, ROWS, axis=0)[::HOP]
        cut.append(np.ascontiguousarray(view))
        exercises.append(np.full(len(view), recording.exercise, np.int64))
    return np.concatenate(cut), np.concatenate(exercises)


def held_out(seed: int) -> tuple[int, ...]:
    """Three people to serve, drawn by `seed`; the seven others are trained on."""
    drawn = np.random.default_rng(seed).permutation(PEOPLE)[:3]
    return tuple(sorted(int(p) for p in drawn))
