"""Columns of a CSV recording, as numbers in the order of its rows."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimtab.runtime.errors import RecordingError


class Row(NamedTuple):
    """A row's timestamp and values, as they stand there and as numbers."""

    stamp: str
    texts: list[str]
    time: float | None
    values: list[float]


def named(reader: csv.DictReader[str], text: str) -> list[str]:
    """The columns that `text` names, separated by commas; one where a column has this very name, commas and all."""
    names = [part.strip() for part in text.split(",")]
    return [text] if text in (reader.fieldnames or []) or not all(names) else list(dict.fromkeys(names))


def rows(recording: Path, reader: csv.DictReader[str], columns: Sequence[str]) -> Iterator[Row]:
    """Each row of these columns. Empty values are NaN.

    Raises RecordingError where a column is missing, or what stands there is neither a number nor a time.
    """
    names = reader.fieldnames or []
    for column in columns:
        if column not in names:
            raise RecordingError(f"{recording} has no column {column!r}; it has {', '.join(names) or 'no header'}")
    for row in reader:
        stamp, texts = row.get("timestamp") or "", [row[column] or "" for column in columns]
        values = [_number(recording, reader.line_num, text) for text in texts]
        yield Row(stamp, texts, _seconds(recording, reader.line_num, stamp), values)


def timed_column(recording: Path, column: str) -> tuple[list[str], NDArray[np.float64]]:
    """Timestamps as they stand there, and all values `[rows]` of a column.

    Raises RecordingError as `rows` does, and where there are none.
    """
    try:
        with recording.open(newline="", encoding="utf-8-sig") as lines:
            found = [(row.stamp, row.values[0]) for row in rows(recording, csv.DictReader(lines), [column])]
    except UnicodeDecodeError:
        raise RecordingError(f"{recording} is not a CSV file in UTF-8") from None
    if not found:
        raise RecordingError(f"{recording} has no rows")
    return [stamp for stamp, _ in found], np.array([value for _, value in found])


def column_of(recording: Path, column: str) -> NDArray[np.float64]:
    """All values `[rows]` of a column. Raises RecordingError as `timed_column` does."""
    return timed_column(recording, column)[1]


def _number(recording: Path, line: int, text: str) -> float:
    try:
        return float(text) if text.strip() else math.nan
    except ValueError:
        raise RecordingError(f"{recording}, line {line}: {text!r} is not a number") from None


def _seconds(recording: Path, line: int, stamp: str) -> float | None:
    """Seconds since 1970 of the clock that the timestamp tells, whatever its zone: the time of day is what matters."""
    if not stamp:
        return None
    try:
        return float(stamp)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise RecordingError(
            f"{recording}, line {line}: {stamp!r} is neither an ISO 8601 date and time nor seconds since 1970"
        ) from None
