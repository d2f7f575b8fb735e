"""From a marked model to a bundle on disk: lower, survey the source, prove parity, write."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trimtab.exporters.lowering import lower
from trimtab.exporters.marked import Marked
from trimtab.exporters.parity import Comparison, Reference, compare, refuse, rows, table
from trimtab.exporters.survey import Survey
from trimtab.runtime.bundle import GRAPHS, Bundle, MethodEntry, StepFiles, Window, write_bundle
from trimtab.runtime.errors import ExportError


@dataclass(frozen=True)
class Step:
    """One method's step graph, compared with the same steps in PyTorch."""

    entry: MethodEntry
    files: StepFiles
    parity: list[Comparison]


@dataclass(frozen=True)
class Exported:
    """A written bundle, and what was found on the way."""

    bundle: Bundle
    parity: list[Comparison]
    notes: list[str]
    """What a person should know, one sentence each."""

    def lines(self) -> list[str]:
        """For a terminal."""
        manifest = self.bundle.manifest
        head = (
            f"{self.bundle.path}: {manifest.name}, {len(manifest.norms)} norms, {self.bundle.layout.size} parameters, "
            f"{manifest.features} features, {len(manifest.outputs)} outputs"
        )
        return [head, *table(self.parity), *(f"note: {n}" for n in self.notes)]


def lower_all(marked: Marked) -> dict[str, bytes]:
    """All graphs of a bundle, serialised."""
    return {which: lower(marked, which).SerializeToString() for which in GRAPHS}


def check_names(marked: Marked, classes: Sequence[str], targets: Sequence[str], window: Window | None) -> str:
    """The task. Raises ExportError where names or window do not fit the model."""
    kind, names = ("classes", classes) if classes else ("targets", targets)
    if len(names) != marked.outputs:
        raise ExportError(f"{kind}: {len(names)} names for the model's {marked.outputs} outputs; give one for each")
    if len(set(names)) != len(names):
        raise ExportError(f"{kind}: two have the same name")
    if classes and len(classes) < 2:
        raise ExportError("classes: a classification needs two or more; give targets for one value")
    shape = marked.inputs[0].shape
    if window is not None and (len(shape) != 2 or shape[1] != window.rows):
        raise ExportError(
            f"window: rows is {window.rows}, but a sample of {marked.inputs[0].name} has the shape {shape}; it must be "
            "[channels, rows]"
        )
    return "classification" if classes else "regression"


def assemble(
    marked: Marked,
    graphs: dict[str, bytes],
    found: Survey,
    reference: Reference,
    out: str | Path,
    *,
    name: str,
    classes: Sequence[str],
    targets: Sequence[str],
    window: Window | None,
    tolerance: float,
    provenance: dict[str, Any],
    others: Sequence[Comparison] = (),
    steps: Sequence[Step] = (),
) -> Exported:
    """Prove parity and write the bundle; `others` are comparisons made already, and those of `steps` are proved.

    Raises ExportError where one fails.
    """
    comparisons = [*others, *compare(marked, graphs, reference, found.samples)]
    refuse(comparisons, tolerance)
    comparisons += [c for step in steps for c in step.parity]
    manifest = {
        "name": name,
        "task": "classification" if classes else "regression",
        "inputs": [i.model_dump() for i in marked.inputs],
        "window": window.model_dump() if window else None,
        "classes": list(classes),
        "targets": list(targets),
        "norms": [layer.described.model_dump() for layer in marked.layers],
        "features": marked.features,
        "parameters": [{"name": p.name, "kind": p.kind, "owner": p.owner, "size": p.size} for p in marked.layout()],
        "provenance": {
            **provenance,
            "versions": versions(),
            "opset": next(o.version for o in marked.model.opset_import if o.domain in ("", "ai.onnx")),
            "source_samples": found.count,
            "source_labels": found.labelled,
            "notes": marked.notes,
            "parity": rows(comparisons),
        },
    }
    bundle = write_bundle(out, manifest, graphs, found.source, [(step.entry, step.files) for step in steps])
    return Exported(bundle, comparisons, marked.notes)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("trimtab", "torch", "onnx", "onnxruntime", "onnxscript"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
