"""A step graph as one more way to propose a parameter vector: some steps on the windows, judged as any other.

It can be one where all that the method changes are parts of the bundle's parameter vector (weights and biases of norms,
biases, shifts). The steps begin with the values of the vector in use, and with what the method remembered when that
vector was made (the optimiser's memory, moving means). Where the method normalises by the statistics of its batch, they
are estimated anew afterwards (`trimtab.adapters.norm_statistics`): what is served normalises by statistics that are
kept, so that a window's decision depends on no other window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from trimtab.adapters.fit import finite_windows
from trimtab.adapters.methods import Context, Declined, Proposal, Windows
from trimtab.adapters.norm_statistics import NormStatistics
from trimtab.adapters.parameters import ParameterLayout
from trimtab.adapters.steps import State, StepAdapter, StepGraph, checked

FEWEST = 8
"""Windows to step on at the least: what fewer have for statistics says nothing."""


BEYOND = ("teacher", "statistics", "kept.", "shares.")
"""Beginnings of the names of what some methods predict by beside theta: a vector would not hold it."""


def is_row(graph: StepGraph, layout: ParameterLayout) -> bool:
    """Whether all that the method changes, and predicts by, are parts of the parameter vector."""
    sizes = {p.name: p.size for p in layout}
    return (
        bool(graph.parts)
        and "theta" in graph.start
        and not any(name.startswith(BEYOND) for name in graph.start)
        and all(sizes.get(p.name) == int(np.prod(p.shape)) for p in graph.parts)
    )


@dataclass(frozen=True)
class GradientSteps:
    """Options beside the method's hyperparameters:

    batch: windows in a step.
    passes: times that every window is stepped on.
    span: window numbers that the windows must span (see `trimtab.adapters.balance.too_alike`).
    """

    graph: StepGraph
    hyper: Mapping[str, float]
    batch: int = 64
    passes: int = 1
    span: int = 256
    threads: int = 1

    def __post_init__(self) -> None:
        checked(self.graph, self.hyper)
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; give at least 1")
        if self.passes < 1:
            raise ValueError(f"passes is {self.passes}; give at least 1")
        if self.span < 1:
            raise ValueError(f"span is {self.span}; give at least 1")

    @property
    def name(self) -> str:
        return self.graph.name

    def propose(
        self, context: Context, theta: NDArray[np.float32], windows: Windows, state: State | None = None
    ) -> Proposal | Declined:
        """As `Method.propose`. `state`: what the method remembered when `theta` was made; None: nothing."""
        windows = finite_windows(windows)
        if len(windows) < FEWEST:
            return Declined(self.name, f"{len(windows)} finite windows are remembered, where {FEWEST} are asked for")
        layout = context.layout
        model = onnx.load_model_from_string(self.graph.graph)
        adapter = StepAdapter(
            replace(self.graph, graph=_patched(model, layout, theta)), self.hyper, threads=self.threads
        )
        begin = dict(self.graph.start if state is None else state)
        begin["theta"] = np.concatenate([layout.view(theta, p.name) for p in self.graph.parts]).astype(np.float32)
        adapter.restore(begin)
        # Each batch is spread over all of the time that is remembered, and so over its classes.
        count = -(-len(windows) // self.batch)
        for n in range(self.passes * count):
            adapter.step({name: x[n % count :: count] for name, x in windows.inputs.items()})
        if adapter.refused:
            return Declined(self.name, f"{adapter.refused} steps had no finite result")
        row = theta.copy()
        for part in self.graph.parts:
            layout.view(row, part.name)[:] = adapter.part(part.name).reshape(-1)
        evidence = {
            "windows": float(len(windows)),
            "steps": float(self.passes * count),
            "moved": float(np.linalg.norm(row - theta)),
            **adapter.metrics,
        }
        kept = {tensor.name for tensor in model.graph.initializer}
        if any(n.kind == "batch" and f"norm.{n.name}.mean" not in kept for n in context.norms):
            estimated = NormStatistics(span=self.span).estimate(context, row, windows)
            if isinstance(estimated, Declined):
                return Declined(self.name, estimated.reason, evidence)
            row = estimated.theta
        return Proposal(self.name, row, evidence=evidence, state=adapter.state())


def _patched(model: onnx.ModelProto, layout: ParameterLayout, theta: NDArray[np.float32]) -> bytes:
    """The graph with the calibration of the inputs and the norms' statistics of `theta`.

    Its other constants are the source's, which methods hold on to.
    """
    for tensor in model.graph.initializer:
        if tensor.name in layout and layout[tensor.name].kind.startswith(("input.", "norm.mean", "norm.var")):
            tensor.ClearField("float_data")  # values are in one of two fields; the other must be empty
            tensor.raw_data = layout.view(theta, tensor.name).astype("<f4").tobytes()
    data: bytes = model.SerializeToString()
    return data
