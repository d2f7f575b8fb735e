"""Bias vector: features are shifted back to where the source's were.

The feature shift of FOA (Niu et al. 2024, "Test-time model adaptation with only forward passes", the part that fits
any network): features plus the difference of the source's mean and the stream's. The difference is taken *per class*
(expected under the predictions) and then averaged over classes as in the source, so that a stream that holds few
classes does not pull the others along. It is shrunk by the prior: `n / (n + prior)`.

Where a norm was folded away (imported ONNX files), the biases left by it are moved in the same way, by the difference
of the pooled means of their inputs. A model without features that has late labels in regression gets its outputs moved
by the mean error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from trimtab.adapters.balance import class_weights, lasting, too_alike
from trimtab.adapters.fit import finite_windows
from trimtab.adapters.methods import Context, Declined, Outputs, Proposal, Windows

LABELLED = 8
"""Late labels that it takes to move a regression's outputs."""


@dataclass(frozen=True, slots=True)
class BiasVector:
    """Options:

    prior: windows that the source counts for.
    caution: squared standard errors by which a shift of the features is shrunk; 0: not at all.
    span: window numbers that the windows must span (see `trimtab.adapters.balance.too_alike`).
    """

    prior: float = 64.0
    caution: float = 4.0
    span: int = 256
    name: str = "bias_vector"

    def __post_init__(self) -> None:
        if not self.prior >= 0:
            raise ValueError(f"prior is {self.prior}; give a number of windows, 0 or more")
        if not self.caution >= 0:
            raise ValueError(f"caution is {self.caution}; it must be 0 or more")
        if self.span < 1:
            raise ValueError(f"span is {self.span}; give at least 1")

    def propose(self, context: Context, theta: NDArray[np.float32], windows: Windows) -> Proposal | Declined:
        windows = finite_windows(windows)
        if len(windows) == 0:
            return Declined(self.name, "no finite window is remembered")
        # Start from the source's biases, so that trying twice does not shift twice.
        row = theta.copy()
        for kind in ("channel.bias", "feature.shift"):
            for part in context.layout.of_kind(kind):
                row[part.slice] = context.source.theta[part.slice]
        slot = np.zeros(len(windows), np.int64)
        outputs = context.probe(windows.inputs, row[None], slot)
        alike = too_alike(context, outputs.y, windows, self.span)
        if alike is not None:
            return Declined(self.name, alike)
        moved = []
        if context.layout.of_kind("channel.bias") and outputs.moments is not None:
            moved.append(self._move_channels(context, row, outputs))
            outputs = context.probe(windows.inputs, row[None], slot)
        if "feature.shift" in context.layout and outputs.features is not None:
            moved.append(self._move_features(context, row, outputs, windows.sequence))
        if context.task == "regression":
            moved.extend(self._move_outputs(context, row, windows))
        if not moved:
            return Declined(self.name, "the model has neither features nor biases that could be shifted")
        evidence = {"windows": float(len(windows)), "moved": max(moved)}
        if not np.isfinite(row).all():
            return Declined(self.name, "features or norm inputs are not finite", evidence)
        if np.array_equal(row, theta):
            return Declined(self.name, "the biases are already those of the windows", evidence)
        return Proposal(self.name, row, evidence=evidence)

    def _move_features(
        self, context: Context, row: NDArray[np.float32], outputs: Outputs, sequence: NDArray[np.int64]
    ) -> float:
        source = context.source
        features = np.asarray(outputs.features, np.float64)
        n = len(features)
        # What each window adds to the shift, [n, F]: their sum.
        if context.task == "classification":
            p = softmax(outputs.y.astype(np.float64), axis=1)
            count = p.sum(axis=0)
            # Per class, shrunk by itself: a class with few windows says little.
            share = p * (source.class_prior / (count + self.prior / len(count)))
            adds = share @ source.class_feature_mean - share.sum(axis=1)[:, None] * features
        else:
            adds = (source.feature_mean - features) / (n + self.prior)
        deviation = np.sqrt(np.maximum(np.diag(source.feature_cov), 1e-12))
        # And as a whole, by what comes and goes from run to run.
        keep = lasting(n * adds / deviation, np.full(n, 1.0 / n), sequence, self.caution)
        shift = keep * adds.sum(axis=0)
        context.layout.view(row, "feature.shift")[:] += shift.astype(np.float32)
        return float(np.sqrt(((shift / deviation) ** 2).mean()))

    def _move_channels(self, context: Context, row: NDArray[np.float32], outputs: Outputs) -> float:
        weights = class_weights(context, outputs.y)
        effective = 1.0 / (weights**2).sum()
        mean = weights @ np.asarray(outputs.moments, np.float64)[:, 0]
        shift = (context.source.moments_mean - mean) * effective / (effective + self.prior)
        relative = shift / np.sqrt(np.maximum(context.source.moments_var, 1e-12))
        at, largest = 0, 0.0
        for norm in context.norms:
            here = slice(at, at + norm.channels)
            at += norm.channels
            part = next((p for p in context.layout.of_kind("channel.bias") if p.owner == norm.name), None)
            if part is not None:
                row[part.slice] += shift[here].astype(np.float32)
                largest = max(largest, float(np.sqrt((relative[here] ** 2).mean())))
        return largest

    def _move_outputs(self, context: Context, row: NDArray[np.float32], windows: Windows) -> list[float]:
        known = np.flatnonzero(np.isfinite(windows.labels))
        if context.outputs != 1 or len(known) < LABELLED:
            return []
        shift = context.layout.view(row, "output.shift")
        shift[:] = context.layout.view(context.source.theta, "output.shift")
        outputs = context.probe(windows.take(known).inputs, row[None], np.zeros(len(known), np.int64))
        error = float((windows.labels[known] - outputs.y[:, 0].astype(np.float64)).mean())
        error *= len(known) / (len(known) + self.prior)
        shift += np.float32(error)
        return [abs(error)]
