"""One method on many streams, whose steps are taken in one call: `load_streams` a bundle's method.

    adapter = trimtab.adapters.load_streams("bundle", "tent", 16, lr=1e-3)
    y = adapter.step(x, active)  # x [16, N, ...], active [16]

Every stream has a state of its own, the same that `trimtab.adapters.load` would have for it: states can be moved
between both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.adapters.home import Home
from trimtab.adapters.steps import (
    Array,
    Part,
    State,
    StepGraph,
    checked,
    checked_inputs,
    checked_state,
    finite_samples,
    open_session,
    read,
)


class StreamsAdapter:
    """A method at work on a number of streams of batches. Not thread-safe."""

    def __init__(
        self,
        described: StepGraph,
        count: int,
        hyper: Mapping[str, float],
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 0,
    ) -> None:
        """`described`: with the graph of many streams. `hyper`, `threads`, errors: as for `StepAdapter`."""
        if int(count) != count or count < 1:
            raise ValueError(f"{described.name}: {count} streams; give a whole number, at least 1")
        self.name = described.name
        self.count = int(count)
        """S"""
        self.home = described.home
        self.parts = described.parts
        self.classifies = described.classifies
        self.hyper = checked(described, hyper)
        self.metrics: dict[str, NDArray[np.float32]] = {}
        """Of the last step, `[S]`; NaN where a stream took none."""
        self.refused = np.zeros(count, np.int64)
        """`[S]`: steps whose result was not finite: the state from before was kept."""
        self._described = described
        self._fixed = {f"hyper.{n}": np.asarray(v, np.float32) for n, v in self.hyper.items()}
        self._session = open_session(described.graph, providers, threads)
        self._names = [o.name for o in self._session.get_outputs()]
        self.outputs = int(self._session.get_outputs()[self._names.index("y")].shape[2])
        """K"""
        self._state: State = {}
        self.reset()

    def step(self, inputs: Array | Mapping[str, Array], active: NDArray[np.bool_] | None = None) -> Array:
        """One step of each stream on its batch, `[S, N, ...]` in sensor units; a mapping where the model has several
        inputs.

        Returns `y [S, N, K]`. `active [S]`: which streams take part (all); the others keep their state, and get NaN.
        Samples with NaN or infinity are left out, and get NaN; where the new state of a stream is not finite it keeps
        the old one. Raises ValueError on wrong shapes, and where `active` is no mask.
        """
        given = self.named(inputs)
        whole = finite_samples(given, 2)
        if active is not None:
            active = np.asarray(active)
            if active.dtype != np.bool_:  # numbers of streams would be taken for a mask
                raise ValueError(f"{self.name}: active is of {active.dtype}; give True or False for each stream")
            if active.shape != (self.count,):
                raise ValueError(f"{self.name}: active has the shape {list(active.shape)}; give [{self.count}]")
            whole &= active[:, None]
        y = np.full((*whole.shape, self.outputs), np.nan, np.float32)
        measured = {n: np.full(self.count, np.nan, np.float32) for n in self._names if n.startswith("metric.")}
        sizes = whole.sum(1)
        for size in np.unique(sizes[sizes > 0]):  # one, unless samples were left out
            rows = np.flatnonzero(sizes == size)
            here = np.zeros_like(whole)
            here[rows] = whole[rows]
            feed = {n: v if here.all() else v[here].reshape(len(rows), size, *v.shape[2:]) for n, v in given.items()}
            before = {f"state.{n}": v if len(rows) == self.count else v[rows] for n, v in self._state.items()}
            found = self._session.run(self._names, {**feed, **before, **self._fixed})
            out = dict(zip(self._names, found, strict=True))
            y[here] = out["y"].reshape(-1, self.outputs)
            for name, values in measured.items():
                values[rows] = out[name]
            self._keep(rows, {n: out[f"next.{n}"] for n in self._state})
        self.metrics = {n.removeprefix("metric."): v for n, v in measured.items()}
        return y

    def _keep(self, rows: NDArray[np.int64], after: State) -> None:
        floats = [v.reshape(len(rows), -1) for v in after.values() if v.dtype.kind == "f"]
        finite = np.logical_and.reduce([np.isfinite(v).all(axis=1) for v in floats], initial=True)
        finite = np.broadcast_to(finite, rows.shape)
        self.refused[rows] += ~finite
        for name, value in after.items():
            self._state[name][rows[finite]] = value[finite]

    @property
    def theta(self) -> Array:
        """`[S, Q]`: all that the method changes, in the order of `parts`."""
        return np.array(self._state.get("theta", np.zeros((self.count, 0))), np.float32)

    def state(self, stream: int | None = None) -> State:
        """A copy of all that the method remembers, `[S, ...]`; or of one stream, as `StepAdapter.state` gives it.
        Raises ValueError where there is no such stream."""
        at = ... if stream is None else self._row(stream)
        return {n: np.array(v[at]) for n, v in self._state.items()}

    def restore(self, state: Mapping[str, NDArray[Any]], stream: int | None = None) -> None:
        """Go on from a state that `state` gave, of all streams or of one. Raises ValueError where names, shapes or
        types differ, NaN is in it, or there is no such stream."""
        if stream is None:
            self._state = checked_state(self._described, state, (self.count,))
            return
        row = self._row(stream)
        for name, value in self.checked_state(state).items():
            self._state[name][row] = value

    def reset(self, stream: int | None = None) -> None:
        """All streams, or one, back to the state before the first step. Raises ValueError where there is no such
        stream."""
        if stream is not None:
            self.restore(self._described.start, stream)
        else:
            self._state = {n: np.repeat(v[None], self.count, 0) for n, v in self._described.start.items()}

    def named(self, inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
        """Batches `[S, N, ...]` as float32 arrays by input name. Raises ValueError on wrong names or shapes."""
        return checked_inputs(self._described, inputs, (self.count,))

    def checked_state(self, state: Mapping[str, NDArray[Any]]) -> State:
        """A copy of one stream's state. Raises ValueError as `restore` does."""
        return checked_state(self._described, state)

    def stream(self, stream: int) -> Stream:
        """One stream as a method of its own, but for its steps. Raises ValueError where there is none."""
        return Stream(self, self._row(stream))

    def _row(self, stream: int) -> int:
        if not 0 <= stream < self.count:
            raise ValueError(f"{self.name}: there is no stream {stream}; give one from 0 to {self.count - 1}")
        return stream


@dataclass(frozen=True)
class Stream:
    """One of many streams, as `StepAdapter` has it; steps are taken with the others."""

    of: StreamsAdapter
    number: int

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def classifies(self) -> bool:
        return self.of.classifies

    @property
    def home(self) -> Home | None:
        return self.of.home

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.of.parts

    @property
    def outputs(self) -> int:
        return self.of.outputs

    @property
    def remembered(self) -> State:
        return self.state()

    def state(self) -> State:
        return self.of.state(self.number)

    def checked_state(self, state: Mapping[str, NDArray[Any]]) -> State:
        return self.of.checked_state(state)

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.of.restore(state, self.number)

    def reset(self) -> None:
        self.of.reset(self.number)


def load_streams(
    bundle: str | Path,
    method: str,
    count: int,
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
    **hyper: float,
) -> StreamsAdapter:
    """The method of that name in the bundle's folder for `count` streams, with `hyper` in place of its defaults.

    Raises as `trimtab.adapters.load` does, and ValueError where the bundle has the method for one stream alone.
    """
    return StreamsAdapter(read(Path(bundle), method, streams=True), count, hyper, providers, threads)
