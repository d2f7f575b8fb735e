"""The demo's recording: a watch on the right arm of people that the model never saw, then the left, then the right.

NumPy only; no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.examples.watch.recordings import CHANNELS, EXERCISES, RATE, UNSEEN, Arm, Recording, load, worn

ARMS: tuple[Arm, ...] = ("right", "left", "right")
SEGMENTS = ("right", "left", "back")
"""What the three parts of the stream are called."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A recording of one stream, row by row."""

    time: NDArray[np.float64]
    """[n] seconds from `start`, in recorded order."""
    values: NDArray[np.float32]
    """[n, 6]"""
    label: list[str]
    """[n] the exercise."""
    segment: list[str]
    """[n] right, left, back."""

    def columns(self, stream: str = "watch") -> dict[str, NDArray[np.generic] | list[str]]:
        """As columns of a table: time, stream, the six channels, label, segment."""
        channels = {name: self.values[:, i] for i, name in enumerate(CHANNELS)}
        return {
            "time": self.time,
            "stream": [stream] * len(self.time),
            **channels,
            "label": self.label,
            "segment": self.segment,
        }


def build(people: Sequence[int] = UNSEEN, start: float = 0.0, recordings: Sequence[Recording] | None = None) -> Stream:
    """All exercises of `people`, person by person, on the right arm, then the left, then the right again.

    `start`: unix seconds of the first row.
    """
    known = load() if recordings is None else recordings
    values: list[NDArray[np.float32]] = []
    label: list[str] = []
    segment: list[str] = []
    for name, arm in zip(SEGMENTS, ARMS, strict=True):
        for recording in worn(known, people, arm):
            values.append(recording.rows)
            label += [EXERCISES[recording.exercise]] * len(recording.rows)
            segment += [name] * len(recording.rows)
    whole = np.concatenate(values)
    return Stream(start + np.arange(len(whole)) / RATE, whole, label, segment)
