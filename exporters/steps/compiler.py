"""From a method and a model to a step graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

import trimtab.exporters.steps.operators  # noqa: F401 - registers them
from trimtab.exporters.drafting import Draft, ending, reads
from trimtab.exporters.marked import Marked
from trimtab.exporters.steps.method import Hyper, Method, State
from trimtab.exporters.steps.model import Model
from trimtab.exporters.steps.optimisers import OPTIMISERS
from trimtab.exporters.steps.streams import over_streams
from trimtab.exporters.steps.tracing import SAMPLES, Recorded, record
from trimtab.exporters.steps.translation import TYPES, Translation, constants
from trimtab.exporters.trace import OPSET
from trimtab.runtime.errors import ExportError

Array = NDArray[np.float32]
Sizes = list[str | int | None]
"""Of an ONNX value: numbers, or names of those that are free."""


def run(method: Method, model: Model, marked: Marked, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One step in PyTorch, by the names of the step graph. Traced, and what the graph is compared with.

    Raises ExportError where the method's new state is not like the one before.
    """
    given = {key: _of(named, key) for key in ("state", "hyper")}
    inputs = model.standardised({entry.name: named[entry.name] for entry in marked.inputs}, marked)
    state, y, metrics = method.step(model, given["state"], inputs, given["hyper"])
    for name, value in given["state"].items():
        if name not in state or state[name].shape != value.shape or state[name].dtype != value.dtype:
            raise ExportError(f"{method.name}: the state {name!r} is lost or changes its shape or type in a step")
    return {
        **{f"next.{name}": state[name] for name in given["state"]},
        "y": y,
        **{f"metric.{name}": value.to(torch.float32) for name, value in metrics.items()},
    }


def _of(named: Mapping[str, Tensor], key: str) -> State:
    return {name.partition(".")[2]: value for name, value in named.items() if name.startswith(f"{key}.")}


@dataclass(frozen=True)
class Compiled:
    """A step graph, and what must be known to run it."""

    graph: bytes
    streams: bytes
    """The same step of many streams; empty where it was not asked for."""
    state: dict[str, NDArray[np.generic]]
    """Before the first step."""
    metrics: list[str]


def hyperparameters(method: Method, optimiser: str | None) -> dict[str, Hyper]:
    """All of a method's, those of the optimiser first."""
    found: dict[str, Hyper] = {}
    if optimiser is not None:
        found["lr"] = Hyper(method.learns_by[optimiser], 0.0, 10.0, "learning rate")
        found |= {name: Hyper(*rest) for name, rest in OPTIMISERS[optimiser].hyper.items()}
    return found | dict(method.hyper)


def compile_step(
    method: Method,
    model: Model,
    marked: Marked,
    example: Mapping[str, Tensor],
    hyper: Mapping[str, Hyper],
    streams: bool = False,
) -> Compiled:
    """The step graph: inputs `<input>` in sensor units, `state.*`, `hyper.*`; outputs `next.*`, `y`, `metric.*`.

    `next.theta` is `state.theta` after the step, and so on: ONNX allows no output of an input's name.

    `example`: some samples of each input, for shapes. `streams`: another graph, too, in which all but the
    hyperparameters have a first axis of streams. Raises ExportError, naming module and operator, where a part cannot be
    differentiated or written in ONNX.
    """
    state = method.init_state(model)
    values: dict[str, Tensor] = {f"state.{name}": value for name, value in state.items()}
    values |= {f"hyper.{name}": torch.tensor(h.default) for name, h in hyper.items()}
    given = {name: x[torch.arange(SAMPLES) % len(x)].float() for name, x in example.items()}
    every = {**given, **values, **model.constants}

    def step(named: dict[str, Tensor]) -> dict[str, Tensor]:
        return run(method, model.bound({n: named[n] for n in model.constants}), marked, named)

    recorded = record(step, every, set(given), model.whole)
    graph = _written(recorded, method.name, model, marked, given, values, [])
    over = b""
    if streams:
        stacked = {*given, *(name for name in values if name.startswith("state."))}
        recorded = over_streams(recorded, every, set(given), stacked)
        over = _written(recorded, method.name, model, marked, given, values, ["S"])
    metrics = [n.removeprefix("metric.") for n in recorded.outputs if n.startswith("metric.")]
    return Compiled(graph, over, {n: v.detach().numpy() for n, v in state.items()}, metrics)


def _written(
    recorded: Recorded,
    name: str,
    model: Model,
    marked: Marked,
    given: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    lead: Sizes,
) -> bytes:
    """The ONNX file of what was recorded. `lead`: the names of the axes before those of one stream."""
    draft = Draft()
    known, names = constants(model.constants, {p.name for p in marked.layout()}, draft)
    ends = Translation(recorded, draft, known, names).run()
    nodes = ending(draft, dict(zip(recorded.outputs, ends, strict=True)))

    def described(name: str) -> onnx.ValueInfoProto:
        value = values.get(name.replace("next.", "state."))
        own: Sizes
        if name in given:
            return helper.make_tensor_value_info(name, TYPES[given[name].dtype], [*lead, "N", *given[name].shape[1:]])
        if value is None:
            own = ["N", marked.outputs] if name == "y" else []
            return helper.make_tensor_value_info(name, TYPES[torch.float32], [*lead, *own])
        own = list(value.shape)
        return helper.make_tensor_value_info(name, TYPES[value.dtype], own if name.startswith("hyper.") else lead + own)

    used = set().union(*map(reads, nodes))
    graph = helper.make_graph(
        nodes,
        f"step.{name}",
        [described(n) for n in (*given, *values)],
        [described(n) for n in recorded.outputs],
        [tensor for name, tensor in draft.initializers.items() if name in used],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString()
    return data
