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
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr, ndtri, pdtrik  # not scipy.stats, which takes a second to import

LONGEST = 1e10
"""Longest average run length that double precision solves for."""

HIGH = 30.0
"""Highest threshold that a chain of 240 cells is fine enough for, in deviations."""

FAR = 7.0
"""Deviations beyond which there are no values."""


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


def clipped_run_length(k: float, h: float, clip: float) -> float:
    """`run_length` of values that are pulled in to +-`clip`, which is above k: 9 % longer at k = 0.5, clip = 3, 10^4.

    A Markov chain (`chain_run_length`) up to h = HIGH, and beyond Siegmund's form (exp(t b) - t b - 1) / (t k) with
    b = h + r: t is the root of E exp(t (z - k)) = 1 that is not 0 (2 k without a clip), and r makes it true at HIGH.
    """

    def distribution(step: NDArray[np.float64]) -> NDArray[np.float64]:
        z = step + k
        return np.where(z < -clip, 0.0, np.where(z < clip, ndtr(z), 1.0))

    if h <= HIGH:
        return chain_run_length(distribution, h)

    from scipy.optimize import brentq  # a quarter of a second, for the rarest alarms alone

    def cumulant(t: float) -> float:
        inside = math.exp(0.5 * t * t) * float(ndtr(clip - t) - ndtr(-clip - t))
        return math.log(inside + 2 * float(ndtr(-clip)) * math.cosh(t * clip)) - t * k

    t = float(brentq(cumulant, 1.9 * k, 4 * k + 1.0))

    def form(b: float) -> float:
        return (math.expm1(t * b) - t * b) / (t * k)

    known = chain_run_length(distribution, HIGH)
    b = float(brentq(lambda b: math.log(form(b) / known), 0.1 * HIGH, 2 * HIGH))
    return form(b + h - HIGH)


@lru_cache(maxsize=256)
def threshold(k: float, every: float, clip: float = math.inf) -> float:
    """The threshold h at which a one-sided CUSUM of N(0, 1) values has ARL `every` (at least 2, at most LONGEST).

    clip: where values are pulled in; above k. Wald's bound holds for them too: their exponent t is above 2 k.
    """
    wald = wald_boundaries(1.0 / every, 0.0)[1] / (2 * k)
    if clip >= FAR:
        return solved(lambda h: run_length(k, h), every, wald, 1e-6)
    return solved(lambda h: clipped_run_length(k, h, clip), every, wald, 1e-5)


def solved(length: Callable[[float], float], every: float, high: float, tolerance: float) -> float:
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


def overshoot(d: float) -> float:
    """nu(d): the mean of exp(-excess) with which a sum of log-likelihood ratios of N(d, 1) crosses a high threshold.

    (2/d) (Phi(d/2) - 1/2) / ((d/2) Phi(d/2) + phi(d/2)), within 2 % (Siegmund and Yakir 2007, "The Statistics of Gene
    Mapping", section 5.2); nu(0) = 1. It is exp(-0.583 d) for small d (Siegmund 1985).
    """
    if d < 1e-6:
        return 1.0
    density = math.exp(-d * d / 8) / math.sqrt(2 * math.pi)
    return (2 / d) * float(ndtr(d / 2) - 0.5) / (d / 2 * float(ndtr(d / 2)) + density)


def glr_run_length(window: int, h: float) -> float:
    """ARL of the two-sided generalised likelihood ratio chart of N(0, 1) values, max over k of S_k^2 / 2k >= h.

    S_k is the sum of the last k <= `window` values. sqrt(2 pi) exp(h) / (b integral of x nu(x)^2), b = sqrt(2 h), x
    from b / sqrt(window) to b (Siegmund and Venkatraman 1995, theorem 1; for a window Lai 1995, section 3).
    """
    b = math.sqrt(2 * h)
    from scipy.integrate import quad  # half a second, for this detector alone

    area = quad(lambda x: x * overshoot(x) ** 2, b / math.sqrt(window), b)[0]
    return math.sqrt(2 * math.pi) * math.exp(h) / (b * float(area))


@lru_cache(maxsize=256)
def glr_threshold(window: int, every: float) -> float:
    """The threshold at which that chart has ARL `every`."""
    low, high = 0.5, 2 * math.log(every) + 10
    return solved(lambda h: glr_run_length(window, low + h), every, high - low, 1e-6) + low


def ewma_run_length(weight: float, limit: float) -> float:
    """Two-sided ARL of E = (1 - weight) E + weight z of N(0, 1) values, started at 0.

    The alarm is at |E| >= `limit` deviations sqrt(weight / (2 - weight)). Solves the integral equation
    L(u) = 1 + (1/weight) int L(y) phi((y - (1 - weight) u) / weight) dy over the limits (Crowder 1987) by
    Gauss-Legendre quadrature.
    """
    width = limit * math.sqrt(weight / (2 - weight))
    nodes, weights = np.polynomial.legendre.leggauss(32 + int(5 * width / weight))
    y = width * np.concatenate(([0.0], nodes))
    w = width * np.concatenate(([0.0], weights))
    step = (y[None, :] - (1 - weight) * y[:, None]) / weight
    kernel = np.exp(-0.5 * step**2) * (w / (weight * math.sqrt(2 * math.pi)))
    return float(np.linalg.solve(np.eye(y.size) - kernel, np.ones(y.size))[0])


@lru_cache(maxsize=256)
def ewma_threshold(weight: float, every: float) -> float:
    """The limit, in deviations of E, at which that chart has ARL `every`.

    It is at most that of independent values of E, since E resembles the last (Slepian 1962).
    """
    highest = -float(ndtri(0.5 / every)) + 0.1
    return solved(lambda limit: ewma_run_length(weight, max(limit, 0.01)), every, highest, 1e-6)


def chain_run_length(distribution: Callable[[NDArray[np.float64]], NDArray[np.float64]], h: float) -> float:
    """One-sided ARL of S = max(0, S + step), alarm at `h`, started at 0, for steps with that distribution function.

    A Markov chain of the height in cells (Brook and Evans 1972). Their error falls with the square of their number:
    120 and 240 of them give the limit (Richardson): within 1 % where the steps have a density.
    """
    found = []
    for size in (120, 240):
        width = h / (size - 0.5)  # The first cell is 0 and half a cell above it.
        edges = (np.arange(-size, size) + 0.5) * width
        below = distribution(np.asarray(edges, np.float64))
        matrix = np.eye(size)
        for i in range(size):
            matrix[i] -= below[size - i : 2 * size - i] - below[size - 1 - i : 2 * size - 1 - i]
            matrix[i, 0] -= below[size - 1 - i]
        found.append(float(np.linalg.solve(matrix, np.ones(size))[0]))
    return found[1] + (found[1] - found[0]) / 3


def variance_run_length(ratio: float, h: float) -> float:
    """One-sided ARL of the CUSUM of log-likelihood ratios of N(0, `ratio`^2) against N(0, 1), alarm at `h`.

    `ratio` below 1 watches for a fall. The step is a z^2 - ln ratio, a = (1 - ratio^-2) / 2.
    """
    a = (1 - ratio**-2) / 2

    def distribution(step: NDArray[np.float64]) -> NDArray[np.float64]:
        square = np.maximum((step + math.log(ratio)) / a, 0.0)
        below = 2 * ndtr(np.sqrt(square)) - 1
        return np.asarray(below if a > 0 else 1 - below)

    return chain_run_length(distribution, h)


def exponential_run_length(ratio: float, h: float) -> float:
    """One-sided ARL of the CUSUM of log-likelihood ratios of mean `ratio` against 1, exponential values, alarm at `h`.

    The step is y (1 - 1/ratio) - ln ratio (Vardeman and Ray 1985 give the chart and tables).
    """
    a = 1 - 1 / ratio

    def distribution(step: NDArray[np.float64]) -> NDArray[np.float64]:
        tail = np.exp(-np.maximum((step + math.log(ratio)) / a, 0.0))
        return np.asarray(1 - tail if a > 0 else tail)

    return chain_run_length(distribution, h)


@lru_cache(maxsize=256)
def both_ways(run_length: Callable[[float, float], float], ratio: float, every: float) -> float:
    """The threshold at which charts for `ratio` and for 1/`ratio` alarm once in `every` values, both together."""

    def both(h: float) -> float:
        return 1 / (1 / run_length(ratio, h) + 1 / run_length(1 / ratio, h))

    return max(solved(lambda h: both(max(h, 0.02)), every, math.log(2 * every), 1e-4), 0.02)


def bernoulli_run_length(p: float, odds: float, h: float) -> float:
    """One-sided ARL of S = max(0, S + log-likelihood ratio), alarm at `h`, for 0s and 1s of rate `p`, started at 0.

    The ratio is that of `odds` times the odds of p against p itself. Solves L(s) = 1 + p L(s + up) + (1 - p)
    L(s + down) on a grid of heights, linear in between (a Markov chain, Brook and Evans 1972): short by up to a tenth.
    """
    changed = odds * p / (1 - p + odds * p)
    steps = np.log([changed / p, (1 - changed) / (1 - p)])
    return _lattice_run_length(steps, np.array([p, 1 - p]), h, 64)


def _lattice_run_length(steps: NDArray[np.float64], chances: NDArray[np.float64], h: float, size: int) -> float:
    """One-sided ARL of S = max(0, S + step), alarm at `h`, started at 0, for few different steps.

    L(s) = 1 + sum chance x L(s + step) on `size` heights, linear in between.
    """
    grid = np.linspace(0.0, h, size, endpoint=False)
    matrix = np.eye(size)
    rows = np.arange(size)
    for step, chance in zip(steps.tolist(), chances.tolist(), strict=True):
        place = np.maximum(grid + step, 0.0) * (size / h)
        below = np.floor(np.minimum(place, size)).astype(np.int64)
        share = place - below
        for column, weight in ((below, 1 - share), (below + 1, share)):
            inside = column < size
            np.subtract.at(matrix, (rows[inside], column[inside]), chance * weight[inside])
    return float(np.linalg.solve(matrix, np.ones(size))[0])


@lru_cache(maxsize=256)
def bernoulli_threshold(p: float, odds: float, every: float) -> float:
    """The threshold at which that test has ARL `every`."""
    return solved(lambda h: bernoulli_run_length(p, odds, h), every, wald_boundaries(1.0 / every, 0.0)[1], 0.003)


def poisson_run_length(mean: float, ratio: float, h: float) -> float:
    """One-sided ARL of the CUSUM of log-likelihood ratios of rate `ratio` x `mean` against `mean`, Poisson counts.

    Alarm at `h`, started at 0; `ratio` below 1 watches for a fall. Counts rarer than 1e-14 are left out.
    """
    lowest, highest = np.ceil(np.nan_to_num(pdtrik([1e-14, 1 - 1e-14], mean)))
    counts = np.arange(max(lowest, 0.0), highest + 1)
    steps = counts * math.log(ratio) - mean * (ratio - 1)
    return _lattice_run_length(steps, np.exp(counts * math.log(mean) - mean - gammaln(counts + 1.0)), h, 128)


@lru_cache(maxsize=256)
def poisson_threshold(mean: float, ratio: float, every: float) -> float:
    """The threshold at which that test has ARL `every`."""
    return solved(lambda h: poisson_run_length(mean, ratio, h), every, wald_boundaries(1.0 / every, 0.0)[1], 0.003)
