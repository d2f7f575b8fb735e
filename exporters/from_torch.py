"""`export`: a PyTorch module becomes a bundle."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from trimtab.exporters.assembly import Exported, assemble, check_names, lower_all
from trimtab.exporters.inputs import DEFAULT, Calibrations, PerInput, describe_inputs
from trimtab.exporters.onnx_file import logits
from trimtab.exporters.parity import TOLERANCE
from trimtab.exporters.reference import Reference
from trimtab.exporters.steps.export import MethodChoice, Settled, build_steps, check_task, settle
from trimtab.exporters.steps.source import Sample
from trimtab.exporters.survey import Batch, survey
from trimtab.exporters.trace import duplicate, prepare, to_tensor, trace
from trimtab.runtime.bundle import Window
from trimtab.runtime.errors import ExportError


@dataclass
class ExportSpec:
    """Everything that `export` takes, so that `trimtab export MODULE:FUNCTION` needs nothing more."""

    model: nn.Module
    example_inputs: Any
    source_batches: Iterable[Batch]
    name: str
    classes: Sequence[str] = ()
    targets: Sequence[str] = ()
    window: Window | None = None
    channels: PerInput[str] = ()
    mean: PerInput[float] = ()
    std: PerInput[float] = ()
    calibration: Calibrations = field(default_factory=lambda: DEFAULT)
    head: str | None = None
    frozen: Sequence[str] = ()
    tolerance: float = TOLERANCE
    methods: Sequence[str | MethodChoice] = ()
    snapshots: Sequence[Mapping[str, Tensor]] = ()

    def export(self, out: str | Path) -> Exported:
        """Write the bundle into folder `out`."""
        return export(**vars(self), out=out)


def export(
    model: nn.Module,
    example_inputs: Any,
    source_batches: Iterable[Batch],
    out: str | Path,
    *,
    name: str,
    classes: Sequence[str] = (),
    targets: Sequence[str] = (),
    window: Window | None = None,
    channels: PerInput[str] = (),
    mean: PerInput[float] = (),
    std: PerInput[float] = (),
    calibration: Calibrations = DEFAULT,
    head: str | None = None,
    frozen: Sequence[str] = (),
    tolerance: float = TOLERANCE,
    methods: Sequence[str | MethodChoice] = (),
    snapshots: Sequence[Mapping[str, Tensor]] = (),
) -> Exported:
    """Export `model` as a bundle into folder `out`, after proof that its graphs compute what the model computes.

    - `model` returns one tensor `[N, K]` (logits, not probabilities; or values, `[N]` for a single one) from
      standardised inputs. It is exported in evaluation mode as float32, from a copy.
    - `example_inputs`: one batch, for shapes and types: a tensor or array `[n, ...]`, a sequence of them (passed by
      position), or a mapping (passed by keyword). Whole-number inputs (token ids) are no sensors and have no
      calibration; the bundle takes them as float32.
    - `source_batches`: batches of (inputs, labels or None) in sensor units and in recorded order, read once; what
      the bundle remembers of the source (`runtime.bundle.Source`) is taken from them.
    - `classes` (classification) or `targets` (regression): names of the K outputs.
    - `window`: where samples `[channels, rows]` are cut from a stream of rows.
    - `channels`, `mean`, `std`: per channel (axis 1), of the first input or as a mapping of input to values; the
      graphs standardise, (x - mean) / std.
    - `calibration`: what may be wrong with the wiring, for all inputs or as a mapping; None: nothing, ever. By default
      gain and offset may be re-estimated, no sign and no order may change.
    - `head`: dotted name of the last layer, whose input are the features; by default the last linear layer or
      convolution that gives K channels, if it is the last one run.
    - `frozen`: dotted names of norms to be left as they are, or of modules with norms in them.
    - `methods`: methods of adaptation to be compiled into step graphs (see `trimtab.exporters.methods`), by name or
      as a `MethodChoice` with another optimiser or another choice of what may change. Most are for classification
      only.
    - `snapshots`: the model's `state_dict()` at some points of the tail of its training, two or more: of them methods
      that need the source's posterior (`petal`) make it.
    - `tolerance`: greatest accepted max |a - b| / max(1, max |b|) between a graph and the model.

    Raises ExportError, one sentence, where anything does not fit; nothing is written then.
    """
    if bool(classes) == bool(targets):
        raise ExportError("give either classes (classification) or targets (regression)")
    settled = settle(methods)
    check_task(settled, "classification" if classes else "regression")
    weights = _weights(model, snapshots, settled)
    copied, notes = prepare(model)
    by_name = isinstance(example_inputs, Mapping)
    examples = _named_examples(model, example_inputs)
    tensors = {key: to_tensor(value) for key, value in examples.items()}
    for key, tensor in tensors.items():
        if tensor.dim() < 2 or tensor.shape[0] < 1:
            raise ExportError(
                f"example_inputs: {key} has the shape {list(tensor.shape)}; give a batch [n, channels, ...] of one "
                "sample or more"
            )
    inputs = describe_inputs(
        {key: list(t.shape[1:]) for key, t in tensors.items()},
        {key for key, t in tensors.items() if not t.is_floating_point()},
        channels=channels,
        mean=mean,
        std=std,
        calibration=calibration,
    )
    marked, found = trace(
        copied, list(tensors.values()), inputs, by_name=by_name, head=head, frozen=frozen, notes=notes
    )
    if classes and logits(marked.model) != marked.model.graph.output[0].name:
        raise ExportError("the model ends in a Softmax; a bundle's outputs are logits: leave the Softmax out")
    task = check_names(marked, classes, targets, window)
    graphs = lower_all(marked)
    sample = Sample(marked, weights)
    surveyed = survey(graphs["observe"], marked, task, sample.passing(source_batches) if settled else source_batches)
    known = {**surveyed.source, **surveyed.examples}
    steps = build_steps(settled, copied, marked, found, by_name, tensors, known, sample, surveyed.samples, task)
    return assemble(
        marked,
        graphs,
        surveyed,
        Reference(copied, marked, found, by_name),
        out,
        name=name,
        classes=classes,
        targets=targets,
        window=window,
        tolerance=tolerance,
        provenance={"from": "PyTorch module", "model": type(model).__name__, "head": found},
        steps=steps,
    )


def _weights(
    model: nn.Module, snapshots: Sequence[Mapping[str, Tensor]], settled: Sequence[Settled]
) -> list[dict[str, Tensor]]:
    """The parameters of each snapshot, by the dotted names that they have in what `prepare` makes of the model."""
    if len(snapshots) == 1:
        raise ExportError("snapshots: there is one, of which nothing can be told of a spread; give two or more")
    if snapshots and not any("posterior" in s.found.needs for s in settled):
        raise ExportError("snapshots: none of the methods makes use of them; leave them out, or add petal")
    found: list[dict[str, Tensor]] = []
    for number, snapshot in enumerate(snapshots):
        then = duplicate(model)
        try:
            then.load_state_dict(snapshot)
        except RuntimeError as error:
            why = str(error).splitlines()[-1].strip()
            raise ExportError(f"snapshots: number {number} is not one of the model: {why}") from error
        found.append({**dict(prepare(then)[0].named_parameters())})
    return found


def _named_examples(model: nn.Module, example: Any) -> dict[str, Any]:
    """Example inputs by name; without names, those of the parameters of `forward`."""
    if isinstance(example, Mapping):
        return dict(example)
    values = [example] if isinstance(example, (Tensor, np.ndarray)) else list(example)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [n for n, p in inspect.signature(model.forward).parameters.items() if p.kind in kinds][: len(values)]
    if len(names) < len(values):
        names = [f"x{i}" for i in range(len(values))]
    if names == ["input"]:  # nn.Sequential and its like
        names = ["x"]
    return dict(zip(names, values, strict=True))
