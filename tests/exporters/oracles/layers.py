"""NHL, as `exporters.methods.nhl` reads it, and ITTA with its training on the source, once more: in float64 autograd
over plain modules. Nothing of the exporter is used."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.exporters.oracles.literal import adapting, augmented, entropies, taps


class Nhl:
    """The Hebbian rule as a sum over samples and positions of a 1-D convolution, and torch's Adam for the modulator."""

    def __init__(self, model: nn.Module, first: str, norm: str, lr: float, eta: float, temperature: float) -> None:
        self.model, _ = adapting(model)
        self.model.requires_grad_(False)
        self.layer = self.model.get_submodule(first)
        self.modulator = torch.ones(len(self.layer.weight), dtype=torch.float64, requires_grad=True)
        self.model.get_submodule(norm).register_forward_hook(lambda module, given, y: y * self.modulator[:, None])
        self.optimiser = torch.optim.Adam([self.modulator], lr=lr)
        self.eta, self.temperature = eta, temperature

    @property
    def parameters(self) -> list[Tensor]:
        return [self.layer.weight, self.modulator]

    def step(self, x: Tensor) -> Tensor:
        weights, moves = self.layer.weight, []
        size, stride = weights.shape[2], self.layer.stride[0]
        for sample in x:
            for start in range(0, x.shape[2] - size + 1, stride):
                patch = sample[:, start : start + size]
                u = (weights * patch).sum((1, 2))
                y = torch.softmax(u / self.temperature, 0)
                moves.append(torch.stack([y[k] * (patch - u[k] * w) for k, w in enumerate(weights)]))
        self.layer.weight.copy_(weights + self.eta * torch.stack(moves).mean(0))
        self.optimiser.zero_grad()
        entropies(self.model(x)).mean().backward()
        self.optimiser.step()
        return self.model(x).detach()


class Itta:
    """Chen et al. 2023, with torch's Adam: blocks after the layers of those names."""

    def __init__(self, model: nn.Module, head: str, names: list[str], source: list[tuple[Tensor, Tensor]]) -> None:
        self.model = copy.deepcopy(model).double().eval().requires_grad_(False)
        self.features = taps(self.model, head)
        self.blocks: dict[str, list[Tensor]] = {}
        for name in names:
            self.model.get_submodule(name).register_forward_hook(
                lambda module, given, output, name=name: self._block(name, output)
            )
        self.model(source[0][0])
        size = self.features[-1].shape[1]
        self.chain = [
            [value.double().requires_grad_() for value in (torch.ones(size), torch.zeros(size))] for _ in range(10)
        ]
        self._train(source)

    def _block(self, name: str, output: Tensor) -> Tensor:
        if name not in self.blocks:
            self.blocks[name] = [
                torch.ones_like(output[0]).requires_grad_(),
                torch.zeros_like(output[0]).requires_grad_(),
            ]
        a, b = self.blocks[name]
        return a * output + b

    @property
    def parameters(self) -> list[Tensor]:
        return [value for pair in self.blocks.values() for value in pair]

    def _views(self, x: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of both, and the loss."""
        y, plain = self.model(x), self.features[-1]
        other, gap = self.model(augmented(x, number, 0)), self.features[-1] - plain
        for a, b in self.chain[:-1]:
            gap = torch.clamp(a * gap + b, min=0)
        a, b = self.chain[-1]
        return y, other, F.mse_loss(a * gap + b, torch.zeros_like(gap))

    def _train(self, source: list[tuple[Tensor, Tensor]]) -> None:
        weighing = [value for pair in self.chain for value in pair]
        blocks, chain = torch.optim.Adam(self.parameters, lr=1e-3), torch.optim.Adam(weighing, lr=1e-4)
        for number in range(100):
            x, labels = source[number % len(source)]
            y, other, loss = self._views(x, number)
            blocks.zero_grad()
            (loss + F.cross_entropy(y, labels) + F.cross_entropy(other, labels)).backward()
            blocks.step()
            y, other, loss = self._views(x, number)
            ours = torch.autograd.grad(loss, self.parameters, create_graph=True)
            theirs = torch.autograd.grad(F.cross_entropy(y, labels) + F.cross_entropy(other, labels), self.parameters)
            one, two = (torch.cat([g.reshape(-1) for g in gs]) for gs in (ours, theirs))
            one, two = ((g - g.mean().item()) / g.std().item() for g in (one, two))
            chain.zero_grad()
            (0.1 * ((one - two) ** 2).mean()).backward(inputs=weighing)
            chain.step()

    def begin(self, lr: float, scale: float) -> None:
        self.optimiser, self.scale, self.count = torch.optim.Adam(self.parameters, lr=lr), scale, 0

    def step(self, x: Tensor) -> Tensor:
        _, _, loss = self._views(x, self.count)
        self.count += 1
        self.optimiser.zero_grad()
        (self.scale * loss).backward(inputs=self.parameters)
        self.optimiser.step()
        return self.model(x).detach()
