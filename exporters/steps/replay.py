"""Source samples that go into a step graph, to be learnt from beside what comes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.exporters.steps.model import Inputs, Labelled, Model

SAMPLES, NUMBERS = 512, 2**24
"""Most samples, and most numbers in them together."""


def kept(batches: Sequence[Labelled]) -> dict[str, Tensor]:
    """Some of the samples in a random order: `labels`, and `x.<input>` standardised."""
    labels = torch.cat([labels for _, labels in batches])
    whole = {name: torch.cat([inputs[name] for inputs, _ in batches]) for name in batches[0][0]}
    count = min(SAMPLES, max(NUMBERS // sum(v[0].numel() for v in whole.values()), 1))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:count]
    return {"labels": labels[order], **{f"x.{name}": value[order] for name, value in whole.items()}}


def drawn(model: Model, inputs: Inputs, place: Tensor) -> tuple[Inputs, Tensor, Tensor]:
    """As many of those kept as `inputs` hold, from `place` (an int64 scalar) on, the first again after the last; their
    labels; and the place after them."""
    labels = model.source("replay.labels")
    count = next(iter(inputs.values())).shape[0]
    places = (place + torch.arange(count)) % len(labels)
    chosen = {name: model.source(f"replay.x.{name}").index_select(0, places) for name in inputs}
    return chosen, labels.index_select(0, places), (place + count) % len(labels)
