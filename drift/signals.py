"""The scalar streams that detectors watch: how far one sample's taps lie from the source, and how unsure the model is.

Each function takes a micro-batch, gives one float64 a sample, and is a few NumPy calls: they run for every window,
often with N = 1. A sample that holds NaN or infinity gives NaN or infinity, which detectors skip. What a sample gives
does not depend, to the last bit, on the samples beside it: a restart cuts micro-batches elsewhere, and must decide the
same. The classes hold what is the same for all micro-batches; infinities on the way are the caller's to expect
(`np.errstate`).
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
"""Samples in one matrix product: as many as BLAS kernels take at once, and few to fill up for one."""

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
        # All as rows [1, M]: for one sample, nothing needs to be spread.
        scale = var[None] + VARIANCE_FLOOR
        self.mean = mean[None]
        self.inverse = 1 / scale
        # r - 1 - ln r = v / scale + rest - ln(v + VARIANCE_FLOOR)
        self.rest = VARIANCE_FLOOR * self.inverse - 1 + np.log(scale)
        self._share = 0.5 / mean.size

    def __call__(self, moments: NDArray[Float], logs: NDArray[Float]) -> NDArray[np.float64]:
        var = moments[:, 1]
        kl = var * self.inverse
        kl += self.rest
        kl -= logs
        if not np.minimum.reduce(var, axis=None) > 0:
            kl *= var != 0
        shift = moments[:, 0] - self.mean
        np.multiply(shift, shift, shift)
        shift *= self.inverse
        kl += shift
        total = np.add.reduce(kl, 1)
        total *= self._share
        # Rounding may leave a hair less than nothing.
        return np.log1p(np.absolute(total)).astype(np.float64, copy=False)  # type: ignore[no-any-return]


def divergence(
    moments: NDArray[np.floating[Any]], source_mean: NDArray[np.float64], source_var: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`Divergence` of `moments [N, 2, M]` from a source of `source_mean`, `source_var [M]`: `[N]`."""
    with np.errstate(all="ignore"):
        return Divergence(source_mean, source_var)(moments, log_variances(moments))


def log_variances(moments: NDArray[Float]) -> NDArray[Float]:
    """ln(v + VARIANCE_FLOOR) of `moments [N, 2, M]`: `[N, M]`, which `Divergence` and `Departure` share."""
    floored = moments[:, 1] + VARIANCE_FLOOR
    return np.log(floored, floored)  # type: ignore[no-any-return]


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
        self.centre = centre.astype(whiten.dtype).reshape(2, 1, -1)
        self.whiten = _per_dimension(whiten)

    def __call__(self, moments: NDArray[Float], logs: NDArray[Float]) -> NDArray[np.float64]:
        count, width = logs.shape
        vectors = _rows(count, 2 * width, self.whiten.dtype)
        np.subtract(moments[:, 0], self.centre[0], vectors[:count, :width], casting="same_kind")
        np.subtract(logs, self.centre[1], vectors[:count, width:], casting="same_kind")
        return _lengths(vectors, self.whiten, count)


def departure(
    moments: NDArray[np.floating[Any]], centre: NDArray[np.float64], whiten: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """`Departure` of `moments [N, 2, M]` from a source of `centre [2M]`, whitened by `whiten [R, 2M]`: `[N]`."""
    with np.errstate(all="ignore"):
        return Departure(centre, whiten)(moments, log_variances(moments))


class Distance:
    """Mahalanobis distance of each sample's features from the source, per dimension: about 1 on the source.

    `mean [F]`, `whiten [F, F]` from `whitening`. Called with `features [N, F]` it gives `[N]`,
    |W (f - mean)| / sqrt(F): the root, since that of a chi-squared variable is near to Gaussian, as a sum of squares is
    not.
    """

    def __init__(self, mean: NDArray[np.float64], whiten: NDArray[np.floating[Any]]) -> None:
        self.mean = mean[None]
        self.whiten = _per_dimension(whiten)

    def __call__(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        count, width = features.shape
        rows = _rows(count, width, self.whiten.dtype)
        np.subtract(features, self.mean, rows[:count])
        return _lengths(rows, self.whiten, count)


def distance(
    features: NDArray[np.floating[Any]], source_mean: NDArray[np.float64], whiten: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`Distance` of `features [N, F]` from a source of `source_mean [F]`, whitened by `whiten [F, F]`: `[N]`."""
    with np.errstate(all="ignore"):
        return Distance(source_mean, whiten)(features)


def _per_dimension(whiten: NDArray[Float]) -> NDArray[Float]:
    """`whiten [R, K]` as `_lengths` takes it: transposed, and divided by sqrt(R)."""
    return np.ascontiguousarray(whiten.T / np.sqrt(whiten.dtype.type(len(whiten))))


def _rows(count: int, width: int, dtype: np.dtype[Float]) -> NDArray[Float]:
    """Zeros for `count` rows, and as many more as make whole parts of ROWS."""
    return np.zeros((-(-count // ROWS) * ROWS, width), dtype)


def _lengths(rows: NDArray[Float], matrix: NDArray[Float], count: int) -> NDArray[np.float64]:
    """|row matrix| of the first `count` of `rows` (from `_rows`): each the same to the bit whatever stands beside it.

    BLAS goes other ways, which round otherwise, for other numbers of rows. So they are always ROWS at a time.
    """
    white = (rows.reshape(-1, ROWS, rows.shape[1]) @ matrix).reshape(len(rows), -1)[:count]
    np.multiply(white, white, white)
    squares = np.add.reduce(white, 1)
    return np.sqrt(squares, squares).astype(np.float64, copy=False)  # type: ignore[no-any-return]


class Softmax:
    """Of logits `[N, K]`, what `entropy` and a class's probability both need, in float64."""

    def __init__(self, logits: NDArray[np.floating[Any]]) -> None:
        wide = logits.astype(np.float64)
        wide -= np.maximum.reduce(wide, axis=1, keepdims=True)
        self.below = np.maximum(wide, -700.0, out=wide)
        """`[N, K]`: how far each logit lies below the greatest; 700 at most, so that -inf adds nothing to anything."""
        self.weight = np.exp(wide)
        """`[N, K]`, from 0 to 1."""
        self.total = np.add.reduce(self.weight, 1)
        """`[N]`: one over the probability of the greatest."""

    def entropy(self) -> NDArray[np.float64]:
        """In nats: `[N]`, from 0 (sure) to ln K."""
        weighted = np.add.reduce(self.weight * self.below, 1)
        weighted /= self.total
        return np.log(self.total) - weighted  # type: ignore[no-any-return]


def entropy(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Entropy of softmax(logits `[N, K]`) in nats: `[N]`, from 0 (sure) to ln K. A class of logit -inf adds nothing."""
    with np.errstate(all="ignore"):
        return Softmax(np.asarray(logits)).entropy()
