"""E-detector: a shift of the mean, with a run length that is guaranteed instead of modelled. Two-sided.

An e-value is a number from 0 up whose mean is at most 1 while nothing has changed, whatever happened before. With one
e-value L a value of the stream, R = L (1 + R) keeps R - n a supermartingale: an alarm at R >= `every` has an average
run length of at least `every` (the Shiryaev-Roberts e-detector; Shin, Ramdas and Rinaldo 2022, "E-detectors: a
nonparametric framework for sequential change detection"), in finite samples, and however values depend on the past.
Any mean of such R is one as well: here over directions s and stakes b, equally weighted.

- L = exp(s b z - b^2 / 2) where no more is assumed than that z is sub-Gaussian with variance 1 (`bounded` false):
  stakes 1/4, 1/2, 1, 2, each best for a shift of its size.
- L = 1 + s b z where no more is assumed than that the mean of the clipped z is 0 (`bounded` true; the bet on a bounded
  mean of Waudby-Smith and Ramdas 2023): z is clipped at 4, and stakes are from 1/32 to 1/4.
  Slower, yet valid for skewed and heavy tails.

- L = exp(s b z - c), c = max(b^2 / 2, ln of the mean of exp(s b z) over a recording): of `e_process`, for values that
  are skewed or heavy-tailed as the recording's are.

What is guaranteed is subject to z: where the baseline is learnt from the stream, mean 0 and variance 1 hold as far as
that is right (trimtab.drift.baseline). The statistic is ln(1 + R). The onset is where the e-CUSUM of the largest part,
max(0, S + ln L), left 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trimtab.drift import charts
from trimtab.drift.baseline import Baseline
from trimtab.drift.mixture import Mixture
from trimtab.drift.standardised import Standardised, bound

CLIP = 4.0
"""Deviations at which z is clipped in the bounded bet."""

STAKES = (0.25, 0.5, 1.0, 2.0)
RAREST = 1e9
"""One in so many values may be clipped where there is no threshold to tell how rare alarms are."""

SHARES = (0.125, 0.25, 0.5, 0.95)
"""Stakes of the bounded bet, as shares of the largest one possible, 1 / CLIP."""


class Chart:
    """The statistic; `bounded`: bets on the mean alone. `costs`: c of each stake and direction; none: b^2 / 2."""

    def __init__(self, bounded: bool, costs: tuple[float, ...] = ()) -> None:
        self._bounded = bounded
        self._stakes = _signed([share / CLIP for share in SHARES] if bounded else STAKES)
        self._costs = costs or tuple(0.5 * b * b for b in self._stakes)
        self._mixture = Mixture(len(self._stakes))
        self.clear, self.onset = self._mixture.clear, self._mixture.onset
        self.state, self.restore = self._mixture.state, self._mixture.restore

    def step(self, z: float) -> float:
        if self._bounded:
            near = min(max(z, -CLIP), CLIP)
            return self._mixture.take([math.log1p(b * near) for b in self._stakes])
        return self._mixture.take([b * z - c for b, c in zip(self._stakes, self._costs, strict=True)])

    def gains(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of many streams `[S]`: logarithms of the e-values `[stakes, S]`."""
        stakes, costs = np.array(self._stakes)[:, None], np.array(self._costs)[:, None]
        return np.asarray(np.log1p(stakes * np.clip(z, -CLIP, CLIP)) if self._bounded else stakes * z - costs)


def _signed(stakes: Sequence[float]) -> list[float]:
    """Each stake in both directions."""
    return [sign * b for b in stakes for sign in (1.0, -1.0)]


@lru_cache(maxsize=64)
def _costs(reference: bytes) -> tuple[float, ...]:
    """c of each of STAKES and direction, by a recording (float64 as bytes), as `e_process` is given its values."""
    known = Baseline(3, 3, np.frombuffer(reference))
    if known.recorded is None:
        raise RuntimeError("a baseline with a reference has none")
    most = bound(RAREST)
    z = np.clip(known.recorded, -most, most) / math.sqrt(known.correlation)
    return tuple(max(0.5 * b * b, math.log(float(np.exp(b * z).mean()))) for b in _signed(STAKES))


def side_by_side(streams: int, bounded: bool) -> charts.Mixture:
    """`Chart` for many streams."""
    chart = Chart(bounded)
    return charts.Mixture(streams, len(STAKES) * 2, chart.gains)


def e_detector(
    *,
    every: float,
    reference: NDArray[np.float64] | None = None,
    bounded: bool = False,
    warmup: int = 64,
    memory: int = 5000,
) -> Standardised:
    """Two-sided e-detector for a shift of the mean. See the module for the method, and `Sprt` for the other options.

    bounded: assume no more than that the mean of the clipped, standardised value is 0. Raises ValueError where an
    option or the reference is out of range.
    """
    return Standardised(
        "e_detector",
        Chart,
        side_by_side,
        (bounded,),
        lambda: math.log1p(every),
        every=every,
        warmup=warmup,
        memory=memory,
        reference=reference,
        guaranteed=True,
    )


def e_process(*, reference: NDArray[np.float64] | None = None, warmup: int = 64, memory: int = 5000) -> Standardised:
    """The statistic alone, for those who decide by it themselves: it never alarms. Options as for `e_detector`.

    With a reference, values that hang together weigh less (`weighed` of `Standardised`): z is sub-Gaussian in its sums
    then, if not in each value. And what is won by a value is held against what the reference's would win (`_costs`).
    """
    costs = () if reference is None else _costs(np.asarray(reference, np.float64).tobytes())
    return Standardised(
        "e_process",
        Chart,
        None,
        (False, costs),
        lambda: math.inf,
        every=RAREST,
        warmup=warmup,
        memory=memory,
        reference=reference,
        weighed=True,
    )
