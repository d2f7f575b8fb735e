"""RMT, PETAL and PSMT once more, in float64 autograd over plain modules: see `literal`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.exporters.oracles.literal import adapting, augmented, taps, targets

Batches = list[tuple[Tensor, Tensor]]
"""Source samples and their labels."""


def learner(model: nn.Module) -> tuple[nn.Module, list[nn.Parameter]]:
    """A float64 copy all of whose parameters can be learnt."""
    own, _ = adapting(model)
    return own, list(own.requires_grad_(True).parameters())


def symmetric(a: Tensor, b: Tensor) -> Tensor:
    p, q = a.softmax(1), b.softmax(1)
    return -(0.5 * q * p.log() + 0.5 * p * q.log()).sum(1)


def follow(teacher: nn.Module, student: nn.Module, smoothing: float) -> None:
    with torch.no_grad():
        for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
            t.copy_(smoothing * t + (1 - smoothing) * s)


def lowest(parameters: list[nn.Parameter], share: float) -> list[Tensor]:
    """Of each parameter, where the squared gradient is below its quantile over all."""
    fisher = np.concatenate([p.grad.numpy().ravel() ** 2 for p in parameters])  # type: ignore[union-attr]
    limit = float(np.quantile(fisher, share))
    return [p.grad**2 < limit for p in parameters]  # type: ignore[operator]


def restore(parameters: list[nn.Parameter], start: list[Tensor], back: list[Tensor]) -> None:
    with torch.no_grad():
        for p, s, b in zip(parameters, start, back, strict=True):
            p[b] = s[b]


class Rmt:
    """Döbler et al. 2023 on two copies of the model, with torch's SGD and a projector of torch's layers."""

    def __init__(
        self,
        model: nn.Module,
        head: str,
        source: Batches,
        projection: np.ndarray,
        lr: float,
        rate: float,
        replay: float,
    ) -> None:
        """`rate`: of the warm-up; `lr`: after it."""
        self.teacher, _ = adapting(model)
        self.model, self.parameters = learner(model)
        self.features = taps(self.model, head)
        members: dict[int, list[Tensor]] = {}
        for x, labels in source:
            self.model(x)
            for f, k in zip(self.features[-1].detach(), labels.tolist(), strict=True):
                members.setdefault(k, []).append(f)
        self.prototypes = [torch.stack(m).mean(0) for m in members.values()]
        self.optimiser = torch.optim.SGD(self.parameters, momentum=0.9)
        for number, (x, _) in enumerate(source, 1):
            self.optimiser.param_groups[0]["lr"] = rate * number / len(source)
            with torch.no_grad():
                target = self.teacher(x)
            self._learn(symmetric(self.model(x), target).mean())
            follow(self.teacher, self.model, 0.999)
        size = self.prototypes[0].numel()
        self.projector = nn.Sequential(nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, 128)).double()
        nn.utils.vector_to_parameters(torch.from_numpy(projection).double(), self.projector.parameters())
        self.optimiser.add_param_group({"params": self.projector.parameters()})
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        xs, labels = (torch.cat(parts) for parts in zip(*source, strict=True))
        order = torch.randperm(len(xs), generator=torch.Generator().manual_seed(0))[:512]
        self.replayed, self.labels, self.replay, self.place = xs[order], labels[order], replay, 0
        self.count = 0

    def _learn(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def step(self, x: Tensor) -> Tensor:
        y, y_other = self.model(x), self.model(augmented(x, self.count, 0))
        f, f_other = self.features[-2:]
        with torch.no_grad():
            target = self.teacher(x)
            near = torch.stack(
                [max(self.prototypes, key=lambda p: float(F.cosine_similarity(p, row, dim=0))) for row in f]
            )
        loss = (0.5 * symmetric(y, target) + 0.5 * symmetric(y_other, target)).mean()
        loss = loss + self._contrast([near, f, f_other])
        if self.replay:
            places = [(self.place + i) % len(self.labels) for i in range(len(x))]
            self.place = (places[-1] + 1) % len(self.labels)
            loss = loss + self.replay * F.cross_entropy(self.model(self.replayed[places]), self.labels[places])
        self._learn(loss)
        follow(self.teacher, self.model, 0.999)
        self.count += 1
        return (y + target).detach()

    def _contrast(self, views: list[Tensor]) -> Tensor:
        """Khosla et al. 2020, equation 2, anchor by anchor."""
        z = [self.projector(v) for v in views]
        z = [v / v.norm(dim=1, keepdim=True) for v in z]
        flat = [(view, n) for view in range(len(z)) for n in range(len(z[0]))]
        likeness = {(a, b): z[a[0]][a[1]] @ z[b[0]][b[1]] / 0.1 for a in flat for b in flat if a != b}
        losses = []
        for a in flat:
            whole = torch.logsumexp(torch.stack([likeness[a, b] for b in flat if b != a]), 0)
            losses += [(whole - likeness[a, b]) / (len(z) - 1) for b in flat if b != a and b[1] == a[1]]
        return torch.stack(losses).sum() / len(flat)


class Petal:
    """Brahma and Rai 2023, algorithm 1 and SWAG-Diagonal, on copies of the model, with torch's SGD."""

    def __init__(
        self,
        model: nn.Module,
        source: Batches,
        lr: float,
        confidence: float,
        augmentations: int,
        symmetry: float,
        prior: float,
        smoothing: float,
        restore: float,
    ) -> None:
        tail, parameters = learner(model)
        optimiser = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=5e-4)
        snapshots = []
        for number, (x, labels) in enumerate([*source, *source], 1):
            optimiser.zero_grad()
            F.cross_entropy(tail(x), labels).backward()
            optimiser.step()
            if number % max(len(source) // 4, 1) == 0:
                snapshots.append(nn.utils.parameters_to_vector(parameters).detach())
        mean = torch.stack(snapshots).mean(0)
        self.variances = torch.stack(snapshots).var(0, correction=0)
        self.source, self.teacher = (adapting(model)[0] for _ in range(2))
        self.model, self.parameters = learner(model)
        for own in (self.source, self.teacher, self.model):
            nn.utils.vector_to_parameters(mean.clone(), own.parameters())
        self.optimiser = torch.optim.SGD(self.parameters, lr=lr, momentum=0.9)
        self.mean = [p.detach().clone() for p in self.source.parameters()]
        self.confidence, self.augmentations, self.symmetry = confidence, augmentations, symmetry
        self.prior, self.smoothing, self.share = prior, smoothing, restore
        self.count = 0

    def step(self, x: Tensor) -> Tensor:
        target = targets(self.source, self.teacher, x, self.count, self.confidence, self.augmentations)
        y = self.model(x)
        loss = -(1 - self.symmetry) * (target.softmax(1) * y.log_softmax(1)).sum(1).mean()
        loss = loss - self.symmetry * (y.softmax(1) * target.log_softmax(1)).sum(1).mean()
        apart = nn.utils.parameters_to_vector(self.parameters) - torch.cat([m.reshape(-1) for m in self.mean])
        loss = loss + self.prior * 0.5 * (apart**2 / (self.variances + 1e-6)).sum()
        self.optimiser.zero_grad()
        loss.backward()
        back = lowest(self.parameters, self.share)
        self.optimiser.step()
        follow(self.teacher, self.model, self.smoothing)
        restore(self.parameters, self.mean, back)
        self.count += 1
        return target


class Psmt:
    """Tian and Lyu 2024, as their code has it, on copies of the model, with torch's SGD (Nesterov)."""

    def __init__(
        self, model: nn.Module, source: Batches, lr: float, anchor: float, smoothing: float, restore: float
    ) -> None:
        self.teacher, _ = adapting(model)
        self.model, self.parameters = learner(model)
        self.optimiser = torch.optim.SGD(self.parameters, lr=lr, momentum=0.9, nesterov=True)
        self.start = [p.detach().clone() for p in self.parameters]
        self.anchor, self.smoothing, self.share = anchor, smoothing, restore
        self.fisher = [torch.zeros_like(p) for p in self.parameters]
        for x, _ in source:
            y = self.model(x)
            grads = torch.autograd.grad(F.cross_entropy(y, y.argmax(1)), self.parameters)
            self.fisher = [f + g**2 / len(source) for f, g in zip(self.fisher, grads, strict=True)]

    def step(self, x: Tensor) -> Tensor:
        y = self.model(x)
        with torch.no_grad():
            target = self.teacher(x)
        loss = symmetric(y, target).mean()
        for f, p, p0 in zip(self.fisher, self.parameters, self.start, strict=True):
            loss = loss + self.anchor * (f * (p - p0) ** 2).sum()
        self.optimiser.zero_grad()
        loss.backward()
        back = lowest(self.parameters, self.share)
        self.optimiser.step()
        follow(self.teacher, self.model, self.smoothing)
        restore(self.parameters, self.start, back)
        with torch.no_grad():
            for t, p, b in zip(self.teacher.parameters(), self.parameters, back, strict=True):
                t.copy_(torch.where(b, p, self.smoothing * t + (1 - self.smoothing) * p))
        return (y + target).detach()
