"""One model, exported once for all tests that only look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.exporters import Exported, export
from trimtab.runtime.bundle import Calibration

torch.set_num_threads(1)

MEAN, STD = [1.0, -2.0, 0.5], [2.0, 1.0, 0.5]
ORDER = [2, 1, 0]


class Residual(nn.Module):
    """Batch norms after plain, depthwise and pointwise convolutions, with a residual; a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn_depthwise = nn.BatchNorm2d(8, eps=1e-3)
        self.point = nn.Conv2d(8, 8, 1, bias=False)
        self.bn_point = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        y = torch.relu(self.bn_depthwise(self.depthwise(x)))
        x = torch.relu(self.bn_point(self.point(y)) + x)
        return self.fc(x.mean((2, 3)))


def settled(model: nn.Module) -> nn.Module:
    """Give the norms values as if trained: no zeros and ones that would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)) and tensor.dim():
                low, high = (0.5, 1.5) if name in ("weight", "running_var") else (-0.3, 0.3)
                tensor.data.uniform_(low, high, generator=generator)
    return model.eval()


@pytest.fixture
def settle() -> Callable[[nn.Module], nn.Module]:
    return settled


@dataclass
class Case:
    model: nn.Module
    exported: Exported
    path: Path
    x: NDArray[np.float32]
    labels: NDArray[np.int64]

    def standard(self, x: NDArray[Any]) -> Tensor:
        """What the model gets for x in sensor units."""
        column = (1, 3, 1, 1)
        return torch.from_numpy((x - np.reshape(MEAN, column)) / np.reshape(STD, column)).float()


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.manual_seed(0)
    model = settled(Residual())
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((90, 3, 10, 10)) * 1.5 + 0.5).astype(np.float32)
    x *= rng.uniform(0.5, 2.0, (90, 3, 1, 1)).astype(np.float32)
    labels = rng.integers(0, 2, 90)  # the third class has no sample
    path = tmp_path_factory.mktemp("bundle") / "residual"
    exported = export(
        model,
        torch.zeros(1, 3, 10, 10),
        [(x[:40], labels[:40]), (torch.from_numpy(x[40:]), torch.from_numpy(labels[40:]))],
        path,
        name="residual",
        classes=["a", "b", "c"],
        mean=MEAN,
        std=STD,
        channels=["r", "g", "b"],
        calibration=Calibration(signs=[0], orders=[ORDER], gain=True),
    )
    return Case(model, exported, path, x, labels)


@pytest.fixture
def row(case: Case) -> NDArray[np.float32]:
    """A parameter vector in which everything differs from the source."""
    layout = case.exported.bundle.layout
    rng = np.random.default_rng(2)
    theta = case.exported.bundle.source.theta + rng.uniform(0.1, 0.3, layout.size).astype(np.float32)
    layout.view(theta, "input.x.order")[:] = ORDER
    layout.view(theta, "input.x.gain")[:] = [-1.5, 0.5, 2.0]
    return theta
