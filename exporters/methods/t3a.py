"""T3A: test-time template adjuster (Iwasawa and Matsuo: "Test-Time Classifier Adjustment Module for Model-Agnostic
Domain Generalization", NeurIPS 2021).

Nothing in the model changes but the last layer's use: norms keep the source's statistics. Each class k has a set of
supports, which begins with its row of the last layer's weights. Each sample's features join the set of the class that
they are predicted as; of each set the M of lowest entropy are kept. With unit-length supports s,

    c_k = sum of the supports of k, made unit-length;    y_k = f . c_k            (equations 3 to 5).

Where the paper leaves it open, as in the authors' code: the new samples are among the supports that they are judged by,
supports are made unit-length before they are summed, and the last layer's rows are counted to the classes that they
are predicted as. M is 20 here (they choose it from 1, 5, 20, 50, 100 and all on source data); there is room for 100 of
each class, for fewer where classes and features are many. Needs a last layer that is linear.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.exporters.steps.losses import entropy
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model, source_statistics
from trimtab.runtime.errors import ExportError

KEPT, CAPACITY = 20, 100
"""M, supports of each class: the default and the greatest."""
MOST = 2**24
"""Numbers in all supports together."""
EMPTY = 1e9
"""The entropy of a place that holds no support."""


def init_state(model: Model) -> State:
    weight, bias = model.last_layer()
    classes, size = weight.shape
    places = min(CAPACITY, MOST // (classes * size))
    if places < KEPT:
        raise ExportError(f"{classes} classes of {size} features are too many to keep {KEPT} supports of each")
    own = weight @ weight.T + bias
    supports, entropies = torch.zeros(classes, places, size), torch.full((classes, places), EMPTY)
    for row, predicted in enumerate(own.argmax(1).tolist()):  # as in the authors' code: where its own row is put
        empty = (entropies[predicted] >= EMPTY).nonzero()
        free = int(empty[0]) if len(empty) else places - 1
        supports[predicted, free], entropies[predicted, free] = weight[row], entropy(own[row : row + 1])[0]
    return {"supports": supports, "entropies": entropies}


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    y, features = model.with_features(model.theta, inputs, source_statistics)
    classes, places, size = state["supports"].shape
    h = entropy(y)
    of_class = torch.arange(classes)[:, None] == y.argmax(1)[None, :]
    new = torch.where(of_class, h[None, :], torch.full_like(h, EMPTY)[None, :])
    surest, chosen = torch.cat([state["entropies"], new], 1).topk(places, 1, largest=False)
    entropies = torch.where(torch.arange(places) < hyper["kept"], surest, EMPTY)
    # A set's own places come first in a row of its candidates, then all samples: both lie in one pool.
    own = torch.arange(classes)[:, None] * places + chosen
    place = torch.where(chosen < places, own, chosen - places + classes * places)
    pool = torch.cat([state["supports"].reshape(-1, size), features], 0)
    filled = (entropies < EMPTY).to(pool.dtype)
    supports = pool.index_select(0, place.reshape(-1)).reshape(classes, places, size) * filled[:, :, None]
    templates = F.normalize(F.normalize(supports, dim=2).sum(1), dim=1)
    metrics = {"entropy": h.mean(), "supports": filled.sum()}
    return {"supports": supports, "entropies": entropies}, features @ templates.T, metrics


T3A = Method(
    name="t3a",
    paper="Iwasawa and Matsuo 2021, Test-Time Classifier Adjustment Module for Model-Agnostic Domain Generalization",
    does="classifies by the mean of the surest features of each class",
    init_state=init_state,
    step=step,
    hyper={"kept": Hyper(20.0, 1.0, 100.0, "most supports of a class")},
    changes="",
)
