"""Tent and EATA in plain PyTorch, to compare step graphs with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainTent:
    """Tent, and with `filtered` EATA's filter and weights, as their authors write them: modules, hooks, an
    optimiser."""

    def __init__(self, model: nn.Module, filtered: bool) -> None:
        self.model = model
        self.parameters = []
        model.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
                module.track_running_stats = False
                module.running_mean = module.running_var = None
                self.parameters += [module.weight.requires_grad_(), module.bias.requires_grad_()]
        self.start = [p.detach().clone() for p in self.parameters]
        self.filtered = filtered
        self.mean: Tensor | None = None
        kind: Any = torch.optim.SGD(self.parameters, lr=2.5e-4, momentum=0.9) if filtered else None
        self.optimiser = kind or torch.optim.Adam(self.parameters, lr=1e-3)

    def step(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        h = -(y.softmax(1) * y.log_softmax(1)).sum(1)
        loss = h.mean()
        if self.filtered:
            limit = 0.4 * float(np.log(y.shape[1]))
            kept = h < limit
            p = y.softmax(1).detach()
            if self.mean is not None:
                kept = kept & (F.cosine_similarity(self.mean[None], p, dim=1).abs() < 0.4)
            if kept.any():
                new = p[kept].mean(0)
                self.mean = new if self.mean is None else 0.9 * self.mean + 0.1 * new
            loss = (h[kept] * torch.exp(limit - h[kept].detach())).sum() / kept.sum().clamp(min=1)
            for q, q0 in zip(self.parameters, self.start, strict=True):
                loss = loss + ((q - q0) ** 2).sum()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return y.detach()
