"""One column of a CSV recording, as numbers in the order of its rows."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trimtab.runtime.errors import RecordingError


def rows(recording: Path, reader: csv.DictReader[str], column: str) -> Iterator[tuple[str, str, float | None, float]]:
    """Timestamp and value as they stand there, and as numbers. Empty values are NaN.

    Raises RecordingError where the column is missing, or what stands there is neither a number nor a time.
    """
    names = reader.fieldnames or []
    if column not in names:
        raise RecordingError(f"{recording} has no column {column!r}; it has {', '.join(names) or 'no header'}")
    for row in reader:
        stamp, text = row.get("timestamp") or "", row[column] or ""
        try:
            value = float(text) if text.strip() else math.nan
        except ValueError:
            raise RecordingError(f"{recording}, line {reader.line_num}: {text!r} is not a number") from None
        yield stamp, text, _seconds(recording, reader.line_num, stamp), value


def timed_column(recording: Path, column: str) -> tuple[list[str], NDArray[np.float64]]:
    """Timestamps as they stand there, and all values `[rows]` of a column.

    Raises RecordingError as `rows` does, and where there are none.
    """
    try:
        with recording.open(newline="", encoding="utf-8-sig") as lines:
            found = [(stamp, value) for stamp, _, _, value in rows(recording, csv.DictReader(lines), column)]
    except UnicodeDecodeError:
        raise RecordingError(f"{recording} is not a CSV file in UTF-8") from None
    if not found:
        raise RecordingError(f"{recording} has no rows")
    return [stamp for stamp, _ in found], np.array([value for _, value in found])


def column_of(recording: Path, column: str) -> NDArray[np.float64]:
    """All values `[rows]` of a column. Raises RecordingError as `timed_column` does."""
    return timed_column(recording, column)[1]


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
