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
from trimtab.exporters.steps.tracing import SAMPLES, record
from trimtab.exporters.steps.translation import TYPES, Translation, constants
from trimtab.exporters.trace import OPSET
from trimtab.runtime.errors import ExportError

Array = NDArray[np.float32]


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
    method: Method, model: Model, marked: Marked, example: Mapping[str, Tensor], hyper: Mapping[str, Hyper]
) -> Compiled:
    """The step graph: inputs `<input>` in sensor units, `state.*`, `hyper.*`; outputs `next.*`, `y`, `metric.*`.

    `next.theta` is `state.theta` after the step, and so on: ONNX allows no output of an input's name.

    `example`: some samples of each input, for shapes. Raises ExportError, naming module and operator, where a part
    cannot be differentiated or written in ONNX.
    """
    state = method.init_state(model)
    values: dict[str, Tensor] = {f"state.{name}": value for name, value in state.items()}
    values |= {f"hyper.{name}": torch.tensor(h.default) for name, h in hyper.items()}
    given = {name: x[torch.arange(SAMPLES) % len(x)].float() for name, x in example.items()}

    def step(named: dict[str, Tensor]) -> dict[str, Tensor]:
        return run(method, model.bound({n: named[n] for n in model.constants}), marked, named)

    recorded = record(step, {**given, **values, **model.constants}, set(given), model.whole)
    draft = Draft()
    known, names = constants(model.constants, {p.name for p in marked.layout()}, draft)
    ends = Translation(recorded, draft, known, names).run()
    nodes = ending(draft, dict(zip(recorded.outputs, ends, strict=True)))
    used = set().union(*map(reads, nodes))
    graph = helper.make_graph(
        nodes,
        f"step.{method.name}",
        [
            helper.make_tensor_value_info(n, TYPES[v.dtype], ["N", *v.shape[1:]] if n in given else list(v.shape))
            for n, v in (*given.items(), *values.items())
        ],
        [helper.make_tensor_value_info(f"next.{n}", TYPES[v.dtype], list(v.shape)) for n, v in state.items()]
        + [
            helper.make_tensor_value_info(n, TYPES[torch.float32], ["N", marked.outputs] if n == "y" else [])
            for n in recorded.outputs
            if not n.startswith("next.")
        ],
        [tensor for name, tensor in draft.initializers.items() if name in used],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(proto)
    metrics = [n.removeprefix("metric.") for n in recorded.outputs if n.startswith("metric.")]
    return Compiled(proto.SerializeToString(), {n: v.detach().numpy() for n, v in state.items()}, metrics)
