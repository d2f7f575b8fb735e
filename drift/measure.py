"""The default signals of a micro-batch in one go, as machine code: trimtab.drift.signals, sample by sample.

Each sample's figures are added up in an order of its own, so that those beside it make no difference to a bit of it.
They are those of trimtab.drift.signals up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.compiled import compiled
from trimtab.drift.signals import VARIANCE_FLOOR, Departure, Distance, Divergence

SIGNALS = ("divergence", "departure", "distance", "entropy")

ROWS = 4
"""Rows of a whitening that are added at a time: what they are added to is then read and written once."""

NOTHING = np.empty((0, 0), np.float32)
Array = NDArray[np.float64]
T = TypeVar("T")


class Measure:
    """The signals of SIGNALS among `names`: called with what the observe graph gave, it fills their columns of a table.

    `by` tells what each is measured by, the distance's whitening being triangular as that of `whitening` is; the
    entropy needs nothing.
    """

    def __init__(self, names: Sequence[str], by: Sequence[Divergence | Departure | Distance | None]) -> None:
        self._run = _machine_code()
        self._places = np.array([names.index(s) if s in names else -1 for s in SIGNALS])
        divergence, departure, distance = _first(Divergence, by), _first(Departure, by), _first(Distance, by)
        width = divergence.mean.size if divergence else departure.centre.size // 2 if departure else 0
        self._channels = np.zeros((5, width), np.float32)
        self._whiten = np.zeros((0, 0), np.float32)
        self._begins = np.zeros(0, np.int64)
        self._spread = np.zeros((1, 0))
        if divergence is not None:
            self._channels[:3] = np.concatenate([divergence.mean, divergence.inverse, divergence.rest])
        if departure is not None:
            self._channels[3:] = departure.centre[:, 0]
            rows, rank = departure.whiten.shape
            self._whiten = np.zeros((-(-rows // ROWS) * ROWS, rank), np.float32)
            self._whiten[:rows] = departure.whiten
            filled = (self._whiten.reshape(-1, ROWS, rank) != 0).any(axis=1)
            self._begins = np.where(filled.any(axis=1), filled.argmax(axis=1), rank)
        if distance is not None:
            self._spread = np.concatenate([distance.mean, distance.whiten])

    def __call__(
        self,
        moments: NDArray[np.float32] | None,
        features: NDArray[np.float32] | None,
        y: NDArray[np.float32],
        table: Array,
    ) -> None:
        """Fill the columns of `table [N, S]` from `moments [N, 2, M]`, `features [N, F]` and logits `y [N, K]`."""
        self._run(
            NOTHING[None] if moments is None else moments, NOTHING if features is None else features, y,
            self._channels, self._whiten, self._begins, self._spread, self._places, np.float32(VARIANCE_FLOOR), table,
        )  # fmt: skip


def _first(kind: type[T], among: Iterable[object]) -> T | None:
    return next((found for found in among if isinstance(found, kind)), None)


@cache
def _machine_code() -> Any:
    return compiled(measure)


def measure(
    moments: Any,
    features: Any,
    y: Any,
    channels: Any,
    whiten: Any,
    begins: Any,
    spread: Any,
    places: Any,
    floor: Any,
    table: Any,
) -> None:
    """Fill `table [N, S]`, of each signal of SIGNALS the column `places [4]`, or none where that is negative.

    moments `[N, 2, M]`, features `[N, F]`, y `[N, K]`: what the observe graph gave. channels `[5, M]`: the source's
    mean, 1 / variance, what else of the divergence is constant, and the centre of the departure, `[2, M]`. whiten
    `[2 M and zeros up to a multiple of ROWS, R]`, for the departure, and begins: before which column each ROWS of its
    rows hold nothing. spread `[1 + F, F]`: mean and whitening of the features. floor: VARIANCE_FLOOR, given since what
    numba keeps would not notice that it has changed in its file.
    """
    width, wide, rank = channels.shape[1], spread.shape[1], whiten.shape[1]
    count = len(table)
    vectors = np.zeros((count, len(whiten) if places[1] >= 0 else 2 * width), np.float32)
    for n in range(count):
        if places[0] >= 0 or places[1] >= 0:
            for c in range(width):
                vectors[n, width + c] = np.log(moments[n, 1, c] + floor)
        if places[0] >= 0:
            total = 0.0
            for c in range(width):
                shift, var = moments[n, 0, c] - channels[0, c], moments[n, 1, c]
                total += shift * shift * channels[1, c]
                if var != 0:
                    total += var * channels[1, c] + channels[2, c] - vectors[n, width + c]
            table[n, places[0]] = math.log1p(abs(total * 0.5 / width))
        if places[2] >= 0:
            white = np.zeros(wide)
            for k in range(wide):
                deviation = features[n, k] - spread[0, k]
                part, row = white[k:], spread[1 + k, k:]
                for i in range(len(part)):
                    part[i] += deviation * row[i]
            total = 0.0
            for k in range(wide):
                total += white[k] * white[k]
            table[n, places[2]] = math.sqrt(total)
        if places[3] >= 0:
            top = y[n, 0]
            for k in range(y.shape[1]):
                if y[n, k] > top:
                    top = y[n, k]
            mass, below_mean = 0.0, 0.0
            for k in range(y.shape[1]):
                below = float(y[n, k]) - float(top)
                if below < -700.0:
                    below = -700.0
                weight = math.exp(below)
                mass += weight
                below_mean += weight * below
            table[n, places[3]] = math.log(mass) - below_mean / mass
    if places[1] >= 0:
        whites = np.zeros((count, rank), np.float32)
        for n in range(count):
            for c in range(width):
                vectors[n, c] = moments[n, 0, c] - channels[3, c]
                vectors[n, width + c] -= channels[4, c]
        for k in range(0, len(whiten), ROWS):
            begin = begins[k // ROWS]
            p, q, r, s = whiten[k, begin:], whiten[k + 1, begin:], whiten[k + 2, begin:], whiten[k + 3, begin:]
            for n in range(count):
                a, b, c, d = vectors[n, k], vectors[n, k + 1], vectors[n, k + 2], vectors[n, k + 3]
                w = whites[n, begin:]
                for i in range(len(w)):
                    w[i] = (((w[i] + a * p[i]) + b * q[i]) + c * r[i]) + d * s[i]
        for n in range(count):
            total = 0.0
            for i in range(rank):
                total += whites[n, i] * whites[n, i]
            table[n, places[1]] = math.sqrt(total)
