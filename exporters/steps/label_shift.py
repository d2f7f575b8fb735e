"""The label shift adapter: a small network from the classes' shares to changes of the last layer, its training from
labelled source samples, and its use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trimtab.exporters.steps.model import Model
from trimtab.exporters.steps.shares import kept_apart
from trimtab.exporters.survey import labels_of
from trimtab.runtime.errors import ExportError

HIDDEN, NUMBERS = 64, 2**24
"""Most hidden units, and most numbers in the network."""
STEPS, BATCH, RATE = 1000, 128, 1e-3
"""Of its training, by Adam."""
CONCENTRATION = (-1.0, 1.0)
"""Bounds of log10 of a Dirichlet distribution's concentration: from all but one class rare to about even."""


def changes(ratios: Tensor, first: Tensor, second: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the network makes of the shares' log ratios to the source's `[K]`: changes of the last layer's weight
    `[K, F]` and bias `[K]`, and of the features' scale `[F]`. Zero where the ratios are."""
    classes, size = weight.shape
    found = torch.tanh(ratios @ first) @ second
    parts = torch.split(found, [classes * size, classes, size])
    return parts[0].reshape(classes, size), parts[1], parts[2]


def shifted(model: Model, shares: Tensor) -> Model:
    """The model as the adapter changes it for those shares `[K]`."""
    weight, _ = model.last_layer()
    ratios = torch.log(shares) - torch.log(kept_apart(model.source("prior")))
    dw, db, scale = changes(ratios, model.source("label_shift.first"), model.source("label_shift.second"), weight)
    new = {"classifier.weight": dw, "classifier.bias": db, "feature.scale": 1.0 + scale}
    return model.bound({**model.constants, **new})


def trained(model: Model, survey: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """The network's `first [K, H]` and `second [H, K F + K + F]`, trained with the model as it is.

    Each step draws shares q from a Dirichlet distribution and minimises, over source samples (f, k), the cross-entropy
    of logits(f; q) + log s - log q to k, s being the source's shares: the logits are then right where the shares are q.
    Raises ExportError where there are no labels, or the last layer is not linear, or not the model's end.
    """
    labels, features = (torch.from_numpy(v) for v in (labels_of(survey), survey["features"]))
    weight, bias = model.last_layer()
    wanted = torch.from_numpy(survey["y"])
    if not torch.allclose(F.linear(features, weight, bias), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())):
        raise ExportError("the model's outputs are not those of its last layer on the features' mean, which is changed")
    classes, size = weight.shape
    outputs = classes * size + classes + size
    hidden = min(HIDDEN, NUMBERS // outputs)
    if not hidden:
        raise ExportError(f"{classes} classes of {size} features are too many for a network that changes their weights")
    rng = np.random.default_rng(0)
    source = torch.log(kept_apart(torch.from_numpy(survey["class_prior"]).float()))
    first = torch.from_numpy(rng.standard_normal((classes, hidden)) / (2.0 * classes**0.5)).float().requires_grad_()
    second = torch.zeros(hidden, outputs).requires_grad_()
    optimiser = torch.optim.Adam([first, second], lr=RATE)
    for _ in range(STEPS):
        concentration = 10.0 ** rng.uniform(*CONCENTRATION)
        shares = kept_apart(torch.from_numpy(rng.dirichlet(np.full(classes, concentration))).float())
        chosen = torch.from_numpy(rng.integers(len(labels), size=BATCH))
        with torch.enable_grad():
            ratios = torch.log(shares) - source
            dw, db, scale = changes(ratios, first, second, weight)
            logits = F.linear(features[chosen] * (1.0 + scale), weight + dw, bias + db)
            loss = F.cross_entropy(logits - ratios, labels[chosen])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return {"first": first.detach(), "second": second.detach()}
