"""The step graphs of a bundle: chosen, compiled, and proved against the same step in PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.exporters.assembly import Step
from trimtab.exporters.marked import Array, Marked
from trimtab.exporters.methods import method
from trimtab.exporters.parity import Comparison, difference
from trimtab.exporters.steps.compiler import Compiled, compile_step, hyperparameters, run
from trimtab.exporters.steps.method import Hyper, Method
from trimtab.exporters.steps.model import Model, build, choose
from trimtab.exporters.steps.optimisers import OPTIMISERS, STILL
from trimtab.exporters.steps.source import Sample, gather
from trimtab.exporters.survey import outputs, session
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
    """What may change: "affine", "bias", "all", or modules by name; by default what the method says."""
    optimiser: str = ""
    """"sgd" or "adam"; by default the method's first."""


@dataclass(frozen=True)
class Settled:
    """A choice that can be."""

    found: Method
    name: str
    changes: str | Sequence[str]
    optimiser: str | None


def settle(chosen: Sequence[str | MethodChoice]) -> list[Settled]:
    """What can be checked before there is a model. Raises ExportError."""
    settled: list[Settled] = []
    for choice in (MethodChoice(c) if isinstance(c, str) else c for c in chosen):
        found = method(choice.method)
        name = choice.name or found.name
        if not re.fullmatch(r"[a-z0-9_-]+", name):
            raise ExportError(
                f"methods: {name!r} may hold small letters, digits, - and _ only, since a file is named after it"
            )
        if name in [s.name for s in settled]:
            raise ExportError(f"methods: {name!r} is there twice; give one of them another name")
        optimiser = choice.optimiser or next(iter(found.rates), None)
        if optimiser is not None and optimiser not in found.rates:
            known = ", ".join(found.rates) or "none"
            raise ExportError(f"methods: {name}: optimiser {optimiser!r} does not fit; give {known}")
        settled.append(Settled(found, name, choice.changes or found.changes if found.changes else "", optimiser))
    return settled


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
) -> list[Step]:
    """All step graphs. `samples`: some of the source, for the proof. Raises ExportError where one cannot be made."""
    if not settled:
        return []
    base = build(model, marked, head, by_name)
    steps = []
    for choice in settled:
        try:
            own = ready(choice.found, base, choice.changes, choice.optimiser, marked, survey, sample)
            steps.append(_build(choice, own, marked, example, samples))
        except ExportError as error:
            raise ExportError(f"method {choice.name}: {error}") from error
    return steps


def _build(
    choice: Settled, model: Model, marked: Marked, example: Mapping[str, Tensor], samples: Mapping[str, Array]
) -> Step:
    found, name = choice.found, choice.name
    hyper = hyperparameters(found, choice.optimiser)
    compiled = compile_step(found, model, marked, example, hyper)
    parity = prove(name, found, compiled, model, marked, hyper, samples)
    entry = MethodEntry(
        name=name,
        method=found.name,
        does=found.does,
        paper=found.paper,
        graph=f"step.{name}.onnx",
        state=f"step.{name}.npz",
        optimiser=choice.optimiser or "",
        parameters=[PartEntry(name=p.name, shape=list(p.shape)) for p in model.parts],
        hyper={n: HyperEntry(default=h.default, low=h.low, high=h.high, meaning=h.meaning) for n, h in hyper.items()},
        metrics=compiled.metrics,
    )
    return Step(entry, StepFiles(compiled.graph, compiled.state), parity)


def ready(
    found: Method,
    base: Model,
    changes: str | Sequence[str],
    optimiser: str | None,
    marked: Marked,
    survey: Mapping[str, NDArray[Any]],
    sample: Sample,
) -> Model:
    """The model with what may change, how, and what the method needs of the source."""
    model = choose(base, changes, found.frozen_tail) if changes else base
    model = replace(model, optimiser=OPTIMISERS[optimiser] if optimiser else STILL)
    return gather(model, found.needs, marked, sample, survey)


def prove(
    name: str,
    found: Method,
    compiled: Compiled,
    model: Model,
    marked: Marked,
    hyper: Mapping[str, Hyper],
    samples: Mapping[str, Array],
) -> list[Comparison]:
    """Some steps of the graph against the same steps in PyTorch. Raises ExportError where they part."""
    run_graph = session(compiled.graph)
    values = {f"hyper.{n}": np.asarray(h.default, np.float32) for n, h in hyper.items()}
    state: dict[str, NDArray[Any]] = {f"state.{n}": v for n, v in compiled.state.items()}
    eager: dict[str, Tensor] = {n: torch.from_numpy(v.copy()) for n, v in state.items()}
    fixed = {n: torch.from_numpy(v) for n, v in values.items()}
    compared: list[Comparison] = []
    place = 0
    for batch in BATCHES:
        x = {n: v[(place + np.arange(batch)) % len(v)] for n, v in samples.items()}
        place += batch
        given = outputs(run_graph, {**x, **state, **values}, f"step.{name}")
        with torch.no_grad():
            wanted = run(found, model, marked, {**{n: torch.from_numpy(v) for n, v in x.items()}, **eager, **fixed})
        compared.append(
            Comparison(
                f"step.{name}", "changed", "source", batch, "y", difference("y", given["y"], wanted["y"].numpy())
            )
        )
        if "next.theta" in wanted:
            apart = relative(given["next.theta"], wanted["next.theta"].numpy())
            compared.append(Comparison(f"step.{name}", "changed", "source", batch, "theta", apart))
        state = {f"state.{n}": given[f"next.{n}"] for n in compiled.state}
        eager = {f"state.{n}": wanted[f"next.{n}"] for n in compiled.state}
    worst = max(compared, key=lambda c: c.difference)
    if not worst.difference <= TOLERANCE:
        raise ExportError(
            f"step graph and PyTorch differ in {worst.output} by {worst.difference:.2g} after some steps (accepted: "
            f"{TOLERANCE:g}); nothing was written"
        )
    return compared


def relative(value: NDArray[Any], wanted: NDArray[Any]) -> float:
    """|a - b| / |b|, of whole vectors; infinite where either holds NaN or infinity."""
    if not (np.isfinite(value).all() and np.isfinite(wanted).all()):
        return float("inf")
    return float(np.linalg.norm(value - wanted) / max(float(np.linalg.norm(wanted)), 1e-12))
