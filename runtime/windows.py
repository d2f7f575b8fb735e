"""Rows to windows: `rows` rows of a stream make one sample `[C, rows]`, a new one every `hop` rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from trimtab.runtime.blocks import Block, Label, Sample
from trimtab.runtime.bundle import Window


class Windower:
    """The open window of one stream.

    A window never joins rows across a gap longer than itself: where the sender was silent for that long (rate
    known), or sends another number of channels, the rows before are dropped.

    Parameters
    ----------
    stream
        Name of the stream.
    channels
        C, the values in a row.
    window
        Rows, hop and rate, from the manifest.
    """

    def __init__(self, stream: str, channels: int, window: Window) -> None:
        self.stream = stream
        self.channels = channels
        self.rows = window.rows
        self.hop = window.hop
        self.rate = window.rate
        self.sequence = 0
        """Number of the next window."""
        self.dropped = 0
        """Rows that a gap made useless."""
        self._buffer = np.empty((max(4 * window.rows, window.rows + 512), channels), np.float32)
        # The window that begins at each row: [places, C, rows].
        self._windows = sliding_window_view(self._buffer, window.rows, axis=0)
        self._start = 0
        self._end = 0
        self._skip = 0  # rows still to pass over, where the hop is longer than the window
        self._bad = -1  # index in the buffer of the last row that is not finite
        self._time: float | None = None

    def push(self, block: Block) -> list[Sample]:
        """Take a block's rows; return the windows that they complete, in order."""
        values = block.values
        if not isinstance(values, np.ndarray):
            raise TypeError("a windowed stream takes rows, not whole samples")
        count = len(values)
        if count == 0:
            return []
        if self._time is not None and self.rate is not None:
            self._drop_after_gap((block.time - self._time) * self.rate - count)
        samples: list[Sample] = []
        room = len(self._buffer) - self.rows
        if count <= room:
            self._push(values, block.time, block.labels, block.segment, samples)
            self._time = block.time
            return samples
        for begin in range(0, count, room):
            part = values[begin : begin + room]
            labels = block.labels[begin : begin + room] if block.labels is not None else None
            late = count - begin - len(part)
            time = block.time - late / self.rate if self.rate and late else block.time
            self._push(part, time, labels, block.segment, samples)
        self._time = block.time
        return samples

    def _push(
        self,
        values: NDArray[np.float32],
        time: float,
        labels: list[Label | None] | None,
        segment: str | None,
        samples: list[Sample],
    ) -> None:
        if self._skip:
            skipped = min(self._skip, len(values))
            self._skip -= skipped
            values = values[skipped:]
            labels = labels[skipped:] if labels is not None else None
            if not len(values):
                return
        count = len(values)
        buffer = self._buffer
        if self._end + count > len(buffer):
            kept = self._end - self._start
            buffer[:kept] = buffer[self._start : self._end]
            self._bad -= self._start
            self._start, self._end = 0, kept
        first = self._end
        buffer[first : first + count] = values
        self._end = end = first + count
        # Their squares' sum is finite only where all of them are: a quick look first.
        if not math.isfinite(np.vdot(values, values)) and not np.isfinite(values).all():
            self._bad = first + int(np.flatnonzero(~np.isfinite(values).all(axis=1))[-1])
        start = self._start
        rows, hop = self.rows, self.hop
        if end - start >= rows:
            # One copy for all windows of the block: [windows, C, rows].
            for window in self._windows[start : end - rows + 1 : hop].copy():
                stop = start + rows
                after = end - stop
                samples.append(
                    Sample(
                        self.stream,
                        self.sequence,
                        time - after / self.rate if self.rate and after else time,
                        [window],
                        self._bad < start or not self._any_bad(start, stop),
                        labels[stop - 1 - first] if labels is not None and stop > first else None,
                        segment,
                    )
                )
                self.sequence += 1
                start += hop
        if start > end:
            self._skip = start - end
            start = end
        self._start = start

    def _any_bad(self, start: int, stop: int) -> bool:
        return not bool(np.isfinite(self._buffer[start:stop]).all())

    def _drop_after_gap(self, missing: float) -> None:
        """`missing`: rows for which the sender was silent."""
        if missing > self.rows:
            self.dropped += self._end - self._start
            self._start = self._end = self._skip = 0
            self._bad = -1

    def state(self) -> dict[str, Any]:
        """The open window: JSON-able but for `rows` (float32 bytes)."""
        return {
            "sequence": self.sequence,
            "time": self._time,
            "skip": self._skip,
            "rows": self._buffer[self._start : self._end].tobytes(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Raises ValueError where its rows are not of this many channels."""
        rows = np.frombuffer(state["rows"], np.float32)
        if rows.size % self.channels or rows.size > self.rows * self.channels:
            raise ValueError(f"the open window of {self.stream} was made with other channels")
        rows = rows.reshape(-1, self.channels)
        self._buffer[: len(rows)] = rows
        self._start, self._end = 0, len(rows)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        self._bad = int(bad[-1]) if len(bad) else -1
        self._skip = int(state["skip"])
        self._time = state["time"]
        self.sequence = int(state["sequence"])
