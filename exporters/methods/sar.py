"""SAR: sharpness-aware and reliable entropy minimisation (Niu, Wu, Zhang, Wen, Chen, Zhao, Tan: "Towards Stable
Test-Time Adaptation in Dynamic Wild World", ICLR 2023).

With H the entropy, E0 = 0.4 ln C and theta the weights and biases of all norms but those of the last block:

1. g = gradient of the mean H over the samples with H < E0; theta' = theta + rho g / (|g| + 1e-12)   (equations 3 and
5).
2. y' = model at theta'; the samples are filtered again, by H(y') < E0, among those kept before.
3. theta moves with the gradient of the mean H(y') of those, taken at theta' (equation 4).
4. e <- 0.9 e + 0.1 (the mean H(y') of step 3; the first one sets e); where e < 0.2, theta goes back to the start
   (section 4.3).

`y` is the model at theta, before the update.

What the paper leaves open is done as in the authors' code. After a reset e stays as it is, so that theta is reset after
every step until e is above 0.2 again; the optimiser's momentum stays, too (their optimiser for sharp minima restores
its own state, not that of SGD within it). Where no sample is left in step 1 or 2 the gradient is zero: theta goes on by
its momentum, and e stays. (Döbler's collection of methods forgets e with a reset.)
A reset from outside begins anew with all, the momentum, too, which theirs keeps.

The last block is told by its name, as in the authors' code: `layer4` of a ResNet, `blocks.9` to `blocks.11` and `norm`
of a ViT. Of a model that has no such names all norms learn; `changes` can name others that shall.

Defaults: SGD with momentum 0.9 at 2.5e-4 (ImageNet-C, batches of 64; theirs for batches below 32 is 2.5e-4 / 32 times
the batch's size, for a ViT 1e-3 / 64 times that); rho 0.05; E0 0.4 ln C; reset below 0.2. They publish none for CIFAR.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.losses import entropy, weighted_mean
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model

LAST = r"layer4|blocks\.(9|10|11)|norm\.|^norm$"
"""What the names of norms hold that stay as they are."""
SLOWNESS = 0.9
"""Of the moving mean of the loss."""


def init_state(model: Model) -> State:
    return {
        "theta": model.theta,
        "loss": torch.zeros(()),
        "begun": torch.zeros(()),
        **model.optimiser.start(model.theta),
    }


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    limit = hyper["margin"] * torch.log(torch.tensor(float(model.classes)))

    def first(theta: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = model(theta, inputs)
        h = entropy(y)
        kept = (h.detach() < limit).to(h.dtype)
        return weighted_mean(h, kept), (y, kept)

    g, (y, kept) = gradient(first, state["theta"])

    def second(theta: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h = entropy(model(theta, inputs))
        again = kept * (h.detach() < limit).to(h.dtype)
        value = weighted_mean(h, again)
        return value, (value, again)

    g, (value, again) = gradient(second, state["theta"] + hyper["rho"] * g / (torch.linalg.vector_norm(g) + 1e-12))
    some = again.sum() > 0
    moved = torch.where(state["begun"] > 0, SLOWNESS * state["loss"] + (1.0 - SLOWNESS) * value, value)
    new = {
        **model.optimiser.update(state, g, hyper),
        "loss": torch.where(some, moved, state["loss"]),
        "begun": torch.where(some, torch.ones(()), state["begun"]),
    }
    reset = (new["loss"] < hyper["reset"]) & (new["begun"] > 0)
    new["theta"] = torch.where(reset, model.theta, new["theta"])
    metrics = {"entropy": entropy(y).mean(), "kept": again.mean(), "reset": reset.to(y.dtype)}
    return new, y, metrics


SAR = Method(
    name="sar",
    paper="Niu et al. 2023, Towards Stable Test-Time Adaptation in Dynamic Wild World",
    does="minimises the entropy of reliable samples where it is flat around theta, and begins anew before it collapses",
    init_state=init_state,
    step=step,
    hyper={
        "margin": Hyper(0.4, 0.0, 1.0, "greatest entropy of a reliable sample, in units of ln C"),
        "rho": Hyper(0.05, 0.0, 10.0, "length of the step to the perturbed point"),
        "reset": Hyper(0.2, 0.0, 10.0, "moving mean of the loss below which everything begins anew"),
    },
    rates={"sgd": 2.5e-4, "adam": 1e-3},
    frozen=LAST,
)
