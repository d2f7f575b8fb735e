"""Maps that are added to a model for methods which leave its own norms as they are.

A block multiplies each value of a layer's output by a weight and adds a bias; a modulator multiplies each channel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from trimtab.exporters.steps.hooks import at_outputs
from trimtab.exporters.steps.model import Inputs, Model, cut, source_statistics
from trimtab.runtime.errors import ExportError

BLOCKS, MODULATED = "blocks", "the first layer and its modulator"
"""What a method says that it changes: no export can replace it."""
COUNT = 4


def with_blocks(model: Model) -> Model:
    """The model, in whose theta lie the parameters of up to COUNT blocks: at the outputs of norm layers that are
    spread evenly over it. Raises ExportError where it has no norm."""
    if not model.layers:
        raise ExportError("the model has no norm layer, after which adaptive blocks could stand")
    count = min(COUNT, len(model.layers))
    names = [model.layers[(i + 1) * len(model.layers) // count - 1].name for i in range(count)]
    shapes: dict[str, tuple[int, ...]] = {}

    def measured(name: str, output: Tensor) -> Tensor:
        shapes[name] = tuple(output.shape[1:])
        return output

    with torch.no_grad(), at_outputs(model, {n: partial(measured, n) for n in names}):
        model(model.theta, model.blank, source_statistics)
    blocks: dict[str, Tensor] = {}
    for name in names:
        blocks |= {f"block.{name}.weight": torch.ones(shapes[name]), f"block.{name}.bias": torch.zeros(shapes[name])}
    return cut(model.bound({**model.constants, **blocks}), list(blocks))


def through_blocks(model: Model, theta: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Logits `[N, K]` and features `[N, F]`, by the source's statistics."""
    values = model.pieces(theta)
    names = {name.removeprefix("block.").rpartition(".")[0] for name in values}

    def passed(name: str) -> Callable[[Tensor], Tensor]:
        return lambda output: output * values[f"block.{name}.weight"] + values[f"block.{name}.bias"]

    with at_outputs(model, {name: passed(name) for name in names}):
        return model.with_features(theta, inputs, source_statistics)


def with_modulator(model: Model) -> Model:
    """The model, in whose theta lie the weights of its first layer and a modulator of its channels, one after another.

    Raises ExportError where it has no convolution or linear layer.
    """
    name, _ = first_layer(model)
    weight = f"model.{name}.weight"
    modulator = torch.ones(len(model.constants[weight]))
    return cut(model.bound({**model.constants, "modulator": modulator}), [weight, "modulator"])


def modulated(model: Model, theta: Tensor, inputs: Inputs) -> Tensor:
    """Logits `[N, K]`, by the batch's statistics. The modulator stands after the model's first norm where that is one
    of the first layer's channels, else after the first layer."""
    factor = model.pieces(theta)["modulator"]
    name, axis = first_layer(model)
    norm = model.layers[0] if model.layers else None
    if norm is not None and norm.kind != "bias" and norm.channels == len(factor):
        name, axis = norm.name, -1 if norm.kind == "layer" else 1

    def scaled(output: Tensor) -> Tensor:
        return (output.movedim(axis, -1) * factor).movedim(-1, axis)

    with at_outputs(model, {name: scaled}):
        return model(theta, inputs)


def first_layer(model: Model) -> tuple[str, int]:
    """Its dotted name, and the axis of its output on which the channels lie."""
    for name, module in model.whole.model.named_modules():
        if isinstance(module, nn.Linear):
            return name, -1
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return name, 1
    raise ExportError("the model has no convolution and no linear layer, which could learn first")


ADDED = {BLOCKS: with_blocks, MODULATED: with_modulator}
