"""A whole step, recorded as ATen operators with a free number of samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel

from trimtab.exporters.steps.complex_pairs import Pairs
from trimtab.exporters.steps.decompositions import table
from trimtab.exporters.steps.loops import Recording, recorded_loops
from trimtab.exporters.steps.rewriting import Rewriting
from trimtab.exporters.trace import first_line, quiet, slow_path
from trimtab.runtime.errors import ExportError

SAMPLES = 4
"""In the batch that is traced. Not 1: PyTorch takes a size of 1 for one that stays."""

CHECKS = {
    torch.ops.aten._assert_async.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_tensor_metadata.default,
}
"""Of values, as `one_hot` has one: they compute nothing."""
VIEWS = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default}
Values = Mapping[str, Tensor]
Traced = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Values by name -> values by name."""


@dataclass(frozen=True)
class Recorded:
    graph: fx.GraphModule
    inputs: list[str]
    """Names of the placeholders, in order."""
    outputs: list[str]
    modules: dict[fx.Node, str]
    """The module that a node belongs to; of the backward pass, that whose values it works on."""
    loops: dict[fx.Node, Recorded]
    """The body of each loop."""


def record(step: Traced, values: Values, batched: set[str], root: nn.Module) -> Recorded:
    """Trace `step` on values of those shapes, those named in `batched` with a free first axis.

    `root`: whose modules are named in errors. Raises ExportError, naming module and operator, where a value cannot be
    traced or differentiated.
    """
    names = list(values)
    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    given = [fake_of(fake, values[name], int(name in batched)) for name in names]
    outputs: list[str] = []
    places = _Places()

    def flat(*tensors: Tensor) -> list[Tensor]:
        out = step(dict(zip(names, tensors, strict=True)))
        outputs.extend(out)
        return list(out.values())

    again: Again | None = None
    hooks = places.watch(root)
    try:
        with (
            quiet(),
            fake,
            torch.no_grad(),
            slow_path(),
            torch.backends.mkldnn.flags(enabled=False),  # else recurrent layers become one opaque operator
            sdpa_kernel(SDPBackend.MATH),  # and so does attention
            enable_python_dispatcher(),  # without it recurrent layers fix the number of samples
            recorded_loops() as bodies,
            Rewriting(),
        ):
            first = make_fx(flat)(*given)
            first.graph.eliminate_dead_code()
            again = Again(first, places.of_all(first.graph))
            graph = make_fx(functionalize(again.run, remove="mutations"), decomposition_table=table())(*given)
    except ExportError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, NotImplementedError) as error:
        place = again.place() if again is not None else places.of(error)
        raise ExportError(f"{place}: cannot be made a step graph: {first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    for name, value in zip(names, given, strict=True):
        if name in batched and fixed(value.shape[0]):
            raise ExportError("the number of samples does not stay free: somewhere the model makes it a plain number")
    for node in list(graph.graph.nodes):
        if node.target in CHECKS:
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    nodes = list(graph.graph.nodes)
    modules = {n: again.found[n.name] for n in nodes if n.name in again.found}
    loops = {n: _body(n, bodies, root) for n in nodes if n.target is torch.ops.trimtab.repeat.default}
    return Recorded(graph, names, outputs, modules, loops)


def _body(node: fx.Node, bodies: list[Recording], root: nn.Module) -> Recorded:
    """The body of a loop, recorded like a step: on values of the shapes that the loop is given."""
    key, _, _, carried, rows, given = node.args
    values, batched = {}, set()
    recording = bodies[key]  # type: ignore[index]
    for place, (name, argument) in enumerate(zip(recording.names(), (*carried, *rows, *given), strict=True)):  # type: ignore[misc]
        value = argument.meta["val"]
        free = not all(map(fixed, value.shape[:1])) or 0 <= place - len(recording.carried) < len(recording.rows)
        sizes = [SAMPLES, *value.shape[1:]] if free else list(value.shape)
        values[name] = torch.empty(sizes, dtype=value.dtype)
        batched |= {name} if free else set()
    return record(recording, values, batched, root)


class Again(Pairs):
    """Runs what was recorded, in which gradients are taken already, to be recorded without operators that change a
    value in place and with those that ATen decomposes decomposed. A new node belongs where the node that it comes
    from does."""

    def __init__(self, graph: fx.GraphModule, places: dict[fx.Node, str]) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.places = places
        self.found: dict[str, str] = {}

    def place(self) -> str:
        """The module of the node that was run last."""
        return self.places.get(self.now) or "the method's own step"

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A view may be none here: what decompositions make lies otherwise in memory than what they stand for."""
        return super().call_function(torch.ops.aten.reshape.default if target in VIEWS else target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for node in newest_nodes():
            if node.name in self.found:
                break
            self.found[node.name] = self.places.get(n, "")
        return result


def fixed(size: int | torch.SymInt) -> bool:
    """Whether tracing made a free size a plain number."""
    return not isinstance(size, torch.SymInt) or size.node.maybe_as_int() is not None


def fake_of(mode: FakeTensorMode, value: Tensor, free: int) -> Tensor:
    """A stand-in of that shape, of which the first `free` sizes are free."""
    value = value.detach()  # one tensor that is there under two names would be traced as one input
    if not free:
        return mode.from_tensor(value, static_shapes=True)
    sizes = [DimDynamic.DYNAMIC] * free + [DimDynamic.STATIC] * (value.dim() - free)
    return mode.from_tensor(value, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))


def newest_nodes() -> Iterable[fx.Node]:
    """Those of the graph that is being traced, the newest first."""
    mode = get_proxy_mode()
    return () if mode is None else reversed(mode.tracer.graph.nodes)


class _Places:
    """Which module runs while a node is recorded."""

    def __init__(self) -> None:
        self.stack: list[tuple[str, str]] = []
        self.last = ""
        self.found: dict[str, str] = {}
        """Name of a node -> the innermost module that was running."""

    def watch(self, root: nn.Module) -> list[Any]:
        hooks = []
        for name, module in root.named_modules():
            kind = type(module).__name__
            hooks.append(module.register_forward_pre_hook(self._enter(name, kind)))
            hooks.append(module.register_forward_hook(self._leave(), always_call=True))
        return hooks

    def of(self, error: Exception) -> str:
        """Where an error comes from: the last use of the operator that it names, as errors of the backward pass do,
        else the last module that ran."""
        named = re.search(r"derivative for '?aten::(\w+)", str(error))
        users = [p for n, p in self.found.items() if named and re.fullmatch(rf"{named[1]}(_\d+)?", n) and p]
        return users[-1] if users else self.last or "the step"

    def of_all(self, graph: fx.Graph) -> dict[fx.Node, str]:
        """Nodes of the backward pass have none of their own: they belong where their newest placed input does."""
        places: dict[fx.Node, str] = {}
        order: dict[fx.Node, int] = {}
        for number, node in enumerate(graph.nodes):
            if self.found.get(node.name):
                places[node], order[node] = self.found[node.name], number
                continue
            placed = [n for n in node.all_input_nodes if n in places]
            if placed:
                newest = max(placed, key=lambda n: order[n])
                places[node], order[node] = places[newest], order[newest]
        return places

    def _enter(self, name: str, kind: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self._place()
            label = f"{name.removeprefix('model.') or 'the model'} ({kind})"
            self.stack.append((name, label))
            self.last = label

        return enter

    def _leave(self) -> Any:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._place()
            self.stack.pop()

        return leave

    def _place(self) -> None:
        """The nodes that are new belong to the innermost module."""
        label = self.stack[-1][1] if self.stack else ""
        for node in newest_nodes():
            if node.name in self.found:
                break
            self.found[node.name] = label
