"""Contrastive learning of test samples towards the source's class prototypes (Döbler et al. 2023, equation 7)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.exporters.steps.model import Labelled, Model

SIZE = 128
"""Of the projection's hidden layer and of its output."""


def prototypes(model: Model, batches: Sequence[Labelled]) -> dict[str, Tensor]:
    """`mean [C, F]` of each class's features in source batches, normalised by the batches' statistics as in steps, and
    `seen [C]`: 1 where a class has samples, else 0."""
    features = torch.cat([model.with_features(model.theta, inputs)[1] for inputs, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    members = F.one_hot(labels, model.classes).to(features.dtype)
    counts = members.sum(0)
    return {
        "mean": (members.T @ features) / counts.clamp(min=1.0)[:, None],
        "seen": (counts > 0).to(features.dtype),
    }


def nearest(features: Tensor, mean: Tensor, seen: Tensor) -> Tensor:
    """Of each of `features [N, F]` the class's prototype of the greatest cosine: `[N, F]`."""
    likeness = F.normalize(features, dim=1) @ F.normalize(mean, dim=1).T
    best = torch.where(seen > 0, likeness, torch.full_like(likeness, -torch.inf)).argmax(1)
    return mean.index_select(0, best)


def shapes(features: int) -> list[tuple[int, ...]]:
    """Of the weights and biases, in turn, of a perceptron of `features` -> SIZE -> SIZE."""
    return [(SIZE, features), (SIZE,), (SIZE, SIZE), (SIZE,)]


def projection(features: int) -> Tensor:
    """First values of that perceptron as one vector, each uniform within 1 / sqrt(its layer's inputs), as PyTorch
    begins linear layers."""
    generator = torch.Generator().manual_seed(0)
    bounds = [features**-0.5] * 2 + [SIZE**-0.5] * 2
    drawn = [2.0 * torch.rand(prod(shape), generator=generator) - 1.0 for shape in shapes(features)]
    return torch.cat([value * bound for value, bound in zip(drawn, bounds, strict=True)])


def projected(values: Tensor, features: Tensor) -> Tensor:
    """`features [N, F]` through the perceptron of those values, made unit-length: `[N, SIZE]`."""
    wanted = shapes(features.shape[1])
    pieces = torch.split(values, [prod(shape) for shape in wanted])
    first, first_bias, second, second_bias = (p.reshape(s) for p, s in zip(pieces, wanted, strict=True))
    hidden = torch.relu(F.linear(features, first, first_bias))
    return F.normalize(F.linear(hidden, second, second_bias), dim=1)


def contrastive(views: Sequence[Tensor], temperature: Tensor) -> Tensor:
    """The mean over all `z [N, D]` of all views of -log of the share of exp(z . z' / temperature) that the sample's
    other views have among all other z', in the mean over those views (Khosla et al. 2020, equation 2)."""
    z = torch.cat(list(views))
    sample = torch.arange(views[0].shape[0]).repeat(len(views))
    place = torch.arange(z.shape[0])
    same = place[:, None] == place[None, :]
    likeness = torch.where(same, -1e9, z @ z.T / temperature)
    positive = (sample[:, None] == sample[None, :]) & ~same
    logs = torch.where(positive, torch.log_softmax(likeness, 1), 0.0)
    return -logs.sum(1).mean() / (len(views) - 1)
