"""LAME: Laplacian adjusted maximum-likelihood estimation (Boudiaf, Mueller, Ben Ayed, Bertinetto: "Parameter-free
Online Test-time Adaptation", CVPR 2022).

Nothing in the model changes, and norms keep the source's statistics; the batch's predictions are made to agree with
each other. With p = softmax(y), unit-length features f and the affinity W_ij = 1 where j is one of the 5 nearest of i
(else 0),

    Y <- softmax(log(p + 1e-10) + lambda W Y)            (equation 6), from Y = p,

100 times: the authors stop earlier where their energy changes by less than 1e-8 of itself, which in float32 is where Y
hardly changes any more. `y` is log Y.

The affinity is that of the paper's main results (5-NN). With `affinity=1` it is what the authors' code takes unless it
is told otherwise (so does Döbler's collection of methods): a Gaussian kernel W_ij = exp(-|f_i - f_j|^2 / (2 s^2)) with
s the mean distance to the fifth nearest, among which they count the sample itself. Unlike in their code, a sample that
has a twin at distance 0 is still never its own neighbour. lambda = 1.

It helps where a batch holds few classes, as recorded streams do, and does harm on shuffled ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.exporters.steps.losses import entropy
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model, source_statistics

NEIGHBOURS = 5
ROUNDS = 100


def init_state(model: Model) -> State:
    return {}


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    y, features = model.with_features(model.theta, inputs, source_statistics)
    unary = torch.log(torch.softmax(y, 1) + 1e-10)
    distance = distances(F.normalize(features.flatten(1), dim=1))
    affinity = torch.where(hyper["affinity"] < 0.5, neighbours(distance), kernel(distance))
    shares = torch.softmax(unary, 1)
    for _ in range(ROUNDS):
        shares = torch.softmax(unary + hyper["lambda"] * (affinity @ shares), 1)
    return {}, torch.log(shares + 1e-30), {"entropy": entropy(y).mean()}


def distances(features: Tensor) -> Tensor:
    """`[N, N]`, squared; infinite to itself."""
    # Features of one network lie close together: around their mean, |a|^2 + |b|^2 - 2 ab keeps more of its digits.
    features = features - features.mean(0)
    square = (features * features).sum(1)
    distance = (square[:, None] + square[None, :] - 2.0 * features @ features.T).clamp(min=0.0)
    place = torch.arange(features.shape[0])
    return torch.where(place[:, None] == place[None, :], torch.inf, distance)


def neighbours(distance: Tensor) -> Tensor:
    """`[N, N]`: 1 where column j is one of the NEIGHBOURS nearest of row i, else 0. With fewer samples, all others."""
    wide = _wide(distance)
    nearest = wide.topk(NEIGHBOURS, 1, largest=False).indices
    return torch.zeros_like(wide).scatter(1, nearest, 1.0)[:, :-NEIGHBOURS] * (distance < torch.inf)


def kernel(distance: Tensor) -> Tensor:
    """`[N, N]`: the Gaussian kernel, 1 of a sample with itself."""
    others = _wide(distance).topk(NEIGHBOURS - 1, 1, largest=False).values
    width = torch.sqrt(torch.where(others < torch.inf, others, 0.0).amax(1)).mean()
    near = torch.where(distance < torch.inf, distance, 0.0)
    return torch.exp(-near / (2.0 * width * width).clamp(min=1e-30))


def _wide(distance: Tensor) -> Tensor:
    """With columns that stand for nobody, so that there are always enough to choose from."""
    return torch.cat([distance, torch.full_like(distance[:, :1], torch.inf).expand(-1, NEIGHBOURS)], 1)


LAME = Method(
    name="lame",
    paper="Boudiaf et al. 2022, Parameter-free Online Test-time Adaptation",
    does="makes the predictions of samples with like features agree",
    init_state=init_state,
    step=step,
    hyper={
        "lambda": Hyper(1.0, 0.0, 100.0, "weight of the neighbours"),
        "affinity": Hyper(0.0, 0.0, 1.0, "0: with the five nearest samples; 1: with all, by a Gaussian kernel"),
    },
    changes="",
)
