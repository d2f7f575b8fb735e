"""Sizes that depend on the number of samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trimtab.exporters.steps.translation import Node, Operator, Size, Translation, lowers


@lowers("aten.sym_size.int")
def _size(t: Translation, node: Node) -> Size:
    axis = int(node.args[1])
    return Size(t.emit("Shape", t.name(node.args[0]), start=axis, end=axis + 1))


@lowers("aten.sym_numel.default")
def _numel(t: Translation, node: Node) -> Size:
    return Size(t.emit("Reshape", t.emit("Size", t.name(node.args[0])), t.constant([1])))


def _arithmetic(op: str) -> Operator:
    def write(t: Translation, node: Node) -> Size:
        sides = [t.values[a] if isinstance(a, fx.Node) else a for a in node.args]
        return Size(t.emit(op, *(s.name if isinstance(s, Size) else t.constant([s]) for s in sides)))

    return write


for _name, _op in {"mul": "Mul", "add": "Add", "sub": "Sub", "floordiv": "Div"}.items():
    lowers(_name)(_arithmetic(_op))


@lowers("truediv")
def _ratio(t: Translation, node: Node) -> Any:
    """Of sizes: a number."""
    return t.emit("Div", *(t.name(a, torch.float32) for a in node.args))
