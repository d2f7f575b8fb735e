"""What a correlated stream can tell of its statistics: weights that balance classes, and how much of a change lasts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, softmax

from trimtab.adapters.fit import runs_of
from trimtab.adapters.methods import Context, Windows

LARGEST = 4.0
"""No window counts more than this times the mean: a class seen once must not rule."""
PATIENCE = 4
"""Times the span after which windows are taken though they seem to be of few classes."""
MANY = 16.0
"""Classes that are enough, however many there are."""


def class_weights(context: Context, y: NDArray[np.float32]) -> NDArray[np.float64]:
    """[N] weights that sum to 1, for outputs `y [N, K]`: prior over share of the (soft) predicted class, bounded.

    Regression: all alike.
    """
    n = len(y)
    if context.task != "classification":
        return np.full(n, 1.0 / n)
    p = softmax(y.astype(np.float64), axis=1)
    share = np.maximum(p.mean(axis=0), 1e-12)
    ratio = np.minimum(context.source.class_prior / share, LARGEST)
    weights = np.minimum(p @ ratio, LARGEST)
    return np.asarray(weights / weights.sum())


def too_alike(context: Context, y: NDArray[np.float32], windows: Windows, span: int) -> str | None:
    """Why `windows` with outputs `y [n, K]` say nothing of statistics, in one sentence; None where they do.

    From what somebody does for a while, a new sensor cannot be told from a new activity, and the guard's windows, which
    are of the same while, cannot tell either. So windows must span `span` window numbers, and their predictions half as
    many classes as the source had (effectively: exp of the entropy). A model that was thrown off altogether may predict
    one class for ever, so that PATIENCE times the span is enough without the classes.
    """
    spanned = int(windows.sequence[-1] - windows.sequence[0]) + 1
    if spanned < span:
        return f"the windows span {spanned} window numbers, where {span} are asked for"
    if context.task != "classification" or spanned >= PATIENCE * span:
        return None
    # Counted, not averaged over probabilities: a model that is unsure of everything would seem to see all classes.
    seen = float(np.exp(entr(np.bincount(y.argmax(axis=1), minlength=context.outputs) / len(y)).sum()))
    wanted = min(0.5 * float(np.exp(entr(context.source.class_prior).sum())), MANY)
    return None if seen >= wanted else f"the windows hold {seen:.1f} classes, where {wanted:.1f} are asked for"


def relative_moments(
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
    source_mean: NDArray[np.float64],
    source_var: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Per window `[N, 2C]`: first and second moments about the source's mean, in units of the source; 0 there.

    `means`, `variances [N, C]` per window and channel; `source_mean`, `source_var [C]`.
    """
    spread = source_var + 1e-5
    shift = means - source_mean
    return np.concatenate([shift / np.sqrt(spread), (variances + shift**2) / spread - 1.0], axis=1)


def lasting(
    values: NDArray[np.float64], weights: NDArray[np.float64], sequence: NDArray[np.int64], caution: float
) -> float:
    """How much of the change `weights @ values` is more than what comes and goes from run to run: 0 to 1.

    The positive-part James-Stein factor, 1 - caution * sum(se^2) / sum(change^2), over the columns of `values [N, D]`
    (0 on the source). Standard errors are those of the weighted mean over runs of neighbouring windows: half a minute
    of one class is one observation, not fifty. With fewer than two runs nothing is known, and nothing is shrunk.
    """
    starts, _counts = runs_of(sequence)
    if len(starts) < 2:
        return 1.0
    change = weights @ values
    by_run = np.add.reduceat(weights[:, None] * (values - change), starts, axis=0)
    error = len(starts) / (len(starts) - 1) * float((by_run**2).sum())
    total = float((change**2).sum())
    return max(0.0, 1.0 - caution * error / total) if total > 0 else 0.0
