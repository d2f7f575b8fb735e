"""Prior correction: the outputs of a classifier adjusted to new class shares (Saerens, Latinne, Decaestecker:
"Adjusting the Outputs of a Classifier to New a Priori Probabilities: A Simple Procedure", Neural Computation 14, 2002).

Norms keep the source's statistics. With the source's shares s, the shares q estimated so far, and p = softmax(y),

    r_nk proportional to p_nk q_k / s_k, summing to 1 over k            (equation 2.4)
    q <- (1 - rate) q + rate mean_n r_n                                 (equation 2.4, made online)

Saerens et al. have all samples at hand and repeat this with rate 1 until q stays (equation 2.4 is an EM step). A stream
comes in batches and its shares move, so one step a batch is made with a rate of less than 1 (as online EM does: Cappé
and Moulines 2009). `y` is the log of r with the new q. Shares are kept above 1e-4, from where a class could not come
back.

Right where only the classes' shares have changed; where the inputs have, the errors of p are taken for shares.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trimtab.exporters.steps.losses import entropy
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model, source_statistics
from trimtab.exporters.steps.shares import corrected, kept_apart


def init_state(model: Model) -> State:
    return {"shares": kept_apart(model.source("prior"))}


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    y = model(model.theta, inputs, source_statistics)
    source = kept_apart(model.source("prior"))
    r = corrected(y, source, state["shares"]).exp()
    shares = kept_apart((1.0 - hyper["rate"]) * state["shares"] + hyper["rate"] * r.mean(0))
    return {"shares": shares}, corrected(y, source, shares), {"entropy": entropy(y).mean(), "largest": shares.amax()}


PRIOR_CORRECTION = Method(
    name="prior_correction",
    paper="Saerens et al. 2002, Adjusting the Outputs of a Classifier to New a Priori Probabilities",
    does="adjusts the outputs to the classes' shares in the stream",
    init_state=init_state,
    step=step,
    hyper={"rate": Hyper(0.1, 0.0, 1.0, "how fast the estimated shares move")},
    changes="",
    needs=("prior",),
)
