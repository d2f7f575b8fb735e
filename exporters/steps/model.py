"""The exported model as a method sees it: a pure function of a flat vector of all that may change."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from trimtab.exporters.aware_norm import InstanceAwareNorm, shrunk
from trimtab.exporters.inner_norms import INNER, Rerouted
from trimtab.exporters.marked import Layer, Marked
from trimtab.exporters.steps.augment import Views, augmented
from trimtab.exporters.steps.channels import along
from trimtab.exporters.steps.optimisers import STILL, Optimiser
from trimtab.exporters.steps.primitives import batch_norm, moments, scale_shift
from trimtab.exporters.trace import Whole
from trimtab.runtime.errors import ExportError

Inputs = Mapping[str, Tensor]
Labelled = tuple[Inputs, Tensor]
"""Standardised inputs of some source samples and their class numbers `[N]`."""

Statistics = Callable[[str, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(layer, its input, source mean [C], source variance [C]) -> mean and variance to normalise by, each [C], or
[N, C] where each sample has its own."""


def source_statistics(layer: str, x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """For `statistics`: those of the source, as in plain inference."""
    return mean, var


def _batch_statistics(layer: str, x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = moments(x)
    return found[:2]


@dataclass(frozen=True)
class Part:
    """One named tensor of the vector."""

    name: str
    """That of the bundle's layout where it has one (`norm.<layer>.weight`), else `model.<dotted name>`."""
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Model:
    """A model whose values are all in `constants`, but for the parts that are cut from a vector.

    Batch norms normalise by the batch's own statistics unless a call says otherwise; every other norm as always.
    """

    whole: Whole
    keys: Mapping[str, str]
    """Dotted name in `whole` -> name of the value."""
    constants: Mapping[str, Tensor]
    """Name -> value: of the model, of its calibration, and `source.<what>` of what methods need."""
    parts: tuple[Part, ...]
    layers: tuple[Layer, ...]
    loose: tuple[str, ...]
    """Other norms, see `Marked.loose`."""
    taken: _Taken
    classes: int
    """0 for a regression."""
    blank: Mapping[str, Tensor]
    """Input -> zeros `[1, ...]` of the shape and type of one standardised sample."""
    head: str = ""
    """Dotted name of the last layer; "" where none was found."""
    optimiser: Optimiser = STILL
    views: Views = augmented
    """What methods that look at augmented inputs see."""

    @property
    def theta(self) -> Tensor:
        """`[Q]` as trained."""
        values = [self.constants[p.name].reshape(-1) for p in self.parts]
        return torch.cat(values) if values else torch.zeros(0)

    def source(self, what: str) -> Tensor:
        """What the exporter computed from the source for a method that needs it."""
        return self.constants[f"source.{what}"]

    def __call__(self, theta: Tensor, inputs: Inputs, statistics: Statistics | None = None) -> Tensor:
        """Logits `[N, K]` of standardised inputs. `statistics`: see there; None: those of the batch."""
        return self.with_features(theta, inputs, statistics)[0]

    def with_features(
        self, theta: Tensor, inputs: Inputs, statistics: Statistics | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits `[N, K]`, and the features `[N, F]` before the last layer."""
        values = {**self.constants, **self.pieces(theta)}
        self.taken.statistics, self.taken.features, self.taken.values = statistics, None, values
        named = {dotted: values[name] for dotted, name in self.keys.items()}
        y = functional_call(self.whole, named, tuple(inputs[n] for n in self.whole.names))
        features = self.taken.features
        return y + values["output.shift"], y if features is None else features

    def pieces(self, theta: Tensor) -> dict[str, Tensor]:
        """The named tensors that lie in theta."""
        cut = torch.split(theta, [p.size for p in self.parts]) if self.parts else ()
        return {part.name: value.reshape(part.shape) for part, value in zip(self.parts, cut, strict=True)}

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """Weight `[K, F]` and bias `[K]` of the last layer as trained. Raises ExportError where it is not linear."""
        weight = self.constants.get(f"model.{self.head}.weight")
        if not self.head or weight is None or weight.dim() != 2:
            raise ExportError("the model has no linear last layer, whose weights the method begins with")
        return weight, self.constants.get(f"model.{self.head}.bias", torch.zeros(len(weight)))

    def standardised(self, inputs: Inputs, marked: Marked) -> dict[str, Tensor]:
        """Inputs in sensor units, as the model takes them: see `runtime.bundle.Input`."""
        out = {}
        for entry in marked.inputs:
            x = inputs[entry.name]
            if entry.name in marked.integers:
                out[entry.name] = x.to(torch.int64)
                continue
            gain, offset = torch.ones(x.shape[1]), torch.zeros(x.shape[1])
            if entry.calibration is not None:
                name = f"input.{entry.name}"
                if entry.calibration.orders:
                    x = x.index_select(1, self.constants[f"{name}.order"].to(torch.int64))
                gain, offset = self.constants[f"{name}.gain"], self.constants[f"{name}.offset"]
            if entry.mean:
                offset = offset - torch.tensor(entry.mean)
            if entry.calibration is not None or entry.mean:
                x = scale_shift(x, gain, offset)
            if entry.std:  # not in one with the gain: x less its mean is more exact than x in units of std is
                x = x * along(1.0 / torch.tensor(entry.std), x.dim())
            out[entry.name] = x
        return out

    def bound(self, constants: Mapping[str, Tensor]) -> Model:
        """The same model of other values."""
        return replace(self, constants=constants)


@dataclass
class _Taken:
    """What the modules of one forward pass are told, and what they leave."""

    statistics: Statistics | None = None
    features: Tensor | None = None
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """All of the model's, by name."""
    adding: set[str] = field(default_factory=set)
    """The modules to whose outputs what is called `bias.<module>` is added."""


@dataclass
class _BatchNorm:
    """Stands in for the forward of a batch norm."""

    layer: str
    module: Any
    taken: _Taken
    k: float | None
    """Where it is instance-aware (see `InstanceAwareNorm`)."""

    def __call__(self, x: Tensor) -> Tensor:
        module, statistics = self.module, self.taken.statistics
        weight = module.weight if module.weight is not None else torch.ones_like(module.running_mean)
        bias = module.bias if module.bias is not None else torch.zeros_like(module.running_mean)
        plain = self.k is None or x.dim() == 2
        if statistics is None and plain:
            y: Tensor = batch_norm(x, weight, bias, module.eps)[0]
            return y
        if statistics is source_statistics and plain:  # ONNX Runtime folds this into the convolution before it
            return F.batch_norm(x, module.running_mean, module.running_var, weight, bias, False, 0.0, module.eps)
        by = _batch_statistics if statistics is None else statistics
        mean, var = by(self.layer, x, module.running_mean, module.running_var)
        if self.k is not None and mean.dim() == 1:
            mean, var = shrunk(x, mean, var, module.eps, self.k)
        scale = weight * torch.rsqrt(var + module.eps)
        shift = bias - mean * scale
        if mean.dim() == 2:
            column = [*mean.shape, *[1] * (x.dim() - 2)]
            return x * scale.reshape(column) + shift.reshape(column)
        shifted: Tensor = scale_shift(x, scale, shift)
        return shifted


def build(model: nn.Module, marked: Marked, head: str, by_name: bool, task: str = "classification") -> Model:
    """A model of which nothing may change yet. `model` (from `trace.prepare`) is left as it is."""
    whole = Whole(copy.deepcopy(model), [i.name for i in marked.inputs], by_name)
    modules = dict(whole.model.named_modules())
    taken = _Taken()
    named = {f"norm.{layer.name}.{part}": layer for layer in marked.layers for part in layer.values}
    keys: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    for dotted, value, shared in _values(whole):
        names = [_of_norm(other) for other in shared]
        keys[dotted] = next((name for name in names if name in named), dotted)
        constants[keys[dotted]] = value.detach().clone()
    layout, theta = marked.layout(), marked.theta()
    for p in layout:
        if p.name not in constants:
            constants[p.name] = torch.from_numpy(layout.view(theta, p.name).copy())
    for layer_ in marked.layers:
        if layer_.kind == "batch":
            module: Any = modules[layer_.name]
            around: Any = modules.get(layer_.name.rpartition(".")[0])
            aware = isinstance(around, InstanceAwareNorm)
            module.forward = _BatchNorm(layer_.name, module, taken, around.k if aware else None)
            if aware:
                around.forward = module.__call__
    if head:
        modules[head].register_forward_pre_hook(_features(taken, marked))
        modules[head].register_forward_hook(_classified(taken))
    kinds = {i.name: torch.int64 if i.name in marked.integers else torch.float32 for i in marked.inputs}
    blank = {i.name: torch.zeros(1, *i.shape, dtype=kinds[i.name]) for i in marked.inputs}
    classes = marked.outputs if task == "classification" else 0
    return Model(whole, keys, constants, (), tuple(marked.layers), marked.loose, taken, classes, blank, head)


def _values(whole: Whole) -> Iterator[tuple[str, Tensor, list[str]]]:
    """Each value's dotted name, the value, and all names that it has: modules may share it, as a norm inside of a
    module (see `inner_norms`) shares its values with that."""
    names: dict[int, list[str]] = {}
    for every in (whole.named_parameters, whole.named_buffers):
        for dotted, value in every(remove_duplicate=False):
            names.setdefault(id(value), []).append(dotted)
    for dotted, value in (*whole.named_parameters(), *whole.named_buffers()):
        yield dotted, value, names[id(value)]


def _of_norm(dotted: str) -> str:
    """What the layout calls a norm's value."""
    layer, _, attribute = dotted.removeprefix("model.").rpartition(".")
    return f"norm.{layer}.{attribute.removeprefix('running_')}"


def _features(taken: _Taken, marked: Marked) -> Any:
    """A hook before the last layer: takes its input `[N, F]` (other axes averaged), shifts and scales it by what the
    model has of `feature.shift` and `feature.scale`."""

    def take(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        axis = marked.features_axis % args[0].dim()
        rest = [a for a in range(1, args[0].dim()) if a != axis]
        taken.features = args[0].mean(rest) if rest else args[0]
        shape = [-1 if a == axis else 1 for a in range(args[0].dim())]
        shift, scale = (taken.values.get(f"feature.{what}") for what in ("shift", "scale"))
        x = args[0] if shift is None else args[0] + shift.reshape(shape)
        return (x if scale is None else x * scale.reshape(shape), *args[1:])

    return take


def _classified(taken: _Taken) -> Any:
    """A hook after a linear last layer: adds what its weights differ by, where the model has `classifier.weight [K, F]`
    and `classifier.bias [K]`."""

    def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        weight = taken.values.get("classifier.weight")
        return None if weight is None else output + F.linear(args[0], weight, taken.values["classifier.bias"])

    return add


def _own_name(whole: nn.Module, layer: str) -> str:
    """What the model calls a norm; where it has a forward of its own, the plain norm inside is not the model's."""
    outer = layer.removesuffix(f".{INNER}")
    if outer == layer or not isinstance(vars(whole.get_submodule(f"model.{outer}")).get("forward"), Rerouted):
        return layer
    return outer


def choose(model: Model, changes: str | Sequence[str], frozen: str = "") -> Model:
    """The model with the parts that may change.

    `changes`: "affine" (weights and biases of norms), "bias" (all biases), "all" (all weights), "shift" (a vector added
    to the features before the last layer), or dotted names of modules whose weights may change. `frozen`: what is
    found in the names of norm layers that are left out of "affine", unless none would be left. Raises ExportError where
    there is nothing of that kind.
    """
    parameters = {keyed: dotted for dotted, keyed in model.keys.items() if _learnt(model.whole, dotted)}
    if isinstance(changes, str):
        norms = {layer.name: f"norm.{layer.name}" for layer in model.layers}
        norms |= {name: f"model.{name}" for name in model.loose}
        kept = [name for name in norms if not frozen or not re.search(frozen, _own_name(model.whole, name))]
        affine = {f"{norms[name]}.{part}" for name in kept or norms for part in ("weight", "bias")}
        chosen = {
            "": [],
            "affine": [p for p in parameters if p in affine],
            "bias": [p for p in parameters if p.endswith(".bias")],
            "all": list(parameters),
            "shift": [name for name in model.constants if name == "feature.shift"],
        }.get(changes)
        if chosen is None:
            raise ExportError(f"changes: {changes!r} is unknown; give affine, bias, all, or a list of modules' names")
    else:
        modules = {name for name, _ in model.whole.model.named_modules()}
        if unknown := [name for name in changes if name not in modules]:
            raise ExportError(f"changes: the model has no module named {unknown[0]!r}; give names of named_modules()")
        chosen = [p for p, dotted in parameters.items() if any(dotted.startswith(f"model.{m}.") for m in changes)]
    if changes == "shift" and not chosen:
        raise ExportError("the model has no features before a last layer, which could be shifted")
    if changes and not chosen:
        what = "norm with weight and bias" if changes == "affine" else f"parameter for changes={changes!r}"
        raise ExportError(f"the model has no {what}; say what may change instead, as in changes='bias'")
    return cut(model, chosen)


def cut(model: Model, names: Sequence[str]) -> Model:
    """The model with those values as the parts that may change."""
    parts: list[Part] = []
    for name in names:
        end = parts[-1].offset + parts[-1].size if parts else 0
        parts.append(Part(name, tuple(model.constants[name].shape), end))
    return replace(model, parts=tuple(parts))


def _learnt(whole: Whole, dotted: str) -> bool:
    return isinstance(dict(whole.named_parameters()).get(dotted), nn.Parameter)
