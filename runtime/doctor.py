"""What this box can run, and how fast: for a person in front of it, or a script that sets it up."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trimtab.runtime.bundle import Bundle, load_bundle, read_step
from trimtab.runtime.config import Provider, Sessions
from trimtab.runtime.errors import ProviderError
from trimtab.runtime.folding import Template
from trimtab.runtime.providers import (
    IR_VERSION,
    NAMES,
    Name,
    Opener,
    Range,
    distributions,
    library,
    mend,
    why_not,
)

BATCHES = (1, 16, 64)
SLOTS = 64
"""Rows of the bank that the banked graph is timed with."""
SHAPE = (6, 64)
"""Of one sample of the built-in model."""


@dataclass(frozen=True)
class Tried:
    """One provider of ONNX Runtime."""

    name: Name
    works: bool
    reason: str | None
    """Why it does not work, in the library's words."""
    mend: str | None
    device: str | None
    """What it runs on, where it works."""


@dataclass(frozen=True)
class Timing:
    """How long one call takes."""

    provider: Name
    graph: str
    threads: int
    batch: int
    milliseconds: float
    """Median."""
    slow: float
    """95 of 100 calls are quicker; milliseconds."""


@dataclass(frozen=True)
class Report:
    trimtab: str
    python: str
    system: str
    processor: str
    cores: int
    onnxruntime: str | None
    """Version of the module that is imported; None where there is none."""
    distributions: dict[str, str]
    """Installed distributions that provide it."""
    advice: list[str]
    """What should be mended, one sentence each."""
    providers: list[Tried]
    model: str
    """What was timed."""
    timings: list[Timing] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether any provider works."""
        return any(p.works for p in self.providers)


def examine(bundle: Path | None = None, *, patience: float = 0.1) -> Report:
    """Try every provider and time a model on those that work.

    `bundle`: the folder of the bundle to time; a small built-in model where None. `patience`: seconds to spend on
    each figure. Raises BundleError where the bundle cannot be used.
    """
    loaded = load_bundle(bundle) if bundle is not None else None
    installed = distributions()
    advice = []
    try:
        found: str | None = str(library().__version__)
        tried = [_try(name) for name in NAMES]
    except ProviderError as error:
        found, tried = None, [Tried(name, False, "onnxruntime is not installed", None, None) for name in NAMES]
        advice.append(str(error))
    if len(installed) > 1:
        names = " and ".join(installed)
        advice.append(
            f"{names} are both installed and overwrite each other's files: pip uninstall {' '.join(installed)}, "
            "then install one of them again (trimtab[cpu] or trimtab[gpu])"
        )
    cores = len(os.sched_getaffinity(0))
    if loaded is None:
        model = f"built-in model, {SHAPE[0]} channels x {SHAPE[1]} rows"
    else:
        model = f"{loaded.manifest.name} ({loaded.path}), {loaded.layout.size} parameters"
    return Report(
        trimtab=version("trimtab"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=_processor(),
        cores=cores,
        onnxruntime=found,
        distributions=installed,
        advice=advice,
        providers=tried,
        model=model,
        timings=[
            timing
            for provider in tried
            if provider.works
            for threads in ((1, cores) if provider.name == "cpu" and cores > 1 else (1,))
            for timing in _time(provider.name, threads, loaded, patience)
        ],
    )


def lines(report: Report) -> list[str]:
    """The report for a terminal."""
    library_line = "onnxruntime is missing"
    if report.onnxruntime is not None:
        installed = ", ".join(f"{name} {number}" for name, number in report.distributions.items())
        library_line = f"onnxruntime {report.onnxruntime} (installed: {installed or 'without a distribution'})"
    text = [
        f"trimtab {report.trimtab}, Python {report.python}, {report.system}",
        f"{report.processor}, {report.cores} core{'s' if report.cores != 1 else ''}",
        library_line,
        *(f"MEND: {sentence}" for sentence in report.advice),
        "",
    ]
    for p in report.providers:
        if p.works:
            text.append(f"{p.name:<9} works on {p.device}")
        else:
            text.append(f"{p.name:<9} does not work: {p.reason}" + (f" (to use it: {p.mend})" if p.mend else ""))
    if report.timings:
        text += ["", f"milliseconds per call, median (95 %): {report.model}"]
        wide = max(8, *(len(t.graph) for t in report.timings))
        text.append(
            f"{'provider':<9} {'threads':>7}  {'graph':<{wide}}" + "".join(f"{f'batch {b}':>20}" for b in BATCHES)
        )
        cells: dict[tuple[str, int, str], str] = {}
        for t in report.timings:
            key = (t.provider, t.threads, t.graph)
            cells[key] = cells.get(key, "") + f"{f'{t.milliseconds:.3f} ({t.slow:.3f})':>20}"
        text += [f"{name:<9} {threads:>7}  {graph:<{wide}}{cell}" for (name, threads, graph), cell in cells.items()]
    return text


def _try(name: Name) -> Tried:
    reason = why_not(name)
    if reason is not None:
        return Tried(name, False, reason, mend(name), None)
    return Tried(name, True, None, None, _processor() if name == "cpu" else _gpu())


def _time(name: Name, threads: int, bundle: Bundle | None, patience: float) -> Iterator[Timing]:
    with tempfile.TemporaryDirectory(prefix="trimtab-doctor-") as cache:
        opener = Opener(Sessions(providers=[Provider(name=name, required=True)], threads=threads), Path(cache))
        for which, graph, inputs, fixed in _graphs(bundle):
            ranges = {key: Range((1, *v.shape[1:]), v.shape, v.shape) for key, v in inputs.items()}
            ranges |= {key: Range(v.shape, v.shape, v.shape) for key, v in fixed.items()}
            session = opener.open(graph, ranges, keep=False)
            for batch in BATCHES:
                feed = {**{key: value[:batch] for key, value in inputs.items()}, **fixed}
                spent = _spent(session, feed, patience)
                slow = quantiles(spent, n=20)[-1] if len(spent) > 1 else spent[0]
                yield Timing(name, which, threads, batch, median(spent) * 1e3, slow * 1e3)


def _spent(session: Any, feed: dict[str, NDArray[Any]], patience: float) -> list[float]:
    """Seconds of each call, for `patience` seconds, after one that is not counted."""
    session.run(None, feed)
    spent: list[float] = []
    begin = end = time.perf_counter()
    while end - begin < patience or len(spent) < 3:
        start = time.perf_counter()
        session.run(None, feed)
        end = time.perf_counter()
        spent.append(end - start)
    return spent


def _graphs(bundle: Bundle | None) -> Iterator[tuple[str, bytes, dict[str, NDArray[Any]], dict[str, NDArray[Any]]]]:
    """Name, serialised graph, the largest batch of its inputs, and those that are alike for any batch.

    Raises BundleError where a step graph cannot be read.
    """
    most = max(BATCHES)
    if bundle is None:
        yield "built-in", _model(), {"x": np.zeros((most, *SHAPE), np.float32)}, {}
        return
    inputs: dict[str, NDArray[Any]] = {i.name: np.zeros((most, *i.shape), np.float32) for i in bundle.manifest.inputs}
    theta = np.asarray(bundle.source.theta, np.float32)
    for which in ("serve", "observe"):
        if which in bundle.manifest.graphs:
            template = Template(bundle.graph(which), bundle.layout, str(bundle.path / f"{which}.onnx"))
            yield which, template.patched(theta), inputs, {}
    if "banked" in bundle.manifest.graphs:
        slot = np.arange(most, dtype=np.int64) % SLOTS
        yield "banked", bundle.graph("banked"), {**inputs, "slot": slot}, {"bank": np.tile(theta, (SLOTS, 1))}
    for method in bundle.manifest.methods:
        step = read_step(bundle, method.name)
        fixed: dict[str, NDArray[Any]] = {f"state.{name}": value for name, value in step.start.items()}
        fixed |= {f"hyper.{name}": np.asarray(h.default, np.float32) for name, h in step.hyper.items()}
        yield f"step.{method.name}", step.graph, inputs, fixed


def _model() -> bytes:
    """Three convolutions over a window of rows, a mean, a linear layer: about what a motion sensor's model is."""
    rng = np.random.default_rng(0)
    widths = [SHAPE[0], 32, 64, 64]
    nodes, weights, value = [], [], "x"
    for n, (before, after) in enumerate(pairwise(widths)):
        weights.append(numpy_helper.from_array(rng.normal(0, 0.1, (after, before, 5)).astype(np.float32), f"w{n}"))
        nodes.append(helper.make_node("Conv", [value, f"w{n}"], [f"c{n}"], kernel_shape=[5]))
        nodes.append(helper.make_node("Relu", [f"c{n}"], [f"r{n}"]))
        value = f"r{n}"
    weights.append(numpy_helper.from_array(rng.normal(0, 0.1, (widths[-1], 8)).astype(np.float32), "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "head"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "doctor",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=IR_VERSION)
    data: bytes = model.SerializeToString()
    return data


def _processor() -> str:
    """The processor's name as the kernel tells it; an Arm board's own name where it tells none."""
    for file, key in (("/proc/cpuinfo", "model name"), ("/proc/device-tree/model", "")):
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith(key):
                return line.rpartition(":")[2].strip(" \t\0")
    return platform.machine()


def _gpu() -> str:
    """Names and drivers of the NVIDIA GPUs, as their own tool tells them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return f"a GPU of {_processor()}"
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "a GPU that nvidia-smi cannot describe"
    return "; ".join(f"{line.replace(', ', ', driver ')}" for line in done.stdout.strip().splitlines())
