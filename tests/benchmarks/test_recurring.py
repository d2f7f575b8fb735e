from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.recurring import STRETCH, batches, table


def test_clean_and_drifted_stretches_take_turns_in_whole_batches() -> None:
    told: list[tuple[int, bool]] = []

    def draw(
        n: int, order: str, drifted: bool, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        told.append((n, drifted))
        return np.full((n, 3), drifted, np.float32), np.zeros(n, np.int64)

    given = list(batches(draw, "runs", 10_000, seed=0))
    assert len(given) == 10_000 // 64
    assert all(x.shape == (64, 3) and y.shape == (64,) for x, y in given)
    assert [drifted for _, drifted in told] == [bool(i % 2) for i in range(len(told))]
    assert all(STRETCH[0] - 64 < n <= STRETCH[1] for n, _ in told[:-1])
    again = list(batches(draw, "runs", 10_000, seed=0))
    np.testing.assert_array_equal([x for x, _ in given], [x for x, _ in again])


def test_the_table_has_a_row_a_method_and_a_column_a_stream() -> None:
    def row(method: str, order: str, seed: int, bare: float, guarded: float) -> dict[str, object]:
        return {"data": "d", "order": order, "seed": seed, "method": method, "bare": bare, "guarded": guarded}

    rows = [row("tent", "runs", 0, -9.0, 0.0), row("tent", "runs", 1, -11.0, 1.0), row("lame", "mixed", 0, 1.0, 0.5)]
    assert table(rows, "") == [
        {"method": "tent", "d, runs": "-10.0 -> +0.5"},
        {"method": "lame", "d, mixed": "+1.0 -> +0.5"},
    ]
