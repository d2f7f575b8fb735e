"""Evidence from several signals or streams put together, with a rate of false alarms for all of them.

- `average`: one e-value from several, valid however they hang together.
- `bonferroni`, `apart`: a level, or a run length, split evenly; valid however they hang together.
- Tests without end, of which at most a share of those that are rejected are false (the false discovery rate, FDR), have
  files of their own: trimtab.drift.lord (p-values), trimtab.drift.e_lond (e-values), and trimtab.drift.discoveries,
  which puts signals and streams together by them.

An e-value is a number from 0 up with a mean of at most 1 while nothing has changed; 1/e is a p-value (Markov).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def average(e_values: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64] | float:
    """The mean of e-values `[..., K]` over the last axis, `[...]`; `weights [K]` from 0 up, not all 0.

    It is an e-value however they hang together, and in essence no other symmetric mean is better (Vovk and Wang 2021,
    "E-values: calibration, combination and applications", proposition 3.1). Raises ValueError where an e-value or a
    weight is negative or not a number.
    """
    values = np.asarray(e_values, np.float64)
    if values.size == 0 or not (values >= 0).all():
        raise ValueError("e-values must be numbers from 0 up, and at least one")
    if weights is not None:
        weights = np.asarray(weights, np.float64)
        if not ((weights >= 0).all() and 0 < weights.sum() < math.inf):
            raise ValueError("weights must be numbers from 0 up, and not all 0")
    found = np.average(values, axis=-1, weights=weights)
    return float(found) if np.ndim(found) == 0 else np.asarray(found)


def e_to_p(e_value: float) -> float:
    """The p-value min(1, 1/e) of an e-value (Markov's inequality; Vovk and Wang 2021, proposition 2.2)."""
    return 1.0 if e_value <= 1 else 1 / e_value


def bonferroni(p_values: ArrayLike, level: float) -> NDArray[np.bool_]:
    """Which of the p-values `[K]` are rejected so that one false rejection among them has chance `level` at most."""
    values = np.asarray(p_values, np.float64)
    return np.asarray(values <= level / max(values.size, 1))


def apart(every: float, count: int) -> float:
    """Run length that each of `count` detectors must have for all of them together to have `every` (Bonferroni)."""
    return every * count
