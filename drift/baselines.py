"""The baselines of many streams side by side in NumPy: trimtab.drift.baseline, value for value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.advance import BLOCK, CLIP, FLAT, HUGE, MOST_BLOCKS, WINSOR
from trimtab.drift.baseline import BLOCKS, Baseline, pulled_in

Array = NDArray[np.float64]


class Baselines:
    """Means and deviations of streams so far, each as its own of `baselines`, as that is when new.

    One of them may stand for several streams.

    Raises ValueError where they differ in warm-up or memory.
    """

    def __init__(self, baselines: Sequence[Baseline]) -> None:
        self._warmup, self._memory = baselines[0].warmup, baselines[0].memory
        if any((b.warmup, b.memory) != (self._warmup, self._memory) for b in baselines):
            raise ValueError("detectors side by side must be of one kind, with the same options")
        streams = len(baselines)
        self.correlation = np.array([b.correlation for b in baselines])
        self._weight = np.array([b.weight for b in baselines])
        self._known = np.array([b.known is not None for b in baselines])
        known = np.array([b.known or (0.0, 0.0) for b in baselines])
        self._level, self._deviation = known[:, 0].copy(), known[:, 1].copy()
        self._mean, self._mean_count, self._squares, self._var_count = (np.zeros(streams) for _ in range(4))
        self._learnt = np.zeros(streams, np.int64)
        self._first = np.zeros((streams, self._warmup))
        self._block, self._block_squares = np.zeros(streams), np.zeros(streams)
        self._block_left, self._blocks = np.zeros(streams, np.int64), np.zeros(streams)
        self.excess = np.ones(streams)
        self.moving: list[NDArray[Any]] = [
            self._mean, self._mean_count, self._squares, self._var_count,
            self._block, self._block_squares, self._block_left, self._blocks, self.excess,
        ]  # fmt: skip
        self.reset(np.arange(streams))

    def reset(self, places: NDArray[np.int64]) -> None:
        """Forget everything of streams `places`; with a reference, its mean and deviation hold again."""
        self.excess[places] = 1.0
        self._blocks[places] = BLOCKS
        self._block_squares[places] = BLOCKS * self.correlation[places] / BLOCK
        self.relearn(places)
        begun = places[self._known[places]]
        self._mean[begun] = self._level[begun]
        self._mean_count[begun] = self._weight[begun]
        self._learnt[begun] = self._warmup

    def relearn(self, places: NDArray[np.int64]) -> None:
        """Learn new levels of streams `places` from a warm-up; with a reference, its deviation still counts."""
        self._mean[places] = self._mean_count[places] = self._block[places] = 0.0
        self._var_count[places] = self._weight[places]
        self._squares[places] = self._deviation[places] ** 2 * self._weight[places]
        self._block_left[places] = BLOCK
        self._learnt[places] = 0

    def age(self, values: float, rng: np.random.Generator) -> None:
        """As if all had taken so many values more, and found them to be as the references say.

        How far those hang together they know by blocks alone, whose means are taken for normal.
        """
        grown = np.minimum(self._var_count + values, self._memory)
        self._squares *= grown / self._var_count
        self._var_count[:] = grown
        self._mean_count[:] = np.minimum(self._mean_count + values, self._memory)
        self._blocks[:] = np.minimum(self._blocks + values // BLOCK, MOST_BLOCKS)
        self._block_squares[:] = rng.chisquare(self._blocks) * self.correlation / BLOCK
        self._measure(np.arange(self._blocks.size))

    def take(self, x: Array) -> tuple[Array, NDArray[np.int64]]:
        """z of each value `[S]`, which joins its baseline; and the streams that have none: skipped, or still learnt.

        z is 0 there.
        """
        taken = np.abs(x) < HUGE
        standing = self._learnt >= self._warmup
        rest = np.flatnonzero(~(taken & standing))
        kept = [values[rest] for values in self.moving]
        if rest.size:
            x = x.copy()
            learning = rest[taken[rest] & ~standing[rest]]
            first = x[learning]
            x[rest] = 0.0
            self._var_count[rest] = self._mean_count[rest] = 1.0
        z = self._standardise(x)
        if rest.size:
            z[rest] = 0.0
            for values, before in zip(self.moving, kept, strict=True):
                values[rest] = before
            self._learn(learning, first)
        return z, rest

    def _standardise(self, x: Array) -> Array:
        correlation = self.correlation * self.excess
        scale = np.maximum(np.sqrt(self._squares / self._var_count), FLAT * np.abs(self._mean) + 1e-300)
        freedom = np.maximum(self._var_count / correlation, 1.0)
        deviation = x - self._mean
        with np.errstate(over="ignore"):
            square = (deviation / scale) ** 2 / (1.0 + correlation / self._mean_count)
        z = np.sqrt(freedom * np.log1p(np.minimum(square, 1e300) / freedom))
        z *= (8 * freedom + 1) / (8 * freedom + 3)
        np.copysign(z, deviation, out=z)
        limit = WINSOR * scale
        joining = np.clip(deviation, -limit, limit)
        self._mean_count += 1.0
        self._var_count += 1.0
        step = joining / self._mean_count
        self._mean += step
        self._squares += joining * (joining - step)
        np.minimum(self._mean_count, self._memory, out=self._mean_count)
        old = np.flatnonzero(self._var_count > self._memory)
        self._squares[old] *= self._memory / self._var_count[old]
        self._var_count[old] = self._memory
        if self._known.any():
            self._block += np.clip(z, -CLIP, CLIP)
            self._block_left -= 1
            self._close_blocks(np.flatnonzero((self._block_left == 0) & self._known))
        return np.asarray(z)

    def _close_blocks(self, places: NDArray[np.int64]) -> None:
        """Learn from block means how far these streams' values hang together."""
        if not places.size:
            return
        blocks = self._blocks[places] + 1.0
        kept = np.minimum(blocks, MOST_BLOCKS)
        squares = (self._block_squares[places] + (self._block[places] / BLOCK) ** 2) * (kept / blocks)
        self._blocks[places], self._block_squares[places] = kept, squares
        self._block[places], self._block_left[places] = 0.0, BLOCK
        self._measure(places)

    def _measure(self, places: NDArray[np.int64]) -> None:
        kept = self._blocks[places]
        own = BLOCK * self._block_squares[places] / kept
        self.excess[places] = np.maximum(1.0, own / self.correlation[places] / (1.0 + np.sqrt(2.0 / kept)))

    def flat(self) -> NDArray[np.bool_]:
        """Of each stream, whether no value has differed from the others by more than rounding."""
        return np.asarray(self._squares <= (FLAT * np.abs(self._mean) + 1e-300) ** 2 * np.maximum(self._var_count, 1.0))

    def memory(self) -> list[NDArray[Any]]:
        """The arrays that hold all of it."""
        return [*self.moving, self._learnt, self._first]

    def _learn(self, places: NDArray[np.int64], values: Array) -> None:
        """Keep the `values` of streams `places` without a baseline; make one where that was the last of the warm-up."""
        self._first[places, self._learnt[places]] = values
        self._learnt[places] += 1
        ready = places[self._learnt[places] == self._warmup]
        if not ready.size:
            return
        first = pulled_in(self._first[ready])
        self._mean[ready] = first.mean(axis=1)
        self._mean_count[ready] = float(self._warmup)
        self._squares[ready] += first.var(axis=1) * self._warmup
        self._var_count[ready] += self._warmup - 1
