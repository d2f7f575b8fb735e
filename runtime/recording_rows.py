"""What every format of a recording is read into, and the reading of single cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.runtime.blocks import Label
from trimtab.runtime.bundle import Manifest
from trimtab.runtime.errors import RecordingError
from trimtab.runtime.validation import shortened

CHUNK = 8192
"""Rows read at a time."""
RESERVED = ("time", "stream", "label", "segment")
"""Columns that are no channels."""
MISSING = frozenset(("", "nan", "na", "n/a", "null", "none"))
"""Cells, in lower case, that stand for a value that is not there: read as NaN."""

Values = NDArray[np.float32] | dict[str, NDArray[np.float32]]


@dataclass(slots=True)
class Rows:
    """Rows (or whole samples) of a recording, in its order."""

    place: NDArray[np.int64]
    """[n] Line or row numbers, for messages and for the order across streams."""
    values: Values
    """`[n, C]` for a windowed bundle, else `[n, *shape]` by input name."""
    time: NDArray[np.float64] | None = None
    """[n] Unix seconds."""
    stream: Sequence[str] | None = None
    label: list[Label | None] | None = None
    segment: list[str] | None = None
    messages: list[int] | None = None
    """How many rows each message had, where the recording is of messages: they stay the blocks that they were. All
    rows of one have its time."""

    def __len__(self) -> int:
        return len(self.place)


class File:
    """A recording's file, while it is read: how far, what the bundle wants of it, and where something is wrong."""

    def __init__(self, path: Path, manifest: Manifest, line: str) -> None:
        self.path = path
        self.manifest = manifest
        self.line = line
        """What `Rows.place` counts: `line` or `row`."""
        self.total = 0
        self.done = 0

    def error(self, place: int | np.integer[Any], column: str, text: str) -> RecordingError:
        return RecordingError(f"{self.path}: {self.line} {place}: {column}: {text}")

    def channels(self, columns: Sequence[str], numeric: Callable[[str], bool]) -> list[str]:
        """Which columns hold the C channels, in the model's order.

        By the manifest's names where they are there (others are then passed over); else all numeric columns that
        are not reserved, where their number is C.
        """
        inputs = self.manifest.inputs
        if len(inputs) > 1 or len(inputs[0].shape) > (2 if self.manifest.window else 1):
            shapes = ", ".join(f"{i.name} {list(i.shape)}" for i in inputs)
            raise RecordingError(
                f"{self.path}: columns cannot hold the bundle's samples ({shapes}); use an NPZ file with an array "
                "for each input, or JSON lines with `values`"
            )
        doubled = {c for c in columns if list(columns).count(c) > 1}
        if doubled:
            raise RecordingError(f"{self.path}: the column {min(doubled)!r} is there twice; rename one")
        names, count = inputs[0].channels, inputs[0].shape[0]
        if names and set(names) <= set(columns):
            return list(names)
        missing = [n for n in names if n not in columns]
        if names and len(missing) < len(names):
            raise RecordingError(
                f"{self.path}: the columns {listed(missing)} are missing; add them, the bundle needs them"
            )
        found = [c for c in columns if c not in RESERVED and numeric(c)]
        if len(found) != count:
            wanted = f"the columns {listed(names)}" if names else f"{count} numeric columns"
            raise RecordingError(
                f"{self.path}: the bundle takes {wanted}, the recording has {listed(found) or 'none'}; "
                "rename or drop columns"
            )
        return found

    def one_input(self, values: NDArray[np.float32]) -> Values:
        """Rows `[n, C]` in the form that the bundle takes."""
        return values if self.manifest.window else {self.manifest.inputs[0].name: values}


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() in MISSING and cell.strip().lower() != "none"
    return True


def floats(cells: Sequence[str], file: File, place: NDArray[np.int64], column: str) -> NDArray[np.float64]:
    """Numbers; NaN for what is missing."""
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return np.array([_float(c, file, p, column) for c, p in zip(cells, place, strict=True)], np.float64)


def _float(cell: str, file: File, place: np.int64, column: str) -> float:
    if cell.strip().lower() in MISSING:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        raise file.error(
            place, column, f"{shortened(cell)} is no number; give a number, or leave it empty for NaN"
        ) from None


def times(cells: Sequence[str], file: File, place: NDArray[np.int64]) -> NDArray[np.float64]:
    """Unix seconds from Unix seconds or ISO 8601 (UTC where no zone is given)."""
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return np.array([time_of(c, file, p) for c, p in zip(cells, place, strict=True)], np.float64)


def time_of(cell: object, file: File, place: np.int64) -> float:
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING):
        return math.nan
    try:
        if isinstance(cell, int | float) and not isinstance(cell, bool):
            return float(cell)
        if not isinstance(cell, str):
            raise ValueError
        text = cell.strip()
        if text[:1] in "+-0123456789" and is_number(text):
            return float(text)
        moment = datetime.fromisoformat(text)
    except OverflowError:
        return math.inf
    except ValueError:
        raise file.error(
            place, "time", f"{shortened(cell)} is no time; give Unix seconds or ISO 8601 (2026-05-31T12:00:00Z)"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def class_name(value: Label) -> str:
    """A class as text: whole numbers without a decimal point, as manifests have them."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def text_of(value: object) -> str:
    return "" if value is None else str(value)


def listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    names = list(names)
    return ", ".join(str(n) for n in names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
