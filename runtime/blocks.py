"""What a source hands to the pipeline: one message's worth of one stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Label = str | float
"""A class name, or a regression value."""


@dataclass(slots=True)
class Block:
    """Consecutive rows of one stream, or one whole sample."""

    stream: str
    time: float
    """Unix seconds of the last row."""
    values: NDArray[np.float32] | dict[str, NDArray[np.float32]]
    """`[rows, C]` where the bundle has a window; else one sample per input name, each of the input's shape."""
    sequence: int | None = None
    """The sender's message number, where it gives one."""
    labels: list[Label | None] | None = None
    """The truth per row (or one for the sample), where a recording carries it. Never used to adapt, but for what
    `drift.errors` makes of it."""
    segment: str | None = None
    """A part of a recording, for its closing table."""
    token: object = None
    """Handed back in `Step.tokens` once everything made from this block is in the step's events."""


@dataclass(slots=True)
class Sample:
    """One input of the model, waiting for its turn."""

    stream: str
    sequence: int
    """Number of the window in its stream, from 0; the key of its decision."""
    time: float
    inputs: list[NDArray[np.float32]]
    """One array per model input, without the batch axis."""
    finite: bool
    label: Label | None = None
    segment: str | None = None
