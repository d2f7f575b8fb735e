"""Detectors of many streams side by side in NumPy, each with a baseline, and a recording, of its own.

What trimtab.drift.bank is to the SPRT without a recording, for all detectors that put a chart on a baseline: `sprt`,
`ewma`, `glr`, `shiryaev_roberts`, `cusum_variance` and `e_detector`. Results agree with those of the detectors alone up
to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.drift.bank import Findings
from trimtab.drift.baselines import Baselines
from trimtab.drift.charts import Charts
from trimtab.drift.sprt import Sprt
from trimtab.drift.standardised import Standardised


class DetectorBank:
    """A bank of `detectors`, one a stream, all of one kind and options, as they are when new.

    Their recordings may differ; one detector may stand for several streams (`[detector] * 1000`), and none of them
    changes. The statistic of `sprt` is the share of its threshold that the nearest chart has come to.

    Raises ValueError where the detectors do not go side by side.
    """

    def __init__(self, detectors: Sequence[Sprt | Standardised]) -> None:
        if not detectors:
            raise ValueError("a bank has at least one detector")
        first = detectors[0]
        charts: Charts | None = first.side_by_side(detectors) if isinstance(first, Sprt | Standardised) else None
        if charts is None:
            raise ValueError(f"{first.name} detectors do not go side by side")
        self._charts = charts
        self._baselines = Baselines([d.baseline for d in detectors])
        self._heights = np.array([d.height for d in detectors])
        self._bounds = np.array([d.bound for d in detectors])
        self._spread = first.spread
        self._moving: list[NDArray[Any]] = self._charts.moving

    def reset(self, streams: ArrayLike) -> None:
        """Forget everything of the streams with these numbers; those with a recording begin from it again."""
        places = np.asarray(streams, np.int64)
        self._baselines.reset(places)
        self._clear(places)

    def _clear(self, places: NDArray[np.int64]) -> None:
        for array in self._moving:
            array[..., places] = 0

    def update(self, values: ArrayLike) -> Findings:
        """Take one value a stream, `[S]`; streams with NaN, infinity or what is beyond HUGE are left as they are.

        Raises ValueError where the shape is another.
        """
        x = np.asarray(values, np.float64)
        if x.shape != self._heights.shape:
            raise ValueError(f"the bank has {self._heights.size} streams, and values have shape {x.shape}")
        flat = self._baselines.flat() if self._spread else None
        z, rest = self._baselines.take(x)
        if flat is not None:
            rest = np.union1d(rest, np.flatnonzero(flat & (np.abs(z) < 1)))
        np.clip(z, -self._bounds, self._bounds, out=z)
        kept = [array[..., rest] for array in self._moving]
        statistic = self._charts.step(z)
        heights = self._heights * self._baselines.excess
        alarm = statistic >= heights
        alarm[rest] = False
        for array, before in zip(self._moving, kept, strict=True):
            array[..., rest] = before
        onset = np.full(x.size, -1)
        places = np.flatnonzero(alarm)
        if places.size:
            onset[places] = self._charts.onset(places)
            self._baselines.relearn(places)
            self._clear(places)
        return Findings(alarm, statistic, heights, onset)

    def state(self) -> dict[str, NDArray[Any]]:
        """All of the memory, for `np.savez`; calibration follows from the detectors."""
        arrays = {"baseline": self._baselines.memory(), "chart": self._moving}
        return {f"{part}{i}": a.copy() for part, held in arrays.items() for i, a in enumerate(held)}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of a bank of other detectors."""
        own = self.state()
        if state.keys() != own.keys() or any(
            state[k].shape != a.shape or state[k].dtype != a.dtype for k, a in own.items()
        ):
            raise ValueError("this state is not of a bank of these detectors; reset the bank")
        for part, held in (("baseline", self._baselines.memory()), ("chart", self._moving)):
            for i, array in enumerate(held):
                array[...] = state[f"{part}{i}"]
