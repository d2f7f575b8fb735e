"""HTM as the pseudocode says it, in plain Python and NumPy: what the compiled one is measured and tested against.

Synapses are Python dictionaries and arrays; segments are counted by looking at every synapse of the memory. Same
order of work and same random numbers as trimtab.drift.temporal_memory, so that the two agree to the last bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.temporal_memory import GONE, Settings

ONE = np.float32(1)


class PlainPooler:
    """See trimtab.drift.spatial_pooler; `permanence [C, I]`, below 0 outside of the pools."""

    def __init__(
        self, permanence: NDArray[np.float32], winners: int, connected: float, increment: float, decrement: float
    ) -> None:
        self.permanence = permanence.copy()
        self.winners = winners
        self.connected = np.float32(connected)
        self.increment = np.float32(increment)
        self.decrement = np.float32(decrement)

    def step(self, bits: NDArray[np.int64]) -> NDArray[np.int64]:
        """The active columns, ascending."""
        columns, inputs = self.permanence.shape
        overlap = (self.permanence[:, bits] >= self.connected).sum(axis=1)
        active = np.sort(np.lexsort((-np.arange(columns), -overlap))[: self.winners])
        on = np.zeros(inputs, bool)
        on[bits] = True
        old = self.permanence[active]
        new = np.where(on, old + self.increment, old - self.decrement)
        new[new < self.increment / np.float32(2)] = 0
        self.permanence[active] = np.where(old < 0, old, np.minimum(new, ONE))
        return np.asarray(active, np.int64)


class Segment:
    """The cell it belongs to, and its synapses: cells they come from, and permanences."""

    def __init__(self, cell: int) -> None:
        self.cell = cell
        self.source = np.zeros(0, np.int64)
        self.permanence = np.zeros(0, np.float32)
        self.connected = self.potential = 0


class PlainMemory:
    """See trimtab.drift.temporal_memory; without a limit on segments."""

    def __init__(self, columns: int, settings: Settings, synapses: int, seed: int) -> None:
        self.settings = settings
        self.room = synapses
        self.columns = columns
        self.random = seed * 2654435761 % (2**32 - 1) + 1
        self.segments: dict[int, Segment] = {}
        self.free: list[int] = []
        self.segments_of = np.zeros(columns * settings.cells, np.int64)
        self.active: list[int] = []
        self.winners: list[int] = []

    def step(self, columns: NDArray[np.int64]) -> float:
        """Take the active columns, ascending: the anomaly score."""
        s = self.settings
        on = np.zeros(self.columns * s.cells, bool)
        on[self.active] = True
        matching = sorted((g.cell, number) for number, g in self.segments.items() if g.potential >= s.matching)
        chosen = set(columns.tolist())
        active: list[int] = []
        winners: list[int] = []
        burst = 0
        for column in [*columns.tolist(), self.columns]:
            first = column * s.cells
            for _, number in [m for m in matching if m[0] < first and m[0] // s.cells not in chosen]:
                self._adapt(number, on, -s.punishment, np.float32(0))
            matching = [m for m in matching if m[0] >= first]
            if column == self.columns:
                break
            mine = [m for m in matching if m[0] < first + s.cells]
            predicting = [m for m in mine if self.segments[m[1]].connected >= s.activation]
            if predicting:
                for cell, number in predicting:
                    if cell not in active[-s.cells :]:
                        active.append(cell)
                        winners.append(cell)
                    self._learn(number, on)
                continue
            burst += 1
            active.extend(range(first, first + s.cells))
            if mine:
                number = max(mine, key=lambda m: self.segments[m[1]].potential)[1]
                winners.append(self.segments[number].cell)
                self._learn(number, on)
                continue
            counts = self.segments_of[first : first + s.cells]
            fewest = np.flatnonzero(counts == counts.min())
            winner = first + int(fewest[self._below(fewest.size)])
            winners.append(winner)
            if self.winners:
                number = self.free.pop() if self.free else len(self.segments)
                self.segments[number] = Segment(winner)
                self.segments_of[winner] += 1
                self._grow(number, s.sample)
        self.active, self.winners = active, winners
        self._predict()
        return burst / columns.size

    def _predict(self) -> None:
        on = np.zeros(self.columns * self.settings.cells, bool)
        on[self.active] = True
        for segment in self.segments.values():
            reached = on[segment.source]
            segment.potential = int(reached.sum())
            segment.connected = int((reached & (segment.permanence >= self.settings.connected)).sum())

    def _learn(self, number: int, on: NDArray[np.bool_]) -> None:
        wanted = self.settings.sample - self.segments[number].potential
        self._adapt(number, on, self.settings.increment, self.settings.decrement)
        if number in self.segments and wanted > 0:
            self._grow(number, wanted)

    def _adapt(self, number: int, on: NDArray[np.bool_], gain: np.float32, loss: np.float32) -> None:
        segment = self.segments[number]
        reached = on[segment.source]
        segment.permanence = np.minimum(np.where(reached, segment.permanence + gain, segment.permanence - loss), ONE)
        for j in range(segment.source.size - 1, -1, -1):
            if segment.permanence[j] < GONE:
                self._remove(segment, j)
        if segment.source.size == 0:
            self.segments_of[segment.cell] -= 1
            del self.segments[number]
            self.free.append(number)

    def _remove(self, segment: Segment, j: int) -> None:
        segment.source[j], segment.permanence[j] = segment.source[-1], segment.permanence[-1]
        segment.source, segment.permanence = segment.source[:-1], segment.permanence[:-1]

    def _grow(self, number: int, wanted: int) -> None:
        segment = self.segments[number]
        known = set(segment.source.tolist())
        candidates = [cell for cell in self.winners if cell not in known]
        wanted = min(wanted, len(candidates), self.room)
        while segment.source.size + wanted > self.room:
            self._remove(segment, int(segment.permanence.argmin()))
        for i in range(wanted):
            drawn = i + self._below(len(candidates) - i)
            segment.source = np.append(segment.source, candidates[drawn])
            segment.permanence = np.append(segment.permanence, self.settings.initial)
            candidates[drawn] = candidates[i]

    def _below(self, limit: int) -> int:
        x = self.random
        x ^= (x << 13) & 0xFFFFFFFF
        x ^= x >> 17
        x ^= (x << 5) & 0xFFFFFFFF
        self.random = x
        return (x * limit) >> 32
