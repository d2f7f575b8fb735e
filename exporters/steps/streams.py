"""One step of many streams in one call: what was recorded for one stream, over a leading axis of streams.

Weights are the same for all streams, so the samples of all go through convolutions and poolings as one batch. What each
stream has of its own (theta, the optimiser's memory, moving means) is stacked on the first axis. How many streams there
are is free, as the number of samples is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from trimtab.exporters.steps.decompositions import table
from trimtab.exporters.steps.primitives import positive, scale_shift
from trimtab.exporters.steps.tracing import Again, Recorded, Values, fake_of, fixed
from trimtab.exporters.trace import first_line, quiet
from trimtab.runtime.errors import ExportError

STREAMS = 3
"""That are traced."""
aten: Any = torch.ops.aten


def over_streams(recorded: Recorded, values: Values, batched: set[str], stacked: set[str]) -> Recorded:
    """The same computation with a free first axis of streams in all inputs named in `stacked` and in all outputs.

    `values`, `batched`: as for `record`; of the `batched` the second axis is that of the samples. Raises ExportError
    where a part cannot be.
    """
    if recorded.loops:
        raise ExportError("the method has a loop that is not equally long in each stream; streams can only step alone")
    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    free = {name: (name in stacked) * (2 if name in batched else 1) for name in recorded.inputs}
    seen = {n: values[n][None].expand(STREAMS, *values[n].shape) if n in stacked else values[n] for n in free}
    given = [fake_of(fake, seen[name], count) for name, count in free.items()]
    axes = tuple(0 if name in stacked else None for name in free)
    again = _OverStreams(recorded.graph, recorded.modules)
    try:
        with quiet(), fake, torch.no_grad(), enable_python_dispatcher():
            graph = make_fx(vmap(again.run, in_dims=axes), decomposition_table=table() | PLAIN)(*given)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        raise ExportError(f"{again.place()}: cannot run for many streams in one call: {first_line(error)}") from error
    if any(fixed(size) for count, value in zip(free.values(), given, strict=True) for size in value.shape[:count]):
        raise ExportError("the numbers of streams and samples do not stay free: the model makes one a plain number")
    graph.graph.eliminate_dead_code()
    modules = {n: again.found[n.name] for n in graph.graph.nodes if n.name in again.found}
    return Recorded(graph, recorded.inputs, recorded.outputs, modules, {})


class _OverStreams(Again):
    """Runs what was recorded, with FOLDED operators in place of those that PyTorch would fix the sizes in."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in SIZES:
            return SIZES[target](*args)
        return super().call_function(FOLDED.get(target, target), args, kwargs)


def _opened(value: Tensor, streams: Tensor) -> Tensor:
    """`[S * N, ...]` -> `[S, N, ...]`, as in `streams`."""
    return value.reshape([*streams.shape[:2], *value.shape[1:]])


def _scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`x [S, N, C, ...]` by `[S, C]`: one pass, in which every stream, sample and channel is a channel of its own."""
    if x.dim() == 3:
        return x * scale[:, None] + shift[:, None]
    wide = [v[:, None].expand(x.shape[:3]).reshape(-1) for v in (scale, shift)]
    y: Tensor = scale_shift(x.flatten(0, 2)[None], *wide)
    return y.reshape(x.shape)


# -- operators over streams --------------------------------------------------------------------------------------
# (operator, which arguments have streams of their own, arguments: those that have on axis 0) -> outputs over streams


class _Stacked:
    """The arguments of an operator over streams."""

    def __init__(self, count: Any, axes: Sequence[Any], values: Sequence[Any]) -> None:
        self.count = count
        self.own = [axis is not None for axis in axes]
        self.values = [v if axis is None else v.movedim(axis, 0) for v, axis in zip(values, axes, strict=True)]

    def wide(self, place: int) -> Tensor:
        """An argument with an axis of streams, whether it differs among them or not."""
        value: Tensor = self.values[place]
        return value if self.own[place] else value[None].expand(self.count, *value.shape)


def _each_row(operator: Any, given: _Stacked) -> Any:
    """Of operators that take each sample by itself: those of all streams in one batch."""
    if any(given.own[1:]):
        raise NotImplementedError("its weights would be each stream's own")
    x = given.wide(0)
    found = operator(x.flatten(0, 1), *given.values[1:])
    return tuple(_opened(v, x) for v in found) if isinstance(found, tuple) else _opened(found, x)


def _by_source(operator: Any, given: _Stacked) -> Any:
    """A batch norm by given statistics; its other outputs are of no use."""
    x, (weight, bias, mean, var) = given.wide(0), (given.wide(i) for i in range(1, 5))
    if any(given.own[1:5]):
        scale = weight * torch.rsqrt(var + given.values[-1])
        y = _scaled(x, scale, bias - mean * scale)
    else:
        y = _opened(operator(x.flatten(0, 1), *given.values[1:])[0], x)
    return y, y.new_zeros(given.count, 0), y.new_zeros(given.count, 0)


def _layer_norm(operator: Any, given: _Stacked) -> Any:
    x, shape, eps = given.wide(0), given.values[1], given.values[4]
    if not any(given.own[2:4]):
        return operator(x, *given.values[1:])
    y, *more = operator(x, shape, None, None, eps)
    column = [x.shape[0], *[1] * (x.dim() - 1 - len(shape)), *shape]
    weight, bias = (given.wide(i).reshape(column) for i in (2, 3))
    return y * weight + bias, *more


def _at_places(operator: Any, given: _Stacked) -> Any:
    """Of operators that read or write along an axis, at places that a tensor of as many axes says."""
    x = given.wide(0)
    rest = [given.wide(i) if isinstance(v, Tensor) else v for i, v in enumerate(given.values) if i > 1]
    return operator(x, given.values[1] % (x.dim() - 1) + 1, *rest)


def _chosen(operator: Any, given: _Stacked) -> Any:
    """`index_select`."""
    x, axis, index = given.values
    if not given.own[2]:
        return operator(given.wide(0), axis % (x.dim() - given.own[0]) + 1, index)
    x = given.wide(0)
    axis = axis % (x.dim() - 1) + 1
    places = index.reshape([index.shape[0], *(-1 if a == axis else 1 for a in range(1, x.dim()))])
    return aten.gather(x, axis, places.expand(*x.shape[:axis], -1, *x.shape[axis + 1 :]))


def _written(operator: Any, given: _Stacked) -> Any:
    """Of operators that put one value in place of a part of another along an axis."""
    x, axis, *rest = given.wide(0), *given.values[2:]
    return operator(x, given.wide(1), axis % (x.dim() - 1) + 1, *rest)


def _scale_shift(operator: Any, given: _Stacked) -> Any:
    return _each_row(operator, given) if not any(given.own[1:]) else _scaled(*(given.wide(i) for i in range(3)))


def _joined(operator: Any, given: _Stacked) -> Any:
    """`cat`: the parts one after another, and the axis where it is not the first."""
    parts = [given.wide(i) for i, v in enumerate(given.values) if isinstance(v, Tensor)]
    [axis] = given.values[len(parts) :] or [0]
    return operator(parts, axis % (parts[0].dim() - 1) + 1)


def _over(operator: Any, rule: Callable[[Any, _Stacked], Any]) -> Any:
    def over(info: Any, axes: Sequence[Any], first: Any, *rest: Any) -> Any:
        several = isinstance(first, (list, tuple))
        own = [*(axes[0] if several else axes[:1]), *(None if isinstance(a, (list, tuple)) else a for a in axes[1:])]
        values = [*(first if several else [first]), *rest]
        found = rule(operator, _Stacked(info.batch_size, own[: len(values)], values))
        return found, tuple(0 for _ in found) if isinstance(found, tuple) else 0

    return over


def _folded(operator: Any, rule: Callable[[Any, _Stacked], Any]) -> Any:
    """An operator that is `operator`, and of which PyTorch knows by `rule` how to go over streams."""
    name = f"trimtab::over_{operator}".replace("aten.", "").replace(".", "_")
    torch.library.define(name, "(" + str(operator._schema).partition("(")[2])
    torch.library.impl(name, "CompositeExplicitAutograd", operator)
    torch.library.register_fake(name, operator)
    torch.library.register_vmap(name, _over(operator, rule))
    return getattr(torch.ops.trimtab, name.partition("::")[2]).default


scale_shift.register_vmap(_over(scale_shift, _scale_shift))
positive.register_vmap(_over(positive, lambda operator, given: operator(given.wide(0))))
RULES: dict[Callable[[Any, _Stacked], Any], Sequence[Any]] = {
    _each_row: (
        aten.convolution.default,
        aten.max_pool2d_with_indices.default,
        aten.max_pool3d_with_indices.default,
        aten.avg_pool1d.default,
        aten.avg_pool2d.default,
        aten.avg_pool3d.default,
    ),
    _by_source: (aten._native_batch_norm_legit_no_training.default, aten.native_batch_norm.default),
    _layer_norm: (aten.native_layer_norm.default,),
    _at_places: (aten.gather.default, aten.scatter.src, aten.scatter.value, aten.scatter_add.default),
    _chosen: (aten.index_select.default,),
    _written: (aten.slice_scatter.default, aten.select_scatter.default),
    _joined: (aten.cat.default,),
}
FOLDED = {operator: _folded(operator, rule) for rule, operators in RULES.items() for operator in operators}
"""In place of those whose sizes PyTorch would fix."""
PLAIN: dict[Any, Any] = {own: operator for operator, own in FOLDED.items()}
"""Where nothing of theirs differs among streams."""
SIZES: dict[Any, Callable[..., Any]] = {
    aten.sym_size.int: lambda x, axis: x.shape[axis],
    aten.sym_numel.default: lambda x: x.numel(),
}
"""As plain functions: of one stream, where x is of many."""
