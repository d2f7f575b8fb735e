"""Temporal memory: learns which active columns follow which, in context, and tells what it did not expect.

After Numenta's pseudocode ("Biological and Machine Intelligence", chapter "Temporal Memory Algorithm Details";
Hawkins and Ahmad 2016). Columns have `cells` each; cells have segments; segments have synapses to cells that were
active one step before. A step, given the active columns:

1. An active column with predicted cells (cells with an active segment) activates these, and they are its winners.
   Their active segments learn: synapses to cells that were active gain, others lose, and new ones grow to the
   winners of the step before, up to `sample` active ones.
2. An active column without bursts: all its cells become active. The cell of the best matching segment is its winner,
   which learns as above; without a matching segment, it is a cell with the fewest segments, which grows one.
3. Matching segments of columns that are not active were wrong, and their active synapses lose `punishment`.
4. Each segment counts its synapses to active cells. With `activation` connected ones (permanence at least
   `connected`) it is active, its cell predicted for the next step; with `matching` ones of any permanence it matches.

The anomaly score is the share of active columns that burst (none of them predicted: 1).

**Memory.** Flat arrays of fixed size. A segment has room for `synapses`; where new ones find none, the weakest make
way. Cells know the synapses that lead from them (chains of chunks of 15), so that a step costs what active cells
have, not what the memory holds. Once all `segments` are in use, a new one takes the place of one that has not been
active or matching since the last round of a clock hand (second chance, Corbato 1968): the memory has an upper bound,
as an edge device needs, where Numenta's grows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.compiled import compiled

CHUNK = 15
"""Synapses in a chunk; with the link to the next it fills a cache line."""

GONE = np.float32(1e-6)
"""Synapses of a lower permanence are removed."""

RANDOM, FREE_SEGMENTS, HIGH_SEGMENT, FREE_CHUNKS, HIGH_CHUNK, HAND, ACTIVE, WINNERS, MATCHING = range(9)
"""What the registers hold: the random number, free-lists' lengths, marks up to which arrays have been used, the
clock hand, and how many of the `active`, `winners` and `matching` entries count."""


class Settings(NamedTuple):
    """See the module."""

    cells: int
    activation: int
    matching: int
    sample: int
    initial: np.float32
    increment: np.float32
    decrement: np.float32
    punishment: np.float32
    connected: np.float32


class Memory(NamedTuple):
    """S segments of K synapses; N cells. Synapse j of segment s has the number s K + j."""

    registers: NDArray[np.int64]
    cell_of: NDArray[np.int32]
    """`[S]`: the cell of a segment, -1 where it is free."""
    size: NDArray[np.int32]
    """`[S]`: its synapses, which are the first of its K."""
    used: NDArray[np.uint8]
    """`[S]`: whether it was of use since the clock hand passed."""
    counts: NDArray[np.int32]
    """`[S]`: synapses to active cells, plus 65,536 for each connected one."""
    source: NDArray[np.int32]
    """`[S K]`: the cell a synapse comes from."""
    permanence: NDArray[np.float32]
    place: NDArray[np.int32]
    """`[S K]`: where the chunks list the synapse."""
    segments_of: NDArray[np.int32]
    """`[N]`: how many segments a cell has."""
    leaving: NDArray[np.int32]
    """`[N]`: how many synapses lead from a cell."""
    head: NDArray[np.int32]
    """`[N]`: its first chunk, the one that may be partly filled."""
    chunks: NDArray[np.int32]
    """`[chunks, 16]`: twice the synapse's number, plus 1 where connected; last, the next chunk."""
    free_segments: NDArray[np.int32]
    free_chunks: NDArray[np.int32]
    active: NDArray[np.int32]
    """`[N]`: the active cells."""
    winners: NDArray[np.int32]
    """`[N]`: the winner cells."""
    matching: NDArray[np.int64]
    """`[S]`: matching segments as cell 2**32 + segment, ascending."""
    on: NDArray[np.uint8]
    """`[N]`: 1 where a cell is active."""
    mark: NDArray[np.uint8]
    """`[N]`: all 0 between uses."""


def new_memory(columns: int, cells: int, segments: int, synapses: int, seed: int) -> Memory:
    """An empty memory. What is not yet used of its arrays takes no space on systems that hand out zeros on demand."""
    n = columns * cells
    # A cell has at most one chunk that is not full.
    chunks = segments * synapses // CHUNK + min(n, segments * synapses) + 1
    registers = np.zeros(9, np.int64)
    registers[RANDOM] = seed * 2654435761 % (2**32 - 1) + 1
    return Memory(
        registers,
        np.zeros(segments, np.int32),
        np.zeros(segments, np.int32),
        np.zeros(segments, np.uint8),
        np.zeros(segments, np.int32),
        np.zeros(segments * synapses, np.int32),
        np.zeros(segments * synapses, np.float32),
        np.zeros(segments * synapses, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int32),
        np.zeros((chunks, CHUNK + 1), np.int32),
        np.zeros(segments, np.int32),
        np.zeros(chunks, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int32),
        np.zeros(segments, np.int64),
        np.zeros(n, np.uint8),
        np.zeros(n, np.uint8),
    )


@compiled
def _below(m: Memory, limit: int) -> int:
    """A random number from 0 to limit - 1 (xorshift32, Marsaglia 2003)."""
    x = m.registers[RANDOM]
    x ^= (x << 13) & 0xFFFFFFFF
    x ^= x >> 17
    x ^= (x << 5) & 0xFFFFFFFF
    m.registers[RANDOM] = x
    return (x * limit) >> 32  # type: ignore[no-any-return]


@compiled
def _list(m: Memory, synapse: int, connected: bool) -> None:
    """Have the cell that a synapse comes from list it."""
    cell = m.source[synapse]
    slot = m.leaving[cell] % CHUNK
    if slot == 0:
        if m.registers[FREE_CHUNKS] > 0:
            m.registers[FREE_CHUNKS] -= 1
            chunk = m.free_chunks[m.registers[FREE_CHUNKS]]
        else:
            chunk = np.int32(m.registers[HIGH_CHUNK])
            m.registers[HIGH_CHUNK] += 1
        m.chunks[chunk, CHUNK] = m.head[cell]
        m.head[cell] = chunk
    chunk = m.head[cell]
    m.chunks[chunk, slot] = 2 * synapse + (1 if connected else 0)
    m.place[synapse] = chunk * (CHUNK + 1) + slot
    m.leaving[cell] += 1


@compiled
def _unlist(m: Memory, synapse: int) -> None:
    """The opposite: the cell's last entry takes the place that becomes free."""
    cell = m.source[synapse]
    m.leaving[cell] -= 1
    slot = m.leaving[cell] % CHUNK
    chunk = m.head[cell]
    last = m.chunks[chunk, slot]
    place = m.place[synapse]
    m.chunks[place // (CHUNK + 1), place % (CHUNK + 1)] = last
    m.place[last // 2] = place
    if slot == 0:
        m.head[cell] = m.chunks[chunk, CHUNK]
        m.free_chunks[m.registers[FREE_CHUNKS]] = chunk
        m.registers[FREE_CHUNKS] += 1


@compiled
def _remove(m: Memory, segment: int, j: int) -> None:
    """Remove synapse `j` of a segment; its last takes the place."""
    room = m.source.size // m.size.size
    synapse = segment * room + j
    _unlist(m, synapse)
    m.size[segment] -= 1
    last = segment * room + m.size[segment]
    if last != synapse:
        m.source[synapse] = m.source[last]
        m.permanence[synapse] = m.permanence[last]
        place = m.place[last]
        m.place[synapse] = place
        entry = m.chunks[place // (CHUNK + 1), place % (CHUNK + 1)]
        m.chunks[place // (CHUNK + 1), place % (CHUNK + 1)] = 2 * synapse + entry % 2


@compiled
def _free(m: Memory, segment: int) -> None:
    """Remove a segment."""
    for j in range(m.size[segment] - 1, -1, -1):
        _remove(m, segment, j)
    m.segments_of[m.cell_of[segment]] -= 1
    m.cell_of[segment] = -1
    m.free_segments[m.registers[FREE_SEGMENTS]] = segment
    m.registers[FREE_SEGMENTS] += 1


@compiled
def _adapt(m: Memory, settings: Settings, segment: int, gain: np.float32, loss: np.float32) -> None:
    """Synapses to cells that were active gain, the others lose; a segment without any left is removed."""
    room = m.source.size // m.size.size
    for j in range(m.size[segment] - 1, -1, -1):
        synapse = segment * room + j
        old = m.permanence[synapse]
        new = old + gain if m.on[m.source[synapse]] else old - loss
        if new > np.float32(1):
            new = np.float32(1)
        if new < GONE:
            _remove(m, segment, j)
            continue
        m.permanence[synapse] = new
        if (old >= settings.connected) != (new >= settings.connected):
            place = m.place[synapse]
            m.chunks[place // (CHUNK + 1), place % (CHUNK + 1)] = 2 * synapse + (new >= settings.connected)
    if m.size[segment] == 0:
        _free(m, segment)


@compiled
def _grow(
    m: Memory, settings: Settings, segment: int, wanted: int, winners: NDArray[np.int32], spare: NDArray[np.int32]
) -> None:
    """Grow `wanted` synapses to random cells of `winners` that the segment has none to. `spare`: room for them."""
    room = m.source.size // m.size.size
    first = segment * room
    for j in range(m.size[segment]):
        m.mark[m.source[first + j]] = 1
    count = 0
    for cell in winners:
        if not m.mark[cell]:
            spare[count] = cell
            count += 1
    for j in range(m.size[segment]):
        m.mark[m.source[first + j]] = 0
    wanted = min(wanted, count, room)
    while m.size[segment] + wanted > room:
        weakest = 0
        for j in range(1, m.size[segment]):
            if m.permanence[first + j] < m.permanence[first + weakest]:
                weakest = j
        _remove(m, segment, weakest)
    for i in range(wanted):
        drawn = i + _below(m, count - i)
        cell = spare[drawn]
        spare[drawn] = spare[i]
        synapse = first + m.size[segment]
        m.source[synapse] = cell
        m.permanence[synapse] = settings.initial
        m.size[segment] += 1
        _list(m, synapse, bool(settings.initial >= settings.connected))


@compiled
def _create(m: Memory, settings: Settings, cell: int) -> int:
    """A new, empty segment of a cell; -1 where all are in use just now."""
    r = m.registers
    if r[FREE_SEGMENTS] == 0 and r[HIGH_SEGMENT] == m.size.size:
        for _ in range(2 * m.size.size):
            segment = r[HAND]
            r[HAND] = (segment + 1) % m.size.size
            if m.used[segment]:
                m.used[segment] = 0
            elif (m.counts[segment] & 0xFFFF) < settings.matching:
                _free(m, segment)
                break
        else:
            return -1
    if r[FREE_SEGMENTS] > 0:
        r[FREE_SEGMENTS] -= 1
        segment = np.int64(m.free_segments[r[FREE_SEGMENTS]])
    else:
        segment = r[HIGH_SEGMENT]
        r[HIGH_SEGMENT] += 1
    m.cell_of[segment] = cell
    m.size[segment] = 0
    m.counts[segment] = 0
    m.used[segment] = 1
    m.segments_of[cell] += 1
    return segment  # type: ignore[no-any-return]


@compiled
def _learn(m: Memory, settings: Settings, segment: int, winners: NDArray[np.int32], spare: NDArray[np.int32]) -> None:
    """Make a segment fit what was active before."""
    wanted = settings.sample - (m.counts[segment] & 0xFFFF)
    m.used[segment] = 1
    _adapt(m, settings, segment, settings.increment, settings.decrement)
    if m.cell_of[segment] >= 0 and wanted > 0:
        _grow(m, settings, segment, wanted, winners, spare)


@compiled
def _least_used(m: Memory, first: int, cells: int) -> int:
    """A random one of a column's cells with the fewest segments."""
    fewest = m.segments_of[first]
    count = 0
    for cell in range(first, first + cells):
        if m.segments_of[cell] < fewest:
            fewest = m.segments_of[cell]
            count = 0
        if m.segments_of[cell] == fewest:
            count += 1
    chosen = _below(m, count)
    for cell in range(first, first + cells):
        if m.segments_of[cell] == fewest:
            if chosen == 0:
                return cell
            chosen -= 1
    return first


@compiled
def step(m: Memory, settings: Settings, columns: NDArray[np.int64], learn: bool) -> float:
    """Take the active `columns` (ascending): the anomaly score, from 0 to 1."""
    r = m.registers
    cells = settings.cells
    before = m.winners[: r[WINNERS]].copy()
    spare = np.empty(before.size, np.int32)
    new_active = np.empty(columns.size * cells, np.int32)
    new_winners = np.empty(columns.size * cells, np.int32)
    active = winners = burst = 0
    at, end = 0, r[MATCHING]
    for column in columns:
        first = column * cells
        # Wrong predictions, of the columns between the last active one and this.
        while at < end and (m.matching[at] >> 32) < first:
            if learn and settings.punishment > 0:
                _adapt(m, settings, m.matching[at] & 0xFFFFFFFF, -settings.punishment, np.float32(0))
            at += 1
        begin = at
        best, most, predicted = -1, -1, False
        while at < end and (m.matching[at] >> 32) < first + cells:
            segment = m.matching[at] & 0xFFFFFFFF
            if (m.counts[segment] >> 16) >= settings.activation:
                predicted = True
            if (m.counts[segment] & 0xFFFF) > most:
                best, most = segment, m.counts[segment] & 0xFFFF
            at += 1
        if predicted:
            last = np.int64(-1)
            for i in range(begin, at):
                segment = m.matching[i] & 0xFFFFFFFF
                if (m.counts[segment] >> 16) >= settings.activation:
                    cell = m.matching[i] >> 32
                    if cell != last:
                        new_active[active] = cell
                        active += 1
                        new_winners[winners] = cell
                        winners += 1
                        last = cell
                    if learn:
                        _learn(m, settings, segment, before, spare)
            continue
        burst += 1
        for cell in range(first, first + cells):
            new_active[active] = cell
            active += 1
        if best >= 0:
            winner = m.cell_of[best]
            if learn:
                _learn(m, settings, best, before, spare)
        else:
            winner = np.int32(_least_used(m, first, cells))
            if learn and before.size > 0:
                segment = _create(m, settings, int(winner))
                if segment >= 0:
                    _grow(m, settings, segment, settings.sample, before, spare)
        new_winners[winners] = winner
        winners += 1
    while at < end:
        if learn and settings.punishment > 0:
            _adapt(m, settings, m.matching[at] & 0xFFFFFFFF, -settings.punishment, np.float32(0))
        at += 1
    for i in range(r[ACTIVE]):
        m.on[m.active[i]] = 0
    for i in range(active):
        m.on[new_active[i]] = 1
        m.active[i] = new_active[i]
    for i in range(winners):
        m.winners[i] = new_winners[i]
    r[ACTIVE], r[WINNERS] = active, winners
    _predict(m, settings)
    return burst / max(columns.size, 1)


@compiled
def _predict(m: Memory, settings: Settings) -> None:
    """Count each segment's synapses to active cells, and list those that match."""
    r = m.registers
    m.counts[: r[HIGH_SEGMENT]] = 0
    room = m.source.size // m.size.size
    count = 0
    for i in range(r[ACTIVE]):
        cell = m.active[i]
        left = m.leaving[cell]
        chunk = m.head[cell]
        while left > 0:
            filled = (left - 1) % CHUNK + 1
            for slot in range(filled):
                entry = m.chunks[chunk, slot]
                segment = (entry >> 1) // room
                total = m.counts[segment] + 1 + ((entry & 1) << 16)
                m.counts[segment] = total
                if (total & 0xFFFF) == settings.matching:
                    m.matching[count] = (np.int64(m.cell_of[segment]) << 32) + segment
                    count += 1
            left -= filled
            chunk = m.chunks[chunk, CHUNK]
    m.matching[:count].sort()
    r[MATCHING] = count


@compiled
def relist(m: Memory, settings: Settings) -> None:
    """Work out, from segments, synapses and active cells alone, all else: for a memory that was just filled in."""
    room = m.source.size // m.size.size
    for segment in range(m.registers[HIGH_SEGMENT]):
        if m.cell_of[segment] < 0:
            continue
        m.segments_of[m.cell_of[segment]] += 1
        for synapse in range(segment * room, segment * room + m.size[segment]):
            _list(m, synapse, m.permanence[synapse] >= settings.connected)
    for i in range(m.registers[ACTIVE]):
        m.on[m.active[i]] = 1
    _predict(m, settings)
