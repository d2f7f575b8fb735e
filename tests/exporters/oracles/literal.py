"""The papers' equations once more, in float64 autograd over plain modules: what step graphs are judged by.

Nothing of the exporter is used: torch's own batch norm in training mode, torch's optimisers, Python's `if`.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def adapting(model: nn.Module) -> tuple[nn.Module, list[nn.Parameter]]:
    """A float64 copy whose batch norms use the batch's statistics, and the weights and biases of its norms."""
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    parameters: list[nn.Parameter] = []
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
            module.track_running_stats = False
            module.running_mean = module.running_var = None
        if isinstance(module, NORMS):
            parameters += [module.weight.requires_grad_(), module.bias.requires_grad_()]
    return model, parameters


def flat(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def entropies(y: Tensor) -> Tensor:
    p = torch.softmax(y, 1)
    return -(p * torch.log(p)).sum(1)


class Tent:
    """Wang et al. 2021, equation 1, with torch's Adam."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        self.model, self.parameters = adapting(model)
        self.optimiser = torch.optim.Adam(self.parameters, lr=lr)

    def step(self, x: Tensor) -> Tensor:
        y = self.model(x)
        self.optimiser.zero_grad()
        entropies(y).mean().backward()
        self.optimiser.step()
        return y.detach()


class Eata:
    """Niu et al. 2022, equations 2, 3, 5, 8 and 9, with torch's SGD."""

    def __init__(
        self, model: nn.Module, batches: list[Tensor], lr: float, margin: float, d: float, alpha: float
    ) -> None:
        self.model, self.parameters = adapting(model)
        self.optimiser = torch.optim.SGD(self.parameters, lr=lr, momentum=0.9)
        self.start = [p.detach().clone() for p in self.parameters]
        self.margin, self.d, self.alpha = margin, d, alpha
        self.mean: Tensor | None = None
        self.fisher = [torch.zeros_like(p) for p in self.parameters]
        for x in batches:
            y = self.model(x)
            grads = torch.autograd.grad(F.cross_entropy(y, y.argmax(1)), self.parameters)
            self.fisher = [f + g**2 / len(batches) for f, g in zip(self.fisher, grads, strict=True)]

    def step(self, x: Tensor) -> Tensor:
        y = self.model(x)
        p, h = torch.softmax(y, 1).detach(), entropies(y)
        limit = self.margin * math.log(y.shape[1])
        kept = [
            n
            for n in range(len(y))
            if h[n] < limit and (self.mean is None or abs(F.cosine_similarity(p[n], self.mean, dim=0)) < self.d)
        ]
        if kept:
            loss = sum(torch.exp(limit - h[n].detach()) * h[n] for n in kept) / len(kept)
            for f, q, q0 in zip(self.fisher, self.parameters, self.start, strict=True):
                loss = loss + self.alpha * (f * (q - q0) ** 2).sum()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            new = p[kept].mean(0)
            self.mean = new if self.mean is None else 0.9 * self.mean + 0.1 * new
        return y.detach()


class Sar:
    """Niu et al. 2023, equations 2 to 5 and the recovery of section 4.3, with torch's SGD."""

    def __init__(self, model: nn.Module, frozen: int, lr: float, margin: float, rho: float, reset: float) -> None:
        self.model, parameters = adapting(model)
        self.parameters = parameters[: len(parameters) - 2 * frozen]
        self.lr, self.margin, self.rho, self.threshold = lr, margin, rho, reset
        self.start = [p.detach().clone() for p in self.parameters]
        self.resets = 0
        self._begin()

    def _begin(self) -> None:
        self.optimiser = torch.optim.SGD(self.parameters, lr=self.lr, momentum=0.9)
        self.mean: float | None = None

    def step(self, x: Tensor) -> Tensor:
        y = self.model(x)
        limit = self.margin * math.log(y.shape[1])
        h = entropies(y)
        first = h < limit
        if not first.any():
            return y.detach()
        grads = torch.autograd.grad(h[first].mean(), self.parameters)
        norm = math.sqrt(sum(float((g**2).sum()) for g in grads)) + 1e-12
        before = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for p, g in zip(self.parameters, grads, strict=True):
                p += self.rho * g / norm
        h = entropies(self.model(x))
        second = first & (h < limit)
        loss = h[second].mean()
        value = float(loss.detach())
        if second.any():
            self.optimiser.zero_grad()
            loss.backward()
        with torch.no_grad():
            for p, old in zip(self.parameters, before, strict=True):
                p.copy_(old)
        if second.any():
            self.optimiser.step()
            self.mean = value if self.mean is None else 0.9 * self.mean + 0.1 * value
        if self.mean is not None and self.mean < self.threshold:
            with torch.no_grad():
                for p, old in zip(self.parameters, self.start, strict=True):
                    p.copy_(old)
            self._begin()
            self.resets += 1
        return y.detach()
