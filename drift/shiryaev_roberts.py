"""Shiryaev-Roberts: the likelihood ratios of all moments at which a change may have begun, added up. Two-sided.

For each size of shift d (in deviations) and direction, R = (1 + R) exp(d z - d^2 / 2) is the sum over all onsets of
the likelihood ratio of N(d, 1) since then against N(0, 1) (Shiryaev 1963; Roberts 1966); CUSUM takes the greatest of
them instead. R - n is a martingale under no change, so that R >= A has an average run length of at least A, and of
A / nu(d) but for terms that vanish (Pollak 1987, with nu the overshoot of trimtab.drift.run_length). Among all tests
of one run length it has the least delay when a change comes late (Pollak and Tartakovsky 2009). Sizes and directions
are a mixture with equal weights, whose A is `every` times the mean of their nu: within a few per cent for every run
length. The statistic is ln(1 + R).

The onset is that of the greatest likelihood ratio: where the CUSUM of the largest part of the mixture left 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trimtab.drift import charts
from trimtab.drift.mixture import Mixture
from trimtab.drift.run_length import overshoot
from trimtab.drift.standardised import Standardised

SHIFTS = (0.5, 1.0, 2.0)
"""Sizes to detect fastest where none are asked for."""


class Chart:
    """The statistic; `shifts` in deviations."""

    def __init__(self, shifts: tuple[float, ...]) -> None:
        self._parts = [(sign * d, 0.5 * d * d) for d in shifts for sign in (1.0, -1.0)]
        self._mixture = Mixture(len(self._parts))
        self.clear, self.onset = self._mixture.clear, self._mixture.onset
        self.state, self.restore = self._mixture.state, self._mixture.restore

    def step(self, z: float) -> float:
        return self._mixture.take([d * z - half for d, half in self._parts])


def side_by_side(streams: int, shifts: tuple[float, ...]) -> charts.Mixture:
    """`Chart` for many streams."""
    signed = np.array([sign * d for d in shifts for sign in (1.0, -1.0)])[:, None]
    half = 0.5 * signed**2
    return charts.Mixture(streams, signed.size, lambda z: signed * z - half)


def shiryaev_roberts(
    *,
    every: float,
    reference: NDArray[np.float64] | None = None,
    shifts: Sequence[float] | None = None,
    warmup: int = 64,
    memory: int = 5000,
) -> Standardised:
    """Two-sided Shiryaev-Roberts test for a shift of the mean. See the module for the method, `Sprt` for the options.

    Raises ValueError where an option or the reference is out of range.
    """
    sizes = tuple(shifts or SHIFTS)

    def theory() -> float:
        return math.log1p(every * sum(map(overshoot, sizes)) / len(sizes))

    return Standardised(
        "shiryaev_roberts",
        Chart,
        side_by_side,
        (sizes,),
        theory,
        every=every,
        warmup=warmup,
        memory=memory,
        reference=reference,
    )
