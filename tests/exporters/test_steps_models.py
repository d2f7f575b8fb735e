"""Tent on models whose structure once stood in the way, in ONNX Runtime against plain PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import trimtab.adapters
from trimtab.exporters import MethodChoice, export
from trimtab.exporters.trace import duplicate
from trimtab.runtime.errors import ExportError

torch.set_num_threads(1)
SHAPE = (6, 16)


class Rms(nn.Module):
    """As language models have it: no class of PyTorch's."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class MyRmsNorm(Rms):
    pass


class Network(nn.Module):
    """A causal convolution with weight norm as TCNs had it first, RMS norms of two classes, channels that lie last
    under a pooling, frequencies, a cosine classifier, a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.weight_norm(nn.Conv1d(6, 8, 3, padding=2))
        self.first, self.second = MyRmsNorm(8), nn.RMSNorm(8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1.0
        y = F.gelu(self.conv(x)[..., :-2]).transpose(1, 2)
        y = y + F.gelu(self.mix(self.first(y)))
        y = y + torch.fft.rfft(y, dim=1, norm="ortho").abs().mean(1, keepdim=True)
        y = F.adaptive_avg_pool2d(self.second(y).unflatten(1, (4, 4)).permute(0, 3, 1, 2), 1).flatten(1)
        return 5.0 * F.linear(F.normalize(y), F.normalize(self.head.weight))


def exported(model: nn.Module, path: Path, method: str | MethodChoice = "tent", **more: Any) -> None:
    rng = np.random.default_rng(0)
    source = [(rng.standard_normal((32, *SHAPE)).astype(np.float32), None)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.zeros(2, *SHAPE)
        export(model, example, source, path, name="m", classes=list("abcd"), methods=[method], **more)


def test_a_model_of_many_kinds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Network().eval()
    model(torch.zeros(1, *SHAPE))  # leaves a weight with a gradient in it
    exported(model, tmp_path, MethodChoice("tent", optimiser="sgd"))
    adapter = trimtab.adapters.load(tmp_path, "tent", threads=1, lr=0.05)
    assert [p.name for p in adapter.parts] == ["model.first.weight", "model.second.weight"]

    plain = duplicate(model).double().requires_grad_(False)
    weights = [w.requires_grad_() for w in (plain.first.weight, plain.second.weight)]
    optimiser = torch.optim.SGD(weights, 0.05, momentum=adapter.hyper["momentum"])
    for size in (9, 4, 9):
        x = np.random.default_rng(size).standard_normal((size, *SHAPE)).astype(np.float32)
        y = plain(torch.from_numpy(x).double())
        np.testing.assert_allclose(adapter.step(x), y.detach(), rtol=1e-4, atol=1e-5)
        optimiser.zero_grad()
        torch.distributions.Categorical(logits=y).entropy().mean().backward()
        optimiser.step()
        np.testing.assert_allclose(adapter.theta, torch.cat(weights).detach(), rtol=1e-5, atol=1e-6)


def test_a_frozen_norm_stays_as_it_is(tmp_path: Path) -> None:
    exported(Network().eval(), tmp_path, frozen=["first"])
    assert [p.name for p in trimtab.adapters.load(tmp_path, "tent").parts] == ["model.second.weight"]


class Activated(nn.BatchNorm1d):
    """A norm and an activation in one, as timm has them."""

    def forward(self, x: Tensor) -> Tensor:
        training = self.training or self.running_mean is None
        return F.relu(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training))


def test_norms_with_a_forward_of_their_own_are_moved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(6, 8, 3), Activated(8), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4))
    exported(model.eval(), tmp_path, MethodChoice("tent", optimiser="sgd"))
    adapter = trimtab.adapters.load(tmp_path, "tent", threads=1, lr=0.05)
    assert [p.name for p in adapter.parts] == ["norm.1.norm.weight", "norm.1.norm.bias"]
    model[1].running_mean = model[1].running_var = None
    optimiser = torch.optim.SGD(model[1].parameters(), 0.05, momentum=adapter.hyper["momentum"])
    for size in (9, 4, 9):
        x = np.random.default_rng(size).standard_normal((size, *SHAPE)).astype(np.float32)
        y = model(torch.from_numpy(x))
        np.testing.assert_allclose(adapter.step(x), y.detach(), rtol=1e-4, atol=1e-5)
        optimiser.zero_grad()
        torch.distributions.Categorical(logits=y).entropy().mean().backward()
        optimiser.step()
        theta = torch.cat([model[1].weight, model[1].bias]).detach()
        np.testing.assert_allclose(adapter.theta, theta, rtol=1e-5, atol=1e-6)


class CutOff(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[2](self[1](self[0](x)).mean(2).detach())


class HalfPrecision(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self[1](self[0](x))
        return self[2](y.float().mean(2))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (CutOff, r"tent: what may change has no influence on the loss that a gradient could follow"),
        (HalfPrecision, r"observe graph: ONNX Runtime does not take it \(.*bfloat16"),
    ],
)
def test_what_cannot_be_is_said(kind: Any, words: str, tmp_path: Path) -> None:
    model = kind(nn.Conv1d(6, 8, 3), nn.BatchNorm1d(8), nn.Linear(8, 4)).eval()
    with pytest.raises(ExportError, match=words):
        exported(model, tmp_path)
