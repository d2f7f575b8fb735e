"""A spatial pooler and a temporal memory on top of each other: sets of bits in, anomaly scores out."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.drift import spatial_pooler, temporal_memory
from trimtab.drift.detector import State
from trimtab.drift.temporal_memory import ACTIVE, FREE_SEGMENTS, HAND, HIGH_SEGMENT, RANDOM, WINNERS, Settings

F32 = np.float32

POTENTIAL, CONNECTED, INCREMENT, DECREMENT = 0.8, 0.2, 0.003, 0.0005
"""The spatial pooler's permanences, as in Numenta's NAB detectors."""

SPARSITY = 40 / 2048
"""Share of columns that are active."""

MEMORY = Settings(
    cells=32,
    activation=20,
    matching=13,
    sample=31,
    initial=F32(0.24),
    increment=F32(0.04),
    decrement=F32(0.008),
    punishment=F32(0.001),
    connected=F32(0.5),
)
"""The temporal memory's, as in Numenta's "numentaTM" NAB detector."""


class Region:
    """`inputs` bits, `columns` of `cells` each, at most `segments` of `synapses` each; see the modules.

    Where there are fewer than 2,048 columns, fewer are active, and thresholds and samples shrink in proportion.
    """

    def __init__(
        self, inputs: int, *, columns: int, cells: int, segments: int, synapses: int = 64, seed: int = 0
    ) -> None:
        self._winners = max(1, round(SPARSITY * columns))
        share = self._winners / 40
        self._settings = MEMORY._replace(
            cells=cells,
            activation=max(1, round(MEMORY.activation * share)),
            matching=max(1, round(MEMORY.matching * share)),
            sample=max(1, round(MEMORY.sample * share)),
        )
        self._shape = (inputs, columns, segments, synapses)
        self._seed = seed
        self._pool = spatial_pooler.new_pool(inputs, columns, POTENTIAL, CONNECTED, INCREMENT, 1956 + seed)
        self._touched = np.zeros(columns, bool)
        self._memory = temporal_memory.new_memory(columns, cells, segments, synapses, 1960 + seed)

    def update(self, bits: NDArray[np.int64]) -> float:
        """Take the active input bits (ascending): the anomaly score, from 0 (all expected) to 1 (nothing)."""
        columns = spatial_pooler.pool(
            self._pool, bits, self._winners, F32(CONNECTED), F32(INCREMENT), F32(DECREMENT), True
        )
        self._touched[columns] = True
        return float(temporal_memory.step(self._memory, self._settings, columns, True))

    def state(self) -> State:
        """All of the memory: what differs from a new region, compressed, as base64."""
        m = self._memory
        high = int(m.registers[HIGH_SEGMENT])
        room = self._shape[3]
        taken = np.arange(room) < m.size[:high, None]
        return {
            "registers": [int(m.registers[i]) for i in (RANDOM, HIGH_SEGMENT, HAND)],
            "columns": _packed(np.flatnonzero(self._touched).astype(np.int32)),
            "permanence": _packed(self._pool.permanence[self._touched]),
            "cell_of": _packed(m.cell_of[:high]),
            "size": _packed(m.size[:high]),
            "used": _packed(m.used[:high]),
            "source": _packed(m.source[: high * room].reshape(high, room)[taken]),
            "strength": _packed(m.permanence[: high * room].reshape(high, room)[taken]),
            "free": _packed(m.free_segments[: m.registers[FREE_SEGMENTS]]),
            "active": _packed(m.active[: m.registers[ACTIVE]]),
            "winners": _packed(m.winners[: m.registers[WINNERS]]),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`, of a region with the same sizes and seed."""
        inputs, columns, segments, room = self._shape
        self._pool = spatial_pooler.new_pool(inputs, columns, POTENTIAL, CONNECTED, INCREMENT, 1956 + self._seed)
        self._touched = np.zeros(columns, bool)
        self._touched[_unpacked(state["columns"], np.int32)] = True
        rows = _unpacked(state["permanence"], np.float32).reshape(-1, inputs)
        self._pool.permanence[self._touched] = rows
        self._pool.linked[:, self._touched] = (rows >= F32(CONNECTED)).T
        cells = self._settings.cells
        m = self._memory = temporal_memory.new_memory(columns, cells, segments, room, 1960 + self._seed)
        m.registers[RANDOM], high, m.registers[HAND] = state["registers"]
        m.registers[HIGH_SEGMENT] = high
        m.cell_of[:high] = _unpacked(state["cell_of"], np.int32)
        m.size[:high] = _unpacked(state["size"], np.int32)
        m.used[:high] = _unpacked(state["used"], np.uint8)
        taken = np.arange(room) < m.size[:high, None]
        m.source[: high * room].reshape(high, room)[taken] = _unpacked(state["source"], np.int32)
        m.permanence[: high * room].reshape(high, room)[taken] = _unpacked(state["strength"], np.float32)
        for array, register, key in (
            (m.free_segments, FREE_SEGMENTS, "free"),
            (m.active, ACTIVE, "active"),
            (m.winners, WINNERS, "winners"),
        ):
            values = _unpacked(state[key], np.int32)
            array[: values.size] = values
            m.registers[register] = values.size
        temporal_memory.relist(m, self._settings)


def _packed(array: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode("ascii")


def _unpacked(text: str, kind: type[np.generic]) -> NDArray[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)
