"""Label shift adapter (Park, Yang, Choo, Yun: "Label Shift Adapter for Test-Time Adaptation under Covariate and Label
Shifts", ICCV 2023), alone or with any other method: `"tent+label_shift"`.

After source training, a small network is trained with the model frozen (`steps.label_shift`): from label shares q it
predicts a change of the last layer's weights and a scale of the features,

    y(x; q) = (W + dW(q)) (f(x) (1 + g(q))) + b + db(q),

so that y is right where the classes have the shares q; its loss is a generalised logit-adjusted one, over source
samples and sampled shares: the cross-entropy of y(x; q) + log s - log q, with the source's shares s. On the box

    q <- (1 - rate) q + rate mean_n softmax(y_n),    from q = s.

Combined, the other method's step runs on the model so changed, whatever else it changes, and y_n is what it predicts.

Our reading, from the paper's abstract and figures: there the network sees one number, the degree of imbalance, and so
distributions between the source's and its reverse; here it sees all log ratios log q/s (for any shares may come), has
one hidden layer of at most 64 tanh units and no biases, so that at q = s nothing is changed, and is trained on shares
from Dirichlet distributions, for 1,000 steps of Adam. The bias is counted to the weights. A rate of 0.1 is ours, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from trimtab.exporters.steps.label_shift import shifted
from trimtab.exporters.steps.losses import entropy
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model, source_statistics
from trimtab.exporters.steps.shares import kept_apart

SHARES = "shares.label_shift"
RATE = "label_rate"


def combined(base: Method) -> Method:
    """The method on a model whose last layer follows the classes' shares."""

    def init_state(model: Model) -> State:
        return {**base.init_state(model), SHARES: kept_apart(model.source("prior"))}

    def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
        own = {name: value for name, value in state.items() if name != SHARES}
        new, y, metrics = base.step(shifted(model, state[SHARES]), own, inputs, hyper)
        moved = (1.0 - hyper[RATE]) * state[SHARES] + hyper[RATE] * torch.softmax(y, 1).mean(0)
        shares = kept_apart(moved)
        return {**new, SHARES: shares}, y, {**metrics, "largest": shares.amax()}

    return replace(
        base,
        name=f"{base.name}+label_shift",
        paper=f"{base.paper}; {PAPER}",
        does=f"{base.does}, while the last layer follows the classes' shares in the stream",
        init_state=init_state,
        step=step,
        hyper={**base.hyper, RATE: Hyper(0.1, 0.0, 1.0, "how fast the estimated shares move")},
        needs=(*base.needs, "prior", "label_shift"),
        regression=False,
    )


PAPER = "Park et al. 2023, Label Shift Adapter for Test-Time Adaptation under Covariate and Label Shifts"


def _still(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    y = model(model.theta, inputs, source_statistics)
    return state, y, {"entropy": entropy(y).mean()}


LABEL_SHIFT = replace(
    combined(Method("", "", "", init_state=lambda model: {}, step=_still, hyper={}, changes="")),
    name="label_shift",
    paper=PAPER,
    does="changes the last layer as a network, trained on the source, says for the classes' shares in the stream",
)
