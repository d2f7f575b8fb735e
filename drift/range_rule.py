"""A value beyond all those seen is an anomaly: the rule for spatial anomalies of Numenta's NAB detector."""

from __future__ import annotations

from trimtab.drift.detector import State

RANGE_TOLERANCE = 0.05
"""Numenta's (SPATIAL_TOLERANCE)."""


class RangeRule:
    """tolerance: share of the range seen so far by which a value must lie beyond it."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._range: tuple[float, float] | None = None

    def update(self, value: float) -> bool:
        """Whether a finite `value` is out of range; from now on it is in."""
        if self._range is None:
            self._range = value, value
            return False
        low, high = self._range
        margin = self._tolerance * (high - low)
        self._range = min(low, value), max(high, value)
        return low < high and not low - margin <= value <= high + margin

    def state(self) -> State:
        """All of the memory."""
        return {"range": None if self._range is None else list(self._range)}

    def restore(self, state: State) -> None:
        """Continue exactly from `state`."""
        kept = state["range"]
        self._range = None if kept is None else (float(kept[0]), float(kept[1]))
