"""Norms, and activations over an axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trimtab.exporters.lowering import EPSILON
from trimtab.exporters.steps.translation import Node, Translation, lowers, shape_of


@lowers("trimtab.scale_shift.default")
def _scale_shift(t: Translation, node: Node) -> Any:
    x, scale, shift = (t.name(a) for a in node.args)
    [channels] = shape_of(node.args[1])
    if isinstance(channels, int):
        zero, rest = (t.draft.constant(np.full(channels, v, np.float32)) for v in (0.0, 1.0 - EPSILON))
    else:
        zero, rest = (t.emit("Expand", t.name(v), t.emit("Shape", scale)) for v in (0.0, 1.0 - EPSILON))
    return t.emit("BatchNormalization", x, scale, shift, zero, rest, epsilon=EPSILON)


@lowers("trimtab.positive.default")
def _positive(t: Translation, node: Node) -> Any:
    """min(1, max(0, alpha x)), of an alpha so great that all but subnormal x are 0 or 1: one pass, where a comparison
    and a cast are two."""
    return t.emit("HardSigmoid", t.name(node.args[0]), alpha=3e38, beta=0.0)


@lowers("aten.native_batch_norm.default", "aten._native_batch_norm_legit_no_training.default")
def _source_batch_norm(t: Translation, node: Node) -> Any:
    """Of given statistics; those of a batch are taken apart before (see `primitives`)."""
    x, weight, bias, mean, var = node.args[:5]
    weight = torch.ones(shape_of(mean)) if weight is None else weight
    bias = torch.zeros(shape_of(mean)) if bias is None else bias
    if "legit" not in str(node.target) and node.args[5]:
        raise t.refusal("normalises by the batch in a way of its own")
    inputs = [t.name(v) for v in (x, weight, bias, mean, var)]
    return [t.emit("BatchNormalization", *inputs, epsilon=float(node.args[-1]))]


@lowers("aten.native_layer_norm.default")
def _layer_norm(t: Translation, node: Node) -> Any:
    x, shape, weight, bias, eps = node.args
    dims: Any = shape
    weight = torch.ones(dims) if weight is None else weight
    inputs = [t.name(x), t.name(weight), *([t.name(bias)] if bias is not None else [])]
    return t.emit("LayerNormalization", *inputs, outputs=3, axis=-len(dims), epsilon=float(eps))


@lowers("aten._softmax.default")
def _softmax(t: Translation, node: Node) -> Any:
    return t.emit("Softmax", t.name(node.args[0]), axis=int(node.args[1]))


@lowers("aten._log_softmax.default")
def _log_softmax(t: Translation, node: Node) -> Any:
    return t.emit("LogSoftmax", t.name(node.args[0]), axis=int(node.args[1]))
