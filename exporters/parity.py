"""Proof that the graphs compute what the model computes, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from trimtab.adapters.parameters import ParameterLayout
from trimtab.exporters.marked import Array, Marked
from trimtab.exporters.survey import loaded, outputs
from trimtab.runtime.errors import ExportError

Reference = Callable[[dict[str, Array], Array], dict[str, NDArray[Any]]]
"""(inputs in sensor units, theta) -> `y`, and where known `features` and `moments`."""

BATCHES = (1, 7, 64)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """The greatest difference of one output of one graph from the model's."""

    graph: str
    theta: str
    """`source`: as trained; `changed`: every parameter differs; `both`: one row of each, in one batch."""
    inputs: str
    """`random` or `source`."""
    batch: int
    output: str
    difference: float
    """max |a - b| / max(1, max |b|); for moments each against its own size (means: or the deviation)."""


def patched(graph: bytes, layout: ParameterLayout, theta: Array) -> bytes:
    """A serve or observe graph with other parameters. They are written into the file's initializers: overrides by
    `SessionOptions.add_initializer` come too late for the folding of Conv and BatchNormalization, which takes the
    values in the file."""
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        if tensor.name in layout:
            tensor.CopyFrom(numpy_helper.from_array(layout.view(theta, tensor.name).copy(), tensor.name))
    data: bytes = model.SerializeToString()
    return data


def changed_row(marked: Marked, theta: Array, rng: np.random.Generator) -> Array:
    """A row in which every parameter differs from the trained one, by about a tenth of its scale."""
    layout = marked.layout()
    row = theta.copy()
    scales = {b.parameter("mean"): np.sqrt(b.values["var"] + b.eps) for b in marked.layers if b.kind == "batch"}
    inputs = {f"input.{i.name}": i for i in marked.inputs}
    for p in layout:
        value = layout.view(row, p.name)
        noise = rng.uniform(0.05, 0.15, p.size) * rng.choice([-1.0, 1.0], p.size)
        if p.kind == "input.order":
            calibration = inputs[p.name.rpartition(".")[0]].calibration
            value[:] = calibration.orders[0] if calibration else value
        elif p.kind in ("input.gain", "norm.var", "norm.weight"):
            value *= np.exp(noise).astype(np.float32)
        elif p.kind == "input.offset":
            std = inputs[p.name.rpartition(".")[0]].std
            value += (noise * (np.asarray(std) if std else 1.0)).astype(np.float32)
        else:
            value += (noise * scales.get(p.name, 1.0)).astype(np.float32)
    return row


def random_inputs(marked: Marked, samples: dict[str, Array], count: int, rng: np.random.Generator) -> dict[str, Array]:
    """Gaussian inputs of the source's mean and deviation per channel; whole numbers are drawn from the source's."""
    out = {}
    for entry in marked.inputs:
        value = samples[entry.name]
        if entry.name in marked.integers:
            out[entry.name] = rng.choice(value.reshape(-1), (count, *entry.shape))
            continue
        axes = tuple(a for a in range(value.ndim) if a != 1)
        mean, std = value.mean(axes, keepdims=True, dtype=np.float64), value.std(axes, keepdims=True, dtype=np.float64)
        out[entry.name] = (mean + std * rng.standard_normal((count, *entry.shape))).astype(np.float32)
    return out


def compare(
    marked: Marked, graphs: dict[str, bytes], reference: Reference, samples: dict[str, Array], seed: int = 0
) -> list[Comparison]:
    """Compare every graph with the model on random and on source inputs, in batches of 1, 7 and 64."""
    rng = np.random.default_rng(seed)
    layout = marked.layout()
    rows = {"source": marked.theta()}
    rows["changed"] = changed_row(marked, rows["source"], rng)
    count = max(BATCHES)
    inputs = {
        "random": random_inputs(marked, samples, count, rng),
        "source": {k: v[np.arange(count) % len(v)] for k, v in samples.items()},
    }
    expected = {(i, t): reference(inputs[i], rows[t]) for i in inputs for t in rows}
    bank = np.stack([rows["source"], rows["changed"]])
    slot = np.arange(count) % 2
    found = []
    for which, graph in graphs.items():
        banked = which in ("banked", "probe")
        for theta in ("both",) if banked else tuple(rows):
            run = loaded(graph if banked else patched(graph, layout, rows[theta]), which)
            for given, batch in ((i, b) for i in inputs for b in BATCHES):
                feed: dict[str, NDArray[Any]] = {k: v[:batch] for k, v in inputs[given].items()}
                if banked:
                    feed |= {"slot": slot[:batch], "bank": bank}
                for name, value in outputs(run, feed, which).items():
                    wanted = _expected(expected, given, theta, name, batch, slot)
                    if wanted is not None:
                        found.append(Comparison(which, theta, given, batch, name, difference(name, value, wanted)))
    return found


def _expected(
    expected: dict[tuple[str, str], dict[str, NDArray[Any]]],
    inputs: str,
    theta: str,
    output: str,
    batch: int,
    slot: NDArray[np.int64],
) -> NDArray[Any] | None:
    if output not in expected[inputs, "source"]:
        return None
    if theta != "both":
        return expected[inputs, theta][output][:batch]
    source, changed = (expected[inputs, t][output] for t in ("source", "changed"))
    second = slot.reshape(-1, *[1] * (source.ndim - 1)) == 1
    return np.where(second, changed, source)[:batch]


def difference(output: str, value: NDArray[Any], wanted: NDArray[Any]) -> float:
    """See `Comparison.difference`; infinite where either holds NaN or infinity, or the shapes differ."""
    if value.shape != wanted.shape or not (np.isfinite(value).all() and np.isfinite(wanted).all()):
        return float("inf")
    if output == "moments":
        mean, var = wanted[:, 0], wanted[:, 1]
        size = np.maximum(1.0, np.stack([np.maximum(abs(mean), np.sqrt(var)), var], axis=1))
        return float(np.max(abs(value - wanted) / size))
    return float(np.max(abs(value - wanted)) / max(1.0, float(np.max(abs(wanted)))))


def refuse(found: list[Comparison], tolerance: float) -> None:
    """Raise ExportError with the worst comparison where it is beyond `tolerance`."""
    bad = max(found, key=lambda c: c.difference if c.difference == c.difference else float("inf"))
    if not bad.difference <= tolerance:
        raise ExportError(
            f"{bad.graph} graph: {bad.output} differs from the model's by {bad.difference:.2g} (accepted: "
            f"{tolerance:g}) on {bad.inputs} input in a batch of {bad.batch} with {bad.theta} parameters; "
            "nothing was written"
        )


def worst(found: list[Comparison]) -> dict[tuple[str, str], dict[int, float]]:
    """The greatest difference of each graph's outputs, by batch size, over inputs and parameters."""
    greatest: dict[tuple[str, str], dict[int, float]] = {}
    for c in found:
        by_batch = greatest.setdefault((c.graph, c.output), {})
        by_batch[c.batch] = max(by_batch.get(c.batch, 0.0), c.difference)
    return greatest


def table(found: list[Comparison]) -> Iterator[str]:
    """`worst` for a terminal."""
    wide = max(9, *(len(c.graph) + 1 for c in found))
    yield f"{'graph':<{wide}}{'output':<10}" + "".join(f"{f'batch {b}':>11}" for b in BATCHES)
    for (graph, output), by_batch in worst(found).items():
        cells = (f"{by_batch[b]:.1e}" if b in by_batch else "-" for b in BATCHES)
        yield f"{graph:<{wide}}{output:<10}" + "".join(f"{cell:>11}" for cell in cells)


def rows(found: list[Comparison]) -> dict[str, dict[str, float]]:
    """`worst` for the manifest."""
    return {
        f"{graph}.{output}": {f"batch {batch}": float(f"{value:.3g}") for batch, value in by_batch.items()}
        for (graph, output), by_batch in worst(found).items()
    }
