"""What the graphs must agree with: the module itself, run in eager PyTorch with a given parameter vector."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.exporters.marked import Array, Layer, Marked
from trimtab.exporters.trace import Whole, slow_path


class Reference:
    """Runs a copy of a module whose norms, inputs, features and outputs are set from theta; gives y and the taps.

    Shares no code with lowering: values are set on modules, taps are taken by hooks, moments in float64.
    """

    def __init__(self, model: nn.Module, marked: Marked, head: str, by_name: bool) -> None:
        self.marked = marked
        self.layout = marked.layout()
        self.whole = Whole(copy.deepcopy(model), [i.name for i in marked.inputs], by_name)
        modules = dict(self.whole.model.named_modules())
        self.norms = {layer.name: modules[layer.name] for layer in marked.layers}
        self.seen: dict[str, list[Tensor]] = {}
        self.features: list[Tensor] = []
        self.shift: Tensor | None = None
        for layer in marked.layers:
            self.norms[layer.name].register_forward_pre_hook(self._watch(layer))
        if head:
            modules[head].register_forward_pre_hook(self._shift)

    def __call__(self, inputs: dict[str, Array], theta: Array) -> dict[str, NDArray[Any]]:
        """`y [N, K]`, and where the model has them `features [N, F]` and `moments [N, 2, M]`."""
        self.seen, self.features = {}, []
        for layer in self.marked.layers:
            for part in layer.values:
                value = torch.from_numpy(self.layout.view(theta, layer.parameter(part)).copy())
                self._set(self.norms[layer.name], layer, part, value)
        if "feature.shift" in self.layout:
            self.shift = torch.from_numpy(self.layout.view(theta, "feature.shift").copy())
        with torch.no_grad(), slow_path():
            y = self.whole(*(self._standardise(i.name, inputs[i.name], theta) for i in self.marked.inputs))
        samples = y.shape[0]
        out: dict[str, NDArray[Any]] = {"y": y.numpy() + self.layout.view(theta, "output.shift")}
        if self.features:
            value = self.features[-1].movedim(self.marked.features_axis, 1)
            out["features"] = value.reshape(samples, self.marked.features, -1).mean(2).numpy()
        if self.marked.layers:
            out["moments"] = np.concatenate([self._moments(b, samples) for b in self.marked.layers], axis=2)
        return out

    def _standardise(self, name: str, value: Array, theta: Array) -> Tensor:
        entry = next(i for i in self.marked.inputs if i.name == name)
        x = torch.from_numpy(np.ascontiguousarray(value))
        if name in self.marked.integers:
            return x.long()
        column = (1, -1) + (1,) * (x.dim() - 2)

        def part(key: str) -> Tensor:
            return torch.from_numpy(self.layout.view(theta, f"input.{name}.{key}").copy())

        if entry.calibration is not None:
            if entry.calibration.orders:
                x = x[:, part("order").long()]
            x = part("gain").reshape(column) * x + part("offset").reshape(column)
        if entry.mean:
            x = x - torch.tensor(entry.mean).reshape(column)
        if entry.std:
            x = x / torch.tensor(entry.std).reshape(column)
        return x

    @staticmethod
    def _set(module: nn.Module, layer: Layer, part: str, value: Tensor) -> None:
        if part in ("mean", "var"):
            setattr(module, f"running_{part}", value)
        else:
            shape = layer.dims or (layer.channels,)
            setattr(module, part, nn.Parameter(value.reshape(shape), requires_grad=False))

    def _watch(self, layer: Layer) -> Any:
        def watch(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.seen.setdefault(layer.name, []).append(args[0])

        return watch

    def _shift(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.features.append(args[0])
        if self.shift is None:
            return args
        axis = self.marked.features_axis % args[0].dim()
        shape = [1] * args[0].dim()
        shape[axis] = -1
        return (args[0] + self.shift.reshape(shape), *args[1:])

    def _moments(self, layer: Layer, samples: int) -> NDArray[np.float64]:
        means, variances = [], []
        for x in self.seen[layer.name]:
            value = x.double().numpy()
            if layer.kind == "layer":
                value = np.moveaxis(value, layer.samples_axis, 0).reshape(samples, -1, layer.channels)
            else:
                value = value.reshape(samples, layer.fold, *value.shape[1:])
                value = np.moveaxis(value, 2, -1).reshape(samples, -1, layer.channels)
            means.append(value.mean(1))
            variances.append(value.var(1))
        mean = np.mean(means, axis=0)
        return np.stack([mean, np.mean(variances, axis=0) + np.var(means, axis=0)], axis=1)
