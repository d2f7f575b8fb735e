"""From a marked model to a bundle on disk: lower, survey the source, prove parity, write."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trimtab.exporters.lowering import lower
from trimtab.exporters.marked import Marked
from trimtab.exporters.parity import Comparison, Reference, compare, refuse, table
from trimtab.exporters.survey import Batch, survey
from trimtab.runtime.bundle import GRAPHS, Bundle, Window, write_bundle
from trimtab.runtime.errors import ExportError


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


def assemble(
    marked: Marked,
    batches: Iterable[Batch],
    reference: Reference,
    out: str | Path,
    *,
    name: str,
    classes: Sequence[str],
    targets: Sequence[str],
    window: Window | None,
    tolerance: float,
    provenance: dict[str, Any],
) -> Exported:
    """Write the bundle. Raises ExportError where the parts contradict each other or parity fails."""
    task = "classification" if classes else "regression"
    names = list(classes or targets)
    if len(names) != marked.outputs:
        kind = "classes" if classes else "targets"
        raise ExportError(f"{kind}: {len(names)} names for the model's {marked.outputs} outputs; give one for each")
    if len(set(names)) != len(names):
        raise ExportError("classes: two have the same name")
    _check_window(marked, window)
    graphs: dict[str, bytes] = {which: lower(marked, which).SerializeToString() for which in GRAPHS}
    found = survey(graphs["observe"], marked, task, batches)
    comparisons = compare(marked, graphs, reference, found.samples)
    refuse(comparisons, tolerance)
    manifest = {
        "name": name,
        "task": task,
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
            "parity": [c.row() for c in comparisons],
        },
    }
    bundle = write_bundle(out, manifest, graphs, found.source)
    return Exported(bundle, comparisons, marked.notes)


def _check_window(marked: Marked, window: Window | None) -> None:
    if window is None:
        return
    shape = marked.inputs[0].shape
    if len(shape) != 2 or shape[1] != window.rows:
        raise ExportError(
            f"window: rows is {window.rows}, but a sample of {marked.inputs[0].name} has the shape {shape}; it must be "
            "[channels, rows]"
        )


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("trimtab", "torch", "onnx", "onnxruntime", "onnxscript"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
