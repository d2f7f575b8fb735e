"""The engine: which session runs each sample, while every stream may have a parameter vector of its own.

A vector that has been stable is *folded*: its own serve and observe sessions, as fast as a plain export. A vector
that is new, or one of too many, is *banked*: a row of the bank, run together with all others in one call.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.runtime.bundle import Bundle
from trimtab.runtime.config import Sessions
from trimtab.runtime.errors import BundleError, ConfigError, InferenceError, ProviderError
from trimtab.runtime.executors import Executor
from trimtab.runtime.folding import Template
from trimtab.runtime.providers import Opener, Range, library, library_errors, one_line

log = logging.getLogger(__name__)

CHUNK = 1024
"""Samples in one call of the probe graph: bounds its memory, whatever the number of candidates."""

WORTH = 8
"""Samples of one vector that are worth a call of their own beside the banked one. A call costs as much as several
samples of a small model; the bank costs a quarter more for each sample of a large model, half more of a small one
(benchmarks/sessions.py). A fixed number and no measurement, so that a replay takes the same way every time."""

Feed = Mapping[str, NDArray[Any]]


@dataclass(slots=True)
class Outputs:
    """What the model gives for N samples."""

    y: NDArray[np.float32]
    """[N, K] logits or regression values."""
    features: NDArray[np.float32] | None
    """[N, F] where observed and the model has them."""
    moments: NDArray[np.float32] | None
    """[N, 2, M] mean and variance of each norm channel's input, where observed."""


class Graph:
    """One open session, called with its inputs.

    On the CPU `session.run` is used as it is: measured at batch 1, it is quicker than any way of IO binding. On a
    device the outputs are bound, and the bank is copied there only when it has changed.
    """

    __slots__ = ("_bank", "_device", "_errors", "_features", "_moments", "_names", "_run", "session")

    def __init__(self, session: Any, device: str, number: int) -> None:
        self.session = session
        self._names = [o.name for o in session.get_outputs() if o.name in ("y", "features", "moments")]
        # y first: the others are found by their place.
        self._names.sort(key=lambda name: name != "y")
        self._features = self._names.index("features") if "features" in self._names else 0
        self._moments = self._names.index("moments") if "moments" in self._names else 0
        self._run: Callable[[list[str], Feed], list[NDArray[np.float32]]]
        self._run = session.run if device == "cpu" else self._run_bound
        self._device = (device, number)
        self._errors = library_errors()
        self._bank: tuple[NDArray[Any], Any] | None = None

    def __call__(self, feed: Feed) -> Outputs:
        """Run the graph. Raises InferenceError where ONNX Runtime cannot; the session stays usable."""
        try:
            values = self._run(self._names, feed)
        except self._errors as error:
            raise InferenceError(one_line(error)) from error
        return Outputs(
            values[0],
            values[self._features] if self._features else None,
            values[self._moments] if self._moments else None,
        )

    def _run_bound(self, names: list[str], feed: Feed) -> list[NDArray[np.float32]]:
        binding = self.session.io_binding()
        for name, value in feed.items():
            if name == "bank":
                binding.bind_ortvalue_input(name, self._resident(value))
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in names:
            binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        values: list[NDArray[np.float32]] = binding.copy_outputs_to_cpu()
        return values

    def _resident(self, bank: NDArray[Any]) -> Any:
        # The engine never writes to a bank that it has handed out, so the same array has the same content.
        held = self._bank
        if held is None or held[0] is not bank:
            held = (bank, library().OrtValue.ortvalue_from_numpy(bank, *self._device))
            self._bank = held
        return held[1]


@dataclass(frozen=True, slots=True)
class _Folded:
    serve: Graph
    observe: Graph


@dataclass(slots=True, eq=False)
class _Vector:
    """A parameter vector that streams are bound to."""

    key: bytes
    theta: NDArray[np.float32]
    slot: int
    """Its row of the bank."""
    streams: int = 0
    """How many are bound to it."""
    folded: _Folded | None = None
    """Replaced as a whole, so that whoever reads it sees a pair that belongs together."""
    bound: int = 0
    """When a stream was last bound to it, on the engine's count of binds."""
    refused: bool = False
    """Its sessions could not be built: it stays banked."""


class Engine:
    """Runs a bundle's graphs for many streams, each with its own parameter vector.

    Threads: `infer` is for one thread at a time; `bind` and `probe` may be called from any thread beside it. A
    sample is run with exactly one vector, either the one before or the one after a `bind` in its time.

    The `sessions.folded` vectors that were bound last have sessions of their own, beside the source vector, which
    always has; with 0 every adapted vector is banked. A bundle without a banked graph can only be folded: then
    `bind` builds the sessions before it returns, and no more than `sessions.folded` vectors can be had.

    `batch` is the number of samples that calls usually have; TensorRT's profile is made for it.

    Raises ProviderError where a required provider does not work, BundleError where a graph cannot be used.
    """

    def __init__(self, bundle: Bundle, sessions: Sessions, executor: Executor, *, batch: int = 64) -> None:
        self._bundle = bundle
        self._sessions = sessions
        self._executor = executor
        self._opener = Opener(sessions, bundle.path.parent / f"{bundle.path.name}.tensorrt")
        self._size = bundle.layout.size
        self._batch = batch
        self._ranges = {
            i.name: Range((1, *i.shape), (batch, *i.shape), (max(batch, CHUNK), *i.shape))
            for i in bundle.manifest.inputs
        }
        theta = np.array(bundle.source.theta, np.float32)
        self._bank = np.tile(theta, (sessions.slots + 1, 1))
        self._lent = False
        """Whether a call may be reading the bank: then it is copied before a row changes."""
        graphs = bundle.manifest.graphs
        self._serve = self._template("serve")
        # Without an observe graph there are no taps: a call that asks for them gets y alone.
        self._observe = self._template("observe") if "observe" in graphs else None
        self._banked = self._open_banked("banked") if "banked" in graphs else None
        self._probe = self._open_banked("probe") if "probe" in graphs else None

        # Guards all that follows; sessions are built and run outside of it.
        self._lock = threading.Lock()
        self._source = _Vector(theta.tobytes(), theta, slot=0, folded=self._fold(theta, keep=True))
        self._vectors: dict[bytes, _Vector] = {self._source.key: self._source}
        self._streams: dict[str, _Vector] = {}
        self._free = list(range(sessions.slots, 0, -1))
        self._building = False
        self._closed = False
        self._binds = 0

    def bind(self, stream: str, theta: NDArray[np.float32] | None) -> None:
        """Run the samples of `stream` with `theta [P]` from the next call on; None: with the source vector again.

        Its row of the bank changes before this returns; its folded sessions are built through the executor and
        take over when they are ready. Streams with equal vectors share both.

        Raises ValueError where theta has another shape or is not finite, ConfigError where there are more different
        vectors than `sessions.slots` (or, without a banked graph, `sessions.folded`) allows.
        """
        key, theta = self._key(theta)
        ready = None
        while True:
            with self._lock:
                if self._banked is not None or ready is not None or key in self._vectors:
                    build = self._assign(stream, key, theta, ready)
                    break
            ready = self._fold(theta, keep=False)
        if build:
            try:
                self._executor.submit(self._build)
            except queue.Full:
                log.warning("no folded session for stream %s yet: too much other work waits", stream)
                with self._lock:
                    self._building = False

    def infer(self, inputs: dict[str, NDArray[np.float32]], streams: Sequence[str], observe: bool) -> Outputs:
        """Run N samples: `inputs` are `[N, ...]` in sensor units, `streams` the stream of each.

        All samples whose vector is folded go through its session, the others together through the bank (small
        groups join them there where a call of their own would cost more). The order of the results is that of
        the inputs. Raises ValueError where N is 0.
        """
        if not streams:
            raise ValueError("there are no samples to infer")
        find, source = self._streams.get, self._source
        vector = find(streams[0], source)
        if len(streams) > 1:
            for stream in streams:
                if find(stream, source) is not vector:
                    return self._mixed(inputs, streams, observe)
        folded = vector.folded
        if folded is None:
            return self._mixed(inputs, streams, observe)
        return folded.observe(inputs) if observe else folded.serve(inputs)

    def probe(
        self, inputs: dict[str, NDArray[np.float32]], rows: NDArray[np.float32], slot: NDArray[np.int64]
    ) -> Outputs:
        """Run N samples with candidate vectors: sample n with `rows[slot[n]]`; `rows [R, P]`, `slot [N]`.

        Nothing is bound. At most `CHUNK` samples are run in one call. Raises BundleError where the bundle has no
        probe graph.
        """
        graph = self._probe  # `close` may take it away while a try is under way
        if graph is None and self._closed:
            raise InferenceError("the engine is closed")
        if graph is None:
            raise BundleError(
                f"{self._bundle.path / 'manifest.yaml'}: graphs: there is no 'probe' graph, so nothing can be "
                "adapted; export the bundle again"
            )
        count = len(slot)
        if count == 0:
            raise ValueError("there are no samples to probe")
        rows = np.ascontiguousarray(rows, np.float32)
        slot = np.ascontiguousarray(slot, np.int64)
        parts = []
        for start in range(0, count, CHUNK):
            part = slice(start, start + CHUNK)
            feed: dict[str, NDArray[Any]] = {name: value[part] for name, value in inputs.items()}
            parts.append(graph({**feed, "slot": slot[part], "bank": rows}))
        if len(parts) == 1:
            return parts[0]
        return _merge([(slice(i * CHUNK, i * CHUNK + len(p.y)), p) for i, p in enumerate(parts)], count)

    def is_folded(self, stream: str) -> bool:
        """Whether the stream's vector has its own sessions by now."""
        return self._streams.get(stream, self._source).folded is not None

    def providers(self) -> list[str]:
        """ONNX Runtime's names of the providers in use, in order."""
        folded = self._source.folded
        names: list[str] = folded.serve.session.get_providers() if folded is not None else []
        return names

    def close(self) -> None:
        """Let go of all sessions. A build or a probe under way ends without effect; of what is called afterwards, only
        `probe` says so, with an InferenceError."""
        with self._lock:
            self._closed = True
            for vector in self._vectors.values():
                vector.folded = None
            self._vectors.clear()
            self._streams.clear()
            self._banked = self._probe = None

    # -- vectors and the bank, all under the lock ---------------------------------------------------------------

    def _key(self, theta: NDArray[np.float32] | None) -> tuple[bytes, NDArray[np.float32]]:
        if theta is None:
            return self._source.key, self._source.theta
        # A copy: the caller may go on changing its own.
        theta = np.array(theta, np.float32)
        if theta.shape != (self._size,):
            raise ValueError(f"theta has shape {theta.shape}, expected ({self._size},)")
        if not np.isfinite(theta).all():
            raise ValueError("theta holds a value that is not finite")
        return theta.tobytes(), theta

    def _assign(self, stream: str, key: bytes, theta: NDArray[np.float32], ready: _Folded | None) -> bool:
        """Bind; returns whether a build must be started."""
        old = self._streams.get(stream, self._source)
        if old.key == key:
            return False
        vector = self._vectors.get(key)
        if vector is None:
            vector = self._admit(key, theta, old)
            vector.folded = ready
        self._binds += 1
        vector.bound = self._binds
        vector.streams += 1
        if vector is self._source:
            self._streams.pop(stream, None)
        else:
            self._streams[stream] = vector
        self._release(old)
        if self._building or self._next() is None:
            return False
        self._building = True
        return True

    def _admit(self, key: bytes, theta: NDArray[np.float32], old: _Vector) -> _Vector:
        """A row for a new vector, which may be the one that `old` is about to leave."""
        leaves = old is not self._source and old.streams == 1
        if not self._free and not leaves:
            raise ConfigError(
                f"sessions.slots: all {self._sessions.slots} rows of the bank are taken by different parameter "
                "vectors; raise it to the number of streams"
            )
        if self._banked is None and len(self._vectors) - leaves > self._sessions.folded:
            raise ConfigError(
                f"sessions.folded: this bundle has no banked graph, so no more than {self._sessions.folded} "
                "parameter vectors can be had; raise it, or export the bundle with a banked graph"
            )
        if not self._free:
            # Its only stream moves on, and `_release` then finds nothing left to do.
            self._drop(old)
        vector = _Vector(key, theta, self._free.pop())
        self._vectors[key] = vector
        if self._lent:
            self._bank = self._bank.copy()
            self._lent = False
        self._bank[vector.slot] = theta
        return vector

    def _release(self, vector: _Vector) -> None:
        if vector is self._source:
            return
        vector.streams -= 1
        if vector.streams == 0 and self._vectors.get(vector.key) is vector:
            self._drop(vector)

    def _drop(self, vector: _Vector) -> None:
        del self._vectors[vector.key]
        self._free.append(vector.slot)

    # -- running --------------------------------------------------------------------------------------------------

    def _mixed(self, inputs: dict[str, NDArray[np.float32]], streams: Sequence[str], observe: bool) -> Outputs:
        """Samples of several vectors, or of one that is not folded (yet)."""
        with self._lock:
            vectors = [self._streams.get(stream, self._source) for stream in streams]
            # What belongs together is read together: a slot means its row only in this bank.
            bank = self._bank
            self._lent = True
            banked_graph = self._probe if observe and self._probe is not None else self._banked
        groups: dict[_Vector, list[int]] = {}
        for n, vector in enumerate(vectors):
            groups.setdefault(vector, []).append(n)
        parts: list[tuple[NDArray[np.intp] | slice, Outputs]] = []
        shared: list[int] = []
        for vector, members in groups.items():
            folded = vector.folded
            if folded is None or (banked_graph is not None and len(members) < min(WORTH, len(vectors))):
                shared.extend(members)
                continue
            index = np.array(members)
            graph = folded.observe if observe else folded.serve
            parts.append((index, graph({name: value[index] for name, value in inputs.items()})))
        if shared and banked_graph is not None:
            shared.sort()
            index = np.array(shared)
            slot = np.array([vectors[n].slot for n in shared], np.int64)
            whole = len(shared) == len(vectors)
            feed = inputs if whole else {name: value[index] for name, value in inputs.items()}
            outputs = banked_graph({**feed, "slot": slot, "bank": bank})
            if not observe:
                outputs = Outputs(outputs.y, None, None)
            parts.append((index, outputs))
        # One part holds every sample, and in order.
        if len(parts) == 1:
            return parts[0][1]
        return _merge(parts, len(vectors))

    # -- building -------------------------------------------------------------------------------------------------

    def _next(self) -> _Vector | None:
        """The vector whose sessions should be built next: the latest bound of those that may have some."""
        for vector in self._entitled():
            if vector.folded is None and not vector.refused:
                return vector
        return None

    def _entitled(self) -> list[_Vector]:
        # By binding and not by use: where more vectors run than may be folded, use would have them swap for ever.
        adapted = [v for v in self._vectors.values() if v is not self._source]
        adapted.sort(key=lambda v: v.bound, reverse=True)
        return adapted[: self._sessions.folded]

    def _build(self) -> None:
        """Build the sessions that are missing, one pair after another, and swap each pair in when it is ready."""
        while True:
            with self._lock:
                vector = None if self._closed else self._next()
                if vector is None:
                    self._building = False
                    return
            try:
                folded = self._fold(vector.theta, keep=False)
            except Exception:
                # Whatever it is, samples are served without this session; only their cost is higher.
                log.exception("a folded session could not be built, the bank serves on")
                vector.refused = True
                continue
            with self._lock:
                entitled = self._entitled()
                for other in self._vectors.values():
                    if other is not self._source and other not in entitled:
                        other.folded = None
                if vector in entitled and not self._closed:
                    vector.folded = folded

    def _fold(self, theta: NDArray[np.float32], *, keep: bool) -> _Folded:
        serve = self._open("serve", self._serve.patched(theta), {}, keep=keep)
        if self._observe is None:
            return _Folded(serve, serve)
        return _Folded(serve, self._open("observe", self._observe.patched(theta), {}, keep=keep))

    def _template(self, which: str) -> Template:
        return Template(self._bundle.graph(which), self._bundle.layout, str(self._file(which)))

    def _shapes(self, which: str) -> dict[str, tuple[int, ...]]:
        """What a graph must give for one sample, by the manifest."""
        manifest = self._bundle.manifest
        shapes: dict[str, tuple[int, ...]] = {"y": (1, len(manifest.outputs))}
        if which in ("observe", "probe"):
            if manifest.features:
                shapes["features"] = (1, manifest.features)
            if manifest.norms:
                shapes["moments"] = (1, 2, sum(norm.channels for norm in manifest.norms))
        return shapes

    def _file(self, which: str) -> Path:
        return self._bundle.path / self._bundle.manifest.graphs[which]  # type: ignore[index]

    def _open_banked(self, which: str) -> Graph:
        usual, most = self._batch, max(self._batch, CHUNK)
        rows = self._sessions.slots + 1
        ranges = {
            "slot": Range((1,), (usual,), (most,)),
            "bank": Range((1, self._size), (rows, self._size), (max(rows, CHUNK), self._size)),
        }
        return self._open(which, self._bundle.graph(which), ranges, keep=True)

    def _open(self, which: str, graph: bytes, more: Mapping[str, Range], *, keep: bool) -> Graph:
        """A session of a graph whose inputs are the bundle's and `more`, warm: run once on one sample of zeros, since
        what a first call allocates must not delay a sample that somebody waits for.

        Raises BundleError where that shows that the graph is not the one that the manifest tells of.
        """
        try:
            session = self._opener.open(graph, {**self._ranges, **more}, keep=keep)
        except ProviderError as error:
            if self._opener.names != ["cpu"]:
                raise
            # What the CPU cannot run, no other provider will.
            reason = _reason(error.__cause__ or error)
            raise BundleError(f"{self._file(which)}: cannot be opened ({reason}); export the bundle again") from error
        shapes = self._shapes(which)
        if missing := set(shapes) - {output.name for output in session.get_outputs()}:
            raise BundleError(
                f"{self._file(which)}: there is no output {', '.join(sorted(missing))}; export the bundle again"
            )
        opened = Graph(session, *self._opener.device)
        feed: dict[str, NDArray[Any]] = {name: np.zeros(r.smallest, np.float32) for name, r in self._ranges.items()}
        if more:
            feed |= {"slot": np.zeros(1, np.int64), "bank": self._bank}
        try:
            outputs = opened(feed)
        except InferenceError as error:
            raise BundleError(
                f"{self._file(which)}: the model cannot be run ({_reason(error)}); export the bundle again"
            ) from error
        for name, wanted in shapes.items():
            found = getattr(outputs, name).shape
            if found != wanted:
                raise BundleError(
                    f"{self._file(which)}: the output {name} has the shape {list(found)} for one sample where the "
                    f"manifest asks for {list(wanted)}; export the bundle again"
                )
        return opened


def _reason(error: BaseException) -> str:
    """What ONNX Runtime says without its codes."""
    return one_line(re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)), 120)


def _merge(parts: Sequence[tuple[NDArray[np.intp] | slice, Outputs]], count: int) -> Outputs:
    """Put the outputs of groups of samples back into the order of the samples."""

    def joined(name: str) -> NDArray[np.float32] | None:
        values = [(index, getattr(part, name)) for index, part in parts]
        if any(value is None for _, value in values):
            return None
        whole = np.empty((count, *values[0][1].shape[1:]), np.float32)
        for index, value in values:
            whole[index] = value
        return whole

    y = joined("y")
    if y is None:
        raise ValueError("a graph gave no y")
    return Outputs(y, joined("features"), joined("moments"))


__all__ = ["CHUNK", "WORTH", "Engine", "Graph", "Outputs"]
