"""The scalar streams that detectors watch: how far one sample's taps lie from the source, and how unsure the model is.

Each function takes a micro-batch, gives one float64 a sample, and is a few NumPy calls: they run for every window,
often with N = 1. A sample that holds NaN or infinity gives NaN or infinity, which detectors skip. What a sample gives
does not depend, to the last bit, on the samples beside it: a restart cuts micro-batches elsewhere, and must decide the
same (see `rowwise`).
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

VARIANCE_FLOOR = 1e-5
"""Added to variances in `Divergence`: the usual `eps` of norm layers, under which the network itself sees no spread."""

SHRINKAGE = 0.05
"""Share of the average variance in `whitening`'s covariance: bounds its condition number by about F / 0.05."""

LOG_FLOOR = 0.05
"""Least deviation of the logarithm of a variance in `moment_whitening`: variances that never vary by more are alike."""

PROJECTED = 256
"""Most dimensions in which `Departure` compares moments: 10 us a sample, and 1 MB for a thousand channels."""

ROWS = 4
"""Samples in one matrix product of `rowwise`: as many as BLAS kernels take at once, and few to fill up for one."""

Float = TypeVar("Float", bound=np.floating[Any])


class Divergence:
    """Gaussian divergence of each sample's norm-input moments from the source's.

    `mean`, `var [M]`: mu and s2 of the source, pooled over it (law of total variance). Called with `moments [N, 2, M]`,
    per norm channel the mean m and the population variance v of the norm's input within the sample, and their
    `log_variances`, it gives `[N]`,

        log(1 + 1/M sum_c KL_c),   KL_c = 1/2 (r - 1 - ln r + (m - mu)^2 / s2),   r = v / s2,

    KL_c being that of N(m, v) from N(mu, s2), in the precision of mean and var. Both variances have VARIANCE_FLOOR
    added, so that channels which are (nearly) dead in the source, or in the sample, stay bounded. Where v is exactly 0
    (norms of `[N, C]` inputs have no spread within a sample) only the mean's term is taken.

    The mean over channels is non-negative and skewed to the right over source samples (it is a sum of squares and
    of -ln r), and reaches thousands where a gain is wrong. The logarithm brings it near to Gaussian, keeps one wild
    sample from outweighing a hundred others in a sum, and leaves small values as they are (log1p(x) ~ x); the order
    of samples stays the same.
    """

    def __init__(self, mean: NDArray[np.floating[Any]], var: NDArray[np.floating[Any]]) -> None:
        scale = var + VARIANCE_FLOOR
        self._mean = mean
        self._inverse = 1 / scale
        self._level = 1 - np.log(scale)  # r - 1 - ln r = r - ln v - level
        self._share = 0.5 / mean.size

    def __call__(self, moments: NDArray[Float], logs: NDArray[Float]) -> NDArray[np.float64]:
        var = moments[:, 1]
        with np.errstate(all="ignore"):
            kl = var + VARIANCE_FLOOR
            kl = kl * self._inverse
            kl -= logs
            kl -= self._level
            if not var.all():
                kl *= var > 0
            shift = moments[:, 0] - self._mean
            shift *= shift
            shift *= self._inverse
            kl += shift
            # Rounding may leave a hair less than nothing.
            total = np.maximum(np.add.reduce(kl, axis=1), 0.0, dtype=np.float64)
            return np.log1p(total * self._share)  # type: ignore[no-any-return]


def divergence(
    moments: NDArray[np.floating[Any]], source_mean: NDArray[np.float64], source_var: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`Divergence` of `moments [N, 2, M]` from a source of `source_mean`, `source_var [M]`: `[N]`."""
    return Divergence(source_mean, source_var)(moments, log_variances(moments))


def log_variances(moments: NDArray[Float]) -> NDArray[Float]:
    """ln(v + VARIANCE_FLOOR) of `moments [N, 2, M]`: `[N, M]`, which `Divergence` and `Departure` share."""
    var = moments[:, 1]
    floored = var + VARIANCE_FLOOR
    with np.errstate(all="ignore"):
        return np.log(floored, out=floored)  # type: ignore[no-any-return]


def pooled(moments: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The source's mean and variance `[M]` for `Divergence`, of its `moments [n, 2, M]` (law of total variance)."""
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
    """What `Departure` needs of the source's `moments [n, 2, M]`: the centre `[2M]` and the whitening `[R, 2M]`.

    R = min(2M, PROJECTED, n // 4): where there are more moments than that, they are projected at random first (which
    keeps distances, Johnson and Lindenstrauss 1984), from a fixed seed. Raises ValueError where n < 8 or a moment is
    not finite.
    """
    if len(moments) < 8 or not np.isfinite(moments).all():
        raise ValueError(f"whitening moments takes at least 8 samples of finite moments, not {len(moments)}")
    size = moments.shape[2]
    floor = np.repeat([np.sqrt(VARIANCE_FLOOR), LOG_FLOOR], size)
    vectors = np.concatenate([moments[:, 0], log_variances(moments)], axis=1, dtype=np.float64)
    return vector_whitening(vectors, floor, shrinkage)


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


class Departure:
    """How far each sample's norm-input moments, all together, lie from the source's: about 1 on the source.

    `centre [2M]` and `whiten [R, 2M]` from `moment_whitening`. Called with `moments [N, 2, M]` and their
    `log_variances` it gives `[N]`, the Mahalanobis distance per dimension, |W (u - centre)| / sqrt(R), of
    u = (m, ln(v + VARIANCE_FLOOR)) over all channels, in W's precision: in float32, which moments come in, it costs
    half.

    `Divergence` takes each channel for itself, and a source with several classes is wide in each: a sensor that is
    turned round then looks like one more class. What it breaks is how channels hang together, which this sees.
    """

    def __init__(self, centre: NDArray[np.float64], whiten: NDArray[np.floating[Any]]) -> None:
        self._centre = centre.astype(whiten.dtype).reshape(2, -1)
        self._whiten = np.ascontiguousarray(whiten.T)

    def __call__(self, moments: NDArray[Float], logs: NDArray[Float]) -> NDArray[np.float64]:
        count, width = logs.shape
        vectors = np.empty((count, 2 * width), self._whiten.dtype)
        with np.errstate(all="ignore"):
            np.subtract(moments[:, 0], self._centre[0], out=vectors[:, :width], casting="same_kind")
            np.subtract(logs, self._centre[1], out=vectors[:, width:], casting="same_kind")
            return _length(rowwise(vectors, self._whiten))


def departure(
    moments: NDArray[np.floating[Any]], centre: NDArray[np.float64], whiten: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """`Departure` of `moments [N, 2, M]` from a source of `centre [2M]`, whitened by `whiten [R, 2M]`: `[N]`."""
    return Departure(centre, whiten)(moments, log_variances(moments))


class Distance:
    """Mahalanobis distance of each sample's features from the source, per dimension: about 1 on the source.

    `mean [F]`, `whiten [F, F]` from `whitening`. Called with `features [N, F]` it gives `[N]`,
    |W (f - mean)| / sqrt(F): the root, since that of a chi-squared variable is near to Gaussian, as a sum of squares is
    not.
    """

    def __init__(self, mean: NDArray[np.float64], whiten: NDArray[np.float64]) -> None:
        self._mean = mean
        self._whiten = np.ascontiguousarray(whiten.T)

    def __call__(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return _length(rowwise(features - self._mean, self._whiten))


def distance(
    features: NDArray[np.floating[Any]], source_mean: NDArray[np.float64], whiten: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`Distance` of `features [N, F]` from a source of `source_mean [F]`, whitened by `whiten [F, F]`: `[N]`."""
    return Distance(source_mean, whiten)(features)


def _length(white: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Root mean square of each row of `[N, R]`, which is lost: `[N]`."""
    white *= white
    return np.sqrt(np.add.reduce(white, axis=1) / white.shape[1], dtype=np.float64)  # type: ignore[no-any-return]


def rowwise(rows: NDArray[Float], matrix: NDArray[Float]) -> NDArray[Float]:
    """`rows [N, K] @ matrix [K, R]`, each row the same to the last bit whatever stands beside it.

    BLAS takes other ways, which round otherwise, for other numbers of rows. So they are always ROWS at a time, filled
    up with zeros.
    """
    count, width = rows.shape
    parts = -(-count // ROWS)
    if count % ROWS:
        whole = np.zeros((parts * ROWS, width), rows.dtype)
        whole[:count] = rows
        rows = whole
    return (rows.reshape(parts, ROWS, width) @ matrix).reshape(parts * ROWS, -1)[:count]


def entropy(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Entropy of softmax(logits `[N, K]`) in nats: `[N]`, from 0 (sure) to ln K. A class of logit -inf adds nothing."""
    wide = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):
        below = wide - np.maximum.reduce(wide, axis=1, keepdims=True)
        np.maximum(below, -700.0, out=below)
    weight = np.exp(below)
    total = np.add.reduce(weight, axis=1)
    weight *= below
    return np.log(total) - np.add.reduce(weight, axis=1) / total  # type: ignore[no-any-return]
