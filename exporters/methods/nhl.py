"""NHL: neuro-modulated Hebbian learning (Tang, Zhang, Xu, Chen, Cheng, Leng, Guo, He: "Neuro-Modulated Hebbian Learning
for Fully Test-Time Adaptation", CVPR 2023).

The first layer learns by itself what inputs look like, and how strongly each of its channels speaks is learnt from the
network's end; nothing else changes. Batch norms use the statistics of the batch. One step, with weights w_k of channel
k, its modulator m_k, and response u_k = w_k . x at each position (a patch x of the input):

1. Soft Hebbian rule, without a backward pass: y = softmax_k(u / T), and
   w_k <- w_k + eta mean_positions y_k (x - u_k w_k)
2. m moves with the gradient of the mean entropy of the predictions.
3. `y` is predicted after that: the paper adapts before it predicts a batch.

Our reading, since we know the paper by its abstract and figures: that the rule is that of SoftHebb (Moraitis et al.
2022); that the modulator is a factor of each channel, begins with 1, and stands after the norm that follows the first
layer, which would undo a factor before it (where none follows, after the layer itself); and all defaults: T 1, eta
1e-3, Adam at 1e-3. The first layer is the first convolution or linear layer in the order of the model's modules.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.exporters.steps.blocks import MODULATED, first_layer, modulated
from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.hooks import at_outputs
from trimtab.exporters.steps.losses import entropy
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model


def init_state(model: Model) -> State:
    return {"theta": model.theta, **model.optimiser.start(model.theta)}


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    weights, modulator = _parted(model, state["theta"])
    weights = weights + hyper["eta"] * _hebbian(model, state["theta"], inputs, hyper["temperature"])

    def loss(modulator: Tensor) -> tuple[Tensor, Tensor]:
        value = entropy(modulated(model, torch.cat([weights, modulator]), inputs)).mean()
        return value, value

    g, value = gradient(loss, modulator)
    moved = {**state, "theta": torch.cat([weights, modulator])}
    new = model.optimiser.update(moved, torch.cat([torch.zeros_like(weights), g]), hyper)
    y = modulated(model, new["theta"], inputs)
    return new, y, {"entropy": entropy(y).mean(), "loss": value}


def _hebbian(model: Model, theta: Tensor, inputs: Inputs, temperature: Tensor) -> Tensor:
    """By how much the rule moves the first layer's weights for eta = 1, flat."""
    name, axis = first_layer(model)
    bias = model.constants.get(f"model.{name}.bias")

    def held(theta: Tensor) -> tuple[Tensor, Tensor]:
        """mean sum_k y_k u_k with y held: its gradient is the mean of y_k x."""
        seen: list[Tensor] = []

        def look(output: Tensor) -> Tensor:
            seen.append(output)
            return output

        with at_outputs(model, {name: look}):
            model(theta, inputs)
        u = seen[0].movedim(axis, -1).flatten(0, -2)
        u = u if bias is None else u - bias
        products = torch.softmax(u.detach() / temperature, 1) * u
        return products.sum(1).mean(), products.mean(0)

    g, strength = gradient(held, theta)
    weights = _parted(model, theta)[0].reshape(len(strength), -1)
    moved: Tensor = _parted(model, g)[0] - (strength[:, None] * weights).reshape(-1)
    return moved


def _parted(model: Model, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The first layer's weights and the modulator, both flat."""
    weights, modulator = model.pieces(theta).values()
    return weights.reshape(-1), modulator


NHL = Method(
    name="nhl",
    paper="Tang et al. 2023, Neuro-Modulated Hebbian Learning for Fully Test-Time Adaptation",
    does="the first layer learns by a Hebbian rule, and a factor for each of its channels by entropy",
    init_state=init_state,
    step=step,
    hyper={
        "eta": Hyper(1e-3, 0.0, 1.0, "rate of the Hebbian rule"),
        "temperature": Hyper(1.0, 1e-3, 1e3, "of the competition between channels"),
    },
    changes=MODULATED,
    rates={"adam": 1e-3, "sgd": 1e-3},
)
