"""The formats of a recording, each read into `Rows` a chunk at a time where it allows that (all but NPZ)."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.runtime.blocks import Label
from trimtab.runtime.errors import RecordingError
from trimtab.runtime.recording_rows import (
    CHUNK,
    RESERVED,
    File,
    Rows,
    floats,
    is_number,
    listed,
    text_of,
    time_of,
    times,
)
from trimtab.runtime.validation import shortened

COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")
"""How files of gzip, zip, bzip2, xz and zstd begin."""


def read_csv(file: File) -> Iterator[Rows]:
    path = file.path
    file.total = path.stat().st_size
    with _utf8(file) as lines:
        header_line = lines.readline()
        if not header_line.strip():
            raise RecordingError(f"{path}: is empty; begin it with a line of column names")
        delimiter = max(",;\t", key=header_line.count)
        header = [name.strip() for name in next(csv.reader([header_line], delimiter=delimiter))]
        known = {*RESERVED, *file.manifest.inputs[0].channels}
        if all(is_number(name) for name in header) or (
            any(is_number(name) for name in header) and file.manifest.inputs[0].channels and not known & set(header)
        ):
            raise RecordingError(f"{path}: line 1: holds numbers; begin the file with a line of column names")
        reader = csv.reader(lines, delimiter=delimiter)
        place = 1
        channels: list[str] | None = None
        while cells := _csv_chunk(reader, path, place):
            file.done = _position(lines)
            numbers = np.arange(place + 1, place + 1 + len(cells), dtype=np.int64)
            place += len(cells)
            if any(len(row) != len(header) for row in cells):
                kept = [i for i, row in enumerate(cells) if row]
                cells, numbers = [cells[i] for i in kept], numbers[kept]
                for row, number in zip(cells, numbers, strict=True):
                    if len(row) != len(header):
                        raise RecordingError(
                            f"{path}: line {number}: has {len(row)} cells where the header has {len(header)}; "
                            "mend that line"
                        )
                if not cells:
                    continue
            columns = dict(zip(header, zip(*cells, strict=True), strict=True))
            if channels is None:
                # Without the manifest's names, a column whose first cells are text is no channel.
                numeric = {c for c in header if all(is_number(v) for v in columns[c][:8])}
                channels = file.channels(header, numeric.__contains__)
            values = np.empty((len(numbers), len(channels)), np.float32)
            with np.errstate(over="ignore"):
                for k, name in enumerate(channels):
                    values[:, k] = floats(columns[name], file, numbers, name)
            yield Rows(
                numbers,
                file.one_input(values),
                times(columns["time"], file, numbers) if "time" in columns else None,
                columns.get("stream"),
                [v or None for v in columns["label"]] if "label" in columns else None,
                list(columns["segment"]) if "segment" in columns else None,
            )


def _csv_chunk(reader: Iterator[list[str]], path: Path, place: int) -> list[list[str]]:
    rows = []
    try:
        for row in reader:
            rows.append(row)
            if len(rows) == CHUNK:
                break
    except csv.Error as error:
        raise RecordingError(f"{path}: line {place + len(rows) + 1}: is not CSV ({error}); mend that line") from None
    return rows


@contextmanager
def _utf8(file: File) -> Iterator[TextIOWrapper]:
    """The file as text. Raises RecordingError, with the line, where it is not UTF-8."""
    try:
        with file.path.open(encoding="utf-8-sig", newline="") as lines:
            yield lines
    except UnicodeDecodeError:
        with file.path.open("rb") as raw:
            if raw.peek(4)[:4].startswith(COMPRESSED):
                raise RecordingError(f"{file.path}: is compressed, whatever its name says; unpack it") from None
            number = next((n for n, line in enumerate(raw, start=1) if not _is_utf8(line)), 1)
        raise RecordingError(f"{file.path}: line {number}: is not UTF-8; save the file as UTF-8") from None


def _position(lines: TextIOWrapper) -> int:
    """Bytes read so far; the text layer cannot say while it is iterated over."""
    buffer: Any = lines.buffer
    position: int = buffer.tell()
    return position


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def read_parquet(file: File) -> Iterator[Rows]:
    path = file.path
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise RecordingError(
            f"{path}: reading Parquet needs pyarrow; pip install 'trimtab[replay]', or convert the file to CSV"
        ) from None
    try:
        table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise RecordingError(f"{path}: is not Parquet ({_clause(error)}); write it again") from None
    with table:
        file.total = table.metadata.num_rows
        schema = table.schema_arrow
        types = {f.name: f.type for f in schema}

        def numeric(name: str) -> bool:
            kind = types[name]
            return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))

        channels = file.channels(schema.names, numeric)
        for name in channels:
            if not numeric(name):
                raise RecordingError(f"{path}: the column {name!r} is of type {types[name]}; make it a number")
        chosen = [*channels, *(c for c in RESERVED if c in types)]
        done = 0
        try:
            for batch in table.iter_batches(CHUNK, columns=chosen):
                n = batch.num_rows
                place = np.arange(done + 1, done + n + 1, dtype=np.int64)
                done += n
                file.done = done
                values = np.empty((n, len(channels)), np.float32)
                with np.errstate(over="ignore"):
                    for k, name in enumerate(channels):
                        column = batch.column(name).cast(pa.float64(), safe=False)
                        values[:, k] = column.to_numpy(zero_copy_only=False)
                yield Rows(
                    place,
                    file.one_input(values),
                    _parquet_times(batch.column("time"), file, place) if "time" in types else None,
                    [text_of(v) for v in batch.column("stream").to_pylist()] if "stream" in types else None,
                    [v if v != "" else None for v in batch.column("label").to_pylist()] if "label" in types else None,
                    [text_of(v) for v in batch.column("segment").to_pylist()] if "segment" in types else None,
                )
        except (pa.ArrowException, OSError) as error:
            raise RecordingError(f"{path}: row {done + 1}: cannot be read ({_clause(error)}); write it again") from None


def _clause(error: Exception) -> str:
    """The first sentence of what a library says."""
    plain = "".join(c if c.isprintable() else " " for c in str(error).split(". ")[0])
    return " ".join(plain.split()).rstrip(". ")[:120]


def _parquet_times(column: Any, file: File, place: NDArray[np.int64]) -> NDArray[np.float64]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        ticks = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(pa.int64())
        seconds: NDArray[np.float64] = ticks.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) / 1e6
        return seconds
    return np.array([time_of(v, file, p) for v, p in zip(column.to_pylist(), place, strict=True)], np.float64)


def read_npz(file: File) -> Iterator[Rows]:
    path = file.path
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is one array")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0].rstrip(". ") if str(error) else "no arrays"
        if "pickle" in reason.lower():
            reason = "it is no NPZ file, or holds Python objects"
        raise RecordingError(
            f"{path}: cannot be read ({reason}); write it with numpy.savez from plain arrays"
        ) from None
    wanted = {i.name: tuple(i.shape) for i in file.manifest.inputs}
    values: dict[str, NDArray[np.float32]] = {}
    for number, (name, shape) in enumerate(wanted.items()):
        key = "x" if number == 0 and name not in arrays else name
        if key not in arrays:
            raise RecordingError(
                f"{path}: the array {name!r} is missing; store one for each of the bundle's inputs, {listed(wanted)}"
            )
        array = arrays[key]
        if file.manifest.window is not None:
            shape = shape[:1]
        if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
            text = ", ".join(str(n) for n in ("n", *shape))
            raise RecordingError(f"{path}: {key}: has the shape {list(array.shape)}; store it as [{text}]")
        if array.dtype.kind not in "fiub":
            raise RecordingError(f"{path}: {key}: holds {array.dtype}; store numbers")
        values[name] = array
    n = len(next(iter(values.values())))
    for name, array in [*values.items(), *((k, arrays[k]) for k in RESERVED if k in arrays)]:
        if array.shape[:1] != (n,) or (name in RESERVED and array.ndim != 1):
            raise RecordingError(
                f"{path}: {name}: has the shape {list(array.shape)} where the recording has {n} rows; "
                "give one entry a row"
            )
    file.total = n
    for begin in range(0, n, CHUNK):
        part = slice(begin, min(begin + CHUNK, n))
        place = np.arange(part.start + 1, part.stop + 1, dtype=np.int64)
        with np.errstate(over="ignore"):
            cut = {name: np.ascontiguousarray(array[part], np.float32) for name, array in values.items()}
        cells = {k: arrays[k][part].tolist() for k in ("stream", "label", "segment") if k in arrays}
        file.done = part.stop
        yield Rows(
            place,
            cut if file.manifest.window is None else next(iter(cut.values())),
            _npz_times(arrays["time"][part], file, place) if "time" in arrays else None,
            [str(v) for v in cells["stream"]] if "stream" in cells else None,
            [v if v != "" else None for v in cells["label"]] if "label" in cells else None,
            [text_of(v) for v in cells["segment"]] if "segment" in cells else None,
        )


def _npz_times(time: NDArray[Any], file: File, place: NDArray[np.int64]) -> NDArray[np.float64]:
    if time.dtype.kind == "M":
        seconds: NDArray[np.float64] = time.astype("datetime64[us]").astype(np.int64) / 1e6
        seconds[np.isnat(time)] = np.nan
        return seconds
    if time.dtype.kind in "fiu":
        return time.astype(np.float64)
    return np.array([time_of(v, file, p) for v, p in zip(time.tolist(), place, strict=True)], np.float64)


@dataclass(slots=True)
class _Gathered:
    """Lines on their way to a chunk."""

    place: list[int] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    stream: list[str] = field(default_factory=list)
    label: list[Label | None] = field(default_factory=list)
    segment: list[str] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    values: dict[str, list[Any]] = field(default_factory=dict)


def read_jsonl(file: File) -> Iterator[Rows]:
    """One object a line: a row by column names, or a sensor's message with `values`, as it came over MQTT."""
    file.total = file.path.stat().st_size
    first: dict[str, Any] | None = None
    absent: list[str] = []
    channels: list[str] = []
    with _utf8(file) as lines:
        gathered = _Gathered()
        for place, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            facts = _json_line(line, file, place)
            if first is None:
                first = facts
                absent = [k for k in ("time", "stream", "segment") if k not in first]
                if "values" not in first:
                    numeric = {c for c, v in first.items() if _json_numeric(v)}
                    channels = file.channels(list(first), numeric.__contains__)
            for key in absent:
                if key in facts:
                    raise file.error(place, key, "is not in the first line; give it in every line, or in none")
            if "values" in first:
                if "values" not in facts:
                    raise file.error(place, "values", "is missing; give it in every line, or in none")
                parts = _message(facts["values"], file, place)
            else:
                parts = _json_row(facts, channels, file, place)
            n = len(next(iter(parts.values())))
            gathered.messages.append(n)
            gathered.place += [place] * n
            if "time" in first:
                gathered.time += [time_of(facts.get("time"), file, np.int64(place))] * n
            gathered.stream += [text_of(facts.get("stream"))] * n
            gathered.label += [_json_label(facts.get("label"), file, place)] * n
            gathered.segment += [text_of(facts.get("segment"))] * n
            for name, part in parts.items():
                gathered.values.setdefault(name, []).append(part)
            if len(gathered.place) >= CHUNK:
                file.done = _position(lines)
                yield _json_rows(gathered, file, first)
                gathered = _Gathered()
        if first is not None and gathered.place:
            yield _json_rows(gathered, file, first)


def _json_rows(gathered: _Gathered, file: File, first: Mapping[str, Any]) -> Rows:
    with np.errstate(over="ignore"):
        values = {name: np.concatenate(parts).astype(np.float32) for name, parts in gathered.values.items()}
    windowed = file.manifest.window is not None
    return Rows(
        np.array(gathered.place, np.int64),
        next(iter(values.values())) if windowed else values,
        np.array(gathered.time, np.float64) if "time" in first else None,
        gathered.stream if "stream" in first else None,
        gathered.label,
        gathered.segment if "segment" in first else None,
        gathered.messages if windowed and "values" in first else None,
    )


def _json_row(facts: Mapping[str, Any], channels: list[str], file: File, place: int) -> dict[str, NDArray[np.float64]]:
    missing = [c for c in channels if c not in facts]
    if missing:
        raise file.error(place, missing[0], "is missing; give every channel in every line")
    row = [[_json_number(facts[c], file, place, c) for c in channels]]
    return {file.manifest.inputs[0].name: np.array(row, np.float64)}


def _json_line(line: str, file: File, place: int) -> dict[str, Any]:
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).split(":")[0]
        raise RecordingError(f"{file.path}: line {place}: is not JSON ({reason}); mend that line") from None
    if not isinstance(facts, dict):
        raise RecordingError(f"{file.path}: line {place}: is no JSON object; give one object a line")
    return facts


def _json_numeric(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _json_number(value: object, file: File, place: int, column: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise file.error(place, column, f"{shortened(value)} is no number; give a number, or null for NaN")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _json_label(value: object, file: File, place: int) -> Label | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise file.error(place, "label", f"{shortened(value)} is no label; give a class name or a number")
    return value if isinstance(value, str) else float(value)


def _message(values: object, file: File, place: int) -> dict[str, NDArray[np.float64]]:
    """`values` of one line as `[n, C]` rows, or one sample `[1, *shape]` an input."""
    inputs = file.manifest.inputs
    if file.manifest.window is not None:
        count = inputs[0].shape[0]
        if isinstance(values, dict):
            raise file.error(place, "values", f"is a mapping; give rows of the bundle's {count} channels")
        array = _json_array(values, file, place)
        if array.ndim == 1 and array.size % count == 0:
            array = array.reshape(-1, count)
        if array.ndim != 2 or array.shape[1] != count or not len(array):
            raise file.error(
                place, "values", f"has the shape {list(array.shape)}; give rows of the bundle's {count} channels"
            )
        return {inputs[0].name: array}
    if not isinstance(values, dict):
        if len(inputs) > 1:
            raise file.error(place, "values", f"is no mapping; give one of {listed([i.name for i in inputs])}")
        values = {inputs[0].name: values}
    parts = {}
    for spec in inputs:
        if spec.name not in values:
            raise file.error(place, f"values.{spec.name}", "is missing; give every input in every line")
        array = _json_array(values[spec.name], file, place)
        if list(array.shape) != spec.shape:
            raise file.error(place, f"values.{spec.name}", f"has the shape {list(array.shape)}; give {spec.shape}")
        parts[spec.name] = array[None]
    return parts


def _json_array(values: object, file: File, place: int) -> NDArray[np.float64]:
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":  # nulls, or whole numbers beyond 64 bits
            flat = [_json_number(v, file, place, "values") for v in array.ravel().tolist()]
            array = np.array(flat, np.float64).reshape(array.shape)
    except RecordingError:
        raise
    except (ValueError, OverflowError):
        raise file.error(place, "values", "rows differ in length; give as many values in each") from None
    if array.dtype.kind not in "fiu":
        raise file.error(place, "values", "holds something that is no number; give numbers or null")
    return array.astype(np.float64)


READERS: dict[str, tuple[str, Callable[[File], Iterator[Rows]]]] = {
    ".csv": ("line", read_csv),
    ".parquet": ("row", read_parquet),
    ".npz": ("row", read_npz),
    ".jsonl": ("line", read_jsonl),
    ".ndjson": ("line", read_jsonl),
}
"""By a file's suffix: what its places are called, and its reader."""
