"""Norms that share their weight and bias, against plain PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import trimtab.adapters
from trimtab.exporters import MethodChoice, export

torch.set_num_threads(1)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)
        self.norm, self.other = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
        self.other.weight, self.other.bias = self.norm.weight, self.norm.bias
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.other(self.second(torch.relu(self.norm(self.first(x)))))))


def test_what_norms_share_moves_in_all_of_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rng, model = np.random.default_rng(0), Shared().eval()
    source = [(rng.standard_normal((64, 6)).astype(np.float32), None)]
    choice = MethodChoice("tent", optimiser="sgd")
    export(model, torch.zeros(2, 6), source, tmp_path, name="s", classes=list("abcd"), methods=[choice])
    adapter = trimtab.adapters.load(tmp_path, "tent", threads=1, lr=0.1)
    model.double().train()
    optimiser = torch.optim.SGD([model.norm.weight, model.norm.bias], 0.1, momentum=0.9)
    for _ in range(5):
        x = 2 * rng.standard_normal((16, 6)).astype(np.float32) + 1
        y = model(torch.from_numpy(x).double())
        np.testing.assert_allclose(adapter.step(x), y.detach().numpy(), rtol=1e-4, atol=1e-4)
        optimiser.zero_grad()
        torch.distributions.Categorical(logits=y).entropy().mean().backward()
        optimiser.step()
