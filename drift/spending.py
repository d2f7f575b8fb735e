"""How a level is spread over tests that come one after another without end: gamma_1, gamma_2, ..., 1 together."""

from __future__ import annotations

from scipy.special import zeta

DECAY = 1.6
"""As in the figures of Ramdas et al. 2017 and of Xu and Ramdas 2024: slow, so that late tests keep some level."""


class Spending:
    """gamma_j = j^-decay / zeta(decay), j from 1. Raises ValueError where decay is not from 1.01 to 10."""

    def __init__(self, decay: float) -> None:
        if not 1.01 <= decay <= 10:
            raise ValueError(f"decay must be from 1.01 to 10, not {decay}")
        self.decay = decay
        self._total = float(zeta(decay))

    def share(self, j: int) -> float:
        """gamma_j"""
        return float(j**-self.decay) / self._total


def checked(level: float) -> float:
    """A level between 0 and 1. Raises ValueError where it is none."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    return level
