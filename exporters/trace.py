"""From a PyTorch module to a marked ONNX model. Imports torch: only `export` reaches here."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from trimtab.exporters.aware_norm import InstanceAwareNorm
from trimtab.exporters.inner_norms import INNER, NORMS, PLAIN_FORWARDS, Rerouted, loose, reroute
from trimtab.exporters.marked import Array, Layer, Marked, Shape, place_of_samples
from trimtab.runtime.bundle import Input
from trimtab.runtime.errors import ExportError

OPSET = 18
"""What torch's exporter writes natively; later ones are made by a version conversion that it may refuse."""

HEADS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
MIXED = 1e-3
"""From this difference on, beside the output's size, a sample's output is not its own."""


@dataclass
class NormMarker:
    """Stands in for the forward of a norm and leaves `trimtab::Norm` in the ONNX graph."""

    layer: str

    def __call__(self, x: Tensor) -> Tensor:
        return _marker("Norm", x, {"layer": self.layer, "shape": _shape(x)})


def mark_features(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A hook before the last layer: leaves `trimtab::Features` in the ONNX graph."""
    return (_marker("Features", args[0], {"shape": _shape(args[0])}), *args[1:])


class Whole(nn.Module):
    """The model as a bundle sees it: inputs by name or by position, one output `[N, K]`."""

    def __init__(self, model: nn.Module, names: Sequence[str], by_name: bool) -> None:
        super().__init__()
        self.model = model
        self.names = list(names)
        self.by_name = by_name

    def forward(self, *inputs: Tensor) -> Tensor:
        y = self.model(**dict(zip(self.names, inputs, strict=True))) if self.by_name else self.model(*inputs)
        if not isinstance(y, Tensor):
            raise ExportError(
                f"the model returns a {type(y).__name__}; a bundle needs one tensor [N, K]: wrap the model in a "
                "module that returns its logits or values alone"
            )
        return y.unsqueeze(1) if y.dim() == 1 else y


def _marker(op: str, x: Tensor, attributes: dict[str, Any]) -> Tensor:
    return torch.onnx.ops.symbolic(f"trimtab::{op}", (x,), attrs=attributes, dtype=x.dtype, shape=x.shape, version=1)


def _shape(x: Tensor) -> list[int]:
    return [-1 if isinstance(d, torch.SymInt) else d for d in x.shape]


@dataclass
class Rehearsal:
    """What eager runs, of 2 and of 3 samples, show of a model."""

    shapes: dict[str, list[tuple[Shape, Shape]]] = field(default_factory=dict)
    """Norm -> shape of its input at each use, with 2 and with 3 samples; in the order of execution."""
    head: str = ""
    features_shape: Shape = ()
    features_axis: int = -1
    outputs: int = 0


def prepare(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy for export: on the CPU, float32, in evaluation mode. And notes for people."""
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ExportError(
                f"{name or 'the model'} is TorchScript, which torch.onnx.export does not take; give the module that it "
                "was made from, or write an ONNX file elsewhere and use `trimtab import`"
            )
    tensors = (*model.named_parameters(), *model.named_buffers())
    for name, tensor in tensors:
        if nn.parameter.is_lazy(tensor):
            raise ExportError(
                f"{name} has no values yet; run the model on a batch once, so that lazy modules have a shape"
            )
    kinds = {t.dtype for _, t in tensors if t.is_floating_point()}
    try:
        copied = duplicate(model).to("cpu").float().eval()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ExportError(f"the model cannot be copied: {first_line(error)}") from error
    others = sorted(str(k).removeprefix("torch.") for k in kinds - {torch.float32})
    notes = [f"the model's {', '.join(others)} values were converted to float32"] if others else []
    for name, module in list(copied.named_modules()):
        if isinstance(module, InstanceAwareNorm):
            module.fix()
        if isinstance(module, NORMS):
            _settle(module)
            if type(module).forward not in PLAIN_FORWARDS and reroute(module):
                notes.append(f"{name} ({type(module).__name__}) is a norm and more; the norm in it is {name}.{INNER}")
    copied.requires_grad_(False)
    return copied, notes


def duplicate(model: nn.Module) -> nn.Module:
    """A deep copy. What modules keep of a pass with gradients, as `torch.nn.utils.weight_norm` keeps the weight that it
    computes, PyTorch cannot copy; it is copied without its gradient."""
    known: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                known[id(value)] = value.detach().clone()
    return copy.deepcopy(model, known)


def _settle(module: nn.Module) -> None:
    """Make parametrised values plain ones. `remove_parametrizations` would change the class, which the caller's module
    shares with its copy."""
    parts = module._modules.get("parametrizations")
    if not isinstance(parts, nn.ModuleDict):
        return
    values = {part: getattr(module, part).detach().clone() for part in parts}
    del module.parametrizations
    module.__class__ = type(module).__mro__[1]
    for part, value in values.items():
        module.register_parameter(part, nn.Parameter(value))


def rehearse(whole: Whole, example: Sequence[Tensor], norms: Mapping[str, nn.Module], head: str | None) -> Rehearsal:
    """Run the model with 1, 2 and 3 samples and look at the shapes. Raises ExportError where it cannot run."""
    seen = Rehearsal()
    alone = torch.zeros(0)
    executed: list[tuple[str, Shape, Shape]] = []
    runs: list[dict[str, list[Shape]]] = []
    hooks = []
    modules = dict(whole.model.named_modules())
    if head is not None and head not in modules:
        raise ExportError(f"head: the model has no module named {head!r}; give a dotted name from named_modules()")
    for name, module in norms.items():
        hooks.append(module.register_forward_pre_hook(_recorder(name, runs)))
    for name, module in modules.items():
        if isinstance(module, HEADS) and name not in norms:
            hooks.append(module.register_forward_hook(_head_recorder(name, executed)))
    try:
        for samples in (1, 2, 3):
            runs.append({})
            executed.clear()
            y = _run(whole, [_repeat(x, samples) for x in example])
            if y.dim() != 2 or y.shape[0] != samples or not y.is_floating_point():
                kind = str(y.dtype).removeprefix("torch.")
                raise ExportError(
                    f"the model gives {list(y.shape)} ({kind}) for a batch of {samples}; a bundle needs floating point "
                    "[N, K]"
                )
            alone = y[0] if samples == 1 else alone
    finally:
        for hook in hooks:
            hook.remove()
    if (y[0] - alone).abs().max() > MIXED * max(1.0, float(alone.abs().max())):
        raise ExportError(
            "the model gives a sample another output beside other samples than alone, or is random; in a bundle every "
            "sample stands for itself"
        )
    seen.outputs = y.shape[1]
    _, two, three = runs
    seen.shapes = {name: list(zip(two[name], three[name], strict=True)) for name in three}
    _find_head(seen, executed, head)
    return seen


def _recorder(name: str, runs: list[dict[str, list[Shape]]]) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        runs[-1].setdefault(name, []).append(tuple(args[0].shape))

    return record


def _head_recorder(name: str, executed: list[tuple[str, Shape, Shape]]) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if args:
            executed.append((name, tuple(args[0].shape), tuple(output.shape)))

    return record


def _find_head(seen: Rehearsal, executed: list[tuple[str, Shape, Shape]], head: str | None) -> None:
    """The last linear layer or convolution that gives K channels; with `head`, that one."""
    for name, before, after in reversed(executed):
        convolution = len(before) > 2 and len(after) == len(before) and after[1] == seen.outputs
        linear = after[-1] == seen.outputs
        if head is not None and name != head:
            continue
        if before[0] == 3 and (linear or convolution):
            seen.head, seen.features_shape = name, before
            return
        if head is None:
            return
    if head is not None:
        raise ExportError(
            f"head: {head!r} is not a linear layer or convolution that is run and gives {seen.outputs} outputs a sample"
        )


def _run(whole: Whole, inputs: Sequence[Tensor]) -> Tensor:
    try:
        with torch.no_grad(), slow_path():
            y = whole(*inputs)
    except ExportError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, NotImplementedError) as error:
        shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in zip(whole.names, inputs, strict=True))
        raise ExportError(f"the model does not run on {shapes}: {first_line(error)}") from error
    if not isinstance(y, Tensor):
        raise ExportError("the model returns no tensor")
    return y


def _repeat(x: Tensor, samples: int) -> Tensor:
    return x[torch.arange(samples) % x.shape[0]]


@contextlib.contextmanager
def slow_path() -> Iterator[None]:
    """Transformer layers have a fused path that passes their norm modules by."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _within(name: str, modules: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{part}.") for part in modules)


def find_norms(model: nn.Module, frozen: Sequence[str], notes: list[str]) -> dict[str, nn.Module]:
    """The norm modules that can be exposed, by name. Raises ExportError on one that has no evaluation mode."""
    names = dict(model.named_modules())
    for name in frozen:
        if name not in names:
            raise ExportError(
                f"frozen: the model has no module named {name!r}; give a dotted name from named_modules()"
            )
    found: dict[str, nn.Module] = {}
    for name, module in names.items():
        if not isinstance(module, NORMS) or _within(name, frozen):
            continue
        if isinstance(vars(module).get("forward"), Rerouted):
            continue
        if type(module).forward not in PLAIN_FORWARDS:
            notes.append(f"{name} ({type(module).__name__}) computes its own forward and is left as it is")
            continue
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ExportError(
                f"{name}: this {type(module).__name__} keeps no running statistics, so each sample depends on its "
                "batch; set track_running_stats=True and train, or replace it"
            )
        found[name] = module
    return found


def describe(name: str, module: nn.Module, samples_axis: int, fold: int) -> Layer:
    """A norm module as a layer of the bundle."""
    values: dict[str, Array] = {}

    def take(part: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            values[part] = tensor.detach().float().cpu().numpy().reshape(-1).copy()

    if isinstance(module, (_BatchNorm, _InstanceNorm)):
        take("mean", module.running_mean)
        take("var", module.running_var)
    take("weight", getattr(module, "weight", None))
    take("bias", getattr(module, "bias", None))
    if isinstance(module, nn.GroupNorm):
        return Layer(name, "group", values, module.num_channels, module.eps, module.num_groups, fold=fold)
    if isinstance(module, nn.LayerNorm):
        dims = tuple(module.normalized_shape)
        return Layer(name, "layer", values, prod(dims), module.eps, dims=dims, fold=fold, samples_axis=samples_axis)
    if isinstance(module, (_BatchNorm, _InstanceNorm)):
        return Layer(
            name, "batch" if "mean" in values else "instance", values, module.num_features, module.eps, fold=fold
        )
    raise ExportError(f"{name}: {type(module).__name__} is no norm that a bundle knows")


def _samples(
    name: str, module: nn.Module, uses: Sequence[tuple[Shape, Shape]], whole: Whole, example: Sequence[Tensor]
) -> tuple[int, int] | None:
    """See `place_of_samples`. Raises ExportError where the samples have no axis, or are not one after another on it."""
    dims = len(module.normalized_shape) if isinstance(module, nn.LayerNorm) else 0
    try:
        place = place_of_samples(uses, dims)
    except ValueError:
        raise _scattered(name, module) from None
    if place is not None and place[1] > 1 and not _one_after_another(whole, example, module, place[1]):
        raise _scattered(name, module)
    return place


def _scattered(name: str, module: nn.Module) -> ExportError:
    return ExportError(
        f"{name}: the samples do not lie on one axis of this {type(module).__name__}'s input, one after another, so "
        f"that it cannot have parameters per sample; leave it as it is with frozen=[{name!r}]"
    )


def _one_after_another(whole: Whole, example: Sequence[Tensor], module: nn.Module, fold: int) -> bool:
    """Whether the first `fold` rows of the norm's input are the first sample's: they stay when the second changes."""
    rows: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, args: rows.append(args[0]))
    first = [x[:1] for x in example]
    try:
        _run(whole, [torch.cat([x, x]) for x in first])
        uses = len(rows)
        _run(whole, [torch.cat([x, x.flip(-1) + (x.is_floating_point() and torch.randn_like(x))]) for x in first])
    finally:
        hook.remove()
    return all(torch.allclose(a[:fold], b[:fold], atol=1e-5) for a, b in zip(rows[:uses], rows[uses:], strict=True))


def trace(
    model: nn.Module,
    example: Sequence[Tensor],
    inputs: list[Input],
    *,
    by_name: bool,
    head: str | None,
    frozen: Sequence[str],
    notes: list[str],
) -> tuple[Marked, str]:
    """Mark `model` (from `prepare`; it is left as it is) and export it.

    Returns the marked model and the dotted name of its last layer ("" where none was found).
    """
    whole = Whole(model, [i.name for i in inputs], by_name)
    norms = find_norms(model, frozen, notes)
    seen = rehearse(whole, example, norms, head)
    layers = []
    for name, uses in seen.shapes.items():
        place = _samples(name, norms[name], uses, whole, example)
        if place is None:
            notes.append(f"{name}: its input is the same for every sample, so it is left as it is")
        else:
            layers.append(describe(name, norms[name], *place))
    for name in norms:
        if name not in seen.shapes:
            notes.append(f"{name}: is never run, so it is left out")

    marking = copy.deepcopy(whole)
    by_path = dict(marking.model.named_modules())
    for layer in layers:
        # Not the module itself is replaced: others may look at its attributes.
        by_path[layer.name].forward = NormMarker(layer.name)
    features = 0
    axis = -1
    if seen.head:
        module = by_path[seen.head]
        axis = -1 if isinstance(module, nn.Linear) else 1
        features = seen.features_shape[axis]
        module.register_forward_pre_hook(mark_features)
    proto = _to_onnx(marking, example)
    marked = Marked(
        model=proto,
        inputs=inputs,
        layers=layers,
        features=features,
        outputs=seen.outputs,
        integers=frozenset(i.name for i, x in zip(inputs, example, strict=True) if not x.is_floating_point()),
        loose=tuple(n for n, m in model.named_modules() if loose(m) and not _within(n, frozen)),
        features_axis=axis,
        notes=notes,
    )
    return marked, seen.head


def _to_onnx(marking: Whole, example: Sequence[Tensor]) -> Any:
    batch = torch.export.Dim("N")
    try:
        with quiet(), torch.no_grad(), slow_path():
            program = torch.onnx.export(
                marking,
                tuple(_repeat(x, 2) for x in example),
                dynamo=True,
                optimize=True,  # without it Cast and Expand stay between Conv and BatchNormalization: nothing folds
                opset_version=OPSET,
                dynamic_shapes=(tuple({0: batch} for _ in example),),
                input_names=marking.names,
                output_names=["y"],
                verbose=False,
            )
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ExportError(
            f"torch.onnx.export cannot export the model with a free number of samples: {first_line(cause)}"
        ) from error
    if program is None:
        raise ExportError("torch.onnx.export returned nothing")
    proto = program.model_proto
    if not all(i.type.tensor_type.shape.dim[0].dim_param for i in proto.graph.input):
        # The exporter then tries again with a fixed batch, and says so in its log only.
        raise ExportError(
            "torch.onnx.export cannot leave the number of samples free: somewhere the model makes it a plain number, "
            "as len(x) and int(x.shape[0]) do; use x.shape[0]"
        )
    return proto


def first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".:")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch's exporter talks on stdout and stderr, in warnings and the log, of what its user cannot change."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def to_tensor(value: Any) -> Tensor:
    """A float32 or int64 tensor on the CPU."""
    tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))
    return tensor.float() if tensor.is_floating_point() else tensor.long()
