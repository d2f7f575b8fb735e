"""Shiryaev-Roberts sums of several likelihood ratios or e-values at once, and where the largest began."""

from __future__ import annotations

import math
from collections.abc import Iterable

from trimtab.drift.detector import State

GREATEST = 1e300
"""Of a sum: what would be infinite could not restart."""


class Mixture:
    """`size` sums R = L (1 + R), each of factors L of its own, weighted equally.

    Beside each R stands the CUSUM max(0, S + ln L), which left 0 at the likeliest onset.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.clear()

    def clear(self) -> None:
        self._ratios = [0.0] * self._size
        self._sums = [0.0] * self._size
        self._lengths = [0] * self._size

    def take(self, gains: Iterable[float]) -> float:
        """ln(1 + mean R) after one more factor each, given as its logarithm."""
        total = 0.0
        ratios, sums, lengths = self._ratios, self._sums, self._lengths
        for i, gain in enumerate(gains):
            ratio = min((1.0 + ratios[i]) * math.exp(gain), GREATEST)
            ratios[i] = ratio
            total += ratio
            evidence = sums[i] + gain
            if evidence > 0:
                sums[i] = evidence
                lengths[i] += 1
            else:
                sums[i] = 0.0
                lengths[i] = 0
        return math.log1p(total / self._size)

    def onset(self) -> int:
        """Values since the CUSUM beside the largest R left 0."""
        return max(self._lengths[self._ratios.index(max(self._ratios))] - 1, 0)

    def state(self) -> State:
        return {"ratios": list(self._ratios), "sums": list(self._sums), "lengths": list(self._lengths)}

    def restore(self, state: State) -> None:
        """Raises ValueError where the state is of another size."""
        if len(state["ratios"]) != self._size:
            raise ValueError("this state is of other options; reset the detector")
        self._ratios = [float(v) for v in state["ratios"]]
        self._sums = [float(v) for v in state["sums"]]
        self._lengths = [int(v) for v in state["lengths"]]
