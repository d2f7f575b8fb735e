"""Weights that make the predicted classes of a correlated stream count as they did in the source."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from trimtab.adapters.methods import Context

LARGEST = 4.0
"""No window counts more than this times the mean: a class seen once must not rule."""


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
