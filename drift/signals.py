"""The scalar streams that detectors watch: how far one sample's taps lie from the source, and how unsure the model is.

Each function takes a micro-batch, gives one float64 a sample, and is a few NumPy calls: they run for every window,
often with N = 1. A sample that holds NaN or infinity gives NaN or infinity, which detectors skip.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIANCE_FLOOR = 1e-5
"""Added to variances in `divergence`: the usual `eps` of norm layers, under which the network itself sees no spread."""

SHRINKAGE = 0.05
"""Share of the average variance in `whitening`'s covariance: bounds its condition number by about F / 0.05."""


def divergence(
    moments: NDArray[np.floating[Any]],
    source_mean: NDArray[np.float64],
    source_var: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Gaussian divergence of each sample's norm-input moments from the source's.

    `moments [N, 2, M]`: per norm channel, mean m and population variance v of the norm's input within the sample;
    `source_mean`, `source_var [M]`: mu and s2, pooled over the source (law of total variance). Gives `[N]`,

        log(1 + 1/M sum_c KL_c),   KL_c = 1/2 (r - 1 - ln r + (m - mu)^2 / s2),   r = v / s2,

    KL_c being that of N(m, v) from N(mu, s2). Both variances have VARIANCE_FLOOR added, so that channels which are
    (nearly) dead in the source, or in the sample, stay bounded. Where v is exactly 0 (norms of `[N, C]` inputs have
    no spread within a sample) only the mean's term is taken.

    The mean over channels is non-negative and skewed to the right over source samples (it is a sum of squares and
    of -ln r), and reaches thousands where a gain is wrong. The logarithm brings it near to Gaussian, keeps one wild
    sample from outweighing a hundred others in a sum, and leaves small values as they are (log1p(x) ~ x); the order
    of samples stays the same.
    """
    var = moments[:, 1]
    scale = source_var + VARIANCE_FLOOR
    with np.errstate(all="ignore"):
        shift = moments[:, 0] - source_mean
        ratio = (var + VARIANCE_FLOOR) / scale
        spread = (ratio - 1.0 - np.log(ratio)) * (var > 0)
        kl = np.add.reduce(shift * shift / scale + spread, axis=1)
        return np.log1p(kl * (0.5 / source_mean.size))  # type: ignore[no-any-return]


def whitening(cov: NDArray[np.float64], shrinkage: float = SHRINKAGE) -> NDArray[np.float64]:
    """The matrix W `[F, F]` that whitens features of covariance `cov [F, F]`: W cov' W^T = I.

    cov' = (1 - a) cov + a tr(cov)/F I is shrunk towards a sphere (Ledoit and Wolf 2004, with a fixed share a =
    `shrinkage`, since a bundle holds the covariance and not the samples): features after a ReLU are often constant
    or collinear. W is the inverse of the Cholesky factor, hence lower triangular.

    Raises ValueError where `cov` is not square and finite, or has a negative eigenvalue beyond rounding.
    """
    cov = np.asarray(cov, np.float64)
    if cov.ndim != 2 or cov.shape[0] != cov.shape[1] or not np.isfinite(cov).all():
        raise ValueError(f"the covariance must be a square matrix of finite numbers, not of shape {cov.shape}")
    size = cov.shape[0]
    average = float(np.trace(cov)) / max(size, 1)
    identity = np.eye(size)
    shrunk = (1.0 - shrinkage) * 0.5 * (cov + cov.T) + (shrinkage * average + 1e-12) * identity
    try:
        factor = np.linalg.cholesky(shrunk)
    except np.linalg.LinAlgError:
        raise ValueError("the covariance has negative eigenvalues; estimate it again from the source") from None
    return np.asarray(np.linalg.solve(factor, identity), np.float64)


def distance(
    features: NDArray[np.floating[Any]],
    source_mean: NDArray[np.float64],
    whiten: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mahalanobis distance of each sample's features from the source, per dimension: `[N]`, about 1 on the source.

    `features [N, F]`, `source_mean [F]`, `whiten [F, F]` from `whitening`. The value is |W (f - mean)| / sqrt(F): the
    root, since that of a chi-squared variable is near to Gaussian, as a sum of squares is not.
    """
    with np.errstate(all="ignore"):
        white = (features - source_mean) @ whiten.T
        return np.sqrt(np.einsum("nf,nf->n", white, white) / source_mean.size)  # type: ignore[no-any-return]


def entropy(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Entropy of softmax(logits `[N, K]`) in nats: `[N]`, from 0 (sure) to ln K. A class of logit -inf adds nothing."""
    wide = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):
        below = np.maximum(wide - wide.max(axis=1, keepdims=True), -700.0)
    weight = np.exp(below)
    total = weight.sum(axis=1)
    return np.log(total) - np.einsum("nk,nk->n", weight, below) / total  # type: ignore[no-any-return]
