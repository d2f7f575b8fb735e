"""The taps of observe and probe graphs: moments of the input of each norm, per sample and channel.

A variance as mean of squares minus square of the mean loses everything in float32 where the mean is large beside
the deviation. So batch norms are split: the first half, z = (x - mean) / sqrt(var + eps), folds into the convolution
before it; z has about zero mean and unit variance, so that its moments are safe to take in one pass, and those of x
follow from them; the second half applies weight and bias. In the probe graph, where mean and variance differ from
sample to sample, the first half takes those of the source, and what is left is one scale and shift. Other norms have
no such statistics: their moments are taken in two passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from onnx import TensorProto, helper

from trimtab.exporters.drafting import Draft
from trimtab.exporters.marked import Layer

FLOOR = 1e-12
"""Least variance where there is an axis to vary over, in units of the norm's own variance. A channel that is constant
within a sample would else give 0 or 1e-14 as rounding has it, and 0 means that there is no such axis."""


@dataclass(frozen=True)
class Tap:
    """Moments of one norm's input as they come out of the graph."""

    mean: str
    second: str
    """Variance `[N, C]`, or where `rank` is given the mean of squares."""
    rank: int = 0
    """0: both are `[N, C]`. Else both are pooled, `[N, C, 1, ...]` of that rank."""
    spread: bool = True
    """Whether there is any axis to vary over; else the variance is exactly 0."""


@dataclass
class Taps:
    """Gathers taps while a graph is drafted, and joins them at its end."""

    draft: Draft
    found: dict[str, list[Tap]] = field(default_factory=dict)
    """By layer; one for each place where the layer is used."""

    def once(self, layer: Layer, z: str, shape: Sequence[int]) -> None:
        """Of a value with about zero mean and unit variance, in one pass."""
        draft = self.draft
        z, axes = self._apart(layer, z, shape)
        if not axes:
            tap = Tap(z, self._nothing(z), spread=False)
        elif layer.fold == 1:
            # ONNX Runtime's blocked layout (NCHWc) knows this pooling but no reduction, which would have to leave it.
            square = draft.node("GlobalAveragePool", draft.node("Mul", z, z))
            tap = Tap(draft.node("GlobalAveragePool", z), square, len(shape))
        else:
            mean, square = draft.average(z, axes), draft.average(draft.node("Mul", z, z), axes)
            tap = Tap(mean, draft.node("Sub", square, draft.node("Mul", mean, mean)))
        self.found.setdefault(layer.name, []).append(tap)

    def twice(self, layer: Layer, x: str, shape: Sequence[int]) -> None:
        """Of any value, in two passes."""
        draft = self.draft
        x, axes = self._apart(layer, x, shape)
        flat = [-1, layer.channels]
        if not axes:
            mean = draft.reshape(x, flat)
            tap = Tap(mean, self._nothing(mean), spread=False)
        else:
            average = draft.average(x, axes, keep=True)
            centred = draft.node("Sub", x, average)
            var = draft.average(draft.node("Mul", centred, centred), axes)
            tap = Tap(draft.reshape(average, flat), draft.reshape(var, flat))
        self.found.setdefault(layer.name, []).append(tap)

    def join(self, layers: Sequence[Layer], centre: str, spread: str) -> None:
        """Write `moments [N, 2, M]`; `centre` and `spread [M]` are what the taps' values had taken off."""
        draft = self.draft
        taps = [(layer, self._pooled(layer)) for layer in layers]
        means, variances = [], []
        for rank, group in groupby(taps, lambda pair: pair[1].rank):
            run = list(group)
            mean, second = (draft.concat([getattr(t, part) for _, t in run]) for part in ("mean", "second"))
            if rank:
                flat = [-1, sum(layer.channels for layer, _ in run)]
                mean, second = draft.reshape(mean, flat), draft.reshape(second, flat)
                second = draft.node("Sub", second, draft.node("Mul", mean, mean))
            means.append(mean)
            variances.append(second)
        mean = draft.node("Add", draft.node("Mul", draft.concat(means), spread), centre)
        floors = [np.full(layer.channels, FLOOR if tap.spread else 0.0, np.float32) for layer, tap in taps]
        var = draft.node("Max", draft.concat(variances), draft.constant(np.concatenate(floors)[None]))
        var = draft.node("Mul", var, draft.node("Mul", spread, spread))
        axis = draft.constant(np.asarray([1], np.int64))
        both = (draft.node("Unsqueeze", value, axis) for value in (mean, var))
        draft.node("Concat", *both, out="moments", axis=1)

    def _pooled(self, layer: Layer) -> Tap:
        """Of a norm that is used in several places: all its inputs together, each place weighing the same."""
        draft = self.draft
        if len(self.found[layer.name]) == 1:
            return self.found[layer.name][0]
        taps = [self._flat(layer, tap) for tap in self.found[layer.name]]
        mean = draft.node("Mean", *(t.mean for t in taps))
        squares = [draft.node("Add", t.second, draft.node("Mul", t.mean, t.mean)) for t in taps]
        return Tap(mean, draft.node("Sub", draft.node("Mean", *squares), draft.node("Mul", mean, mean)))

    def _flat(self, layer: Layer, tap: Tap) -> Tap:
        if not tap.rank:
            return tap
        draft = self.draft
        mean, square = (draft.reshape(v, [-1, layer.channels]) for v in (tap.mean, tap.second))
        return Tap(mean, draft.node("Sub", square, draft.node("Mul", mean, mean)))

    def _apart(self, layer: Layer, x: str, shape: Sequence[int]) -> tuple[str, list[int]]:
        """x with its samples on an axis of their own, and the axes that moments are taken over."""
        fold = int(layer.fold > 1)
        if fold:
            x = self.draft.reshape(x, [-1, layer.fold, *shape[1:]])
        kept = {layer.samples_axis, *(a + fold for a in layer.axes(len(shape)))}
        return x, [a for a in range(len(shape) + fold) if a not in kept]

    def _nothing(self, like: str) -> str:
        """Variances of exactly zero: a value `[N, C]` has no spread within a sample."""
        zero = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
        return self.draft.node("ConstantOfShape", self.draft.node("Shape", like), value=zero)
