"""The policy `always`: a stream's windows go through a step graph, batch by batch, and under guard it decides them.

A batch is a fixed number of the stream's own windows, or what came until the first of them had waited long enough. A
window waits for its batch, and with it everything that is to be said of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.adapters.protection import Guarded, Undone
from trimtab.adapters.steps import StepAdapter, packed, unpacked
from trimtab.runtime.blocks import Sample
from trimtab.runtime.decisions import Event, short
from trimtab.runtime.errors import InferenceError
from trimtab.runtime.providers import library_errors, one_line


@dataclass(frozen=True, slots=True)
class Held:
    """A window that waits for its batch. R: what the pipeline knows of it already."""

    sample: Sample
    result: Any
    static: NDArray[np.float32] | None
    """`[K]` as the source model has it; None where the window cannot go through a model."""
    moments: NDArray[np.float32] | None
    """`[2, M]` of norm inputs; None where the window was not observed."""


class Stepping:
    """One stream's step graph, and the windows that wait for it."""

    def __init__(self, stream: str, adapter: StepAdapter, size: int) -> None:
        self.stream = stream
        self.guarded = Guarded(adapter)
        self.since = 0.0
        """Unix seconds at which the first window that waits began to."""
        self.held: list[Held] = []
        self._size = size
        self._packed: bytes | None = None

    @property
    def name(self) -> str:
        """Of the method."""
        return self.guarded.adapter.name

    def hold(self, held: Held, now: float) -> bool:
        """Let a window wait. Returns whether the batch is full."""
        if not self.held:
            self.since = now
        self.held.append(held)
        return len(self.held) >= self._size

    def step(self, names: list[str]) -> tuple[NDArray[np.float32], list[int]]:
        """Run the method on the windows that wait and that a model can take; `names`: of the model's inputs.

        Returns `y [n, K]`, as is to be decided, and the places of those windows among `held`. Raises InferenceError
        where ONNX Runtime cannot; the state is then as it was.
        """
        able = [(i, h, h.static) for i, h in enumerate(self.held) if h.static is not None]
        if not able:
            return np.zeros((0, 0), np.float32), []
        places = [i for i, _, _ in able]
        inputs = {name: np.stack([h.sample.inputs[k] for _, h, _ in able]) for k, name in enumerate(names)}
        self._packed = None
        try:
            return self.guarded.step(
                inputs, np.stack([y for _, _, y in able]), _moments([h for _, h, _ in able])
            ), places
        except library_errors() as error:
            raise InferenceError(f"{self.name}: {one_line(error)}") from error

    def reset(self) -> None:
        """The method begins anew."""
        self.guarded.reset()
        self._packed = None

    def report(self, version: int, trusted: bool) -> list[Event]:
        """What there is to say after a step; `trusted`: whether the method was trusted before it."""
        sample = self.held[-1].sample
        guarded = self.guarded
        events = [
            self._event(sample, version, False, [_undone(self.name, u)], rolled_back=True) for u in guarded.events
        ]
        guarded.events.clear()
        if guarded.trusted != trusted:
            found = guarded.finding
            entry: dict[str, Any] = {"method": self.name, "accepted": guarded.trusted}
            if found is not None:
                entry["evidence"] = found.kind
                for key in (
                    "gain",
                    "recent",
                    "known",
                    "chance",
                    "spread",
                    "classes",
                    "classes_static",
                    "strange",
                    "off",
                ):
                    entry[key] = short(getattr(found, key))
            events.append(self._event(sample, version, guarded.trusted, [entry]))
        return events

    def state(self) -> bytes:
        """All that method and guard remember. The same object until something changes."""
        if self._packed is None:
            self._packed = packed({self.name: self.guarded.state()})
        return self._packed

    def restore(self, data: bytes) -> None:
        """Go on from `state`. Raises ValueError where it is of another method or bundle."""
        states = unpacked(data)
        if set(states) != {self.name}:
            raise ValueError(f"it is of {', '.join(states) or 'no method'}, and {self.name} is configured")
        self.guarded.restore(states[self.name])
        self._packed = data

    def _event(
        self, sample: Sample, version: int, accepted: bool, trail: list[Mapping[str, Any]], rolled_back: bool = False
    ) -> Event:
        payload: dict[str, Any] = {
            "stream": self.stream,
            "sequence": sample.sequence,
            "time": sample.time,
            "from": version,
            "to": version,
            "accepted": accepted,
            "methods": [self.name] if accepted else [],
            "trail": trail,
        }
        if rolled_back:
            payload["rolled_back"] = True
        return Event(f"adaptation/{self.stream}", payload)


def _moments(held: list[Held]) -> NDArray[np.float32] | None:
    """`[n, 2, M]`, NaN for windows that were not observed; None where none was."""
    known = next((h.moments for h in held if h.moments is not None), None)
    if known is None:
        return None
    unknown = np.full_like(known, np.nan)
    return np.stack([unknown if h.moments is None else h.moments for h in held])


def _undone(name: str, undone: Undone) -> Mapping[str, Any]:
    return {"method": name, "accepted": False, "reason": undone.reason, "back_to": undone.to}
