"""Tent: test entropy minimisation (Wang, Shelhamer, Liu, Olshausen, Darrell: "Tent: Fully Test-Time Adaptation by
Entropy Minimization", ICLR 2021).

Batch norms use the statistics of the batch. With p = softmax(y) and H(p) = -sum_c p_c log p_c, one step minimises

    L = 1/N sum_n H(p_n)

over the weights and biases of the norms. `y` is what the model gave before the update, as in the authors' code.

Defaults, from the authors' code: Adam at 1e-3 with 0.9 and 0.999, no weight decay (CIFAR-10-C, batches of 200), or SGD
with momentum 0.9 at 2.5e-4 (ImageNet-C, batches of 64; the paper's text has 0.00025 there as well). Their SGD is
Nesterov's unless it is told otherwise, that of EATA's and SAR's authors is plain: choose the optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.losses import entropy
from trimtab.exporters.steps.method import Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model


def init_state(model: Model) -> State:
    return {"theta": model.theta, **model.optimiser.start(model.theta)}


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    def loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        y = model(theta, inputs)
        return entropy(y).mean(), y

    g, y = gradient(loss, state["theta"])
    return model.optimiser.update(state, g, hyper), y, {"entropy": entropy(y).mean()}


TENT = Method(
    name="tent",
    paper="Wang et al. 2021, Tent: Fully Test-Time Adaptation by Entropy Minimization",
    does="minimises the mean entropy of the batch",
    init_state=init_state,
    step=step,
    hyper={},
    rates={"adam": 1e-3, "sgd": 2.5e-4, "nesterov": 2.5e-4},
)
