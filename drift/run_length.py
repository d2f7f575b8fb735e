"""How far apart false alarms are: the arithmetic between a threshold and an average run length (ARL).

Wald's sequential probability ratio test (1945) adds up log-likelihood ratios, and stops when the sum leaves
(ln B, ln A). Page's CUSUM (1954) is that test repeated: with the lower boundary at 0, a test that accepts "no change"
is followed at once by the next, and the first that accepts "change" is the alarm. With E[N] the average length of one
test and alpha its chance of a false alarm, the run length is ARL = E[N] / alpha; by Wald alpha <= exp(-ln A), and so
ARL >= exp(ln A) (Lorden 1971). That bound is wide (by a factor of 5 to 20 here), hence the equations below.

Here z is standardised, k is half the shift to be detected (in sigmas), and h the threshold of S = max(0, S + z - k);
2 k S is the log-likelihood ratio of a shift by 2 k against none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.special import ndtr

LONGEST = 1e10
"""Longest average run length that double precision solves for."""


def wald_boundaries(alpha: float, beta: float) -> tuple[float, float]:
    """Wald's boundaries (ln B, ln A) of a log-likelihood ratio for error rates `alpha` (false alarm) and `beta` (miss).

    ln A = ln((1 - beta)/alpha), ln B = ln(beta/(1 - alpha)) (Wald 1945, equation 3:29). beta = 0 never accepts
    "no change" (ln B = -inf). Raises ValueError where the rates are not in range.
    """
    if not (0 < alpha < 1 and 0 <= beta < 1 and alpha + beta < 1):
        raise ValueError(f"error rates {alpha} and {beta} must be positive and add up to less than 1")
    lower = math.log(beta / (1 - alpha)) if beta > 0 else -math.inf
    return lower, math.log((1 - beta) / alpha)


def siegmund_run_length(k: float, h: float) -> float:
    """Approximate one-sided ARL of a CUSUM of N(0, 1) values, started at 0.

    (exp(2 k b) - 2 k b - 1) / (2 k^2) with b = h + 1.166, the corrected diffusion approximation (Siegmund 1985,
    "Sequential Analysis", section X). Within 5 % for k <= 0.75; 25 % too long at k = 1.5.
    """
    exponent = 2 * k * (h + 1.166)
    return (math.expm1(exponent) - exponent) / (2 * k * k)


def run_length(k: float, h: float) -> float:
    """One-sided ARL of a CUSUM of N(0, 1) values with reference value `k` and threshold `h`, started at 0.

    Solves Page's integral equation L(s) = 1 + L(0) Phi(k - s) + int_0^h L(y) phi(y + k - s) dy by Gauss-Legendre
    quadrature (Goel and Wu 1971; Nystroem's method): exact to many digits for run lengths up to LONGEST.
    """
    nodes, weights = np.polynomial.legendre.leggauss(16 + int(5 * h))
    y = np.concatenate(([0.0], 0.5 * h * (nodes + 1)))
    w = np.concatenate(([0.0], 0.5 * h * weights))
    kernel = np.exp(-0.5 * (y[None, :] + k - y[:, None]) ** 2) * (w / math.sqrt(2 * math.pi))
    kernel[:, 0] += ndtr(k - y)
    return float(np.linalg.solve(np.eye(y.size) - kernel, np.ones(y.size))[0])


@lru_cache(maxsize=256)
def threshold(k: float, every: float) -> float:
    """The threshold h at which a one-sided CUSUM of N(0, 1) values has ARL `every` (at least 2, at most LONGEST)."""
    return _solved(lambda h: run_length(k, h), every, wald_boundaries(1.0 / every, 0.0)[1] / (2 * k), 1e-6)


def _solved(length: Callable[[float], float], every: float, high: float, tolerance: float) -> float:
    """The h from 0 to `high` at which `length(h)` reaches `every`; `high` is where it is known to (Wald's bound).

    Regula falsi (Illinois) on ln `length`, which is nearly a straight line: about five calls. The result is at most
    `tolerance` x `high` above the least such h.
    """
    low = 0.0
    under = math.log(length(low + 1e-9) / every)
    if under >= 0:
        return low
    over = math.log(max(length(high) / every, 1.0 + 1e-12))
    kept = 0
    while high - low > tolerance * high:
        middle = high - over * (high - low) / (over - under)
        # Off the ends, lest one of them stay where it is for ever.
        middle = min(max(middle, low + 0.4 * tolerance * high), high - 0.4 * tolerance * high)
        found = math.log(length(middle) / every)
        if found >= 0:
            high, over = middle, max(found, 1e-12)
            under *= 0.5 if kept > 0 else 1.0
            kept = 1
        else:
            low, under = middle, found
            over *= 0.5 if kept < 0 else 1.0
            kept = -1
    return high


def bernoulli_run_length(p: float, odds: float, h: float) -> float:
    """One-sided ARL of S = max(0, S + log-likelihood ratio), alarm at `h`, for 0s and 1s of rate `p`, started at 0.

    The ratio is that of `odds` times the odds of p against p itself. Solves L(s) = 1 + p L(s + up) + (1 - p)
    L(s + down) on a grid of heights, linear in between (a Markov chain, Brook and Evans 1972): short by up to a tenth.
    """
    changed = odds * p / (1 - p + odds * p)
    up, down = math.log(changed / p), math.log((1 - changed) / (1 - p))
    size = 64
    grid = np.linspace(0.0, h, size, endpoint=False)
    matrix = np.eye(size)
    rows = np.arange(size)
    for step, chance in ((up, p), (down, 1 - p)):
        place = np.maximum(grid + step, 0.0) * (size / h)
        below = np.floor(place).astype(np.int64)
        share = place - below
        for column, weight in ((below, 1 - share), (below + 1, share)):
            inside = column < size
            np.subtract.at(matrix, (rows[inside], column[inside]), chance * weight[inside])
    return float(np.linalg.solve(matrix, np.ones(size))[0])


@lru_cache(maxsize=256)
def bernoulli_threshold(p: float, odds: float, every: float) -> float:
    """The threshold at which that test has ARL `every`."""
    return _solved(lambda h: bernoulli_run_length(p, odds, h), every, wald_boundaries(1.0 / every, 0.0)[1], 0.003)
