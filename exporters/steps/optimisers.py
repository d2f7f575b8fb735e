"""Optimisers over one flat vector of all that may change.

Each is two plain functions: `start(theta)` gives what it must remember, `update(state, gradient, hyper, keep)` the new
`theta` and memory. Where `keep` (a boolean scalar) is false, nothing changes: no sample was fit to learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Update(Protocol):
    def __call__(
        self, state: Mapping[str, Tensor], gradient: Tensor, hyper: Mapping[str, Tensor], keep: Tensor | None = None
    ) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Optimiser:
    start: Callable[[Tensor], dict[str, Tensor]]
    update: Update
    hyper: Mapping[str, tuple[float, float, float, str]]
    """Hyperparameter -> default, least, greatest value, meaning; beside `lr`."""


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
}
