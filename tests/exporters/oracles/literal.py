"""The papers' equations once more, in float64 autograd over plain modules: what step graphs are judged by.

Nothing of the exporter is used: torch's own batch norm in training mode, torch's optimisers, Python's `if`.
"""

from __future__ import annotations

import copy
import math

import numpy as np
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
    """Niu et al. 2023, equations 2 to 5 and the recovery of section 4.3, with torch's SGD.

    As in the authors' code a reset brings back the parameters alone, and means over no sample have a zero gradient."""

    def __init__(
        self, model: nn.Module, frozen: tuple[str, ...], lr: float, margin: float, rho: float, reset: float
    ) -> None:
        self.model, parameters = adapting(model)
        still = [p for name in frozen for p in self.model.get_submodule(name).parameters()]
        self.parameters = [p for p in parameters if not any(p is s for s in still)]
        self.lr, self.margin, self.rho, self.threshold = lr, margin, rho, reset
        self.start = [p.detach().clone() for p in self.parameters]
        self.resets = 0
        self.optimiser = torch.optim.SGD(self.parameters, lr=self.lr, momentum=0.9)
        self.mean: float | None = None

    def step(self, x: Tensor) -> Tensor:
        y = self.model(x)
        limit = self.margin * math.log(y.shape[1])
        h = entropies(y)
        first = h < limit
        grads = torch.autograd.grad(h[first].sum() / max(int(first.sum()), 1), self.parameters)
        norm = math.sqrt(sum(float((g**2).sum()) for g in grads)) + 1e-12
        before = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for p, g in zip(self.parameters, grads, strict=True):
                p += self.rho * g / norm
        h = entropies(self.model(x))
        second = first & (h < limit)
        self.optimiser.zero_grad()
        (h[second].sum() / max(int(second.sum()), 1)).backward()
        with torch.no_grad():
            for p, old in zip(self.parameters, before, strict=True):
                p.copy_(old)
        self.optimiser.step()
        if second.any():
            value = float(h[second].mean().detach())
            self.mean = value if self.mean is None else 0.9 * self.mean + 0.1 * value
        if self.mean is not None and self.mean < self.threshold:
            with torch.no_grad():
                for p, old in zip(self.parameters, self.start, strict=True):
                    p.copy_(old)
            self.resets += 1
        return y.detach()


class Cafa:
    """Jung et al. 2023 as `exporters.methods.cafa` reads it, with torch's Adam; `means` by class, of those seen."""

    def __init__(self, model: nn.Module, head: str, means: dict[int, Tensor], covariance: Tensor, lr: float) -> None:
        self.model, self.parameters = adapting(model)
        self.optimiser = torch.optim.Adam(self.parameters, lr=lr)
        self.means, self.inverse = means, torch.linalg.inv(covariance)
        self.features = taps(self.model, head)

    def step(self, x: Tensor) -> Tensor:
        y = self.model(x)
        intra, inter = [], []
        for n, row in enumerate(y.tolist()):
            gaps = {k: self.features[-1][n] - m for k, m in self.means.items()}
            distances = {k: g @ self.inverse @ g for k, g in gaps.items()}
            intra.append(distances.pop(max(self.means, key=row.__getitem__)))
            inter.append(sum(distances.values()) / len(distances))
        self.optimiser.zero_grad()
        torch.log(sum(intra) / sum(inter)).backward()
        self.optimiser.step()
        return y.detach()


def taps(model: nn.Module, head: str) -> list[Tensor]:
    """A list to which each forward pass adds the features before the last layer."""
    found: list[Tensor] = []
    model.get_submodule(head).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    return found


def plain(model: nn.Module, head: str, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and features of the source model in float64."""
    model = copy.deepcopy(model).double().eval()
    found = taps(model, head)
    with torch.no_grad():
        p = torch.softmax(model(x), 1)
    return p.numpy(), found[-1].numpy()


def lame(p: np.ndarray, features: np.ndarray, gaussian: bool) -> np.ndarray:
    """Boudiaf et al. 2022, equation 6, until nothing changes: the shares Y. The affinity is that of the five nearest,
    or a Gaussian of the mean distance to the fifth nearest, oneself among them."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    affinity = np.zeros((len(p), len(p)))
    for i, f in enumerate(unit):
        others = sorted((float(((f - g) ** 2).sum()), j) for j, g in enumerate(unit) if j != i)
        for _, j in others[:5]:
            affinity[i, j] = 1
    if gaussian:
        apart = np.linalg.norm(unit[:, None] - unit[None], axis=2)
        width = np.mean([np.sort(row)[:5][-1] for row in apart])
        affinity = np.exp(-(apart**2) / (2 * width**2))
    shares = p / p.sum(1, keepdims=True)
    for _ in range(100):
        z = np.log(p + 1e-10) + affinity @ shares
        e = np.exp(z - z.max(1, keepdims=True))
        shares = e / e.sum(1, keepdims=True)
    return shares


class T3a:
    """Iwasawa and Matsuo 2021, equations 3 to 5, as sets that grow and are cut to the surest."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, kept: int) -> None:
        self.kept = kept
        self.sets: list[list[tuple[float, np.ndarray]]] = [[] for _ in weight]
        for row in weight:
            self._add(row @ weight.T + bias, row)

    def _add(self, y: np.ndarray, f: np.ndarray) -> None:
        p = np.exp(y - y.max())
        p /= p.sum()
        self.sets[int(y.argmax())].append((float(-(p * np.log(p)).sum()), f))

    def step(self, p: np.ndarray, features: np.ndarray) -> np.ndarray:
        for row, f in zip(np.log(p), features, strict=True):
            self._add(row, f)
        self.sets = [sorted(s, key=lambda pair: pair[0])[: self.kept] for s in self.sets]
        y = np.zeros_like(p)
        for k, s in enumerate(self.sets):
            if s:
                centre = sum(f / np.linalg.norm(f) for _, f in s)
                y[:, k] = features @ (centre / np.linalg.norm(centre))
        return y


def saerens(p: np.ndarray, source: np.ndarray, shares: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """One online step of Saerens et al. 2002, equation 2.4: the corrected probabilities and the new shares."""

    def corrected(q: np.ndarray) -> np.ndarray:
        r = p * q / source
        return r / r.sum(1, keepdims=True)

    shares = (1 - rate) * shares + rate * corrected(shares).mean(0)
    return corrected(shares), shares


def draws(count: int, counter: int, purpose: int) -> np.ndarray:
    """The counter-based numbers of `exporters.steps.chance`, in NumPy's 64-bit unsigned integers."""

    def mixed(x: np.ndarray) -> np.ndarray:
        for _ in range(3):
            x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x45D9F3B)) & np.uint64(0xFFFFFFFF)
        return x ^ (x >> np.uint64(16))

    start = mixed(np.array([counter * 65599 + purpose * 7919 + 1], np.uint64) & np.uint64(0xFFFFFFFF))
    places = np.arange(count, dtype=np.uint64) * np.uint64(2654435761)
    return (mixed((places + start) & np.uint64(0xFFFFFFFF)) >> np.uint64(8)) / 2.0**24


def augmented(x: Tensor, count: int, number: int) -> Tensor:
    """A view of `x` as `exporters.steps.augment` describes it."""

    def normals(size: int, purpose: int) -> Tensor:
        a, b = (draws(size, count, 2 * purpose + 1000 + i) for i in (0, 1))
        return torch.from_numpy(np.sqrt(-2 * np.log(1 - a)) * np.cos(2 * np.pi * b))

    column = (*x.shape[:2], *[1] * (x.dim() - 2))
    gain, offset = (normals(x.shape[0] * x.shape[1], 3 * number + i).reshape(column) for i in (0, 1))
    return x * (1 + 0.1 * gain) + 0.1 * offset + 0.05 * normals(x.numel(), 3 * number + 2).reshape(x.shape)


def targets(source: nn.Module, teacher: nn.Module, x: Tensor, count: int, confidence: float, views: int) -> Tensor:
    """The teacher's logits, over views where the source is unsure (Wang et al. 2022, equations 3 and 4)."""
    with torch.no_grad():
        if source(x).softmax(1).amax(1).mean() >= confidence:
            return teacher(x)
        return torch.stack([teacher(augmented(x, count, n)) for n in range(views)]).mean(0)


class Cotta:
    """Wang et al. 2022, equations 1 to 6, on two copies of the model, with torch's SGD."""

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        confidence: float,
        augmentations: int,
        symmetry: float,
        smoothing: float,
        restore: float,
    ) -> None:
        self.source, _ = adapting(model)
        self.teacher, _ = adapting(model)
        self.model, _ = adapting(model)
        self.parameters = list(self.model.requires_grad_(True).parameters())
        self.optimiser = torch.optim.SGD(self.parameters, lr=lr, momentum=0.9)
        self.confidence, self.augmentations = confidence, augmentations
        self.symmetry, self.smoothing, self.restore = symmetry, smoothing, restore
        self.count = 0

    def step(self, x: Tensor) -> Tensor:
        target = targets(self.source, self.teacher, x, self.count, self.confidence, self.augmentations)
        y = self.model(x)
        loss = -(1 - self.symmetry) * (target.softmax(1) * y.log_softmax(1)).sum(1).mean()
        loss = loss - self.symmetry * (y.softmax(1) * target.log_softmax(1)).sum(1).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        sizes = [p.numel() for p in self.parameters]
        back = torch.from_numpy(draws(sum(sizes), self.count, 99) < self.restore).split(sizes)
        with torch.no_grad():
            pairs = zip(self.parameters, self.teacher.parameters(), self.source.parameters(), back, strict=True)
            for p, t, s, b in pairs:
                t.copy_(self.smoothing * t + (1 - self.smoothing) * p)
                p.copy_(torch.where(b.reshape(p.shape), s, p))
        self.count += 1
        return target
