"""ITTA's learnable consistency loss, and how it and the adaptive blocks are learnt from the source (Chen, Zhang, Song,
Shan, Liu 2023).

The loss compares the features f of a batch and f' of another view of it: the mean square of w(f' - f), where w is a
chain of DEPTH maps a x + b with parameters of each feature, and a ReLU between every two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from trimtab.exporters.steps.blocks import through_blocks
from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.model import Inputs, Labelled, Model
from trimtab.exporters.steps.optimisers import adam, start_adam
from trimtab.exporters.trace import slow_path

DEPTH = 10
STEPS, BATCH = 100, 32
"""Of learning from the source. The paper's take thousands, in which the network learns, too."""
PENALTY = 0.1
"""Weight of the distance between gradients."""
RATES = torch.tensor(1e-3), torch.tensor(1e-4)
"""Of the blocks and of w."""
ADAM = {"beta1": torch.tensor(0.9), "beta2": torch.tensor(0.999)}


def inconsistency(weighing: Tensor, features: Tensor, others: Tensor) -> Tensor:
    """The loss. `weighing [DEPTH, 2, F]`: the parameters of w."""
    gap = others - features
    for a, b in weighing[:-1].unbind(0):
        gap = torch.relu(a * gap + b)
    a, b = weighing[-1].unbind(0)
    return ((a * gap + b) ** 2).mean()


def learnt(model: Model, batches: Sequence[Labelled]) -> dict[str, Tensor]:
    """`blocks [Q]` and `weighing`, from labelled source batches.

    In turns the blocks move with the gradient of the cross-entropies of both views and the inconsistency, and w with
    that of the distance between the blocks' gradients of the two, each brought to mean 0 and deviation 1.
    """
    small = [
        ({name: x[start : start + BATCH] for name, x in inputs.items()}, labels[start : start + BATCH])
        for inputs, labels in batches
        for start in range(0, len(labels), BATCH)
    ]
    size = through_blocks(model, model.theta, small[0][0])[1].shape[1]
    weighing = torch.stack([torch.ones(DEPTH, size), torch.zeros(DEPTH, size)], 1)
    blocks, chain = ({"theta": value, **start_adam(value)} for value in (model.theta, weighing))
    with slow_path(), sdpa_kernel(SDPBackend.MATH):  # attention has no second derivative otherwise
        for number in range(STEPS):
            inputs, labels = small[number % len(small)]
            losses = partial(_losses, model, (inputs, model.views(inputs, torch.tensor(number), 0)), labels)
            g, _ = gradient(partial(_both, losses, chain["theta"]), blocks["theta"])
            blocks = adam(blocks, g, {**ADAM, "lr": RATES[0]})
            g, _ = gradient(partial(_apart, losses, blocks["theta"]), chain["theta"])
            chain = adam(chain, g, {**ADAM, "lr": RATES[1]})
    return {"blocks": blocks["theta"], "weighing": chain["theta"]}


Losses = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(blocks, weighing) -> the inconsistency of two views, and their cross-entropies."""


def _losses(
    model: Model, views: tuple[Inputs, Inputs], labels: Tensor, theta: Tensor, weighing: Tensor
) -> tuple[Tensor, Tensor]:
    (y, features), (other_y, others) = (through_blocks(model, theta, view) for view in views)
    main = F.cross_entropy(y, labels) + F.cross_entropy(other_y, labels)
    return inconsistency(weighing, features, others), main


def _both(losses: Losses, weighing: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    consistency, main = losses(theta, weighing)
    return consistency + main, main


def _apart(losses: Losses, theta: Tensor, weighing: Tensor) -> tuple[Tensor, Tensor]:
    point = theta.detach().requires_grad_(True)
    consistency, main = losses(point, weighing)
    [ours] = torch.autograd.grad(consistency, point, create_graph=True)
    [theirs] = torch.autograd.grad(main, point)
    return PENALTY * ((_standard(ours) - _standard(theirs)) ** 2).mean(), main


def _standard(g: Tensor) -> Tensor:
    """By a mean and a deviation that are held, as in the authors' code."""
    return (g - g.mean().detach()) / g.std().detach().clamp(min=1e-12)
