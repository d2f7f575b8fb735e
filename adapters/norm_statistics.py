"""Batch-norm statistics from the stream, with the source's as prior.

mean and variance are pooled over windows by the law of total variance (mean of variances plus variance of means) and
blended with the source's as if that had been seen on `prior` windows (Schneider et al. 2020, "Improving robustness
against common corruptions by covariate shift adaptation", eq. 1, for the means; our reading adds the spread between
the two means to the variance). Because a stream is correlated, windows are weighted so that predicted classes count as
in the source. Works from one window on; statistics always start from the source's, so trying twice changes nothing.

New statistics in one layer change what the next is fed, so the windows are measured again, `passes` times; after pass
i the first i layers are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.adapters.balance import class_weights, lasting, relative_moments, too_alike
from trimtab.adapters.fit import finite_windows
from trimtab.adapters.methods import Context, Declined, Proposal, Windows


@dataclass(frozen=True, slots=True)
class NormStatistics:
    """Options:

    prior: windows that the source's statistics count for.
    caution: squared standard errors by which a layer's change is shrunk; 0: not at all.
    passes: times that the windows are measured.
    span: window numbers that the windows must span (see `trimtab.adapters.balance.too_alike`).
    """

    prior: float = 64.0
    caution: float = 4.0
    passes: int = 3
    span: int = 256
    name: str = "norm_statistics"

    def __post_init__(self) -> None:
        if not self.prior >= 0:
            raise ValueError(f"prior is {self.prior}; give a number of windows, 0 or more")
        if not self.caution >= 0:
            raise ValueError(f"caution is {self.caution}; it must be 0 or more")
        if self.passes < 1:
            raise ValueError(f"passes is {self.passes}; give at least 1")
        if self.span < 1:
            raise ValueError(f"span is {self.span}; give at least 1")

    def propose(self, context: Context, theta: NDArray[np.float32], windows: Windows) -> Proposal | Declined:
        found = self.estimate(context, theta, windows)
        if isinstance(found, Proposal) and np.array_equal(found.theta, theta):
            return Declined(self.name, "the statistics are already those of the windows", found.evidence)
        return found

    def estimate(self, context: Context, theta: NDArray[np.float32], windows: Windows) -> Proposal | Declined:
        """`theta` with the statistics of the windows, be they what they were or not."""
        layout, source = context.layout, context.source
        layers = []  # of batch norms: name, and where its channels are among M
        at = 0
        for norm in context.norms:
            if norm.kind == "batch" and f"norm.{norm.name}.mean" in layout:
                layers.append((norm.name, slice(at, at + norm.channels)))
            at += norm.channels
        if not layers:
            return Declined(self.name, "the model has no batch norm whose statistics could change")
        windows = finite_windows(windows)
        if len(windows) == 0:
            return Declined(self.name, "no finite window is remembered")
        row = theta.copy()
        slot = np.zeros(len(windows), np.int64)
        moved = 0.0
        effective = float(len(windows))
        for _ in range(self.passes):
            outputs = context.probe(windows.inputs, row[None], slot)
            if outputs.moments is None:
                return Declined(self.name, "the probe gives no norm-input moments")
            moments = outputs.moments.astype(np.float64)
            if not np.isfinite(moments).all():
                return Declined(self.name, "norm inputs are not finite")
            alike = too_alike(context, outputs.y, windows, self.span)
            if alike is not None:
                return Declined(self.name, alike)
            weights = class_weights(context, outputs.y)
            effective = float(1.0 / (weights**2).sum())
            share = effective / (self.prior + effective)
            before = row.copy()
            for name, channels in layers:
                old_mean = layout.view(source.theta, f"norm.{name}.mean").astype(np.float64)
                old_var = layout.view(source.theta, f"norm.{name}.var").astype(np.float64)
                means, variances = moments[:, 0, channels], moments[:, 1, channels]
                mean = weights @ means
                var = weights @ variances + weights @ (means - mean) ** 2
                relative = relative_moments(
                    means, variances, source.moments_mean[channels], source.moments_var[channels]
                )
                keep = 1.0 - share * lasting(relative, weights, windows.sequence, self.caution)
                layout.view(row, f"norm.{name}.mean")[:] = keep * old_mean + (1 - keep) * mean
                layout.view(row, f"norm.{name}.var")[:] = (
                    keep * old_var + (1 - keep) * var + keep * (1 - keep) * (mean - old_mean) ** 2
                )
            if np.array_equal(before, row):
                break
        for name, _channels in layers:
            deviation = np.sqrt(layout.view(source.theta, f"norm.{name}.var").astype(np.float64) + 1e-12)
            change = layout.view(row, f"norm.{name}.mean") - layout.view(source.theta, f"norm.{name}.mean")
            moved = max(moved, float(np.sqrt(((change / deviation) ** 2).mean())))
        evidence = {"windows": float(len(windows)), "effective": effective, "moved": moved}
        return Proposal(self.name, row, evidence=evidence)
