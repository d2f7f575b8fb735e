"""Optimisers over one flat vector of all that may change.

Each is two plain functions: `start(theta)` gives what it must remember, `update(state, gradient, hyper, keep)` the new
`theta` and memory. Where `keep` (a boolean scalar) is false, nothing changes: no sample was fit to learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from torch import Tensor

Shapes = Sequence[tuple[int, ...]]
"""Of the tensors that lie in the vector, one after another."""


@dataclass(frozen=True)
class Optimiser:
    start: Callable[..., dict[str, Tensor]]
    update: Callable[..., dict[str, Tensor]]
    hyper: Mapping[str, tuple[float, float, float, str]]
    """Hyperparameter -> default, least, greatest value, meaning; beside `lr`."""
    rate: float = 0.0
    """Its own learning rate, for methods that have published none with it; 0 where it has none."""
    shaped: bool = False
    """Whether both functions take `shapes`, too."""

    def of(self, shapes: Shapes) -> Optimiser:
        """The same for a vector that holds tensors of those shapes."""
        if not self.shaped:
            return self
        return replace(self, start=partial(self.start, shapes=shapes), update=partial(self.update, shapes=shapes))


def start_sgd(theta: Tensor) -> dict[str, Tensor]:
    return {"velocity": torch.zeros_like(theta)}


def sgd(
    state: Mapping[str, Tensor], gradient: Tensor, hyper: Mapping[str, Tensor], keep: Tensor | None = None
) -> dict[str, Tensor]:
    """v <- momentum v + g; theta <- theta - lr v (Polyak 1964, as PyTorch has it: no dampening)."""
    velocity = hyper["momentum"] * state["velocity"] + gradient
    return _kept(state, {"theta": state["theta"] - hyper["lr"] * velocity, "velocity": velocity}, keep)


def nesterov(
    state: Mapping[str, Tensor], gradient: Tensor, hyper: Mapping[str, Tensor], keep: Tensor | None = None
) -> dict[str, Tensor]:
    """v <- momentum v + g; theta <- theta - lr (g + momentum v) (Nesterov 1983, as PyTorch has it)."""
    velocity = hyper["momentum"] * state["velocity"] + gradient
    theta = state["theta"] - hyper["lr"] * (gradient + hyper["momentum"] * velocity)
    return _kept(state, {"theta": theta, "velocity": velocity}, keep)


def start_adam(theta: Tensor) -> dict[str, Tensor]:
    return {"mean": torch.zeros_like(theta), "square": torch.zeros_like(theta), "updates": torch.zeros(())}


def adam(
    state: Mapping[str, Tensor], gradient: Tensor, hyper: Mapping[str, Tensor], keep: Tensor | None = None
) -> dict[str, Tensor]:
    """m <- b1 m + (1 - b1) g; s <- b2 s + (1 - b2) g^2; theta <- theta - lr m' / (sqrt(s') + 1e-8), where m' and s' are
    corrected for their start from zero: m / (1 - b1^t) and s / (1 - b2^t) (Kingma and Ba 2015, algorithm 1)."""
    first, second = hyper["beta1"], hyper["beta2"]
    updates = state["updates"] + 1.0
    mean = first * state["mean"] + (1.0 - first) * gradient
    square = second * state["square"] + (1.0 - second) * gradient * gradient
    size = torch.sqrt(square / (1.0 - second**updates)) + 1e-8
    theta = state["theta"] - hyper["lr"] / (1.0 - first**updates) * mean / size
    return _kept(state, {"theta": theta, "mean": mean, "square": square, "updates": updates}, keep)


COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
VECTORS = {"beta1": 0.9, "beta2": 0.95}


def start_muon(theta: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    matrices, vectors = (_parted(theta, shapes, wanted) for wanted in (True, False))
    return {"velocity": torch.zeros_like(torch.cat(matrices)), **start_adam(torch.cat([*vectors, theta[:0]]))}


def muon(
    state: Mapping[str, Tensor],
    gradient: Tensor,
    hyper: Mapping[str, Tensor],
    keep: Tensor | None = None,
    *,
    shapes: Shapes,
) -> dict[str, Tensor]:
    """For matrices v <- momentum v + (1 - momentum) g; u = (1 - momentum) g + momentum v, made orthogonal; theta <-
    theta - lr sqrt(max(1, rows / columns)) u. Vectors by Adam at `vector_lr`, with 0.9 and 0.95 (Jordan, Jin, Boza,
    You, Cesista, Newhouse, Bernstein: "Muon: An optimizer for hidden layers in neural networks", 2024, and its code).

    A convolution's weights are a matrix of a row for each output channel. Unlike there, first and last layers are taken
    as matrices, too; no weight decay.
    """
    gradients, old = (_parted(v, shapes, True) for v in (gradient, state["theta"]))
    momentum = hyper["momentum"]
    velocity = momentum * state["velocity"] + (1.0 - momentum) * torch.cat(gradients)
    looking = (1.0 - momentum) * torch.cat(gradients) + momentum * velocity
    matrices = [s for s in shapes if len(s) > 1]
    moved = []
    for before, u, shape in zip(old, torch.split(looking, [prod(s) for s in matrices]), matrices, strict=True):
        rows, columns = shape[0], prod(shape[1:])
        size = hyper["lr"] * max(1.0, rows / columns) ** 0.5
        moved.append(before - size * orthogonal(u.reshape(rows, columns)).reshape(-1))
    new = {"velocity": velocity}
    if vectors := _parted(state["theta"], shapes, False):
        own = {"theta": torch.cat(vectors), **{name: state[name] for name in ("mean", "square", "updates")}}
        fixed = {name: torch.tensor(value) for name, value in VECTORS.items()}
        found = adam(own, torch.cat(_parted(gradient, shapes, False)), {"lr": hyper["vector_lr"], **fixed})
        vectors = list(torch.split(found.pop("theta"), [v.shape[0] for v in vectors]))
        new |= found
    new["theta"] = torch.cat([moved.pop(0) if len(shape) > 1 else vectors.pop(0) for shape in shapes])
    return _kept(state, new, keep)


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V' of `matrix [rows, columns]` = U S V': five Newton-Schulz iterations X <- a X + (b A + c A A) X with
    A = X X', from X of norm 1, which bring all singular values near 1."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    norm: Tensor = torch.linalg.vector_norm(x)
    x = x / norm.clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x


def _parted(vector: Tensor, shapes: Shapes, matrices: bool) -> list[Tensor]:
    """The flat pieces that are matrices, or those that are not."""
    pieces = torch.split(vector, [prod(s) for s in shapes])
    return [piece for piece, shape in zip(pieces, shapes, strict=True) if (len(shape) > 1) == matrices]


def _kept(before: Mapping[str, Tensor], after: dict[str, Tensor], keep: Tensor | None) -> dict[str, Tensor]:
    if keep is None:
        return after
    return {name: torch.where(keep, value, before[name]) for name, value in after.items()}


def still(
    state: Mapping[str, Tensor], gradient: Tensor, hyper: Mapping[str, Tensor], keep: Tensor | None = None
) -> dict[str, Tensor]:
    """theta stays as it is."""
    return {"theta": state["theta"]}


STILL = Optimiser(lambda theta: {}, still, {})
"""For methods without a backward pass."""
_MOMENTUM = {"momentum": (0.9, 0.0, 0.999, "share of the last step that is kept")}
OPTIMISERS = {
    "sgd": Optimiser(start_sgd, sgd, _MOMENTUM),
    "nesterov": Optimiser(start_sgd, nesterov, _MOMENTUM),
    "adam": Optimiser(
        start_adam,
        adam,
        {
            "beta1": (0.9, 0.0, 0.999, "how slowly the mean gradient moves"),
            "beta2": (0.999, 0.5, 0.99999, "how slowly the gradient's mean square moves"),
        },
    ),
    "muon": Optimiser(
        start_muon,
        muon,
        {
            "momentum": (0.95, 0.0, 0.999, "how slowly the mean gradient of matrices moves"),
            "vector_lr": (3e-4, 0.0, 10.0, "learning rate of what is no matrix"),
        },
        rate=1e-3,
        shaped=True,
    ),
}
