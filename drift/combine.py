"""Evidence from several signals or streams put together, with a rate of false alarms for all of them.

- `average`: one e-value from several, valid however they hang together.
- `bonferroni`, `apart`: a level, or a run length, split evenly; valid however they hang together.
- `LordPlusPlus`, `ELond`: tests that come one after another without end (each stream's alarm of each day, say), of
  which at most a share `level` of those that are rejected are false: the false discovery rate (FDR).

An e-value is a number from 0 up with a mean of at most 1 while nothing has changed; 1/e is a p-value (Markov).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import zeta

from trimtab.drift.detector import State

DECAY = 1.6
"""gamma_j = j^-DECAY / zeta(DECAY): how the level is spread over tests to come. It adds up to 1."""


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


def share(j: int) -> float:
    """gamma_j, j from 1."""
    return float(j**-DECAY / zeta(DECAY))


class LordPlusPlus:
    """LORD++ on p-values: FDR at most `level`, for p-values that are independent under no change.

    The t-th is rejected at p <= a_t = gamma_t w + (level - w) gamma_{t - t1} + level sum_{j > 1} gamma_{t - tj}, with
    tj the number of the j-th rejection and w = level / 2 (Ramdas, Yang, Wainwright and Jordan 2017, "Online control
    of the false discovery rate with decaying memory", equation 3 with theorem 1; Javanmard and Montanari 2018). Each
    rejection earns level for those to come.
    """

    name = "lord++"

    def __init__(self, level: float) -> None:
        self._level = _checked(level)
        self._tests = 0
        self._rejected: list[int] = []

    def allowance(self) -> float:
        """a_t of the next test."""
        t = self._tests + 1
        start = self._level / 2
        found = share(t) * start
        for i, at in enumerate(self._rejected):
            found += share(t - at) * (self._level - start if i == 0 else self._level)
        return found

    def test(self, p_value: float) -> bool:
        """Whether the next p-value is rejected. One that is not a number counts as 1."""
        rejected = p_value <= self.allowance()
        self._tests += 1
        if rejected:
            self._rejected.append(self._tests)
        return rejected

    def state(self) -> State:
        """All of the memory."""
        return {"rule": self.name, "version": 1, "tests": self._tests, "rejected": list(self._rejected)}

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another rule or version."""
        if state.get("rule") != self.name or state.get("version") != 1:
            raise ValueError(f"this state is not of {self.name}; start it anew")
        self._tests = int(state["tests"])
        self._rejected = [int(v) for v in state["rejected"]]


class ELond:
    """e-LOND on e-values: FDR at most `level`, however they hang together.

    The t-th is rejected at e >= 1 / a_t, a_t = level gamma_t (rejections before + 1) (Xu and Ramdas 2024, "Online
    multiple testing with e-values", theorem 1).
    """

    name = "e-lond"

    def __init__(self, level: float) -> None:
        self._level = _checked(level)
        self._tests = 0
        self._rejections = 0

    def allowance(self) -> float:
        """a_t of the next test."""
        return self._level * share(self._tests + 1) * (self._rejections + 1)

    def test(self, e_value: float) -> bool:
        """Whether the next e-value is rejected. One that is not a number counts as 0."""
        rejected = e_value >= 1 / self.allowance()
        self._tests += 1
        self._rejections += rejected
        return rejected

    def state(self) -> State:
        """All of the memory."""
        return {"rule": self.name, "version": 1, "tests": self._tests, "rejections": self._rejections}

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another rule or version."""
        if state.get("rule") != self.name or state.get("version") != 1:
            raise ValueError(f"this state is not of {self.name}; start it anew")
        self._tests = int(state["tests"])
        self._rejections = int(state["rejections"])


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    return level
