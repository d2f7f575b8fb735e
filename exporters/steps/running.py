"""Statistics of batch norms that move along the stream: in a method's state, one matrix `[2, M]` of the means and the
variances of all channels M of all batch norms, in the model's order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.exporters.steps.model import Model, Statistics

ByLayer = dict[str, tuple[Tensor, Tensor]]
"""Batch norm -> mean `[C]` and variance `[C]`."""


def start(model: Model) -> Tensor:
    """`[2, M]` of the source."""
    layers = [layer for layer in model.layers if layer.kind == "batch"]
    return joined({n.name: tuple(model.constants[n.parameter(p)] for p in ("mean", "var")) for n in layers})  # type: ignore[misc]


def by_layer(model: Model, statistics: Tensor) -> ByLayer:
    layers = [layer for layer in model.layers if layer.kind == "batch"]
    pieces = torch.split(statistics, [n.channels for n in layers], 1) if layers else ()
    return {n.name: (piece[0], piece[1]) for n, piece in zip(layers, pieces, strict=True)}


def joined(found: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """The inverse of `by_layer`."""
    return torch.cat([torch.stack(pair) for pair in found.values()], 1) if found else torch.zeros(2, 0)


def held(model: Model, statistics: Tensor) -> Statistics:
    """To normalise by them as they are."""
    found = by_layer(model, statistics)
    return lambda layer, x, mean, var: found[layer]
