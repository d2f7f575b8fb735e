"""Recorded streams as blocks in time order: CSV, Parquet, NPZ and JSON lines.

`docs/recordings.md` says what a file may hold. Blocks end where a window ends, so that a window's time is its last
row's. What is wrong with a file is one sentence with the file, the place, and the mend.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.runtime.blocks import Block, Label
from trimtab.runtime.bundle import Manifest, Window
from trimtab.runtime.errors import RecordingError
from trimtab.runtime.payloads import LATEST
from trimtab.runtime.recording_formats import READERS
from trimtab.runtime.recording_rows import File, Rows, class_name, listed


class Recording:
    """A file of recorded streams for a bundle of `manifest`, to be read once or often.

    Raises RecordingError where there is no such file, or its name tells no format.
    """

    def __init__(self, path: str | Path, manifest: Manifest) -> None:
        self.path = Path(path)
        self.manifest = manifest
        suffix = self.path.suffix.lower()
        if suffix not in READERS:
            if suffix in (".gz", ".zip", ".bz2", ".xz", ".zst"):
                raise RecordingError(f"{self.path}: is compressed; unpack it")
            raise RecordingError(
                f"{self.path}: a recording is one of {', '.join(READERS)}, told by its name; name it so or convert it"
            )
        if not self.path.is_file():
            raise RecordingError(f"{self.path}: no such file; give a recording (see docs/recordings.md)")
        line, self._read = READERS[suffix]
        self._file = File(self.path, manifest, line)

    @property
    def total(self) -> int:
        """The recording's length, in bytes or rows; 0 before reading has begun."""
        return self._file.total

    @property
    def done(self) -> int:
        """How far reading has come, as `total` counts."""
        return self._file.done

    def blocks(self) -> Iterator[Block]:
        """Blocks in the recording's order, which is that of time.

        Raises RecordingError for what is wrong with the file, when reading comes to it.
        """
        file = self._file
        file.done = 0
        try:
            rows = _checked(file, self._read(file))
            window = self.manifest.window
            yield from _samples(file, rows) if window is None else _windowed(file, rows, window)
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())
            raise RecordingError(f"{self.path}: cannot be read ({reason}); give a readable recording") from None


def _checked(file: File, chunks: Iterator[Rows]) -> Iterator[Rows]:
    """The chunks, with times that never go backwards, labels that the bundle knows, and some number a channel."""
    last, last_place, count = -math.inf, 0, 0
    blank: set[str] | None = None
    for rows in chunks:
        if not len(rows):
            continue
        count += len(rows)
        if rows.time is not None:
            wrong = ~((rows.time >= 0) & (rows.time < LATEST))
            if wrong.any():
                i = int(np.argmax(wrong))
                missing = math.isnan(rows.time[i])
                found = "is missing" if missing else f"{rows.time[i]:.16g} is no time in Unix seconds"
                raise file.error(rows.place[i], "time", f"{found}; give Unix seconds or ISO 8601 in every row")
            backwards = np.diff(rows.time, prepend=last) < 0
            if backwards.any():
                i = int(np.argmax(backwards))
                before = last_place if i == 0 else int(rows.place[i - 1])
                raise file.error(
                    rows.place[i], "time", f"is earlier than in {file.line} {before}; sort the recording by time"
                )
            last, last_place = float(rows.time[-1]), int(rows.place[-1])
        if rows.stream is not None and not all(rows.stream):
            i = next(i for i, name in enumerate(rows.stream) if not name)
            raise file.error(rows.place[i], "stream", f"is empty; name it in every {file.line}")
        if blank is None or blank:
            found_blank = _blank(rows, file)
            blank = found_blank if blank is None else blank & found_blank
        if rows.label is not None:
            rows.label = _labels(file, rows.label, rows.place)
        yield rows
    if count == 0:
        raise RecordingError(f"{file.path}: holds no rows; record some first")
    if blank:
        raise RecordingError(
            f"{file.path}: {listed(sorted(blank))}: no {file.line} holds a number; record them, or export another model"
        )


def _blank(rows: Rows, file: File) -> set[str]:
    """The channels (of a whole sample: the inputs) that hold no finite number in any of `rows`."""
    values: Any = rows.values
    if isinstance(values, dict):
        return {name for name, array in values.items() if not np.isfinite(array).any()}
    names = file.manifest.inputs[0].channels or [f"channel {k}" for k in range(values.shape[1])]
    return {name for name, found in zip(names, np.isfinite(values).any(axis=0).tolist(), strict=True) if not found}


def _labels(file: File, labels: list[Label | None], place: NDArray[np.int64]) -> list[Label | None]:
    """Class names or numbers, as the bundle has them; None where a row has no label (empty, or NaN)."""
    manifest = file.manifest
    given = [None if v is None or v != v else v for v in labels]
    if manifest.task == "regression":
        if len(manifest.targets) > 1:
            raise RecordingError(
                f"{file.path}: label: one number cannot label the targets {listed(manifest.targets)}; drop the column"
            )
        return [None if v is None else _number(file, v, p) for v, p in zip(given, place, strict=True)]
    names = [None if v is None else class_name(v) for v in given]
    unknown = set(names) - {None} - set(manifest.classes)
    if unknown:
        i = next(i for i, v in enumerate(names) if v in unknown)
        raise file.error(
            place[i],
            "label",
            f"{names[i]!r} is none of the bundle's classes {listed(manifest.classes)}; rename it, or leave it empty",
        )
    return list(names)


def _number(file: File, value: Label, place: np.int64) -> float:
    try:
        return float(value)
    except ValueError:
        raise file.error(place, "label", f"{value!r} is no number; give a number, or leave it empty") from None


def _samples(file: File, chunks: Iterator[Rows]) -> Iterator[Block]:
    """One block a whole sample. Where the recording has no times, a stream's samples are a second apart."""
    name = file.path.stem
    counts: dict[str, int] = {}
    for rows in chunks:
        values: Any = rows.values
        time = rows.time.tolist() if rows.time is not None else None
        for i in range(len(rows)):
            stream = rows.stream[i] if rows.stream is not None else name
            count = counts[stream] = counts.get(stream, -1) + 1
            yield Block(
                stream,
                time[i] if time is not None else float(count),
                {key: array[i] for key, array in values.items()},
                None,
                [rows.label[i]] if rows.label is not None else None,
                rows.segment[i] if rows.segment is not None else None,
            )


@dataclass(slots=True)
class _Open:
    """One stream of a recording, part-way."""

    need: int
    """Rows from the beginning of `rest` to where the next window ends."""
    rest: Rows | None = None
    """Rows after the last block; None where there are none."""
    count: int = 0
    """Rows so far: their time, where the recording has none."""
    last: float = math.inf
    """Time of the last row; inf: a first row follows no gap."""


def _windowed(file: File, chunks: Iterator[Rows], window: Window) -> Iterator[Block]:
    """Blocks of `hop` rows a stream; shorter where the segment changes or a gap in time begins a new window."""
    opened: dict[str, _Open] = {}
    for rows in chunks:
        if rows.messages is not None:
            yield from _messages(file, rows, rows.messages, window, opened)
            continue
        ready: list[tuple[int, Block]] = []
        for stream, part in _by_stream(rows, file.path.stem):
            state = opened.setdefault(stream, _Open(_first(window)))
            if part.time is None:
                part.time = (state.count + np.arange(len(part))) / (window.rate or 1.0)
            state.count += len(part)
            ready += _cut(stream, state, part, window)
        # Across streams by row number: times tie where streams are sampled together, and names must not matter.
        ready.sort(key=lambda pair: pair[0])
        for _, block in ready:
            yield block
    for stream, state in opened.items():
        if state.rest is not None:
            yield _block(stream, state.rest, 0, len(state.rest))


def _messages(file: File, rows: Rows, lengths: list[int], window: Window, opened: dict[str, _Open]) -> Iterator[Block]:
    """The blocks that a sensor sent, as it sent them."""
    begin = 0
    for length in lengths:
        end = begin + length
        stream = rows.stream[begin] if rows.stream is not None else file.path.stem
        state = opened.setdefault(stream, _Open(0))
        state.count += length
        block = _block(stream, rows, begin, end)
        if rows.time is None:
            block.time = (state.count - 1) / (window.rate or 1.0)
        yield block
        begin = end


def _first(window: Window) -> int:
    """Rows in a stream's first block, so that each later one, of `hop` rows, ends with a window."""
    return (window.rows - 1) % window.hop + 1


def _cut(stream: str, state: _Open, part: Rows, window: Window) -> list[tuple[int, Block]]:
    """The blocks that `part` completes, each with the number of its last row; what is left waits in `state`."""
    rows = part if state.rest is None else _joined(state.rest, part)
    n = len(rows)
    cuts: set[int] = set()
    restarts: list[int] = []
    if window.rate is not None and rows.time is not None:
        before = state.last if state.rest is None else float(rows.time[0])
        restarts = np.flatnonzero(np.diff(rows.time, prepend=before) > window.rows / window.rate).tolist()
        state.last = float(rows.time[-1])
    need = state.need
    for begin, end in pairwise([-1, *restarts, n]):
        if begin >= 0:
            cuts.add(begin)
            need = begin + _first(window)
        inside = range(need, end + 1, window.hop)
        cuts.update(inside)
        need += len(inside) * window.hop
    if rows.segment is not None:
        segment = rows.segment
        cuts.update(i for i in range(1, n) if segment[i] != segment[i - 1])
    blocks = []
    begin = 0
    for end in sorted(cuts):
        if end > begin:
            blocks.append((int(rows.place[end - 1]), _block(stream, rows, begin, end)))
            begin = end
    state.rest = _part(rows, slice(begin, n)) if begin < n else None
    state.need = need - begin
    return blocks


def _block(stream: str, rows: Rows, begin: int, end: int) -> Block:
    return Block(
        stream,
        float(rows.time[end - 1]) if rows.time is not None else 0.0,
        rows.values[begin:end],  # type: ignore[index]
        None,
        rows.label[begin:end] if rows.label is not None else None,
        rows.segment[end - 1] if rows.segment is not None else None,
    )


def _by_stream(rows: Rows, name: str) -> list[tuple[str, Rows]]:
    if rows.stream is None:
        return [(name, rows)]
    names, codes = np.unique(np.asarray(rows.stream), return_inverse=True)
    if len(names) == 1:
        return [(str(names[0]), rows)]
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    return [(str(names[k]), _part(rows, order[bounds[k] : bounds[k + 1]])) for k in range(len(names))]


def _part(rows: Rows, which: slice | NDArray[np.intp]) -> Rows:
    def some(values: list[Any] | None) -> list[Any] | None:
        if values is None:
            return None
        return values[which] if isinstance(which, slice) else [values[i] for i in which.tolist()]

    values: Any = rows.values
    time = rows.time[which] if rows.time is not None else None
    return Rows(rows.place[which], values[which], time, None, some(rows.label), some(rows.segment))


def _joined(a: Rows, b: Rows) -> Rows:
    values: Any = np.concatenate([a.values, b.values])
    time = np.concatenate([a.time, b.time]) if a.time is not None and b.time is not None else None
    label = a.label + b.label if a.label is not None and b.label is not None else None
    segment = a.segment + b.segment if a.segment is not None and b.segment is not None else None
    return Rows(np.concatenate([a.place, b.place]), values, time, None, label, segment)


__all__ = ["Recording"]
