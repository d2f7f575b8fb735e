"""Feature shift: the back-to-source activation shifting of FOA (Niu, Miao, Chen, Wu, Zhao: "Test-Time Model Adaptation
with Only Forward Passes", ICML 2024), the part of it that fits any network.

No backward pass; norms keep the source's statistics. With the features f_n before the last layer, their mean m_S over
the source, and the moving mean m of those that came,

    y_n = head(f_n + gamma (m_S - m))                     (equations 7 and 8)
    m <- 0.9 m + 0.1 mean_n f_n                           (equation 9); the first batch sets m.

Where paper and authors' code differ, the code was taken: a batch is shifted by the m from before it (in the paper m
holds the batch already), so the first is not shifted.

Defaults: gamma 1 and a moving average of 0.9, as in the paper. FOA's other part, CMA-ES over the prompts of a vision
transformer, is not here. Needs no classes: a regression can have it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model, source_statistics


def init_state(model: Model) -> State:
    return {"theta": model.theta, "mean": model.source("feature_mean"), "begun": torch.zeros(())}


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    y, features = model.with_features(state["theta"], inputs, source_statistics)
    own = features.mean(0)
    moved = hyper["smoothing"] * state["mean"] + (1.0 - hyper["smoothing"]) * own
    mean = torch.where(state["begun"] > 0, moved, own)
    shift = hyper["strength"] * (model.source("feature_mean") - mean)
    new = {"theta": shift, "mean": mean, "begun": torch.ones_like(state["begun"])}
    return new, y, {"shift": torch.linalg.vector_norm(shift)}


FEATURE_SHIFT = Method(
    name="feature_shift",
    paper="Niu et al. 2024, Test-Time Model Adaptation with Only Forward Passes",
    does="shifts features so that their moving mean is the source's",
    init_state=init_state,
    step=step,
    hyper={
        "smoothing": Hyper(0.9, 0.0, 1.0, "how slowly the mean of the features moves"),
        "strength": Hyper(1.0, 0.0, 10.0, "share of the way back to the source's mean"),
    },
    changes="shift",
    needs=("feature_moments",),
    regression=True,
)
