"""The compiled spatial pooler and temporal memory against plain ones, and what they must learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.plain_htm import PlainMemory, PlainPooler
from trimtab.drift import spatial_pooler, temporal_memory
from trimtab.drift.temporal_memory import (
    ACTIVE,
    CHUNK,
    FREE_SEGMENTS,
    HIGH_SEGMENT,
    RANDOM,
    WINNERS,
    Memory,
    Settings,
    new_memory,
)

F = np.float32
SMALL = Settings(4, 4, 3, 6, F(0.45), F(0.2), F(0.15), F(0.05), F(0.5))


def sequence(n: int, columns: int, seed: int, repeats: bool) -> list[NDArray[np.int64]]:
    """Active columns, 8 a step: a cycle of 12 patterns with some noise, or all random."""
    rng = np.random.default_rng(seed)
    patterns = [rng.choice(columns, 8, replace=False) for _ in range(12)]
    out = []
    for i in range(n):
        pattern = patterns[i % 12].copy() if repeats else rng.choice(columns, 8, replace=False)
        if rng.random() < 0.2:
            pattern = rng.choice(columns, 8, replace=False)
        out.append(np.sort(pattern).astype(np.int64))
    return out


def consistent(m: Memory) -> None:
    """Chunks and segments must tell the same of every synapse."""
    room = m.source.size // m.size.size
    high = int(m.registers[HIGH_SEGMENT])
    alive = [s for s in range(high) if m.cell_of[s] >= 0]
    assert high - len(alive) == m.registers[FREE_SEGMENTS]
    assert np.bincount(m.cell_of[alive], minlength=m.segments_of.size).tolist() == m.segments_of.tolist()
    synapses = [s * room + j for s in alive for j in range(m.size[s])]
    assert np.bincount(m.source[synapses], minlength=m.leaving.size).tolist() == m.leaving.tolist()
    for x in synapses:
        entry = m.chunks[m.place[x] // (CHUNK + 1), m.place[x] % (CHUNK + 1)]
        assert entry == 2 * x + (m.permanence[x] >= SMALL.connected)
    assert not m.mark.any()


@pytest.mark.parametrize("synapses", [40, 7])
@pytest.mark.parametrize("repeats", [True, False])
def test_the_compiled_memory_is_the_plain_one_to_the_last_bit(repeats: bool, synapses: int) -> None:
    plain = PlainMemory(40, SMALL, synapses, 3)
    m = new_memory(40, SMALL.cells, 4000, synapses, 3)
    for i, columns in enumerate(sequence(400, 40, 5, repeats)):
        assert temporal_memory.step(m, SMALL, columns, True) == plain.step(columns), i
        assert m.active[: m.registers[ACTIVE]].tolist() == plain.active
        assert m.winners[: m.registers[WINNERS]].tolist() == plain.winners
        assert m.registers[RANDOM] == plain.random
    consistent(m)
    assert len(plain.segments) > 50
    for number, segment in plain.segments.items():
        first = number * synapses
        assert m.cell_of[number] == segment.cell
        assert m.source[first : first + m.size[number]].tolist() == segment.source.tolist()
        assert m.permanence[first : first + m.size[number]].tolist() == segment.permanence.tolist()


def test_the_compiled_pooler_is_the_plain_one_to_the_last_bit() -> None:
    memory = spatial_pooler.new_pool(60, 50, 0.8, 0.2, 0.03, 1)
    plain = PlainPooler(memory.permanence, 6, 0.2, 0.03, 0.01)
    rng = np.random.default_rng(2)
    for _ in range(300):
        bits = np.sort(rng.choice(60, 9, replace=False)).astype(np.int64)
        active = spatial_pooler.pool(memory, bits, 6, F(0.2), F(0.03), F(0.01), True)
        assert active.tolist() == plain.step(bits).tolist()
    assert memory.permanence.tolist() == plain.permanence.tolist()
    assert ((memory.permanence >= F(0.2)) == memory.linked.T).all()


def test_a_full_memory_replaces_segments_of_no_use() -> None:
    m = new_memory(40, SMALL.cells, 60, 20, 3)
    for columns in sequence(500, 40, 5, False):
        temporal_memory.step(m, SMALL, columns, True)
    assert m.registers[HIGH_SEGMENT] == 60
    consistent(m)


def test_a_cycle_is_learnt_and_a_break_in_it_is_seen() -> None:
    m = new_memory(200, 8, 4000, 40, 1)
    settings = SMALL._replace(cells=8)
    rng = np.random.default_rng(0)
    patterns = [np.sort(rng.choice(200, 10, replace=False)).astype(np.int64) for _ in range(9)]
    scores = [temporal_memory.step(m, settings, patterns[i % 9], True) for i in range(180)]
    assert scores[0] == 1.0
    # A cycle without a beginning is learnt ever longer: one step a round stays new.
    assert sum(scores[-45:]) <= 5.0
    assert temporal_memory.step(m, settings, patterns[5], True) > 0.6


def test_a_higher_order_sequence_is_told_by_its_beginning() -> None:
    rng = np.random.default_rng(4)
    p = {name: np.sort(rng.choice(300, 10, replace=False)).astype(np.int64) for name in "ABCDEF"}
    m = new_memory(300, 8, 8000, 40, 1)
    settings = Settings(8, 6, 4, 10, F(0.3), F(0.1), F(0.1), F(0.02), F(0.5))

    def run(word: str) -> list[float]:
        temporal_memory.step(m, settings, np.sort(rng.choice(300, 10, replace=False)).astype(np.int64), True)
        return [temporal_memory.step(m, settings, p[name], True) for name in word]

    for _ in range(60):
        run("ABCD")
        run("EBCF")
    assert run("ABCD") == [1.0, 0.0, 0.0, 0.0]
    assert run("EBCF") == [1.0, 0.0, 0.0, 0.0]
    assert run("EBCD")[-1] > 0.6, "after E, B, C comes F"


def test_without_learning_nothing_changes_but_the_context() -> None:
    m = new_memory(40, SMALL.cells, 4000, 40, 3)
    steps = sequence(100, 40, 5, True)
    for columns in steps:
        temporal_memory.step(m, SMALL, columns, True)
    before = m.permanence.copy(), m.source.copy(), m.cell_of.copy()
    for columns in steps:
        temporal_memory.step(m, SMALL, columns, False)
    assert all((a == b).all() for a, b in zip(before, (m.permanence, m.source, m.cell_of), strict=True))
