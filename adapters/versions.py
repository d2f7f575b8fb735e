"""The parameter vectors that a stream has used: every change is a version that can be recalled, pinned or undone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.adapters.steps import State, packed, unpacked

Row = tuple[int, int | None, str, str, float, bytes, bytes]
"""Number, parent, method, evidence as JSON, time, theta as little-endian float32, states (`steps.packed`)."""


@dataclass(frozen=True, slots=True)
class Version:
    """One accepted parameter vector."""

    number: int
    """0 is the source's; never used twice."""
    theta: NDArray[np.float32]
    """[P], read-only."""
    parent: int | None
    """The version that was in use when this one was made; None for the source's."""
    method: str
    evidence: Mapping[str, float]
    time: float
    """Unix seconds."""
    states: Mapping[str, State] = field(default_factory=dict)
    """What step graphs remember that had a part in it, by their names: they go on from there."""


class Versions:
    """The versions of one stream, and which of them is in use.

    Args:
        source: theta [P] as exported: version 0.
        keep: versions remembered; the oldest are dropped, but never the source's, the one in use, its parent, or the
            pinned one.
    """

    def __init__(self, source: NDArray[np.float32], keep: int = 16) -> None:
        if keep < 4:
            raise ValueError(f"keep is {keep}; at least 4 versions must be kept")
        self._keep = keep
        self._versions = {0: Version(0, _frozen(source), None, "source", {}, 0.0)}
        self._current = 0
        self._next = 1
        self._pinned: int | None = None
        self.since = 0.0
        """Unix seconds at which the version in use was taken into use."""

    @property
    def current(self) -> Version:
        """The version in use."""
        return self._versions[self._current]

    @property
    def pinned(self) -> int | None:
        """The number that nothing but `unpin` moves the stream from; None: not pinned."""
        return self._pinned

    def __len__(self) -> int:
        return len(self._versions)

    def get(self, number: int) -> Version:
        """Raises ValueError where there is no such version (any more)."""
        try:
            return self._versions[number]
        except KeyError:
            kept = ", ".join(map(str, self._versions))
            raise ValueError(f"there is no version {number}; kept are {kept}") from None

    def find(self, number: int) -> Version | None:
        """The version, or None where there is no such (any more)."""
        return self._versions.get(number)

    def candidates(self) -> list[Version]:
        """All versions but the one in use, newest first; the source's is always among them."""
        return [v for v in reversed(self._versions.values()) if v.number != self._current]

    def add(
        self,
        theta: NDArray[np.float32],
        method: str,
        evidence: Mapping[str, float],
        time: float,
        states: Mapping[str, State] | None = None,
    ) -> Version:
        """Take `theta [P]` (copied) into use as a new version; one that equals a kept version recalls that one.

        Raises ValueError on a wrong size, on values that are not finite, or while another version is pinned.
        """
        theta = np.asarray(theta, np.float32)
        if theta.shape != self._versions[0].theta.shape or not np.isfinite(theta).all():
            raise ValueError(f"a version needs {self._versions[0].theta.size} finite values")
        for version in self._versions.values():
            if np.array_equal(version.theta, theta):
                return self.recall(version.number, time)
        self._check_pin(self._next)
        version = Version(self._next, _frozen(theta), self._current, method, dict(evidence), time, dict(states or {}))
        self._versions[version.number] = version
        self._current = version.number
        self._next += 1
        self.since = time
        self._drop()
        return version

    def recall(self, number: int, time: float) -> Version:
        """Take an earlier version into use. Raises ValueError where there is none, or another is pinned."""
        version = self.get(number)
        self._check_pin(number)
        self._current = number
        self.since = time
        return version

    def rollback(self, time: float) -> Version:
        """Take the parent of the version in use into use. Raises ValueError where there is none."""
        parent = self.current.parent
        if parent is None:
            raise ValueError(f"version {self._current} has none before it")
        return self.recall(parent, time)

    def reset(self, time: float) -> Version:
        """Take the source's vector into use; the others stay known. Raises ValueError where another is pinned."""
        return self.recall(0, time)

    def pin(self, number: int | None = None) -> Version:
        """Use version `number` (None: the one in use) until `unpin`. Raises ValueError where there is none."""
        version = self.get(self._current if number is None else number)
        self._current = self._pinned = version.number
        return version

    def unpin(self) -> None:
        self._pinned = None

    def state(self) -> dict[str, Any]:
        """What is not in the rows; JSON-able."""
        return {"current": self._current, "next": self._next, "pinned": self._pinned, "since": self.since}

    def to_rows(self) -> list[Row]:
        """One row a version: a table."""
        return [
            (
                v.number,
                v.parent,
                v.method,
                json.dumps(dict(v.evidence)),
                v.time,
                v.theta.astype("<f4").tobytes(),
                packed(v.states),
            )
            for v in self._versions.values()
        ]

    def restore(self, state: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Continue from `state()` and `to_rows()`.

        Raises ValueError where they are not of this model: another source vector, a wrong size, a missing version.
        """
        versions = {}
        for number, parent, method, evidence, time, data, states in sorted(rows, key=lambda row: row[0]):
            theta = np.frombuffer(data, "<f4").astype(np.float32)
            if theta.shape != self._versions[0].theta.shape:
                raise ValueError(
                    f"version {number} has {theta.size} values, this model has {self._versions[0].theta.size}; "
                    "the versions are of another bundle"
                )
            versions[number] = Version(
                number, _frozen(theta), parent, method, json.loads(evidence), time, unpacked(states)
            )
        if 0 not in versions or not np.array_equal(versions[0].theta, self._versions[0].theta):
            raise ValueError("version 0 is not this model's source vector; the versions are of another bundle")
        current, pinned = int(state["current"]), state["pinned"]
        if current not in versions or (pinned is not None and pinned not in versions):
            raise ValueError(f"version {current if current not in versions else pinned} is in use but was not kept")
        self._versions = versions
        self._current = current
        self._pinned = pinned
        self.since = float(state["since"])
        self._next = max(int(state["next"]), max(versions) + 1)

    def _check_pin(self, number: int) -> None:
        if self._pinned is not None and number != self._pinned:
            raise ValueError(f"version {self._pinned} is pinned; unpin it first")

    def _drop(self) -> None:
        needed = {0, self._current, self.current.parent, self._pinned}
        for number in list(self._versions):
            if len(self._versions) <= self._keep:
                return
            if number not in needed:
                del self._versions[number]


def _frozen(theta: NDArray[np.float32]) -> NDArray[np.float32]:
    copy = np.array(theta, np.float32)
    copy.setflags(write=False)
    return copy
