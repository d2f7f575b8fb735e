"""Networks to measure with, in PyTorch alone: a process that imports them has the memory of nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.short = nn.Identity()
        if stride != 1:
            self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.short(x))


class ResNet20(nn.Module):
    """The 20-layer residual network for images of 32 x 32 (He et al. 2016, section 4.2), with projections where the
    size changes: 21 batch norms with 784 channels."""

    shape = (3, 32, 32)

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        widths = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.blocks = nn.Sequential(*(Block(*width) for width in widths))
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.bn(self.conv(x))))
        features: Tensor = x.mean((2, 3))
        logits: Tensor = self.head(features)
        return logits


class MotionNet(nn.Module):
    """A small network over windows of a motion sensor, as an edge box runs many of: 6 channels, 64 rows."""

    shape = (6, 64)

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(6, 24, 5, 2), nn.BatchNorm1d(24), nn.ReLU(), nn.Conv1d(24, 48, 5), nn.BatchNorm1d(48), nn.ReLU()
        )
        self.head = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean(2))
        return logits
