"""Bayesian online change point detection: the posterior of the time since the last change. Any change of a Gaussian.

Adams and MacKay 2007, equation 3, on z (trimtab.drift.baseline): before a change z is N(0, 1); after one its mean and
variance are unknown, with a normal-inverse-gamma prior (mean 0 of weight KAPPA, variance of shape ALPHA and scale
BETA), so that the predictive density of each run length is Student's t (Murphy 2007, equation 110). Any value may be
the first after a change with probability H, also in a run that follows a change. Runs of more than `window` values
are taken for the normal state: their share joins it.

**Threshold.** With w the weights of the runs over that of the normal state, S = sum w is the posterior odds of a
recent change; at each value its mean grows by g (1 + S), g = H / (1 - H), under no change. Hence the time T until
S >= 1, a probability of one half, has mean at least 1 / 2g: H = 1 / (1 + 2 `every`) guarantees the run length
asked, as a Shiryaev-Roberts sum with prior predictive likelihoods does; alarms are some six times rarer. The statistic
is ln(1 + S / g), on the scale of trimtab.drift.shiryaev_roberts. The onset is the run length of most weight.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from trimtab.drift.detector import State
from trimtab.drift.standardised import Standardised

KAPPA, ALPHA, BETA = 0.2, 1.0, 1.0
"""Prior of a new segment: its mean within some deviations of the old, its variance within a factor of some."""


class Chart:
    """The statistic; `window`: longest run length after a change; `odds`: g, the prior odds of a change at a value."""

    def __init__(self, window: int, odds: float) -> None:
        self._odds = odds
        self._window = window
        n = np.arange(window, dtype=np.float64)  # Values in the run before the new one.
        self._kappa = KAPPA + n
        alpha = ALPHA + n / 2
        self._power = alpha + 0.5
        # ln of t's density over N(0, 1)'s, but for what depends on the values.
        self._constant = gammaln(alpha + 0.5) - gammaln(alpha) - 0.5 * np.log(math.pi) + 0.5 * math.log(2 * math.pi)
        self._spread = (self._kappa + 1) / self._kappa
        self.clear()

    def clear(self) -> None:
        self._weights = np.zeros(self._window)
        self._means = np.zeros(self._window)
        self._scales = np.full(self._window, BETA)  # The inverse gamma's.

    def step(self, z: float) -> float:
        weights, means, scales = self._weights, self._means, self._scales
        # Position r: the run that began r values before this one. The oldest joins the normal state.
        oldest = weights[-1]
        total = 1.0 + float(weights.sum())
        for array, new in ((weights, self._odds * total), (means, 0.0), (scales, BETA)):
            array[1:] = array[:-1]
            array[0] = new
        if oldest > 0:
            weights /= 1.0 + oldest
        deviation = z - means
        half = deviation * deviation / (2.0 * self._spread)
        variance = scales * self._spread
        log = self._constant - 0.5 * np.log(2.0 * variance) + 0.5 * z * z - self._power * np.log1p(half / scales)
        weights *= np.exp(log)
        means += deviation / (self._kappa + 1)
        scales += half
        return math.log1p(float(weights.sum()) / self._odds)

    def onset(self) -> int:
        return int(self._weights.argmax())

    def state(self) -> State:
        return {"weights": self._weights.tolist(), "means": self._means.tolist(), "scales": self._scales.tolist()}

    def restore(self, state: State) -> None:
        if len(state["weights"]) != self._window:
            raise ValueError("this state is of another window; reset the detector")
        self._weights = np.array(state["weights"], np.float64)
        self._means = np.array(state["means"], np.float64)
        self._scales = np.array(state["scales"], np.float64)


def bocpd(
    *,
    every: float,
    reference: NDArray[np.float64] | None = None,
    window: int = 200,
    warmup: int = 64,
    memory: int = 5000,
) -> Standardised:
    """Bayesian online change point detection. See the module for the method.

    window: longest run length after a change that is told from the normal state. Others as for `Sprt`. Raises
    ValueError where an option or the reference is out of range.
    """
    odds = 0.5 / every
    return Standardised(
        "bocpd",
        Chart,
        None,
        (window, odds),
        lambda: math.log1p(1 / odds),
        every=every,
        warmup=warmup,
        memory=memory,
        reference=reference,
        guaranteed=True,
        spread=True,
    )
