"""What the pipeline says: a decision per window, and events about drift, adaptation and state."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from trimtab.runtime.blocks import Label


@dataclass(slots=True)
class Decision:
    """The outcome of one window."""

    stream: str
    sequence: int
    """Number of the window in its stream, from 0. A decision is never changed: the same number, the same content."""
    time: float
    """Unix seconds of the window's last row."""
    output: str | dict[str, float] | None
    """The class; or each regression target's value; None where `reason` says why there is none."""
    score: float | None
    """Softmax probability of the class, in [0, 1]; None in regression."""
    version: int
    """Of the parameter vector that decided; 0 is the source's."""
    state: str
    """Drift state of the stream."""
    reason: str | None = None
    truth: Label | None = None
    """From the recording; not published."""
    segment: str | None = None
    signals: dict[str, float] | None = None
    """What the detectors saw of this window; not published."""
    method: str | None = None
    """The step graph that decided, in place of the model as it is."""

    def payload(self) -> dict[str, Any]:
        """What is published on `decision/<stream>`; a golden test holds the keys."""
        message: dict[str, Any] = {
            "stream": self.stream,
            "sequence": self.sequence,
            "time": self.time,
        }
        if isinstance(self.output, dict):
            message["values"] = self.output
        else:
            message["label"] = self.output
            message["score"] = self.score
        message["version"] = self.version
        message["state"] = self.state
        if self.method is not None:
            message["method"] = self.method
        if self.reason is not None:
            message["reason"] = self.reason
        return message


@dataclass(frozen=True, slots=True)
class Event:
    """A message about a stream, beside its decisions."""

    topic: str
    """Under the prefix: `drift/<stream>`, `adaptation/<stream>` or `state/<stream>`."""
    payload: dict[str, Any]
    retain: bool = False


@dataclass(slots=True)
class Step:
    """What one turn of the pipeline gave, in order: decisions, then events."""

    decisions: list[Decision] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    tokens: list[object] = field(default_factory=list)
    """Of the blocks that are done with: acknowledge them once decisions and events are out."""
    streams: list[str] = field(default_factory=list)
    """Whose snapshot has changed."""
    failure: str | None = None
    """Why the model gave nothing for this batch, where it failed."""
    refused: list[str] = field(default_factory=list)
    """Why a command for all streams was not carried out on some: one sentence a stream."""


def short(value: float) -> float | None:
    """Six significant digits: figures for people, equal on every machine; JSON knows no NaN or infinity."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
