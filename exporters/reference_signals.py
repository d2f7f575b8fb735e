"""What the signals of a model look like on its source: the recordings that detectors are calibrated with.

A sample lies nearer to statistics that it took part in than any new one does: with 200 dimensions and 800 samples by
a tenth to a fifth of the distance. So each sample's signals are taken by the statistics of the others (cross-fitting,
in FOLDS parts). Neighbours overlap or resemble each other, and go into the same part, NEIGHBOURS of one predicted class
at a time.

The order is that to be expected of a stream: see `trimtab.drift.reference.as_streamed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.drift import input_signals, signals
from trimtab.drift.input_signals import Layout
from trimtab.drift.reference import as_streamed

FOLDS = 5
NEIGHBOURS = 8

JOINTLY = 64
"""Source samples from which on norm-input moments, and inputs, are described jointly."""

Signals = dict[str, NDArray[np.float64]]

Described = Mapping[str, tuple[NDArray[np.float64], Layout]]
"""Per signal of the inputs (trimtab.drift.input_signals): the figures `[n, D]` of all samples, and their layout."""


def reference_signals(
    y: NDArray[np.float32],
    features: NDArray[np.float64],
    moments: NDArray[np.float32],
    predicted: NDArray[np.int64] | None,
    inputs: Described,
) -> Signals:
    """The signals of n source samples, those that the model and its inputs give, each `[n]`.

    y `[n, K]`, features `[n, F]` (F may be 0), moments `[n, 2, M]` (M may be 0); predicted `[n]`: the predicted class,
    None in a regression.
    """
    classes = np.zeros(len(y), np.int64) if predicted is None else predicted
    fold = _folds(classes)
    found: Signals = {}
    # With fewer samples than a fold of neighbours in each part there is nothing to take apart.
    parts = [fold == i for i in range(FOLDS)] if len(np.unique(fold)) == FOLDS else []
    for part in parts:
        given = _by(features[~part], moments[~part], features[part], moments[part], len(y))
        given |= _of_inputs(inputs, ~part, part)
        for name, values in given.items():
            found.setdefault(name, np.empty(len(y)))[part] = values
    if not parts:
        every = np.ones(len(y), np.bool_)
        found = _by(features, moments, features, moments, len(y)) | _of_inputs(inputs, every, every)
    if predicted is None:
        return found
    found["entropy"] = signals.entropy(y)
    return {name: as_streamed(values, predicted) for name, values in found.items()}


def _folds(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The part `[n]` of each sample."""
    fold = np.zeros(len(classes), np.int64)
    for k in np.unique(classes):
        members = np.flatnonzero(classes == k)
        fold[members] = np.arange(len(members)) // NEIGHBOURS % FOLDS
    return fold


def _by(
    features: NDArray[np.float64],
    moments: NDArray[np.float32],
    new_features: NDArray[np.float64],
    new_moments: NDArray[Any],
    whole: int,
) -> Signals:
    """Signals of new samples by the statistics of others, as they would be taken of `whole` samples."""
    found: Signals = {}
    if moments.shape[2]:
        found["divergence"] = signals.divergence(new_moments, *signals.pooled(moments))
        if whole >= JOINTLY:
            centre, whiten = signals.moment_whitening(moments)
            found["departure"] = signals.departure(new_moments, centre, whiten.astype(np.float32))
    if features.shape[1]:
        mean, cov = signals.gaussian(features)
        found["distance"] = signals.distance(new_features, mean, signals.whitening(cov))
    return found


def _of_inputs(inputs: Described, known: NDArray[np.bool_], new: NDArray[np.bool_]) -> Signals:
    """Signals of the inputs of `new` samples by the statistics of `known` ones."""
    return {
        name: input_signals.unusual(found[new], input_signals.usual(found[known], of))
        for name, (found, of) in inputs.items()
    }
