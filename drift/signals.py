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

LOG_FLOOR = 0.05
"""Least deviation of the logarithm of a variance in `moment_whitening`: variances that never vary by more are alike."""

PROJECTED = 256
"""Most dimensions in which `departure` compares moments: 10 us a sample, and 1 MB for a thousand channels."""


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


def pooled(moments: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The source's mean and variance `[M]` for `divergence`, of its `moments [n, 2, M]` (law of total variance)."""
    mean = moments[:, 0].mean(0, dtype=np.float64)
    return mean, moments[:, 1].mean(0, dtype=np.float64) + moments[:, 0].var(0, dtype=np.float64)


def gaussian(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean `[F]` and covariance `[F, F]`, of the population, of `features [n, F]`."""
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / len(features)


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


def moment_whitening(
    moments: NDArray[np.floating[Any]], shrinkage: float = 2 * SHRINKAGE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What `departure` needs of the source's `moments [n, 2, M]`: the centre `[2M]` and the whitening `[R, 2M]`.

    R = min(2M, PROJECTED, n // 4): where there are more moments than that, they are projected at random first (which
    keeps distances, Johnson and Lindenstrauss 1984), from a fixed seed. Raises ValueError where n < 8 or a moment is
    not finite.
    """
    if len(moments) < 8 or not np.isfinite(moments).all():
        raise ValueError(f"whitening moments takes at least 8 samples of finite moments, not {len(moments)}")
    size = moments.shape[2]
    floor = np.repeat([np.sqrt(VARIANCE_FLOOR), LOG_FLOOR], size)
    return vector_whitening(_moment_vectors(moments), floor, shrinkage)


def vector_whitening(
    vectors: NDArray[np.float64], floor: NDArray[np.float64], shrinkage: float = 2 * SHRINKAGE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre `[D]` and whitening `[R, D]` of `vectors [n, D]`, R = min(D, PROJECTED, n // 4); see `moment_whitening`.

    `floor [D]`: least deviation that a figure is taken to have. Raises ValueError where n < 8.
    """
    if len(vectors) < 8:
        raise ValueError(f"whitening takes at least 8 samples, not {len(vectors)}")
    centre = vectors.mean(axis=0)
    size = centre.size
    scale = np.maximum(vectors.std(axis=0), floor)
    rank = min(size, PROJECTED, len(vectors) // 4)
    if rank < size:
        matrix = np.random.default_rng(0).standard_normal((rank, size)) / np.sqrt(size) / scale
    else:
        matrix = np.diag(1.0 / scale)
    projected = (vectors - centre) @ matrix.T
    return centre, whitening(projected.T @ projected / len(vectors), shrinkage) @ matrix


def departure(
    moments: NDArray[np.floating[Any]], centre: NDArray[np.float64], whiten: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """How far each sample's norm-input moments, all together, lie from the source's: `[N]`, about 1 on the source.

    `moments [N, 2, M]`; `centre [2M]` and `whiten [R, 2M]` from `moment_whitening`. The Mahalanobis distance per
    dimension, |W (u - centre)| / sqrt(R), of u = (m, ln(v + VARIANCE_FLOOR)) over all channels. The product with W is
    taken in W's precision: in float32, which moments come in, it costs half.

    `divergence` takes each channel for itself, and a source with several classes is wide in each: a sensor that is
    turned round then looks like one more class. What it breaks is how channels hang together, which this sees.
    """
    with np.errstate(all="ignore"):
        white = ((_moment_vectors(moments) - centre).astype(whiten.dtype, copy=False) @ whiten.T).astype(np.float64)
        return np.sqrt(np.einsum("nr,nr->n", white, white) / len(whiten))  # type: ignore[no-any-return]


def _moment_vectors(moments: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """`[N, 2, M]` to `[N, 2M]`: the means, then the logarithms of the variances."""
    vectors = moments.astype(np.float64)
    np.log(vectors[:, 1] + VARIANCE_FLOOR, out=vectors[:, 1])
    return vectors.reshape(len(vectors), -1)


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
