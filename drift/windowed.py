"""A window of reference values against a window of the newest: what the classic two-sample detectors here are made of.

The first `size` values (or the last of a recording) are the reference. From then on, every `clock` values, a distance
is taken between them and the newest `recent`. After an alarm a new reference is learnt.

**Threshold.** It is the distance at which as many detectors alarm within `every` values as would if alarms were a
Poisson process of that run length: 63 %. A reference is a sample too, and where it is an odd one its detector alarms
sooner than others: thresholds count that in, and the mean time to an alarm is then above `every` (the time that those
with a good reference take is long). The rate is counted on from alarm to alarm, with a new reference after each.

REFERENCES times a reference is drawn, and values after it, as the detector would see them, so that windows overlap as
they do there. The highest distance of each SPAN windows' worth of values is Gumbel distributed with a scale for all
and a location for each reference (`height`); a distance that is like a norm is squared for that, since its tail is a
Gaussian's. What is drawn from:

- where the distance of two samples of one continuous distribution does not depend on which it is, uniform numbers,
  once for all streams: Kolmogorov-Smirnov, Cramer-von Mises, PSI. Where values are often equal alarms are rarer;
- else the stream's own reference, with replacement (bootstrap; Efron 1979), which tells of rare ones with some error;
- a recording, where there is one, in blocks (trimtab.drift.reference), which keeps how far values hang together.

Measured on independent Gaussian values with the default windows: mean values to the first alarm over those asked, at
1,000 and 20,000, are 1.5 and 1.7 (ks), 1.65 and 1.65 (cramer_von_mises), 1.25 and 1.1 (psi), 1.2 and 1.6
(wasserstein), 1.3 and 1.0 (mmd), 1.2 and 1.1 (lsdd), give or take a tenth. Where alarms are to be far rarer than that,
the first of them come from odd references: at 1,000,000, the first 60,000 values held 1.0 (ks), 1.6
(cramer_von_mises) and 0.6 times (psi) as many as asked, of some 20.

**Onset.** Values are replaced by u = F(x) - 1/2, F the reference's distribution function, and the k newest are
taken whose |sum| / sqrt(k) is largest: of u (a change of level) or of 2 |u| - 1/2 (of spread).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.optimize import brentq

from trimtab.drift.detector import Finding, State
from trimtab.drift.reference import block_length, inflation, margin, resample

Array = NDArray[np.float64]
To = Callable[[Array], Array]
"""From windows `[c, n]`, each sorted, to their distances `[c]` from a reference: at least 0."""
Distance = Callable[[Array], To]
"""From a reference `[m]`, sorted, to the distance from it."""

SPAN = 2
"""Windows' worth of values of which the highest distance is taken."""

REFERENCES, SPANS = 48, 4
"""Of a bootstrap: 3,840 distances by default."""

UNIFORM_REFERENCES, UNIFORM_SPANS = 256, 10
"""Of uniform numbers: a quarter of a second or so for 51,200 distances, once."""

HUGE = 1e150
"""Values beyond this are skipped: their square is not a number."""

LEAST = 1e-9
"""The least threshold: distances below are rounding."""


class Make(Protocol):
    """How a detector of the catalogue is made: see `Windowed` for what the arguments are, and what is raised."""

    def __call__(
        self, *, every: float, reference: Array | None = None, size: int = 300, recent: int = 100, clock: int = 10
    ) -> Windowed: ...


def detector(name: str, distance: Distance, *, free: bool, power: int) -> Make:
    """What makes the detector of one distance, of the newest `recent` values against a reference of `size`."""

    def make(
        *, every: float, reference: Array | None = None, size: int = 300, recent: int = 100, clock: int = 10
    ) -> Windowed:
        return Windowed(
            name,
            distance,
            free=free,
            power=power,
            every=every,
            size=size,
            recent=recent,
            clock=clock,
            reference=reference,
        )

    return make


class Windowed:
    """A distance between two windows. See the module.

    free: whether its distribution without drift is the same for all continuous distributions. power: to which it has
    an exponential tail: 2 for one that is like a norm, 1 for the square of one.

    Raises ValueError where an option is out of range.
    """

    def __init__(
        self,
        name: str,
        distance: Distance,
        *,
        free: bool,
        power: float,
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
        self._free = free
        self._power = power
        self._every = every
        self._size, self._recent, self._clock = size, recent, clock
        self._known: tuple[list[float], float] | None = None
        self._block = 1
        if reference is not None and reference.size >= size:
            self._block = block_length(inflation(reference))
            self._known = (
                [float(v) for v in reference[-size:]],
                self._threshold(reference, margin(reference.size, every) * every),
            )
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
                self._height = self._learnt()
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
        self._statistic = float(self._distance(np.array([self._ordered]))[0])
        if self._statistic < self._height:
            return self._finding()
        finding = Finding(True, self._statistic, self._height, self._onset())
        self._start(None)
        return finding

    def _finding(self) -> Finding:
        # While the reference is learnt there is no threshold yet: any will do that no distance has reached.
        return Finding(False, self._statistic, self._height if self._height < math.inf else 1.0, None)

    def _learnt(self) -> float:
        """The threshold against a reference window learnt anew; how far values hang together, a recording knows."""
        if self._known is None:
            return self._threshold(None if self._free else np.array(self._reference), self._every)
        if self._free:
            return self._known[1]
        return self._threshold(np.array(self._reference), margin(self._size, self._every) * self._every)

    def _threshold(self, source: Array | None, every: float) -> float:
        """The distance once in `every` values of `source` in blocks; None: of uniform numbers."""
        if source is None:
            found = of_uniform(self._make, self._size, self._recent, self._clock)
        else:
            rng = np.random.default_rng(0)
            references = resample(source, self._block, REFERENCES, self._size, rng)
            streams = resample(source, self._block, REFERENCES, self._recent * (SPAN * SPANS + 1), rng)
            found = highest(self._make, references, streams, self._recent, self._clock)
        reached = height(found**self._power, SPAN * self._recent, every)
        return max(math.pow(max(reached, 0.0), 1 / self._power), LEAST)

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


def highest(distance: Distance, references: Array, streams: Array, recent: int, clock: int) -> Array:
    """`[R, spans]`: the highest distance between each of `references [R, size]` and the windows of each span.

    `streams [R, recent + spans x SPAN x recent]`: what follows each of them.
    """
    span = SPAN * recent
    spans = (streams.shape[1] - recent) // span
    # `clock` is at most `recent`, so that there is one at least in each span.
    within = np.arange(clock, span + 1, clock)
    starts = (span * np.arange(spans)[:, None] + within).ravel()
    found = np.empty((len(streams), spans))
    for row, reference, stream in zip(found, references, streams, strict=True):
        windows = np.sort(sliding_window_view(stream, recent)[starts], axis=1)
        row[:] = distance(np.sort(reference))(windows).reshape(spans, -1).max(axis=1)
    return found


@lru_cache(maxsize=32)
def of_uniform(distance: Distance, size: int, recent: int, clock: int) -> Array:
    """`highest`, of uniform numbers."""
    rng = np.random.default_rng(0)
    references = rng.random((UNIFORM_REFERENCES, size))
    streams = rng.random((UNIFORM_REFERENCES, recent * (SPAN * UNIFORM_SPANS + 1)))
    return highest(distance, references, streams, recent, clock)


def height(found: Array, span: int, every: float) -> float:
    """The height that a share 1 - 1/e of rows reach within `every` values, by the highest `[R, n]` of `span` values.

    In row j the highest of T values is Gumbel distributed: P(M < h) = exp(-(T / span) exp(-(h - a_j) / b)). The scale
    b is that of all rows, by the mean of their variances b^2 pi^2 / 6; a_j is the row's mean less 0.577 b, drawn in
    towards the mean of all, so that it varies by as much as is not chance (n values' variance over n).
    """
    within = float(found.var(axis=1, ddof=1).mean())
    scale = math.sqrt(6 * within) / math.pi
    middle = found.mean(axis=1)
    spread = float(middle.var(ddof=1))
    kept = math.sqrt(max(1 - within / found.shape[1] / spread, 0.0)) if spread > 0 else 0.0
    location = middle.mean() + kept * (middle - middle.mean()) - float(np.euler_gamma) * scale
    if scale <= 0:
        return float(location.max())

    def short(h: float) -> float:
        return float(np.exp(-(every / span) * np.exp(-(h - location) / scale)).mean()) - math.exp(-1)

    far = scale * math.log(every / span)  # Where all locations are equal, h is that much above them.
    return float(brentq(short, location.min() + far - scale, location.max() + far + scale))


def width(values: Array) -> float:
    """The deviation of a reference `[m]`, and never 0."""
    return max(float(values.std()), 1e-9 * float(np.abs(values).max()), 1e-300)
