"""Spatial pooler: a sparse, stable set of active columns for each set of active input bits.

After Numenta's pseudocode ("Biological and Machine Intelligence", chapter "Spatial Pooling Algorithm Details"), with
global inhibition and without boosting, as Numenta's NAB detector runs it:

1. Each column has a permanence for a random `potential` share of the input bits. One of at least `connected` counts.
2. A column's overlap is the number of active bits that it is connected to. The `winners` columns of largest overlap
   are active; of equal ones, those of the highest index.
3. Each active column's permanences rise by `increment` for active bits and fall by `decrement` for the others, within
   0 and 1. What falls under half an increment becomes 0.

Duty cycles, and the raising of weak columns by them, are left out: they act where a column never overlaps with any
input, which with the encoders at hand does not happen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.compiled import compiled

OUTSIDE = np.float32(-1)
"""Permanence where a column can have no synapse to a bit."""


class Pool(NamedTuple):
    """The memory of a spatial pooler, I input bits and C columns."""

    permanence: NDArray[np.float32]
    """`[C, I]`; OUTSIDE where the bit is not in the column's pool."""
    linked: NDArray[np.uint8]
    """`[I, C]`, 1 where connected: the same facts, laid out for adding up overlaps."""


def new_pool(inputs: int, columns: int, potential: float, connected: float, increment: float, seed: int) -> Pool:
    """A pool whose permanences are random: half of them connected, evenly spread on either side."""
    rng = np.random.default_rng(seed)
    inside = rng.random((columns, inputs), np.float32) < potential
    above = rng.random((columns, inputs), np.float32) < 0.5
    share = rng.random((columns, inputs), np.float32)
    permanence = np.where(above, connected + (1 - connected) * share, connected * share).astype(np.float32)
    permanence[permanence < np.float32(increment / 2)] = 0
    permanence[~inside] = OUTSIDE
    return Pool(permanence, np.ascontiguousarray((permanence >= np.float32(connected)).T.astype(np.uint8)))


@compiled
def pool(
    memory: Pool,
    bits: NDArray[np.int64],
    winners: int,
    connected: np.float32,
    increment: np.float32,
    decrement: np.float32,
    learn: bool,
) -> NDArray[np.int64]:
    """The active columns `[winners]`, ascending, for the active input `bits`; learns from them if `learn`."""
    inputs, columns = memory.linked.shape
    overlap = np.zeros(columns, np.int16)
    for bit in bits:
        row = memory.linked[bit]
        for c in range(columns):
            overlap[c] += row[c]
    count = np.zeros(bits.size + 1, np.int64)
    for c in range(columns):
        count[overlap[c]] += 1
    # All columns above the cut win, and as many of those at it as are still wanted.
    cut, wanted = bits.size, winners
    while cut > 0 and count[cut] < wanted:
        wanted -= int(count[cut])
        cut -= 1
    active = np.empty(winners, np.int64)
    place = winners
    for c in range(columns - 1, -1, -1):
        chosen = overlap[c] > cut
        if overlap[c] == cut and wanted > 0:
            wanted -= 1
            chosen = True
        if chosen:
            place -= 1
            active[place] = c
    if learn:
        on = np.zeros(inputs, np.uint8)
        for bit in bits:
            on[bit] = 1
        trim = increment / np.float32(2)
        for column in active:
            row32 = memory.permanence[column]
            for i in range(inputs):
                old = row32[i]
                if old < np.float32(0):
                    continue
                new = old + increment if on[i] else old - decrement
                if new < trim:
                    new = np.float32(0)
                elif new > np.float32(1):
                    new = np.float32(1)
                row32[i] = new
                if (old >= connected) != (new >= connected):
                    memory.linked[i, column] = 1 if new >= connected else 0
    return active
