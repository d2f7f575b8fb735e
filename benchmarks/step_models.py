"""Models of five kinds, trained for a moment on classes that are clouds around patterns, for the benchmark of step
graphs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import MotionNet, ResNet20

CLASSES = 10


class Perceptron(nn.Module):
    shape: tuple[int, ...] = (32,)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU()
        )
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x))
        return y


class Mobile(nn.Module):
    """Inverted residuals with depthwise convolutions (Sandler et al. 2018), small."""

    shape: tuple[int, ...] = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
        self.blocks = nn.Sequential(*(self._block(*w) for w in [(16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1)]))
        self.head = nn.Linear(32, CLASSES)

    @staticmethod
    def _block(before: int, after: int, stride: int) -> nn.Module:
        wide = 4 * before
        return nn.Sequential(
            nn.Conv2d(before, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(inplace=True),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(inplace=True),
            nn.Conv2d(wide, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            y = block(x)
            x = x + y if x.shape == y.shape else y
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Transformer(nn.Module):
    """Two encoder layers over windows of a signal."""

    shape: tuple[int, ...] = (6, 32)

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 32)
        self.place = nn.Parameter(torch.randn(1, 32, 32) * 0.1)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.embed(x.transpose(1, 2)) + self.place)
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


KINDS: dict[str, type[nn.Module]] = {
    "MLP": Perceptron,
    "1-D CNN": MotionNet,
    "ResNet-20": ResNet20,
    "MobileNet-like": Mobile,
    "transformer": Transformer,
}


class Clouds:
    """Samples around one pattern a class."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        self.generator = torch.Generator().manual_seed(1)
        self.patterns = torch.randn(classes, *shape, generator=self.generator) * 0.35
        self.tilt = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=self.generator)

    def draw(self, count: int, drifted: bool = False) -> tuple[Tensor, Tensor]:
        labels = torch.randint(len(self.patterns), (count,), generator=self.generator)
        x = self.patterns[labels] + torch.randn(count, *self.patterns.shape[1:], generator=self.generator)
        return (x * (0.6 + self.tilt) + self.tilt if drifted else x), labels


def trained(kind: str, steps: int = 60) -> tuple[nn.Module, Clouds]:
    """A model in evaluation mode, and where its data comes from."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model: nn.Module = KINDS[kind]()
    clouds = Clouds(tuple(model.shape), 7 if kind == "1-D CNN" else CLASSES)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for _ in range(steps):
        x, labels = clouds.draw(64)
        optimiser.zero_grad()
        F.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model.eval(), clouds
