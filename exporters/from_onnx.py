"""`import_onnx`: an existing ONNX file becomes a bundle. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from trimtab.exporters.assembly import Exported, assemble, check_names, lower_all
from trimtab.exporters.inputs import DEFAULT, Calibrations, PerInput, describe_inputs
from trimtab.exporters.marked import Array, Marked, Shape, place_of_samples
from trimtab.exporters.onnx_file import Graph, Place, convert, logits, mark, read, rehearse, unique
from trimtab.exporters.original import Original
from trimtab.exporters.parity import TOLERANCE, Comparison, difference
from trimtab.exporters.survey import Batch, session, survey
from trimtab.runtime.bundle import Input, Window
from trimtab.runtime.errors import ExportError


def import_onnx(
    path: str | Path,
    out: str | Path,
    *,
    source_batches: Iterable[Batch] | None = None,
    name: str | None = None,
    classes: Sequence[str] = (),
    targets: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | Sequence[int] = (),
    window: Window | None = None,
    channels: PerInput[str] = (),
    mean: PerInput[float] = (),
    std: PerInput[float] = (),
    calibration: Calibrations = DEFAULT,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Make the ONNX file `path` (float32, one output `[N, K]`) into a bundle in folder `out`.

    - Its batch, layer and instance normalisations are exposed as an export's are. A file that has none left (they
      were folded into the convolutions) has its biases per channel exposed instead, as norms of kind `bias`, whose
      moments are those of the value before the bias is added; the notes and the manifest say so.
    - A Softmax at the end is cut off, but for a regression: a bundle's y are logits.
    - `shapes`: of one sample, without the batch axis, where the file leaves axes open: of the first input, or by name.
    - `source_batches`: as for `export`. Without them the moments of batch norms are taken from their running
      statistics, all else from Gaussian noise of the inputs' `mean` and `std`, the class prior is even, and there are
      no reference signals to calibrate detectors with; the manifest says so.
    - `classes` or `targets`: names of the outputs; by default classes named 0, 1, ... .
    - All else as for `export`.

    Parity is proved against the file in ONNX Runtime. Raises ExportError, one sentence, where anything does not fit;
    nothing is written then.
    """
    if classes and targets:
        raise ExportError("give either classes (classification) or targets (regression), not both")
    by_name = _shapes(path, shapes)
    model = read(path, by_name)
    graph = Graph(convert(model, path), model.graph.output[0].name if targets else logits(model))
    inputs, integers = _inputs(model, channels=channels, mean=mean, std=std, calibration=calibration)
    notes: list[str] = []
    marked, places, features = _marked(graph, inputs, integers, path, notes)
    original = Original(model, marked, graph, places, features)
    if not targets and not classes:
        classes = [str(k) for k in range(marked.outputs)]
    if source_batches is None:
        notes.append(
            "without source data: the moments of batch norms are their running statistics, all else was taken from "
            "noise; detectors must learn what is normal on the box"
        )
    task = check_names(marked, classes, targets, window)
    graphs = lower_all(marked)
    if source_batches is None:
        found = survey(graphs["observe"], marked, task, _noise(inputs, integers))
        _without_source(found.source, marked, task)
    else:
        found = survey(graphs["observe"], marked, task, source_batches)
    return assemble(
        marked,
        graphs,
        found,
        original,
        out,
        name=name or Path(path).stem,
        classes=classes,
        targets=targets,
        window=window,
        tolerance=tolerance,
        provenance={
            "from": f"ONNX file {Path(path).name}",
            "producer": model.producer_name,
            "source": "data" if source_batches is not None else "running statistics and noise",
        },
        others=[_against_file(original, graphs["serve"], found.samples, graph.logits != graph.output)],
    )


def _against_file(original: Original, serve: bytes, samples: dict[str, Array], softmax: bool) -> Comparison:
    """The serve graph against the untouched file, its Softmax put back."""
    y = session(serve).run(["y"], samples)[0]
    if softmax:
        y = np.exp(y - y.max(1, keepdims=True))
        y = y / y.sum(1, keepdims=True)
    count = len(next(iter(samples.values())))
    return Comparison("serve", "source", "source", count, "file", difference("y", y, original.file(samples)))


def _without_source(source: dict[str, NDArray[Any]], marked: Marked, task: str) -> None:
    """Take out of a survey of noise what only data can tell, and put in what the file knows of its source."""
    at = 0
    for layer in marked.layers:
        if layer.kind == "batch":
            source["moments_mean"][at : at + layer.channels] = layer.values["mean"]
            source["moments_var"][at : at + layer.channels] = layer.values["var"]
        at += layer.channels
    data = ("reference.", "usual.", "moments_centre", "moments_whitening")
    for key in [k for k in source if k.startswith(data)]:
        del source[key]
    if task == "classification":
        source["class_prior"] = np.full(marked.outputs, 1.0 / marked.outputs)


def _shapes(path: str | Path, shapes: Mapping[str, Sequence[int]] | Sequence[int]) -> dict[str, list[int]]:
    if isinstance(shapes, Mapping):
        return {key: list(value) for key, value in shapes.items()}
    return {"": list(shapes)} if shapes else {}


def _inputs(
    model: onnx.ModelProto,
    *,
    channels: PerInput[str],
    mean: PerInput[float],
    std: PerInput[float],
    calibration: Calibrations,
) -> tuple[list[Input], frozenset[str]]:
    shapes: dict[str, list[int]] = {}
    integers = set()
    for entry in model.graph.input:
        shapes[entry.name] = [d.dim_value for d in entry.type.tensor_type.shape.dim][1:]
        if entry.type.tensor_type.elem_type == TensorProto.INT64:
            integers.add(entry.name)
    entries = describe_inputs(shapes, integers, channels=channels, mean=mean, std=std, calibration=calibration)
    return entries, frozenset(integers)


def _marked(
    graph: Graph, inputs: list[Input], integers: frozenset[str], path: str | Path, notes: list[str]
) -> tuple[Marked, list[Place], str]:
    """The marked model, where its norms are, and the value that holds the features ("": none)."""
    places = unique(list(graph.norms()))
    if not places:
        places = unique(list(graph.biases()))
        if places:
            notes.append(
                "the file has no norms left, they were folded away (or taken to pieces, as layer norms are below opset "
                f"17); the biases of {len(places)} convolutions and matrix products are exposed instead"
            )
        else:
            notes.append(
                "the file has neither norms nor biases in float32 that stand for themselves; only inputs, features and "
                "outputs can be adapted"
            )
        fused = sum(node.op_type in ("FusedConv", "FusedGemm", "FusedMatMul") for node in graph.model.graph.node)
        if fused:
            notes.append(
                f"ONNX Runtime has optimised the file already, and {fused} layers' biases cannot be reached; better "
                "import the file from before that"
            )
    if graph.logits != graph.output:
        notes.append("the file ends in a Softmax, which was cut off: the bundle's outputs are logits")
    head = graph.head()
    value = head.input[0] if head is not None else ""
    looked_at = [graph.logits, *([value] if value else []), *(p.source for p in places)]
    shapes = rehearse(graph.model, looked_at, inputs, integers, path)
    two, three = shapes[graph.logits]
    if len(two) != 2 or (two[0], three[0]) != (2, 3):
        raise ExportError(f"{path}: gives {list(two)} for 2 samples; a bundle needs [N, K]")
    kept = []
    for place in places:
        dims = len(place.layer.dims)
        uses = [shapes[place.source]]
        at = _placed(place, uses, dims)
        if at is None:
            notes.append(f"{place.layer.name}: its samples have no axis of their own, so it is left as it is")
        else:
            kept.append(replace(place, layer=replace(place.layer, samples_axis=at[0])))
    features = 0
    axis = -1
    if head is not None and shapes[value][0][0] == 2 and shapes[value][1][0] == 3:
        axis = 1 if head.op_type == "Conv" else -1
        features = shapes[value][0][axis]
    else:
        value = ""
    markers = {
        name: [-1 if a != b else a for a, b in zip(first, second, strict=True)]
        for name, (first, second) in shapes.items()
    }
    marked = Marked(
        model=mark(graph, kept, markers, value),
        inputs=inputs,
        layers=[p.layer for p in kept],
        features=features,
        outputs=two[1],
        integers=integers,
        features_axis=axis,
        notes=notes,
    )
    return marked, kept, value


def _placed(place: Place, uses: list[tuple[Shape, Shape]], dims: int) -> tuple[int, int] | None:
    try:
        at = place_of_samples(uses, dims)
    except ValueError:
        return None
    return at if at is not None and at[1] == 1 else None


def _noise(inputs: list[Input], integers: frozenset[str], count: int = 256, seed: int = 0) -> Iterable[Batch]:
    """Standard Gaussian inputs after standardisation; zeros for whole numbers."""
    rng = np.random.default_rng(seed)
    for _ in range(count // 32):
        batch = {}
        for entry in inputs:
            column = (1, -1) + (1,) * (len(entry.shape) - 1)
            value = rng.standard_normal((32, *entry.shape)) * (entry.name not in integers)
            value = value * np.asarray(entry.std or [1.0]).reshape(column)
            batch[entry.name] = (value + np.asarray(entry.mean or [0.0]).reshape(column)).astype(np.float32)
        yield batch, None
