"""BBSE: black box shift estimation (Lipton, Wang, Smola: "Detecting and Correcting for Label Shift with Black Box
Predictors", ICML 2018).

Norms keep the source's statistics. With the confusion matrix C_ij, the share of source samples that are predicted as i
and are of class j, and the shares mu_i of what is predicted in the stream,

    C w = mu                                               (section 4: w_j are the ratios of the shares q_j / s_j)
    q_j proportional to s_j max(w_j, 0),    r_nk proportional to p_nk q_k / s_k.

`y` is the log of r. The paper has all samples at hand; a stream comes in batches, so mu is a moving mean:
mu <- (1 - rate) mu + rate mean_n [class n is predicted as i], from the source's own mu = C 1.

C is inverted by its singular values, regularised as in RLLS (Azizzadenesheli, Liu, Yang, Anandkumar, ICLR 2019), which
solves for how far w is from 1: with C = A S B',

    w = 1 + B S / (S^2 + ridge S_1^2) A' (mu - C 1).

With ridge 0 this is BBSE; the default 0.01 keeps what few source samples, or a class without any, say nothing of. The
paper keeps half of the source for C; here it is of the source batches, so give samples that the model was not trained
on where there are any. Where the paper trains the classifier anew with the weights w, its outputs are corrected.

Against the EM of `prior_correction`: needs no calibrated probabilities but a right confusion matrix, and is wrong in
its own way where the inputs have changed, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.exporters.steps.losses import entropy
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model, source_statistics
from trimtab.exporters.steps.shares import corrected, kept_apart


def init_state(model: Model) -> State:
    return {"predicted": model.source("confusion").sum(1)}


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    confusion = model.source("confusion")
    y = model(model.theta, inputs, source_statistics)
    own = (y.argmax(1)[:, None] == torch.arange(model.classes)[None, :]).to(y.dtype).mean(0)
    predicted = (1.0 - hyper["rate"]) * state["predicted"] + hyper["rate"] * own
    a, s, b = torch.linalg.svd(confusion)
    inverse = s / (s * s + hyper["ridge"] * s[0] ** 2).clamp(min=1e-20)
    w = 1.0 + b.T @ (inverse * (a.T @ (predicted - confusion.sum(1))))
    source = confusion.sum(0)
    shares = kept_apart(source * w.clamp(min=0.0))
    metrics = {"entropy": entropy(y).mean(), "largest": shares.amax()}
    return {"predicted": predicted}, corrected(y, kept_apart(source), shares), metrics


BBSE = Method(
    name="bbse",
    paper="Lipton et al. 2018, Detecting and Correcting for Label Shift with Black Box Predictors",
    does="adjusts the outputs to the classes' shares, estimated from what is predicted and the confusion matrix",
    init_state=init_state,
    step=step,
    hyper={
        "rate": Hyper(0.1, 0.0, 1.0, "how fast the predicted shares move"),
        "ridge": Hyper(0.01, 0.0, 1.0, "how strongly small singular values of the confusion matrix are damped"),
    },
    changes="",
    needs=("confusion",),
)
