"""What methods need of the source, computed from source batches and stored in the step graph: a box never needs
them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trimtab.exporters.marked import Array, Marked
from trimtab.exporters.steps import consistency, contrast, label_shift, replay
from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.method import Need
from trimtab.exporters.steps.model import Labelled, Model, source_statistics
from trimtab.exporters.steps.posterior import Weights, posterior
from trimtab.exporters.steps.teacher import warmed_up
from trimtab.exporters.survey import Batch, labels_of, named
from trimtab.runtime.errors import ExportError

SAMPLES = 2000
"""Source samples that methods learn from at export: as many as EATA's authors take for the Fisher diagonal."""
BATCH = 64


@dataclass
class Sample:
    """Passes source batches on and keeps their first samples."""

    marked: Marked
    snapshots: Sequence[Weights] = ()
    """Of the training's tail, where they were given."""
    kept: list[dict[str, Array]] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    """Of the batches in `kept`, as given: an array or None."""
    count: int = 0

    def passing(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for number, (inputs, labels) in enumerate(batches):
            if self.count < SAMPLES:
                arrays = named(inputs, self.marked.inputs, f"source batch {number}")
                self.kept.append({name: value[: SAMPLES - self.count] for name, value in arrays.items()})
                self.labels.append(labels)
                self.count += len(next(iter(self.kept[-1].values())))
            yield inputs, labels

    def batches(self) -> Iterator[tuple[dict[str, Tensor], Tensor | None]]:
        """What was kept and its labels, in batches of BATCH; a rest of less than two samples has no statistics and is
        left out."""
        whole = {e.name: np.concatenate([k[e.name] for k in self.kept]) for e in self.marked.inputs}
        given = [label for label in self.labels if label is not None]
        labels = np.concatenate([np.asarray(g, np.int64) for g in given])[: self.count] if given else None
        for start in range(0, self.count, BATCH):
            if self.count - start > 1:
                part = slice(start, start + BATCH)
                inputs = {name: torch.from_numpy(value[part]) for name, value in whole.items()}
                yield inputs, None if labels is None else torch.from_numpy(labels[part])


TOO_FEW = "the source holds less than two samples, of which nothing can be learnt"


def labelled(model: Model, marked: Marked, sample: Sample) -> list[Labelled]:
    """The sample's batches, with the model's own predictions where it has no labels. Raises ExportError where there is
    none."""
    found: list[Labelled] = []
    for batch, labels in sample.batches():
        inputs = model.standardised(batch, marked)
        own = model(model.theta, inputs, source_statistics).argmax(1) if labels is None else labels
        found.append((inputs, own))
    if not found:
        raise ExportError(TOO_FEW)
    return found


def fisher(model: Model, marked: Marked, sample: Sample) -> Tensor:
    """The diagonal of the Fisher information `[Q]` with the model's own labels: the mean over batches of the squared
    gradient of the mean cross-entropy to its predictions (Niu et al. 2022, equation 9; by batches as in their code)."""
    total, count = torch.zeros_like(model.theta), 0
    for batch, _ in sample.batches():
        inputs = model.standardised(batch, marked)

        def loss(theta: Tensor, inputs: Mapping[str, Tensor] = inputs) -> tuple[Tensor, Tensor]:
            y = model(theta, inputs)
            return F.cross_entropy(y, y.detach().argmax(1)), y

        g, _ = gradient(loss, model.theta)
        total, count = total + g * g, count + 1
    if not count:
        raise ExportError(TOO_FEW)
    return total / count


def gather(
    model: Model,
    needs: tuple[Need, ...],
    marked: Marked,
    sample: Sample,
    survey: Mapping[str, NDArray[Any]],
    rate: float,
) -> Model:
    """The model with `source.<what>` for everything that is needed. `rate`: the method's learning rate. Raises
    ExportError where it cannot be had."""
    found: dict[str, Tensor] = {}
    batches = labelled(model, marked, sample) if set(needs) & LEARNT else []
    for need in needs:
        if need in OF_FEATURES and not marked.features:
            raise ExportError("the model has no features before a last layer, which the method could look at")
        if need == "fisher":
            found["fisher"] = fisher(model, marked, sample)
        elif need == "prior":
            found["prior"] = torch.from_numpy(survey["class_prior"]).float()
        elif need == "class_gaussians":
            found |= class_gaussians(survey)
        elif need == "feature_moments":
            found |= feature_moments(survey)
        elif need == "confusion":
            found["confusion"] = confusion(survey)
        elif need == "label_shift":
            found |= _below(need, label_shift.trained(model, survey))
        elif need == "posterior":
            found |= _below(need, posterior(model, batches, sample.snapshots))
        elif need == "prototypes":
            found |= _below(need, contrast.prototypes(model, batches))
        elif need == "warm_up":
            found |= _below(need, warmed_up(model, batches, rate))
        elif need == "replay":
            found |= _below(need, replay.kept(batches))
        else:
            found |= _below(need, consistency.learnt(model, batches))
    return model.bound({**model.constants, **_below("source", found)})


LEARNT: set[Need] = {"posterior", "prototypes", "warm_up", "replay", "consistency"}
"""What is made of labelled source batches."""
OF_FEATURES: set[Need] = {"class_gaussians", "prototypes", "feature_moments"}


def _below(name: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{what}": value for what, value in values.items()}


def confusion(survey: Mapping[str, NDArray[Any]]) -> Tensor:
    """`[K, K]`: the share of source samples that are predicted as i and are of class j. Raises ExportError where the
    source has no labels."""
    labels, y = labels_of(survey), survey["y"]
    counts = np.zeros((y.shape[1], y.shape[1]))
    np.add.at(counts, (y.argmax(1), labels), 1.0)
    return torch.from_numpy(counts / len(labels)).float()


FLOOR = 0.01
"""Least deviation of a feature, in units of their root mean square: some never move in the source."""


def feature_moments(survey: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """`feature_mean [F]` and `feature_deviation [F]`."""
    variance = np.diag(survey["feature_cov"])
    deviation = np.sqrt(np.maximum(variance, max(FLOOR**2 * variance.mean(), 1e-12)))
    return {
        "feature_mean": torch.from_numpy(survey["feature_mean"]).float(),
        "feature_deviation": torch.from_numpy(deviation).float(),
    }


SHRINKAGE = 0.1
"""Share of the tied covariance's mean variance in its diagonal: with few samples it is singular."""


def class_gaussians(survey: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """`class_mean [C, F]` and `precision [F, F]`, the inverse of the covariance within classes, shrunk."""
    prior, covariances = survey["class_prior"], survey["class_feature_cov"]
    tied = covariances[0] if len(covariances) == 1 else np.einsum("k,kij->ij", prior, covariances)
    size = len(tied)
    tied = (1.0 - SHRINKAGE) * tied + SHRINKAGE * max(np.trace(tied) / size, 1e-12) * np.eye(size)
    return {
        "class_mean": torch.from_numpy(survey["class_feature_mean"]).float(),
        "precision": torch.from_numpy(np.linalg.inv(tied)).float(),
    }
