"""The papers' equations once more, in float64 NumPy and autograd over plain modules: what the light step graphs are
judged by. Nothing of the exporter is used: hooks of PyTorch, its optimisers, NumPy's solvers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.exporters.oracles.literal import adapting, entropies, taps


class Source:
    """A float64 copy of a model in evaluation mode, whose last layer's input is taken."""

    def __init__(self, model: nn.Module, head: str) -> None:
        self.model = copy.deepcopy(model).double().eval().requires_grad_(False)
        self.taken = taps(self.model, head)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.model(x)
        return y, self.taken.pop()


class FeatureShift(Source):
    """Niu et al. 2024, equations 7 to 9."""

    def __init__(self, model: nn.Module, head: str, x: Tensor, gamma: float = 1.0, smoothing: float = 0.9) -> None:
        super().__init__(model, head)
        self.head = self.model.get_submodule(head)
        self.source = self(x)[1].mean(0)
        self.gamma, self.smoothing = gamma, smoothing
        self.mean: Tensor | None = None

    def shift(self) -> Tensor:
        return torch.zeros_like(self.source) if self.mean is None else self.gamma * (self.source - self.mean)

    def step(self, x: Tensor) -> Tensor:
        features = self(x)[1]
        y = self.head(features + self.shift())
        mean = features.mean(0)
        self.mean = mean if self.mean is None else self.smoothing * self.mean + (1 - self.smoothing) * mean
        return y


class BiasVectors(Source):
    """`exporters.methods.bias_vectors` by hooks, a covariance's eigenvectors, and torch's Adam over z.

    `axes`: module -> the channels' axis of its output.
    """

    def __init__(
        self,
        model: nn.Module,
        head: str,
        axes: dict[str, int],
        x: Tensor,
        rank: int,
        lr: float,
        entropy: float,
        alignment: float,
    ) -> None:
        super().__init__(model, head)
        self.entropy, self.alignment = entropy, alignment
        self.sizes: dict[str, int] = {}
        self.added: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        for name, axis in axes.items():
            self.model.get_submodule(name).register_forward_hook(self._hook(name, axis, outputs))
        features = self(x)[1]
        self.mean, self.deviation = features.mean(0), features.std(0, correction=0)
        self.deviation = self.deviation.clamp(min=0.01 * float((self.deviation**2).mean()) ** 0.5)
        self.sizes = {name: outputs[name].shape[1] for name in axes}
        values = torch.cat([outputs[name] for name in axes], 1).numpy()
        sd = values.std(0)
        correlation = np.cov((values - values.mean(0)) / np.where(sd > 0, sd, 1), rowvar=False, bias=True)
        spread, vectors = np.linalg.eigh(correlation)
        order = np.argsort(-spread)[:rank]
        u = sd[:, None] * vectors[:, order] * np.sqrt(np.maximum(spread[order], 0))
        u *= np.sign(u[np.abs(u).argmax(0), range(u.shape[1])])
        self.u = torch.from_numpy(u)
        self.z = nn.Parameter(torch.zeros(u.shape[1], dtype=torch.float64))
        self.optimiser = torch.optim.Adam([self.z], lr=lr)

    def _hook(self, name: str, axis: int, outputs: dict[str, Tensor]) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            outputs[name] = output.movedim(axis, 1).reshape(len(output), output.shape[axis], -1).mean(2).detach()
            if name not in self.added:
                return output
            return (output.movedim(axis, -1) + self.added[name]).movedim(-1, axis)

        return hook

    def vectors(self) -> Tensor:
        return self.u @ self.z

    def step(self, x: Tensor) -> Tensor:
        self.added = dict(zip(self.sizes, torch.split(self.vectors(), list(self.sizes.values())), strict=True))
        y, f = self(x)
        apart = ((f.mean(0) - self.mean) / self.deviation) ** 2 + ((f.std(0) - self.deviation) / self.deviation) ** 2
        loss = self.alignment * apart.mean()
        if self.entropy:
            loss = loss + self.entropy * entropies(y).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return y.detach()


class Bbse:
    """Lipton et al. 2018, section 4, with the weights' distance from 1 regularised as in Azizzadenesheli et al. 2019:
    as ridge regression, by its normal equations."""

    def __init__(self, p: np.ndarray, labels: np.ndarray, rate: float, ridge: float) -> None:
        classes = p.shape[1]
        self.confusion = np.zeros((classes, classes))
        for row, label in zip(p, labels, strict=True):
            self.confusion[row.argmax(), label] += 1 / len(p)
        self.rate, self.ridge = rate, ridge
        self.predicted = self.confusion.sum(1)

    def step(self, p: np.ndarray) -> np.ndarray:
        classes = p.shape[1]
        own = np.bincount(p.argmax(1), minlength=classes) / len(p)
        self.predicted = (1 - self.rate) * self.predicted + self.rate * own
        c, ones = self.confusion, np.ones(classes)
        damping = self.ridge * np.linalg.norm(c, 2) ** 2
        w = ones + np.linalg.solve(c.T @ c + damping * np.eye(classes), c.T @ (self.predicted - c @ ones))
        source = np.maximum(c.sum(0), 1e-4) / np.maximum(c.sum(0), 1e-4).sum()
        shares = np.maximum(c.sum(0) * np.maximum(w, 0), 1e-4)
        r = p * (shares / shares.sum()) / source
        return r / r.sum(1, keepdims=True)


class LabelShift:
    """Park et al. 2023 as `exporters.methods.label_shift` reads it, on a network that was trained already: alone, or
    with Tent where `lr` is not 0."""

    def __init__(
        self, model: nn.Module, head: str, prior: np.ndarray, network: list[np.ndarray], rate: float, lr: float
    ) -> None:
        self.model, self.parameters = adapting(model) if lr else (copy.deepcopy(model).double().eval(), [])
        self.optimiser = torch.optim.Adam(self.parameters, lr=lr) if lr else None
        self.source = np.maximum(prior, 1e-4) / np.maximum(prior, 1e-4).sum()
        self.shares, self.rate = self.source, rate
        self.network = [n.astype(float) for n in network]
        layer: Any = self.model.get_submodule(head)
        layer.forward = self._changed
        self.weight, self.bias = layer.weight.detach(), layer.bias.detach()

    def _changed(self, features: Tensor) -> Tensor:
        found = np.tanh(np.log(self.shares / self.source) @ self.network[0]) @ self.network[1]
        k, f = self.weight.shape
        dw, db, scale = (torch.from_numpy(v) for v in np.split(found, [k * f, k * f + k]))
        return (features * (1 + scale)) @ (self.weight + dw.reshape(k, f)).T + self.bias + db

    def step(self, x: Tensor) -> Tensor:
        y = self.model(x)
        if self.optimiser is not None:
            self.optimiser.zero_grad()
            entropies(y).mean().backward()
            self.optimiser.step()
        y = y.detach()
        shares = (1 - self.rate) * self.shares + self.rate * torch.softmax(y, 1).mean(0).numpy()
        self.shares = np.maximum(shares, 1e-4) / np.maximum(shares, 1e-4).sum()
        return y
