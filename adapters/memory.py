"""The windows that a stream remembers to adapt on: balanced over predicted classes, thinned with age.

Recorded streams are correlated: a person repeats one exercise for half a minute. A memory of the newest windows would
hold one class, and statistics from it would pull the model towards that class. Balancing by prediction follows the
memories of NOTE (Gong et al. 2022) and RoTTA (Yuan et al. 2023); how a class is thinned is our own: by gap over age,
so that it stays spread over time, densest at the newest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.adapters.methods import Windows


class BalancedMemory:
    """At most `capacity` windows; room is made in the class that holds most.

    Args:
        capacity: windows kept.
        classes: K; 0 for regression, where windows are kept by time only.
        horizon: windows older than this many window numbers are the first to go; default 8 * capacity.

    Raises ValueError where `capacity` is under 1. Memory is taken once, at the first `add`.
    """

    def __init__(self, capacity: int, classes: int, horizon: int | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; a memory needs room for at least one window")
        self.capacity = capacity
        self._horizon = 8 * capacity if horizon is None else horizon
        self._inputs: dict[str, NDArray[np.float32]] = {}
        self._sequence = np.zeros(capacity, np.int64)
        self._predicted = np.full(capacity, -1, np.int64)
        self._labels = np.full(capacity, np.nan)
        self._group = np.zeros(capacity, np.int64)  # by class; all 0 where there is none
        self._held = np.zeros(max(classes, 1), np.int64)  # windows per group
        self._classes = classes
        self._slot: dict[int, int] = {}  # by window number
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, inputs: dict[str, NDArray[np.float32]], sequence: int, predicted: int) -> None:
        """Remember one window (copied): `inputs` {name: [*shape]}, its number, and its predicted class (-1: none).

        Window numbers ascend; one that is already there is passed over.
        """
        if sequence in self._slot:
            return
        if not self._inputs:
            self._inputs = {name: np.empty((self.capacity, *x.shape), np.float32) for name, x in inputs.items()}
        group = predicted if 0 <= predicted < self._classes else 0
        if self._count < self.capacity:
            slot = self._count
            self._count += 1
        else:
            slot = self._make_room(group, sequence)
        for name, store in self._inputs.items():
            store[slot] = inputs[name]
        self._sequence[slot] = sequence
        self._predicted[slot] = predicted if self._classes else -1
        self._group[slot] = group
        self._labels[slot] = np.nan
        self._held[group] += 1
        self._slot[sequence] = slot

    def label(self, sequence: int, value: float) -> bool:
        """Note a label that came late: a class index or a value. Returns whether the window is still here."""
        slot = self._slot.get(sequence)
        if slot is None:
            return False
        self._labels[slot] = value
        return True

    def windows(self) -> Windows:
        """What is remembered (copies), oldest first."""
        order = np.argsort(self._sequence[: self._count], kind="stable")
        return Windows(
            {name: store[order] for name, store in self._inputs.items()},
            self._sequence[order],
            self._predicted[order],
            self._labels[order],
        )

    def clear(self) -> None:
        """Forget all windows; the room stays taken."""
        self._count = 0
        self._held[:] = 0
        self._slot.clear()

    def _make_room(self, group: int, now: int) -> int:
        """Drop one window of the fullest class (`group`, the new window's, where it is among them)."""
        own = int(self._held[group])
        fullest = group if own and own + 1 >= self._held.max() else int(self._held.argmax())
        members = np.flatnonzero(self._group == fullest)
        members = members[np.argsort(self._sequence[members], kind="stable")]
        times = self._sequence[members]
        if len(members) < 3 or now - times[0] > self._horizon:
            gone = members[0]
        else:
            # The one whose neighbours are nearest to each other for its age: thin evenly on a logarithmic time scale.
            gone = members[1:-1][np.argmin((times[2:] - times[:-2]) / (now - times[1:-1]))]
        self._held[fullest] -= 1
        del self._slot[int(self._sequence[gone])]
        return int(gone)
