"""How far a value lies from what is usual, weighed by the tail of such distances: a single value can be evidence.

A value has two distances: from the median of the last WINDOW values, and, where its time is known, from the fading
mean of values at this hour of the day. Of distances as great as the greatest SHARE of the last WINDOW ones, the tail is
taken for Pareto's, whose exponent 1 / g is Hill's estimate (1975, "A Simple General Approach to Inference About the
Tail of a Distribution"):

    -ln P(distance >= d) = ln(1 / SHARE) + ln(d / q) / g,   g = mean of ln(d_i / q) over those d_i above the quantile q.

A stream that bursts every now and then has a heavy tail, so that it takes a far greater value to surprise. That is the
method of peaks over a threshold, as in SPOT (Siffer, Fouque, Termier and Largouet 2017, "Anomaly Detection in Streams
with Extreme Value Theory"), with the tail that needs no fit. Distances of one window hang together, and a Pareto tail
is a model: chances are approximate.
"""

from __future__ import annotations

import math

import numpy as np

from trimtab.drift.detector import State

WINDOW, START, REFRESH = 700, 200, 20
"""Distances kept; how many must be there; and after how many more the tail is estimated anew."""
SHARE, LEAST = 0.02, 5
"""Share of distances that are the tail, and how many at least."""
LEAST_EXPONENT = 0.1
"""g is at least that: bounded values have hardly any tail, and are not that well known."""
NOTHING = 1e-6
"""A quantile below that share of the greatest distance is one of rounding errors."""
HOURS, FORGET = 24, 0.05
"""Of a day; and the least weight of the newest value in the mean of its hour."""


class TailTest:
    """Evidence, in nats, of (time, value) records; see the module."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._values: list[float] = []
        self._median = 0.0
        self._since = 0
        self._level = Tail()
        self._season = Tail()
        self._counts = [0] * HOURS
        self._means = [0.0] * HOURS

    def update(self, time: float | None, value: float) -> float:
        """Take a finite value at `time`, in seconds since 1970 of the local clock (None: unknown).

        Returns -ln of the lesser of the chances of its two distances, 0 where neither is in its tail.
        """
        if self._since % REFRESH == 0:
            self._median = float(np.median(self._values)) if self._values else value
        self._since += 1
        self._values.append(value)
        del self._values[:-WINDOW]
        distance = abs(value - self._median)
        evidence = self._level.update(distance)
        if time is None:
            return evidence
        hour = int(time / 3600.0 % HOURS) % HOURS
        if self._counts[hour]:
            distance = abs(value - self._means[hour])
        self._counts[hour] += 1
        self._means[hour] += max(1.0 / self._counts[hour], FORGET) * (value - self._means[hour])
        return max(evidence, self._season.update(distance))

    def state(self) -> State:
        """All of the memory."""
        return {
            "values": list(self._values),
            "median": self._median,
            "since": self._since,
            "level": self._level.state(),
            "season": self._season.state(),
            "counts": list(self._counts),
            "means": list(self._means),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`."""
        self._values = [float(v) for v in state["values"]]
        self._median = float(state["median"])
        self._since = int(state["since"])
        self._level.restore(state["level"])
        self._season.restore(state["season"])
        self._counts = [int(n) for n in state["counts"]]
        self._means = [float(m) for m in state["means"]]


class Tail:
    """The tail of distances of 0 or more."""

    def __init__(self) -> None:
        self._distances: list[float] = []
        self._since = 0
        self._quantile = math.inf
        self._exponent = 1.0

    def update(self, distance: float) -> float:
        """Take a distance: -ln of its chance by those before; 0 where it is not in the tail, or that is not known."""
        if len(self._distances) >= START and self._since % REFRESH == 0:
            self._estimate()
        evidence = 0.0
        if distance > self._quantile:
            evidence = -math.log(SHARE) + math.log(distance / self._quantile) / self._exponent
        self._since += 1
        self._distances.append(distance)
        del self._distances[:-WINDOW]
        return evidence

    def _estimate(self) -> None:
        ordered = np.sort(self._distances)
        size = max(int(SHARE * ordered.size), LEAST)
        quantile = float(ordered[-size - 1])
        # Where values hardly ever move, there is no scale.
        known = quantile > NOTHING * ordered[-1]
        self._quantile = quantile if known else math.inf
        if known:
            self._exponent = max(float(np.log(ordered[-size:] / quantile).mean()), LEAST_EXPONENT)

    def state(self) -> State:
        """All of the memory."""
        return {
            "distances": list(self._distances),
            "since": self._since,
            "quantile": self._quantile if math.isfinite(self._quantile) else None,
            "exponent": self._exponent,
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`."""
        self._distances = [float(d) for d in state["distances"]]
        self._since = int(state["since"])
        self._quantile = math.inf if state["quantile"] is None else float(state["quantile"])
        self._exponent = float(state["exponent"])
