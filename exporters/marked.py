"""A model whose norms and features are marked, ready to be lowered into the graphs of a bundle. Knows no PyTorch.

Two markers stand in the ONNX graph, both of one input and one output of the same shape:

- `trimtab::Norm(x)`, attributes `layer` (a `Layer.name`) and `shape` (of x; -1 where the samples are);
- `trimtab::Features(x)`, attribute `shape`: the input of the last layer.

The values of the norms are not in the graph but here: exporters and optimisers merge equal initializers (a running
mean of zeros and a bias of zeros become one), so that a name in the graph says nothing about a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from trimtab.adapters.parameters import Kind, ParameterLayout
from trimtab.runtime.bundle import Input, Norm

DOMAIN = "trimtab"
NORM = "Norm"
FEATURES = "Features"

Array = NDArray[np.float32]
NormKind = Literal["batch", "group", "layer", "instance", "bias"]

ORDER: tuple[str, ...] = ("mean", "var", "weight", "bias")
"""The parts of a norm, in the order in which the layout holds them."""


@dataclass(frozen=True)
class Layer:
    """One norm layer: what kind it is, and its values as trained."""

    name: str
    kind: NormKind
    values: dict[str, Array]
    """Of ORDER, those that the layer has, each `[channels]`."""
    channels: int
    eps: float = 0.0
    groups: int = 0
    dims: tuple[int, ...] = ()
    """Layer norm: the trailing axes over which it normalises; `channels` is their product."""
    fold: int = 1
    """Rows of the norm's input that belong to one sample, one after another (a reshape to [N*T, ...] before it)."""
    samples_axis: int = 0
    """The axis of the norm's input on which the samples lie; other than 0 for layer norms only."""
    channel_axis: int = 1
    """`bias` only: the axis along which the bias runs."""

    def parameter(self, part: str) -> str:
        """The name of a part in the layout."""
        return f"bias.{self.name}" if self.kind == "bias" else f"norm.{self.name}.{part}"

    @property
    def described(self) -> Norm:
        return Norm(name=self.name, kind=self.kind, channels=self.channels, eps=self.eps, groups=self.groups)

    def axes(self, rank: int) -> tuple[int, ...]:
        """The channel axes of an input of that rank."""
        if self.kind == "layer":
            return tuple(range(rank - len(self.dims), rank))
        return (self.channel_axis % rank,)


@dataclass(frozen=True)
class Marked:
    """An ONNX model of one output `[N, K]` with markers in it, and all that lowering needs beside it."""

    model: onnx.ModelProto
    """Takes the standardised inputs, opset 18 or later."""
    inputs: list[Input]
    layers: list[Layer]
    """In the model's order."""
    features: int
    """F; 0: no Features marker."""
    outputs: int
    """K"""
    integers: frozenset[str] = frozenset()
    """Inputs that the model wants as int64: bundles take every input as float32."""
    loose: tuple[str, ...] = ()
    """Norms that are no layers of the bundle, as RMS norms: by dotted name. Methods may move their weights."""
    features_axis: int = -1
    """The axis of the features in the marked value; what other axes there are, the sample's aside, are averaged."""
    notes: list[str] = field(default_factory=list)
    """What a person should know, one sentence each."""

    def layout(self) -> ParameterLayout:
        """The layout of theta: inputs, norms in the model's order, feature shift, output shift."""
        parts: list[tuple[str, Kind, str, int]] = []
        for entry in self.inputs:
            if entry.calibration is None:
                continue
            if entry.calibration.orders:
                parts.append((f"input.{entry.name}.order", "input.order", entry.name, entry.shape[0]))
            parts.append((f"input.{entry.name}.gain", "input.gain", entry.name, entry.shape[0]))
            parts.append((f"input.{entry.name}.offset", "input.offset", entry.name, entry.shape[0]))
        kinds: dict[str, Kind] = {
            "mean": "norm.mean",
            "var": "norm.var",
            "weight": "norm.weight",
            "bias": "norm.bias",
        }
        for layer in self.layers:
            for part in ORDER:
                if part in layer.values:
                    kind: Kind = "channel.bias" if layer.kind == "bias" else kinds[part]
                    parts.append((layer.parameter(part), kind, layer.name, layer.channels))
        if self.features:
            parts.append(("feature.shift", "feature.shift", "", self.features))
        parts.append(("output.shift", "output.shift", "", self.outputs))
        return ParameterLayout.of(parts)

    def theta(self) -> Array:
        """The parameter vector as trained: `[P]`."""
        values: dict[str, NDArray[np.floating]] = {}
        for entry in self.inputs:
            values[f"input.{entry.name}.order"] = np.arange(entry.shape[0], dtype=np.float32)
            values[f"input.{entry.name}.gain"] = np.ones(entry.shape[0], np.float32)
            values[f"input.{entry.name}.offset"] = np.zeros(entry.shape[0], np.float32)
        for layer in self.layers:
            for part, value in layer.values.items():
                values[layer.parameter(part)] = value
        values["feature.shift"] = np.zeros(self.features, np.float32)
        values["output.shift"] = np.zeros(self.outputs, np.float32)
        return self.layout().flatten(values)


Shape = tuple[int, ...]


def place_of_samples(uses: Sequence[tuple[Shape, Shape]], dims: int = 0) -> tuple[int, int] | None:
    """The axis of a norm's input on which the samples lie, and how many of its rows belong to one sample.

    `uses`: the input's shape with 2 and with 3 samples, at each place where the norm is used; `dims`: number of
    trailing axes over which a layer norm normalises, 0 for other norms, whose channels are on axis 1. None where the
    input does not depend on the number of samples. Raises ValueError where the samples have no axis of their own.
    """
    places: set[tuple[int, int] | None] = set()
    for two, three in uses:
        changed = [i for i, (a, b) in enumerate(zip(two, three, strict=True)) if a != b]
        if not changed:
            places.add(None)
            continue
        axis = changed[0]
        fold = two[axis] // 2
        channels = range(len(two) - dims, len(two)) if dims else (1,)
        first = axis == 0 or (dims > 0 and fold == 1)
        if len(changed) > 1 or (two[axis], three[axis]) != (2 * fold, 3 * fold) or not first or axis in channels:
            raise ValueError("the samples have no axis of their own")
        places.add((axis, fold))
    if len(places) != 1:
        raise ValueError("the samples lie on different axes where the norm is used more than once")
    return places.pop()
