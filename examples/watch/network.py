"""A small one-dimensional convolutional network with four batch norms."""

from __future__ import annotations

from torch import Tensor, nn

from trimtab.examples.watch.recordings import CHANNELS, EXERCISES


class Network(nn.Module):
    """[N, 6, 128] standardised windows -> [N, 7] logits."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = len(CHANNELS)
        for channels, kernel, stride in ((16, 7, 2), (20, 5, 2), (24, 5, 2), (24, 3, 1)):
            layers.append(nn.Conv1d(before, channels, kernel, stride, padding=kernel // 2, bias=False))
            layers.append(nn.BatchNorm1d(channels))
            layers.append(nn.ReLU())
            before = channels
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(before, len(EXERCISES))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean(dim=-1))
        return logits
