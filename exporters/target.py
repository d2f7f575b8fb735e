"""What a person names on the command line: a model in a module, and source data in a file."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from trimtab.exporters.survey import Batch
from trimtab.runtime.errors import ExportError

if TYPE_CHECKING:
    from trimtab.exporters import ExportSpec

LABELS = "y"
BATCH = 64


def load_target(target: str) -> Any:
    """What `MODULE:ATTRIBUTE` names, the current folder searched first; a function is called.

    Raises ExportError where there is no such thing. What the module's own code raises is passed on as it is.
    """
    module, colon, attribute = target.partition(":")
    if not (module and colon and attribute):
        raise ExportError(f"{target}: give the model as MODULE:ATTRIBUTE, as in examples.watch:model")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ExportError(
            f"{target}: there is no module {error.name!r} in this folder or among what is installed"
        ) from None
    found: Any = loaded
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ExportError(f"{target}: module {module!r} has no {attribute!r}")
        found = getattr(found, part)
    if isinstance(found, type) or (callable(found) and not hasattr(found, "named_modules")):
        try:
            return found()
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # not from within it
                raise ExportError(f"{target}: cannot be called without arguments ({error})") from error
            raise
    return found


def spec_of(target: str, data: Path | None, options: Mapping[str, Any]) -> ExportSpec:
    """What to export: the spec that `target` names, or one made of the plain module that it names and `data`.

    `options` replace what the spec says, and `data` (see `read_data`) its source batches. Raises ExportError where
    PyTorch is missing, the target is neither, or a plain module lacks data or names.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise ExportError("PyTorch is not installed here; pip install 'trimtab[export]'") from None
    from trimtab.exporters import ExportSpec

    found = load_target(target)
    extra = dict(options)
    if isinstance(found, torch.nn.Module):
        if data is None:
            raise ExportError(f"{target} is a plain module, so --data is needed: an .npz file with x [n, ...]")
        if not (options.get("classes") or options.get("targets")):
            raise ExportError(
                f"{target} is a plain module, so --classes A,B,... is needed (or, for a regression, --targets)"
            )
        inputs, labels = read_data(data)
        single = len(inputs) == 1
        found = ExportSpec(
            model=found,
            example_inputs=next(iter(inputs.values()))[:2] if single else {k: v[:2] for k, v in inputs.items()},
            source_batches=batches(inputs, labels),
            name=target.rpartition(":")[2],
        )
    elif isinstance(found, ExportSpec):
        if data is not None:
            inputs, labels = read_data(data)
            names = list(found.example_inputs) if isinstance(found.example_inputs, dict) else []
            extra["source_batches"] = batches(inputs, labels, names)
    else:
        raise ExportError(f"{target} is of type {type(found).__name__}; it must be a torch.nn.Module or an ExportSpec")
    return replace(found, **extra)


def read_data(path: str | Path) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    """Inputs by name, each `[n, ...]`, and labels (array `y`) or None, from an .npz file.

    Raises ExportError where the file cannot be read, holds no input, or its arrays differ in length.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise ExportError(f"{path}: not found") from None
    except (EOFError, ValueError, TypeError, BadZipFile) as error:
        # NumPy's own sentence would recommend to allow pickles.
        raise ExportError(f"{path}: is not an .npz file of plain arrays; write it with numpy.savez") from error
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror or error}); mend that") from error
    labels = arrays.pop(LABELS, None)
    if not arrays:
        raise ExportError(f"{path}: holds no input; it needs an array per input (`x` [n, ...]) and may have labels `y`")
    lengths = {len(a) if a.ndim else 0 for a in (*arrays.values(), *([labels] if labels is not None else []))}
    if len(lengths) != 1 or 0 in lengths:
        raise ExportError(f"{path}: its arrays differ in their number of samples, or are empty")
    return arrays, labels


def batches(inputs: dict[str, NDArray[Any]], labels: NDArray[Any] | None, names: Sequence[str] = ()) -> Iterator[Batch]:
    """The data in order, in batches of BATCH; a single input needs no name."""
    count = len(next(iter(inputs.values())))
    for start in range(0, count, BATCH):
        part = slice(start, start + BATCH)
        cut: Any = {key: value[part] for key, value in inputs.items()}
        if len(cut) == 1 and next(iter(cut)) not in names:
            cut = next(iter(cut.values()))
        yield cut, labels[part] if labels is not None else None
