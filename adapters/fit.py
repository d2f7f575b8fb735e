"""How well windows fit the source under candidate parameter vectors, without labels, and how sure a difference is.

Four misfits are added; each is in nats, or a logarithm, and lowest (or constant) on the source:

- *moments*: log of the mean Gaussian divergence of the pooled norm-input moments from the source's (law of total
  variance). It sees what every layer is fed, but only as a whole: it needs windows of many classes.
- *departure*: mean log Mahalanobis distance of each window's norm-input moments, all layers together, from the
  source's: how channels hang together.
- *features*: minus the mean log density of the features under the source's class-conditional Gaussians, per feature.
  A window of any class counts at once, so that a correlated stream does not mislead it.
- *outputs*: mean entropy plus the divergence of the mean prediction from the class prior (minus the mutual information
  of window and class, up to a constant): sure of each window, but not of the same class for all.

Chosen by measurement on sign flips of a wearable's six channels: five models, 400 stretches of a correlated stream. How
often the true one of 64 candidates came first, from 128 and 256 windows: moments alone 17 and 58 %, features 71 and
92 %, outputs 71 and 92 %, departure 85 and 96 %; all but departure 84 and 98 %; all together 88 and 98 %.

A difference is judged by the jackknife over *runs* of neighbouring windows (Kuensch 1989, deletion of blocks), because
windows overlap and neighbours are alike: the standard error counts runs, not windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp, stdtr

from trimtab.adapters.home import departure
from trimtab.adapters.methods import Context, Windows

Array = NDArray[np.float64]

RUN = 16
"""Window numbers in a run at the least."""
RUNS = 32
"""Runs at the most: longer memories get longer runs."""
FLOOR = 0.01
"""Divergences below this many nats are alike: sampling noise of some hundred windows."""
DEPARTURE_WEIGHT = 2.0
"""A distance's logarithm is half that of its square, which a log density goes by."""
OUTPUTS_WEIGHT = 2.0
PROBED = 4096
"""Samples in one call of the probe at the most, to bound memory ..."""
NUMBERS = 2**24
"""... and numbers in them (images are large)."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Sums over runs of windows, for R candidates; `misfit` reads them. B: runs."""

    context: Context
    counts: Array
    """[B] windows in each run."""
    first: Array
    """[R, B, M] sums of the per-sample means of the norm inputs."""
    second: Array
    """[R, B, M] sums of their second moments (variance + mean^2)."""
    apart: Array
    """[R, B] sums of the log departures; 0 where the source has none."""
    rarity: Array
    """[R, B] sums of minus the log density of the features, per feature; 0 without features."""
    entropy: Array
    """[R, B] sums of the entropies; 0 in regression."""
    share: Array
    """[R, B, K] sums of the probabilities; 0 in regression."""
    finite: NDArray[np.bool_]
    """[R] whether every output was finite."""

    def __len__(self) -> int:
        return len(self.finite)

    @property
    def runs(self) -> int:
        return len(self.counts)

    def parts(self, weights: Array | None = None) -> dict[str, Array]:
        """The misfits by name, each `[R]`, of all windows, or of runs weighted by `weights [B]`."""
        w = np.ones(self.runs) if weights is None else weights
        n = float(w @ self.counts)
        found: dict[str, Array] = {}
        if self.first.shape[2]:
            found["moments"] = np.log(FLOOR + self._divergence(w, n))
        if self.context.source.moments_centre.size:
            found["departure"] = DEPARTURE_WEIGHT * (self.apart @ w) / n
        if len(self.context.source.feature_mean):
            found["features"] = self.rarity @ w / n
        if self.context.task == "classification":
            share = np.maximum(np.einsum("rbk,b->rk", self.share, w) / n, 1e-12)
            prior = np.maximum(self.context.source.class_prior, 1e-3)
            outputs = self.entropy @ w / n + (share * np.log(share / (prior / prior.sum()))).sum(axis=1)
            found["outputs"] = OUTPUTS_WEIGHT * outputs
        return {name: np.where(self.finite, part, np.inf) for name, part in found.items()}

    def misfit(self, weights: Array | None = None) -> Array:
        """The sum of the parts, `[R]`; lower is better, infinite where outputs were not finite."""
        return np.asarray(np.sum(list(self.parts(weights).values()), axis=0), np.float64)

    def certainty(self, better: int, worse: int) -> tuple[float, float]:
        """How much lower the misfit of candidate `better` is than that of `worse`, and the chance of being wrong.

        The chance is one-sided, by Student's t over jackknife pseudo-values of runs; 1.0 with fewer than 3 runs.
        """
        if not self.finite[better]:
            return -np.inf, 1.0
        if not self.finite[worse]:
            return np.inf, 0.0
        pair = self._only(np.array([better, worse]))
        whole = pair.misfit()
        gain = float(whole[1] - whole[0])
        if self.runs < 3:
            return gain, 1.0
        without = []
        for left_out in range(self.runs):
            weights = np.ones(self.runs)
            weights[left_out] = 0.0
            values = pair.misfit(weights)
            without.append(values[1] - values[0])
        spread = np.asarray(without) - np.mean(without)
        error = float(np.sqrt((self.runs - 1) / self.runs * (spread**2).sum()))
        if error == 0.0:
            return gain, 0.0 if gain > 0 else 1.0
        return gain, float(stdtr(self.runs - 1, -gain / error))

    def _only(self, which: NDArray[np.int64]) -> Fit:
        return Fit(
            self.context,
            self.counts,
            self.first[which],
            self.second[which],
            self.apart[which],
            self.rarity[which],
            self.entropy[which],
            self.share[which],
            self.finite[which],
        )

    def _divergence(self, w: Array, n: float) -> Array:
        """[R] KL(window || source) of Gaussians, mean over norm channels."""
        source = self.context.source
        mean = np.einsum("rbm,b->rm", self.first, w) / n
        second = np.einsum("rbm,b->rm", self.second, w) / n
        eps = norm_eps(self.context)
        var = np.maximum(second - mean**2, 0.0) + eps
        expected = source.moments_var + eps
        distance = (var + (mean - source.moments_mean) ** 2) / expected
        return np.asarray(0.5 * (np.log(expected / var) + distance - 1.0).mean(axis=1))


def measure(context: Context, rows: NDArray[np.float32], windows: Windows) -> Fit:
    """Run `windows` (finite, at least one) under each of the candidates `rows [R, P]`."""
    if len(windows) == 0:
        raise ValueError("no windows to measure a fit on")
    source = context.source
    runs, counts = runs_of(windows.sequence)
    R, n, B, M = len(rows), len(windows), len(counts), len(source.moments_mean)
    first, second = np.zeros((R, B, M)), np.zeros((R, B, M))
    apart, rarity, entropy, share = *np.zeros((3, R, B)), np.zeros((R, B, context.outputs))
    finite = np.ones(R, np.bool_)
    density = _density(context)
    size = n * sum(int(np.prod(x.shape[1:])) for x in windows.inputs.values())
    step = max(1, min(PROBED // n, NUMBERS // size))
    for start in range(0, R, step):
        some = rows[start : start + step]
        slot = np.repeat(np.arange(len(some)), n)
        inputs = {name: np.tile(x, (len(some), *[1] * (x.ndim - 1))) for name, x in windows.inputs.items()}
        outputs = context.probe(inputs, some, slot)
        here = slice(start, start + len(some))

        def by_run(values: Array, candidates: int = len(some)) -> Array:
            """Sum [R*n, ...] over the windows of each run: [R, B, ...]."""
            return np.add.reduceat(values.reshape(candidates, n, *values.shape[1:]), runs, axis=1)

        y = outputs.y.astype(np.float64)
        good = _finite(y)
        if outputs.moments is not None and M:
            moments = outputs.moments.astype(np.float64)
            good &= _finite(moments)
            first[here] = by_run(moments[:, 0])
            second[here] = by_run(moments[:, 1] + moments[:, 0] ** 2)
            if source.moments_centre.size:
                held = np.where(good[:, None, None], moments, 0.0)
                away = departure(held, source.moments_centre, source.moments_whitening)
                apart[here] = by_run(0.5 * np.log(away + 1e-6))
        if outputs.features is not None and density is not None:
            features = outputs.features.astype(np.float64) + feature_shift(context, some)[slot]
            good &= _finite(features)
            rarity[here] = by_run(-density(np.where(good[:, None], features, 0.0)) / features.shape[1])
        if context.task == "classification":
            logp = log_softmax(np.where(good[:, None], y, 0.0), axis=1)
            p = np.exp(logp)
            entropy[here] = by_run(-(p * logp).sum(axis=1))
            share[here] = by_run(p)
        finite[here] = good.reshape(len(some), n).all(axis=1)
    return Fit(context, counts, first, second, apart, rarity, entropy, share, finite)


class Density:
    """Log density of features under the source's class-conditional Gaussians, weighted by the class prior.

    Covariances are the class's own and the pooled one, half and half, shrunk by a tenth towards a multiple of the
    identity. From 64 classes on (or 2^24 numbers) the pooled one serves all classes. Regression: one Gaussian.
    """

    def __init__(self, context: Context) -> None:
        source = context.source
        if context.task == "classification" and len(source.class_feature_mean):
            seen = source.class_prior > 0
            prior = source.class_prior[seen] / source.class_prior[seen].sum()
            means = source.class_feature_mean[seen]
            own = source.class_feature_cov
            own = own[seen] if len(own) == len(seen) else own
            pooled = np.einsum("k,kij->ij", prior, own)
            covs = 0.5 * own + 0.5 * pooled if len(means) < 64 and own.size < 2**24 else pooled[None]
        else:
            prior, means, covs = np.ones(1), source.feature_mean[None], source.feature_cov[None]
        size = means.shape[1]
        scale = np.trace(covs, axis1=1, axis2=2)[:, None, None] / size
        covs = 0.9 * covs + (0.1 * scale + 1e-9) * np.eye(size)
        self._factors = np.linalg.cholesky(covs)
        self._means = means
        self._log_weights = np.log(prior)

    def __call__(self, features: Array) -> Array:
        """[N, F] -> [N], up to the constant of the Gaussian."""
        terms = np.empty((len(self._means), len(features)))
        for k, mean in enumerate(self._means):
            factor = self._factors[k if len(self._factors) > 1 else 0]
            z = np.linalg.solve(factor, (features - mean).T)
            terms[k] = self._log_weights[k] - 0.5 * (z**2).sum(axis=0) - np.log(np.diag(factor)).sum()
        return np.asarray(logsumexp(terms, axis=0))


_DENSITIES: WeakKeyDictionary[Context, Density] = WeakKeyDictionary()
"""One a model: a factorisation per class is too much for each of the dozens of measurements of a try."""


def _density(context: Context) -> Density | None:
    """The source's density, or None where the model has no features."""
    if not len(context.source.feature_mean):
        return None
    found = _DENSITIES.get(context)
    if found is None:
        found = _DENSITIES[context] = Density(context)
    return found


def feature_shift(context: Context, rows: NDArray[np.float32]) -> Array:
    """What `rows [R, P]` add to the features, `[R, F]` (features are tapped before it)."""
    if "feature.shift" not in context.layout:
        return np.zeros((len(rows), len(context.source.feature_mean)))
    return context.layout.view(rows, "feature.shift").astype(np.float64)


def norm_eps(context: Context) -> Array:
    """[M] eps of each norm channel, at least 1e-5 (biases left by folded norms have none)."""
    return np.repeat([max(n.eps, 1e-5) for n in context.norms], [n.channels for n in context.norms])


def finite_windows(windows: Windows) -> Windows:
    """Those without NaN or Inf in any input."""
    good = np.ones(len(windows), np.bool_)
    for x in windows.inputs.values():
        good &= _finite(x)
    return windows if good.all() else windows.take(good)


def _finite(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """[N, ...] -> [N]"""
    return np.asarray(np.isfinite(values).all(axis=tuple(range(1, values.ndim))), np.bool_)


def runs_of(sequence: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
    """Cut ascending window numbers into runs: where each begins, and its size."""
    length = max(RUN, -(-int(sequence[-1] - sequence[0] + 1) // RUNS))
    run = (sequence - sequence[0]) // length
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    return starts, np.diff(starts, append=len(sequence)).astype(np.float64)
