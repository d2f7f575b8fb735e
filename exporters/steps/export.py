"""The step graphs of a bundle: chosen, compiled, and proved against the same step in PyTorch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.exporters.assembly import Step
from trimtab.exporters.marked import Array, Marked
from trimtab.exporters.methods import METHODS, method
from trimtab.exporters.parity import Comparison, difference
from trimtab.exporters.steps.additive import added
from trimtab.exporters.steps.augment import of_images
from trimtab.exporters.steps.blocks import ADDED
from trimtab.exporters.steps.compiler import Compiled, compile_step, hyperparameters, run
from trimtab.exporters.steps.method import Hyper, Method
from trimtab.exporters.steps.model import Model, build, choose
from trimtab.exporters.steps.optimisers import OPTIMISERS, STILL
from trimtab.exporters.steps.source import Sample, gather
from trimtab.exporters.survey import loaded, outputs
from trimtab.runtime.bundle import HyperEntry, MethodEntry, PartEntry, StepFiles
from trimtab.runtime.errors import ExportError

TOLERANCE = 1e-3
"""Greatest accepted relative difference of theta after the steps of the proof, and of y in them."""
BATCHES = (64, 7, 64, 7)
"""Of the steps of the proof, one after another."""


@dataclass(frozen=True)
class MethodChoice:
    """A method with other choices than its own."""

    method: str
    name: str = ""
    """What the bundle calls it; by default the method's name."""
    changes: str | Sequence[str] = ""
    """What may change: "affine", "bias", "all", or modules by name; by default what the method says. For methods that
    add vectors to outputs: "norms", or modules by name."""
    optimiser: str = ""
    """"sgd", "nesterov", "adam" or, for weights, "muon"; by default the method's first."""
    streams: bool = False
    """Whether many streams can step in one call, too (`trimtab.adapters.load_streams`)."""
    views: str = ""
    """Of what methods that augment make their views: "" for any signal, "images" as the authors do for images of three
    colours from 0 to 1 (see `images`)."""


@dataclass(frozen=True)
class Settled:
    """A choice that can be."""

    found: Method
    name: str
    changes: str | Sequence[str]
    optimiser: str | None
    streams: bool
    views: str


def settle(chosen: Sequence[str | MethodChoice]) -> list[Settled]:
    """What can be checked before there is a model. Raises ExportError."""
    settled: list[Settled] = []
    if isinstance(chosen, str):
        raise ExportError(f"methods: {chosen!r} is no list; give methods=[{chosen!r}]")
    for choice in (MethodChoice(c) if isinstance(c, str) else c for c in chosen):
        found = method(choice.method)
        name = choice.name or found.name
        if not re.fullmatch(r"[a-z0-9_+-]+", name):
            raise ExportError(
                f"methods: {name!r} may hold small letters, digits, -, + and _ only, since a file is named after it"
            )
        if name in [s.name for s in settled]:
            raise ExportError(f"methods: {name!r} is there twice; give one of them another name")
        if not isinstance(choice.changes, str) and not choice.changes:
            raise ExportError(f"methods: {name}: changes is empty; name modules, or leave it out")
        optimiser = choice.optimiser or next(iter(found.rates), None)
        if optimiser is not None and optimiser not in found.learns_by:
            known = ", ".join(found.learns_by) or "none"
            raise ExportError(f"methods: {name}: optimiser {optimiser!r} does not fit; give {known}")
        if choice.changes and found.changes in ADDED:
            raise ExportError(f"methods: {name}: it changes {found.changes} and nothing else; leave `changes` out")
        if choice.changes and optimiser is None:
            raise ExportError(
                f"methods: {name}: {found.name} learns no parameter; leave changes={choice.changes!r} out"
            )
        if choice.streams and found.alone:
            raise ExportError(f"methods: {name}: its streams cannot step in one call, since {found.alone}")
        if choice.views and (choice.views != "images" or not found.augments):
            why = "there are 'images' only" if found.augments else f"{found.name} looks at none"
            raise ExportError(f"methods: {name}: views {choice.views!r} do not fit, {why}; leave them out")
        changes = choice.changes or found.changes
        settled.append(Settled(found, name, changes, optimiser, choice.streams, choice.views))
    return settled


def check_task(settled: Sequence[Settled], task: str) -> None:
    """Raises ExportError where a method needs classes and there are none."""
    if task == "regression" and (bound := [s.name for s in settled if not s.found.regression]):
        free = ", ".join(m.name for m in METHODS.values() if m.regression)
        raise ExportError(
            f"methods: {bound[0]} learns from predicted classes; a regression has none, and can have {free}"
        )


def build_steps(
    settled: Sequence[Settled],
    model: nn.Module,
    marked: Marked,
    head: str,
    by_name: bool,
    example: Mapping[str, Tensor],
    survey: Mapping[str, NDArray[Any]],
    sample: Sample,
    samples: Mapping[str, Array],
    task: str,
) -> list[Step]:
    """All step graphs. `survey`: what is remembered of the source, and `Survey.examples`. `samples`: some of the
    source, for the proof. Raises ExportError where one cannot be made."""
    if not settled:
        return []
    base = build(model, marked, head, by_name, task)
    steps = []
    for choice in settled:
        try:
            own = ready(choice, base, marked, survey, sample)
            steps.append(_build(choice, own, marked, example, samples))
        except ExportError as error:
            raise ExportError(f"method {choice.name}: {error}") from error
    return steps


def _build(
    choice: Settled, model: Model, marked: Marked, example: Mapping[str, Tensor], samples: Mapping[str, Array]
) -> Step:
    found, name = choice.found, choice.name
    hyper = hyperparameters(found, choice.optimiser)
    compiled = compile_step(found, model, marked, example, hyper, choice.streams)
    parity = prove(name, found, compiled, model, marked, hyper, samples)
    entry = MethodEntry(
        name=name,
        method=found.name,
        does=found.does,
        paper=found.paper,
        graph=f"step.{name}.onnx",
        state=f"step.{name}.npz",
        streams=f"step.{name}.streams.onnx" if choice.streams else "",
        optimiser=choice.optimiser or "",
        parameters=[PartEntry(name=p.name, shape=list(p.shape)) for p in model.parts],
        hyper={n: HyperEntry(default=h.default, low=h.low, high=h.high, meaning=h.meaning) for n, h in hyper.items()},
        metrics=compiled.metrics,
    )
    return Step(entry, StepFiles(compiled.graph, compiled.state, compiled.streams), parity)


def ready(choice: Settled, base: Model, marked: Marked, survey: Mapping[str, NDArray[Any]], sample: Sample) -> Model:
    """The model with what may change, how, and what the method needs of the source."""
    found, changes, optimiser = choice.found, choice.changes, choice.optimiser
    model = replace(base, views=of_images(marked)) if choice.views else base
    if found.changes in ADDED:
        model = ADDED[found.changes](model)
    elif changes:
        model = added(model, changes, marked, sample) if found.adds else choose(model, changes, found.frozen)
    shapes = [part.shape for part in model.parts]
    if optimiser == "muon" and not any(len(shape) > 1 for shape in shapes):
        raise ExportError("muon is for matrices, and none may change; give changes='all' or modules, or sgd or adam")
    model = replace(model, optimiser=OPTIMISERS[optimiser].of(shapes) if optimiser else STILL)
    return gather(model, found.needs, marked, sample, survey, found.learns_by[optimiser] if optimiser else 0.0)


def prove(
    name: str,
    found: Method,
    compiled: Compiled,
    model: Model,
    marked: Marked,
    hyper: Mapping[str, Hyper],
    samples: Mapping[str, Array],
) -> list[Comparison]:
    """Some steps of each graph against the same steps in PyTorch. Raises ExportError where they part.

    Where the exact gradient is zero, Adam makes whole steps of rounding errors, which no two programs share, and the
    steps that follow make more of it. So where they part, each step is judged by itself, from the state that the graph
    was in, by the same step in float64: the graph may be twice as far from it as PyTorch's float32 is.
    """
    chosen = {n: h.default for n, h in hyper.items()} | dict(found.proof)
    values = {f"hyper.{n}": np.asarray(v, np.float32) for n, v in chosen.items()}
    starts = np.cumsum([0, *BATCHES])
    batches = [
        {n: v[(s + np.arange(b)) % len(v)] for n, v in samples.items()}
        for s, b in zip(starts[:-1], BATCHES, strict=True)
    ]

    def in_graph(name: str, graph: bytes) -> Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
        session_ = loaded(graph, name)
        return lambda feed: outputs(session_, feed, name)

    def in_streams(name: str, graph: bytes) -> Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
        """As the second of two streams, of which the other gets other samples."""
        both = in_graph(name, graph)

        def step(feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            other = {n: v * np.float32(0.5) for n, v in feed.items() if n in samples}
            pairs = {n: np.stack([other.get(n, v), v]) for n, v in feed.items() if n not in values}
            return {n: v[1] for n, v in both({**pairs, **values}).items()}

        return step

    def in_torch(dtype: torch.dtype) -> Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
        own = model.bound({n: v.to(dtype) if v.is_floating_point() else v for n, v in model.constants.items()})

        def step(feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            tensors = {n: torch.from_numpy(v) for n, v in feed.items()}
            given = {n: v.to(dtype) if v.is_floating_point() else v for n, v in tensors.items()}
            with torch.no_grad():
                return {n: v.numpy() for n, v in run(found, own, marked, given).items()}

        return step

    def follow(
        step: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]], led: Steps = ()
    ) -> list[dict[str, NDArray[Any]]]:
        """One step after another, each from where the last one ended; or from where that of `led` did."""
        state: dict[str, NDArray[Any]] = {f"state.{n}": v.copy() for n, v in compiled.state.items()}
        taken = []
        for at, batch in enumerate(batches):
            taken.append(step({**batch, **state, **values}))
            state = {f"state.{n}": (led or taken)[at][f"next.{n}"] for n in compiled.state}
        return taken

    eager = follow(in_torch(torch.float32))
    known = {f"step.{name}": follow(in_graph(f"step.{name}", compiled.graph))}
    if compiled.streams:
        known[f"step.{name}.streams"] = follow(in_streams(f"step.{name}.streams", compiled.streams))
    every: list[Comparison] = []
    for which, graph in known.items():
        compared = [
            Comparison(which, "changed", "source", batch, what, apart(what, ours[key], theirs[key]))
            for batch, ours, theirs in zip(BATCHES, graph, eager, strict=True)
            for what, key in (("y", "y"), ("theta", "next.theta"))
            if key in theirs
        ]
        if not all(c.difference <= TOLERANCE for c in compared):
            _judge(which, graph, follow(in_torch(torch.float32), graph), follow(in_torch(torch.float64), graph))
        every += compared
    return every


Steps = Sequence[Mapping[str, NDArray[Any]]]
"""The outputs of some steps, one after another."""


def _judge(which: str, graph: Steps, eager: Steps, exact: Steps) -> None:
    """Raises ExportError where the graph is further from what is exact than PyTorch lets expect: by steps that each
    begin where the graph's do."""
    for ours, theirs, truth in zip(graph, eager, exact, strict=True):
        for what, key in (("y", "y"), ("theta", "next.theta")):
            if key in truth and not (
                (error := apart(what, ours[key], truth[key]))
                <= max(TOLERANCE, 2.0 * apart(what, theirs[key], truth[key]))
                < float("inf")
            ):
                raise ExportError(
                    f"{what} of {which} is wrong by {error:.2g} after a step (accepted: {TOLERANCE:g}), "
                    "more than in PyTorch; nothing was written"
                )


def apart(what: str, value: NDArray[Any], wanted: NDArray[Any]) -> float:
    return relative(value, wanted) if what == "theta" else difference(what, value, wanted)


def relative(value: NDArray[Any], wanted: NDArray[Any]) -> float:
    """|a - b| / |b|, of whole vectors; infinite where either holds NaN or infinity.

    Vectors that begin at zero may still be there: beside values of a thousandth it is no longer relative.
    """
    if not (np.isfinite(value).all() and np.isfinite(wanted).all()):
        return float("inf")
    least = 1e-3 * max(wanted.size, 1) ** 0.5
    return float(np.linalg.norm(value - wanted) / max(float(np.linalg.norm(wanted)), least))
