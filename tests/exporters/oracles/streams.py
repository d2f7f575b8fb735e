"""The methods for correlated streams once more: the papers' algorithms as written, with lists, one sample after
another, in float64 autograd over plain modules. Nothing of the exporter is used."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.exporters.oracles.literal import augmented, draws

CAPACITY = 64


class Robust(nn.Module):
    """RoTTA's norm."""

    def __init__(self, norm: nn.Module, alpha: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.alpha = norm.weight, norm.bias, norm.eps, alpha
        self.mean, self.var = norm.running_mean.clone(), norm.running_var.clone()

    def forward(self, x: Tensor) -> Tensor:
        axes = [a for a in range(x.dim()) if a != 1]
        mean, var = self.mean, self.var
        if self.training:
            batch = x.mean(axes)
            spread = ((x - _wide(batch, x)) ** 2).mean(axes)
            mean = (1 - self.alpha) * mean + self.alpha * batch
            var = (1 - self.alpha) * var + self.alpha * spread
            self.mean, self.var = mean.detach(), var.detach()
        y = (x - _wide(mean, x)) / torch.sqrt(_wide(var, x) + self.eps)
        return y * _wide(self.weight, x) + _wide(self.bias, x)


class Aware(nn.Module):
    """NOTE's norm (section 3.1), with unbiased variances."""

    def __init__(self, norm: nn.Module, k: float, momentum: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.k, self.momentum = norm.weight, norm.bias, norm.eps, k, momentum
        self.mean, self.var = norm.running_mean.clone(), norm.running_var.clone()

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.mean, self.var
        if self.training:
            channels = x.transpose(0, 1).flatten(1)
            mean, var = channels.mean(1), channels.var(1)
            self.mean = (1 - self.momentum) * self.mean + self.momentum * mean.detach()
            self.var = (1 - self.momentum) * self.var + self.momentum * var.detach()
        rows = []
        for sample in x:
            m, v = mean, var
            if sample.dim() > 1:
                values = sample.flatten(1)
                size = values.shape[1]
                m = mean + _shrink(values.mean(1) - mean, self.k * torch.sqrt((var + self.eps) / size))
                v = var + _shrink(values.var(1) - var, self.k * (var + self.eps) * math.sqrt(2 / (size - 1)))
                v = torch.clamp(v, min=0)
            y = (sample[None] - _wide(m, x)) / torch.sqrt(_wide(v, x) + self.eps)
            rows.append(y * _wide(self.weight, x) + _wide(self.bias, x))
        return torch.cat(rows)


def _wide(value: Tensor, x: Tensor) -> Tensor:
    return value.reshape(1, -1, *[1] * (x.dim() - 2))


def _shrink(x: Tensor, by: Tensor) -> Tensor:
    return torch.sign(x) * torch.clamp(x.abs() - by, min=0)


def with_norms(model: nn.Module, make: type[nn.Module], *given: float) -> tuple[nn.Module, list[nn.Parameter]]:
    """A float64 copy with other norms in place of batch norms, and their weights and biases."""
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    parameters = []
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            parent, _, own = name.rpartition(".")
            norm = make(module, *given)
            setattr(model.get_submodule(parent), own, norm)
            parameters += [norm.weight.requires_grad_(), norm.bias.requires_grad_()]
    return model.eval(), parameters


@dataclass
class Item:
    x: Tensor
    kind: int
    doubt: float = 0.0
    age: int = 0
    place: int = -1


class Balanced:
    """RoTTA's memory: by class and time. Each new sample may take the place of an old one."""

    def __init__(self, classes: int) -> None:
        self.of: list[list[Item]] = [[] for _ in range(classes)]
        self.fates = {"added": 0, "replaced": 0, "left out": 0}

    def items(self) -> list[Item]:
        return sorted((item for own in self.of for item in own), key=lambda item: item.place)

    def _score(self, item: Item) -> float:
        return 1 / (1 + math.exp(-item.age / CAPACITY)) + item.doubt / math.log(len(self.of))

    def add(self, new: Item) -> None:
        self.fates[self._remove_for(new)] += 1
        if new.place >= 0:
            self.of[new.kind].append(new)
        for item in self.items():
            item.age += 1

    def _remove_for(self, new: Item) -> str:
        rivals, count = self.of[new.kind], len(self.items())
        if len(rivals) < CAPACITY / len(self.of):
            if count < CAPACITY:
                new.place = count
                return "added"
            most = max(len(own) for own in self.of)
            rivals = [item for own in self.of if len(own) == most for item in own]
        worst = max(rivals, key=self._score)
        if self._score(worst) <= self._score(new):
            return "left out"
        self.of[worst.kind] = [item for item in self.of[worst.kind] if item is not worst]
        new.place = worst.place
        return "replaced"


class Reservoir:
    """NOTE's memory: balanced by class, else each sample that has come is as likely in it."""

    def __init__(self, classes: int) -> None:
        self.held: list[Item] = []
        self.seen_of = [0] * classes
        self.fates = {"added": 0, "replaced": 0, "left out": 0}

    def items(self) -> list[Item]:
        return self.held

    def add(self, new: Item) -> None:
        self.seen_of[new.kind] += 1
        self.fates[self._put(new)] += 1

    def _put(self, new: Item) -> str:
        if len(self.held) < CAPACITY:
            self.held.append(new)
            return "added"
        chance, choice = (float(draws(1, sum(self.seen_of), purpose)[0]) for purpose in (0, 1))
        kinds = [item.kind for item in self.held]
        counts = {kind: kinds.count(kind) for kind in kinds}
        largest = [kind for kind, count in counts.items() if count == max(counts.values())]
        if new.kind not in largest:
            places = [n for n, kind in enumerate(kinds) if kind in largest]
        elif chance <= counts[new.kind] / self.seen_of[new.kind]:
            places = [n for n, kind in enumerate(kinds) if kind == new.kind]
        else:
            return "left out"
        self.held[places[int(choice * len(places))]] = new
        return "replaced"


class Rotta:
    """Yuan et al. 2023, with torch's Adam."""

    def __init__(self, model: nn.Module, classes: int, lr: float, alpha: float, nu: float) -> None:
        self.student, self.parameters = with_norms(model, Robust, alpha)
        self.teacher, self.averages = with_norms(model, Robust, alpha)
        self.optimiser = torch.optim.Adam(self.parameters, lr=lr)
        self.memory = Balanced(classes)
        self.nu, self.seen = nu, 0

    def step(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.teacher(x)
        p = y.softmax(1)
        doubts = -(p * torch.log(p + 1e-6)).sum(1)
        for sample, kind, doubt in zip(x, p.argmax(1).tolist(), doubts.tolist(), strict=True):
            self.memory.add(Item(sample, kind, doubt))
            self.seen += 1
            if self.seen % CAPACITY == 0:
                self._learn(self.memory.items())
        return y

    def _learn(self, items: list[Item]) -> None:
        self.student.train()
        self.teacher.train()
        x = torch.stack([item.x for item in items])
        with torch.no_grad():
            target = self.teacher(x)
        y = self.student(augmented(x, self.seen // CAPACITY, 0))
        losses = -(target.softmax(1) * y.log_softmax(1)).sum(1)
        ages = torch.tensor([item.age / CAPACITY for item in items], dtype=torch.float64)
        loss = (losses * torch.exp(-ages) / (1 + torch.exp(-ages))).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            for mean, now in zip(self.averages, self.parameters, strict=True):
                mean.copy_((1 - self.nu) * mean + self.nu * now)
        self.student.eval()
        self.teacher.eval()


class Note:
    """Gong et al. 2022, algorithm 1, with torch's Adam."""

    def __init__(self, model: nn.Module, classes: int, lr: float, k: float, momentum: float) -> None:
        self.model, self.parameters = with_norms(model, Aware, k, momentum)
        self.optimiser = torch.optim.Adam(self.parameters, lr=lr)
        self.memory = Reservoir(classes)
        self.seen = 0

    def step(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.model(x)
        for sample, kind in zip(x, y.argmax(1).tolist(), strict=True):
            self.memory.add(Item(sample, kind))
            self.seen += 1
            if self.seen % CAPACITY == 0:
                self._learn(self.memory.items())
        return y

    def _learn(self, items: list[Item]) -> None:
        self.model.train()
        p = self.model(torch.stack([item.x for item in items])).softmax(1)
        self.optimiser.zero_grad()
        (-p * torch.log(p + 1e-6)).mean().backward()
        self.optimiser.step()
        self.model.eval()
