"""Columns of a CSV recording, as numbers in the order of its rows."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def opened(recording: Path) -> Iterator[csv.DictReader[str]]:
    """Raises RecordingError, also from what is done meanwhile, where it is no CSV file in UTF-8."""
    try:
        with recording.open(newline="", encoding="utf-8-sig") as lines:
            yield csv.DictReader(lines)
    except UnicodeDecodeError:
        raise RecordingError(f"{recording} is not a CSV file in UTF-8; save it as one") from None
    except csv.Error as error:
        raise RecordingError(f"{recording} is not a CSV file ({error}); save it as one") from None


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
    for cells in _lines(reader, len(names)):
        row = dict(zip(names, cells, strict=False))
        line = reader.reader.line_num
        stamp, texts = row.get("timestamp", ""), [row.get(column, "") for column in columns]
        values = [_number(recording, line, text) for text in texts]
        yield Row(stamp, texts, _seconds(recording, line, stamp), values)


def _lines(reader: csv.DictReader[str], columns: int) -> Iterator[list[str]]:
    """The cells of each row. An empty line is a row with an empty cell where there is but one column, unless it is
    the last; else it is none."""
    empty = 0
    for cells in reader.reader:
        if cells:
            yield from ([""] for _ in range(empty))
            empty = 0
            yield cells
        elif columns == 1:
            empty += 1


def timed_column(recording: Path, column: str) -> tuple[list[str], NDArray[np.float64]]:
    """Timestamps as they stand there, and all values `[rows]` of a column.

    Raises RecordingError as `rows` does, and where there are none.
    """
    with opened(recording) as reader:
        found = [(row.stamp, row.values[0]) for row in rows(recording, reader, [column])]
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
