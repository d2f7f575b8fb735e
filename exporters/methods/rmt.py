"""RMT: robust mean teacher (Döbler, Marsden, Yang: "Robust Mean Teacher for Continual and Gradual Test-Time
Adaptation", CVPR 2023).

All weights change, of a student theta and a teacher theta'. Batch norms use the statistics of the batch. Before the
first step both are warmed up on the source. Let y and y~ be the student's logits of x and of augmented x, f and f~ its
features before the last layer, and y' the teacher's logits of x. One step:

1. The student moves by the gradient of L = L_SCE + L_CL + L_CE:

   - L_SCE = mean_n (S(y, y')_n + S(y~, y')_n) / 2, where S(a, b) is half the cross-entropy of a to b and half that of
     b to a: the symmetric cross-entropy;
   - L_CL: the supervised contrastive loss at temperature 0.1 of three views of each sample, through a learnt
     projection: f, f~, and of the source's prototypes (mean features of a class) that of the greatest cosine to f;
   - L_CE, source replay: the cross-entropy, to their labels, of as many source samples as the batch holds, which are
     normalised by their own statistics. `rmt_source_free` goes without, and no source sample leaves the desk.

2. theta' <- 0.999 theta' + 0.001 theta.

`y` is y + y', both from before the update. The projection (128 and 128 wide) begins at random and is learnt with theta
at the same rate.

Warm-up: the student learns from its teacher by S, at a rate that rises linearly to the step's, and the optimiser
remembers it. It does not touch the projection. The authors' code takes 50,000 samples, one pass over CIFAR's.

Defaults, from the authors' code for CIFAR-10-C: Adam at 1e-3, all three weights 1 (ImageNet-C: SGD with Nesterov
momentum at 0.01).

Ours: prototypes and warm-up (one pass) are made of at most 2,000 source samples in batches of 64, and 512 of them
(fewer, where a sample is large) are stored for replay, drawn in turn; without labels the model's own predictions serve;
a class that has no sample has no prototype; augmentations are for any signal unless the export asks for the authors',
of images (see `steps.augment`); and all weights change, where their code takes those named weight or bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.exporters.steps import contrast
from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.losses import entropy, symmetric
from trimtab.exporters.steps.method import Hyper, Method, Metrics, Need, State
from trimtab.exporters.steps.model import Inputs, Model
from trimtab.exporters.steps.optimisers import Optimiser
from trimtab.exporters.steps.replay import drawn
from trimtab.exporters.steps.teacher import SMOOTHING, followed

PROJECTION = "projection."
"""Before the names of the projection's values and of what the optimiser remembers of them."""


def init_state(model: Model, replays: bool) -> State:
    projection = contrast.projection(_features(model))
    begun = {"theta": projection, **_of_projection(model).start(projection)}
    warm = ("theta", "teacher", *model.optimiser.start(model.theta))
    place = torch.zeros((), dtype=torch.int64)
    return {
        **{name: model.source(f"warm_up.{name}") for name in warm},
        **{f"{PROJECTION}{name}": value for name, value in begun.items()},
        "count": place,
        **({"replayed": place} if replays else {}),
    }


def step(
    model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor], replays: bool
) -> tuple[State, Tensor, Metrics]:
    ours = {name: value for name, value in state.items() if not name.startswith(PROJECTION)}
    projection = {name.removeprefix(PROJECTION): value for name, value in state.items() if name.startswith(PROJECTION)}
    mean, seen = model.source("prototypes.mean"), model.source("prototypes.seen")
    theirs = model(state["teacher"], inputs)
    other = model.views(inputs, state["count"], 0)
    sizes = [len(ours["theta"]), len(projection["theta"])]

    def loss(both: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        theta, values = torch.split(both, sizes)
        y, features = model.with_features(theta, inputs)
        y_other, features_other = model.with_features(theta, other)
        consistency = 0.5 * (symmetric(y, theirs) + symmetric(y_other, theirs)).mean()
        views = (contrast.nearest(features.detach(), mean, seen), features, features_other)
        contrastive = contrast.contrastive([contrast.projected(values, v) for v in views], hyper["temperature"])
        value = hyper["consistency"] * consistency + hyper["contrast"] * contrastive
        if replays:
            value = value + hyper["replay"] * F.cross_entropy(model(theta, replayed), labels)
        return value, (y, consistency, contrastive)

    new = {"count": state["count"] + 1}
    if replays:
        replayed, labels, new["replayed"] = drawn(model, inputs, state["replayed"])
    g, (y, consistency, contrastive) = gradient(loss, torch.cat([ours["theta"], projection["theta"]]))
    g, g_projection = torch.split(g, sizes)
    moved = _of_projection(model).update(projection, g_projection, hyper)
    new |= model.optimiser.update(ours, g, hyper) | {f"{PROJECTION}{name}": value for name, value in moved.items()}
    new["teacher"] = followed(state["teacher"], new["theta"], hyper["smoothing"])
    both = y + theirs
    return new, both, {"entropy": entropy(both).mean(), "consistency": consistency, "contrast": contrastive}


def _features(model: Model) -> int:
    return model.source("prototypes.mean").shape[1]


def _of_projection(model: Model) -> Optimiser:
    return model.optimiser.of(contrast.shapes(_features(model)))


def _method(name: str, does: str, replays: bool) -> Method:
    needs: tuple[Need, ...] = ("prototypes", "warm_up")
    weights = {
        "consistency": Hyper(1.0, 0.0, 1e3, "weight of the symmetric cross-entropy to the teacher"),
        "contrast": Hyper(1.0, 0.0, 1e3, "weight of the contrastive loss"),
        "temperature": Hyper(0.1, 0.001, 10.0, "of the contrastive loss"),
        "smoothing": Hyper(SMOOTHING, 0.0, 1.0, "how slowly the teacher follows"),
    }
    replay = {"replay": Hyper(1.0, 0.0, 1e3, "weight of the source samples' cross-entropy")}
    return Method(
        name=name,
        paper="Döbler et al. 2023, Robust Mean Teacher for Continual and Gradual Test-Time Adaptation",
        does=does,
        init_state=partial(init_state, replays=replays),
        step=partial(step, replays=replays),
        hyper={**weights, **(replay if replays else {})},
        changes="all",
        augments=True,
        rates={"adam": 1e-3, "nesterov": 0.01, "sgd": 0.01},
        needs=(*needs, "replay") if replays else needs,
    )


RMT = _method(
    "rmt",
    "learns all weights from a slowly moving teacher, source prototypes and source samples, which the bundle holds",
    True,
)
RMT_SOURCE_FREE = _method(
    "rmt_source_free", "learns all weights from a slowly moving teacher and source prototypes", False
)
