"""The classes' shares in the source and in the stream."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-4
"""Least share of a class: from 0 it could not come back."""


def kept_apart(values: Tensor) -> Tensor:
    """Shares `[K]`, at least LEAST before they are made to sum to 1."""
    values = values.clamp(min=LEAST)
    return values / values.sum()


def corrected(y: Tensor, source: Tensor, shares: Tensor) -> Tensor:
    """The logs `[N, K]` of softmax(y) q / s, summing to 1: what logits `y [N, K]` of a model that was trained where the
    classes had the shares s `[K]` say where they have the shares q `[K]` (Saerens et al. 2002, equation 2.4)."""
    return torch.log_softmax(torch.log_softmax(y, 1) + torch.log(shares) - torch.log(source), 1)
