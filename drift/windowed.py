"""A window of reference values against a window of the newest: what the classic two-sample detectors here are made of.

The first `size` values (or the last of a recording) are the reference. From then on, every `clock` values, a distance
is taken between them and the newest `recent`. After an alarm a new reference is learnt.

**Threshold.** Bootstrap of the reference (Efron 1979): STREAMS times a reference and SPAN windows' worth of values
after it are drawn from it with replacement, as the detector would see them, and go through it; a Gumbel distribution
is fitted to their highest distances, which gives the distance for the run length asked (trimtab.drift.standardised).
That is for independent values; a recording is drawn from in blocks (trimtab.drift.reference), which keeps how far
values hang together. Beyond some 20 times STREAMS x SPAN x `recent` values the tail is extrapolated far.

**Onset.** Values are replaced by u = F(x) - 1/2, F the reference's distribution function, and the k newest are
taken whose |sum| / sqrt(k) is largest: of u (a change of level) or of 2 |u| - 1/2 (of spread).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.detector import Finding, State
from trimtab.drift.reference import MARGIN, inflation, resample
from trimtab.drift.standardised import gumbel_height

Array = NDArray[np.float64]
Distance = Callable[[Array], Callable[[Array], float]]
"""From a reference `[m]`, sorted, to the distance between it and a window `[n]`, sorted: at least 0."""

STREAMS, SPAN = 48, 2
HUGE = 1e150
"""Values beyond this are skipped: their square is not a number."""

LEAST = 1e-9
"""The least threshold: distances below are rounding."""


class Windowed:
    """A distance between two windows. See the module.

    Raises ValueError where an option is out of range.
    """

    def __init__(
        self,
        name: str,
        distance: Distance,
        *,
        every: float,
        size: int,
        recent: int,
        clock: int,
        reference: Array | None,
    ) -> None:
        if not 10 <= recent <= size or not 1 <= clock <= recent:
            raise ValueError(
                f"recent must be from 10 to size ({size}) and clock from 1 to recent, not {recent} and {clock}"
            )
        self.name = name
        self._make = distance
        self._every = every
        self._size, self._recent, self._clock = size, recent, clock
        self._known: tuple[list[float], float] | None = None
        if reference is not None and reference.size >= size:
            block = 16 + math.ceil(2 * inflation(reference))
            self._known = ([float(v) for v in reference[-size:]], self._threshold(reference, block, MARGIN * every))
        self.reset()

    def reset(self) -> None:
        """Forget everything; with a recording, its values are the reference again."""
        self._start(self._known)

    def _start(self, known: tuple[list[float], float] | None) -> None:
        self._reference, self._height = (list(known[0]), known[1]) if known else ([], math.inf)
        self._prepare()
        self._newest: deque[float] = deque()
        self._ordered: list[float] = []
        self._wait = self._clock
        self._statistic = 0.0

    def _prepare(self) -> None:
        full = len(self._reference) == self._size
        self._distance = self._make(np.sort(self._reference)) if full else None

    def update(self, value: float) -> Finding:
        """Take one value."""
        if not -HUGE < value < HUGE:
            return self._finding()
        if self._distance is None:
            self._reference.append(value)
            self._prepare()
            if self._distance is not None:
                self._height = self._threshold(np.array(self._reference), 1, self._every)
            return self._finding()
        self._newest.append(value)
        insort(self._ordered, value)
        if len(self._newest) > self._recent:
            del self._ordered[bisect_left(self._ordered, self._newest.popleft())]
        if len(self._newest) < self._recent:
            return self._finding()
        self._wait -= 1
        if self._wait > 0:
            return self._finding()
        self._wait = self._clock
        self._statistic = self._distance(np.array(self._ordered))
        if self._statistic < self._height:
            return self._finding()
        finding = Finding(True, self._statistic, self._height, self._onset())
        self._start(None)
        return finding

    def _finding(self) -> Finding:
        # While the reference is learnt there is no threshold yet: any will do that no distance has reached.
        return Finding(False, self._statistic, self._height if self._height < math.inf else 1.0, None)

    def _threshold(self, source: Array, block: int, every: float) -> float:
        """The distance once in `every` values, by bootstrap of `source` in blocks."""
        length = self._recent * (SPAN + 1)
        rng = np.random.default_rng(0)
        references = resample(source, block, STREAMS, self._size, rng)
        streams = resample(source, block, STREAMS, length, rng)
        highest = []
        for reference, stream in zip(references, streams, strict=True):
            distance = self._make(np.sort(reference))
            starts = range(self._clock, length - self._recent + 1, self._clock)
            highest.append(max(distance(np.sort(stream[i : i + self._recent])) for i in starts))
        return max(gumbel_height(np.array(highest), SPAN * self._recent, every), LEAST)

    def _onset(self) -> int:
        """See the module."""
        reference, values = np.sort(self._reference), np.array(self._newest)[::-1]
        middle = np.searchsorted(reference, values) + np.searchsorted(reference, values, side="right")
        u = middle / (2 * reference.size) - 0.5
        length = np.arange(1, values.size + 1)
        sums = [
            np.abs(np.cumsum(v)) / np.sqrt(length * part) for v, part in ((u, 1 / 12), (2 * np.abs(u) - 0.5, 1 / 12))
        ]
        return int(np.argmax(np.maximum(*sums)))

    def state(self) -> State:
        """All of the memory."""
        return {
            "detector": self.name,
            "version": 1,
            "reference": list(self._reference),
            "height": self._height if self._height < math.inf else None,
            "newest": list(self._newest),
            "wait": self._wait,
            "statistic": self._statistic,
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector, version or windows."""
        fits = state.get("detector") == self.name and state.get("version") == 1
        if not fits or len(state["reference"]) > self._size or len(state["newest"]) > self._recent:
            raise ValueError(f"this state is not of {self.name} with these options; reset the detector")
        self._reference = [float(v) for v in state["reference"]]
        self._prepare()
        self._height = math.inf if state["height"] is None else float(state["height"])
        self._newest = deque(float(v) for v in state["newest"])
        self._ordered = sorted(self._newest)
        self._wait = int(state["wait"])
        self._statistic = float(state["statistic"])


def width(values: Array) -> float:
    """The deviation of a reference `[m]`, and never 0."""
    return max(float(values.std()), 1e-9 * float(np.abs(values).max()), 1e-300)
