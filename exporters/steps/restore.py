"""Which parameters go back to the source's."""

from __future__ import annotations

import torch
from torch import Tensor


def unimportant(gradient: Tensor, share: Tensor) -> Tensor:
    """Bool `[Q]`: where the squared gradient, a Fisher information of one batch, is below its quantile `share` over all
    parameters together (Brahma and Rai 2023, algorithm 1). Where more than that share are exactly 0, none is."""
    fisher = gradient * gradient
    return fisher < quantile(fisher, share)


def quantile(values: Tensor, share: Tensor) -> Tensor:
    """Of `values [Q]`, with linear interpolation between neighbours: what `torch.quantile` gives."""
    ordered = torch.sort(values).values
    last = len(values) - 1
    place = share * last
    low = torch.floor(place).to(torch.int64)
    pair = ordered.index_select(0, torch.stack([low, low + 1]).clamp(max=last))
    return pair[0] + (pair[1] - pair[0]) * (place - low)
