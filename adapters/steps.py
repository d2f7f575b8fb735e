"""Step graphs on the box: `load` a bundle's method, `step` it, keep and restore its state.

    adapter = trimtab.adapters.load("bundle", "eata", lr=1e-3)
    y = adapter.step(x)

Everything that a method remembers is in its state, so that whoever restores a state goes on bit for bit.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import yaml
from numpy.typing import NDArray

from trimtab.adapters.home import Home

Array = NDArray[np.float32]
State = dict[str, NDArray[Any]]
SCHEMA = 1
"""The version of manifests that can be read."""


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    default: float
    low: float
    high: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Part:
    """One named tensor of `theta`, in order and without gaps."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StepGraph:
    """One method of a bundle, as its manifest describes it, and its files' contents."""

    name: str
    inputs: Mapping[str, tuple[int, ...]]
    """Shape of one sample of each input."""
    parts: tuple[Part, ...]
    hyper: Mapping[str, Hyperparameter]
    graph: bytes
    start: State
    """The state before the first step."""
    classifies: bool = True
    """Whether `y` are logits of classes; else values of a regression."""
    home: Home | None = None
    """What source samples look like, where the bundle says so."""


class StepAdapter:
    """A method at work on one stream of batches. Not thread-safe."""

    def __init__(
        self,
        described: StepGraph,
        hyper: Mapping[str, float],
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 0,
    ) -> None:
        """`hyper`: values in place of defaults. `threads`: of ONNX Runtime; 0: one a core.

        Raises ValueError on an unknown hyperparameter or one out of its bounds, RuntimeError without ONNX Runtime.
        """
        self.name = described.name
        self.home = described.home
        self.parts = described.parts
        self.classifies = described.classifies
        self.hyper = checked(described, hyper)
        self.metrics: dict[str, float] = {}
        """Of the last step."""
        self.refused = 0
        """Steps whose result was not finite: the state from before was kept."""
        self._described = described
        self._fixed = {f"hyper.{n}": np.asarray(v, np.float32) for n, v in self.hyper.items()}
        self._session = open_session(described.graph, providers, threads)
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._state = dict(described.start)

    def step(self, inputs: Array | Mapping[str, Array]) -> Array:
        """One step on a batch `[N, ...]` in sensor units; a mapping where the model has several inputs.

        Returns `y [N, K]`, as the method predicts. Samples with NaN or infinity are left out, and their rows of y are
        NaN. Where the new state is not finite the old one is kept and `refused` counts. Raises ValueError on wrong
        shapes.
        """
        given = self.named(inputs)
        whole = self.finite(given)
        count = len(whole)
        if not whole.any():
            return np.full((count, self.outputs), np.nan, np.float32)
        feed = {name: value[whole] for name, value in given.items()} if not whole.all() else given
        before = {f"state.{name}": value for name, value in self._state.items()}
        found = self._session.run(self._outputs, {**feed, **before, **self._fixed})
        # Copies: what ONNX Runtime gives lies in its own memory, where it would cut the room of the next step's values
        # into pieces (measured: 225 against 202 MiB).
        out = {name: value.copy() for name, value in zip(self._outputs, found, strict=True)}
        after = {name: out[f"next.{name}"] for name in self._state}
        if all(np.isfinite(v).all() for v in after.values() if v.dtype.kind == "f"):
            self._state = after
        else:
            self.refused += 1
        self.metrics = {n.removeprefix("metric."): float(v) for n, v in out.items() if n.startswith("metric.")}
        y: Array = out["y"]
        if whole.all():
            return y
        wide = np.full((count, y.shape[1]), np.nan, np.float32)
        wide[whole] = y
        return wide

    @property
    def outputs(self) -> int:
        """K: the number of classes."""
        return int(self._session.get_outputs()[self._outputs.index("y")].shape[1])

    @property
    def theta(self) -> Array:
        """`[Q]`: all that the method changes, in the order of `parts`; empty where it changes no parameter."""
        return np.array(self._state.get("theta", np.zeros(0)), np.float32)

    def part(self, name: str) -> Array:
        """One named tensor of theta. Raises ValueError where there is none."""
        offset = 0
        for part in self.parts:
            size = int(np.prod(part.shape))
            if part.name == name:
                return self.theta[offset : offset + size].reshape(part.shape)
            offset += size
        raise ValueError(f"{self.name} changes no {name!r}; it changes {', '.join(p.name for p in self.parts)}")

    @property
    def remembered(self) -> State:
        """All that the method remembers, without a copy. A step puts other arrays in their place and writes to none; so
        must whoever reads them."""
        return dict(self._state)

    def state(self) -> State:
        """A copy of all that the method remembers."""
        return {name: value.copy() for name, value in self._state.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state that `state` gave. Raises ValueError as `checked_state` does."""
        self._state = self.checked_state(state)

    def checked_state(self, state: Mapping[str, NDArray[Any]]) -> State:
        """A copy of a state that `state` gave. Raises ValueError where names, shapes or types differ, or NaN is in
        it."""
        return checked_state(self._described, state)

    def reset(self) -> None:
        """Back to the state before the first step."""
        self._state = dict(self._described.start)

    def named(self, inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
        """A batch as float32 arrays by input name. Raises ValueError on wrong names or shapes."""
        return checked_inputs(self._described, inputs)

    def another(self) -> StepAdapter:
        """One that shares the session, at its start: for another stream."""
        other = copy(self)
        other.metrics, other.refused = {}, 0
        other.reset()
        return other

    @staticmethod
    def finite(inputs: Mapping[str, Array]) -> NDArray[np.bool_]:
        """`[N]`: which samples of a batch hold neither NaN nor infinity."""
        return finite_samples(inputs)


def checked_inputs(
    described: StepGraph, inputs: Array | Mapping[str, Array], lead: tuple[int, ...] = ()
) -> dict[str, Array]:
    """Samples `[*lead, N, ...]` as float32 arrays by input name. Raises ValueError on wrong names or shapes."""
    shapes, axes = described.inputs, len(lead)
    named = dict(inputs) if isinstance(inputs, Mapping) else dict.fromkeys(list(shapes)[:1], inputs)
    if set(named) != set(shapes):
        raise ValueError(f"{described.name}: the inputs are {', '.join(shapes)}; give an array for each, as a mapping")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and such samples are left out
        arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in named.items()}
    for name, value in arrays.items():
        if value.shape[:axes] != lead or value.shape[axes + 1 :] != shapes[name] or not value.shape[axes]:
            shape = ", ".join(map(str, (*lead, "N", *shapes[name])))
            raise ValueError(f"{described.name}: {name} has the shape {list(value.shape)} where [{shape}] is needed")
    if len({value.shape[axes] for value in arrays.values()}) > 1:
        raise ValueError(f"{described.name}: the inputs differ in their number of samples")
    return arrays


def finite_samples(inputs: Mapping[str, Array], axes: int = 1) -> NDArray[np.bool_]:
    """Which samples hold neither NaN nor infinity, over the first `axes` axes."""
    rows = [np.isfinite(v.reshape(*v.shape[:axes], -1)).all(axis=-1) for v in inputs.values()]
    return np.asarray(np.logical_and.reduce(rows), np.bool_)


def checked_state(described: StepGraph, state: Mapping[str, NDArray[Any]], lead: tuple[int, ...] = ()) -> State:
    """A copy of a state of shapes `[*lead, ...]`. Raises ValueError where names, shapes or types differ, or NaN is in
    it."""
    name, start = described.name, described.start
    if set(state) != set(start):
        raise ValueError(f"{name}: the state has {', '.join(sorted(state))}; it needs {', '.join(start)}")
    for part, value in state.items():
        shape = [*lead, *start[part].shape]
        if list(value.shape) != shape or value.dtype != start[part].dtype:
            raise ValueError(
                f"{name}: state {part} is {value.dtype}{list(value.shape)} and must be {start[part].dtype}{shape}"
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{name}: state {part} holds NaN or infinity")
    return {part: np.array(state[part]) for part in start}


def load(
    bundle: str | Path,
    method: str,
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
    **hyper: float,
) -> StepAdapter:
    """The method of that name in the bundle's folder, with `hyper` in place of its defaults.

    Raises ValueError, one sentence, where the folder, the manifest, a checksum, the method or a value is wrong;
    RuntimeError without ONNX Runtime.
    """
    return StepAdapter(read(Path(bundle), method), hyper, providers, threads)


def read(folder: Path, method: str, streams: bool = False) -> StepGraph:
    """A bundle's step graph, verified; with `streams` that of many. Raises ValueError."""
    file, manifest = _manifest(folder)
    try:
        entries = {entry["name"]: entry for entry in manifest.get("methods", [])}
        if method not in entries:
            there = f"there are {', '.join(entries)}" if entries else "it has none"
            raise ValueError(
                f"{file}: the bundle has no step graph of {method!r}, {there}; export it with methods=[...]"
            )
        entry = entries[method]
        if streams and not entry.get("streams"):
            raise ValueError(
                f"{file}: {method} steps one stream at a time here; export it with MethodChoice({method!r}, "
                "streams=True)"
            )
        keys = ("streams" if streams else "graph", "state")
        graph, start = (_verified(folder, entry[key], manifest["files"][entry[key]]) for key in keys)
        with np.load(io.BytesIO(start), allow_pickle=False) as arrays:
            state = {name: arrays[name] for name in arrays.files}
        known = _verified(folder, manifest["source"], manifest["files"][manifest["source"]])
        with np.load(io.BytesIO(known), allow_pickle=False) as source:
            home = Home.of(source) if manifest["task"] == "classification" else None
        return StepGraph(
            name=method,
            inputs={i["name"]: tuple(i["shape"]) for i in manifest["inputs"]},
            parts=tuple(Part(p["name"], tuple(p["shape"])) for p in entry["parameters"]),
            hyper={name: Hyperparameter(**h) for name, h in entry["hyper"].items()},
            graph=graph,
            start=state,
            classifies=manifest["task"] == "classification",
            home=home,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: is no bundle's manifest ({error}); export the bundle again") from None


def read_graph(folder: Path, which: str) -> bytes:
    """A bundle's plain graph ("serve", "observe", ...), verified. Raises ValueError."""
    file, manifest = _manifest(folder)
    try:
        name = manifest["graphs"][which]
        return _verified(folder, name, manifest["files"][name])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: is no bundle's manifest ({error}); export the bundle again") from None


def _manifest(folder: Path) -> tuple[Path, Any]:
    file = folder / "manifest.yaml"
    try:
        manifest = yaml.safe_load(file.read_bytes())
        if isinstance(manifest, dict) and manifest.get("schema_version") != SCHEMA:
            raise ValueError(f"{file}: schema_version: this trimtab reads version {SCHEMA}; export the bundle again")
        return file, manifest
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); give the folder of a bundle") from None
    except yaml.YAMLError:
        raise ValueError(f"{file}: is no YAML; export the bundle again") from None


def _verified(folder: Path, name: str, expected: str) -> bytes:
    if Path(name).name != name:
        raise ValueError(f"{folder / 'manifest.yaml'}: {name!r} is no plain file name; export the bundle again")
    try:
        data = (folder / name).read_bytes()
    except OSError:
        raise ValueError(f"{folder / name}: not found; copy the whole bundle folder again") from None
    if hashlib.sha256(data).hexdigest() != expected:
        raise ValueError(f"{folder / name}: its sha256 differs from the manifest's; copy the whole bundle folder again")
    return data


def packed(states: Mapping[str, State]) -> bytes:
    """States by name, as bytes for a journal; none: no bytes."""
    if not states:
        return b""
    data = io.BytesIO()
    arrays: dict[str, Any] = {f"{name}/{part}": v for name, state in states.items() for part, v in state.items()}
    np.savez(data, **arrays)
    return data.getvalue()


def unpacked(data: bytes) -> dict[str, State]:
    """What `packed` made bytes of. Raises ValueError where they are something else."""
    states: dict[str, State] = {}
    if data:
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                for key in arrays.files:
                    name, _, part = key.partition("/")
                    states.setdefault(name, {})[part] = arrays[key]
        except (OSError, EOFError, ValueError, BadZipFile) as error:
            raise ValueError("the state of a step graph is damaged") from error
    return states


def checked(described: StepGraph, given: Mapping[str, float]) -> dict[str, float]:
    """All hyperparameters, `given` in place of the defaults.

    Raises ValueError, one sentence, where one is unknown, is no number, or is out of its bounds.
    """
    known = described.hyper
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{described.name} has no hyperparameter {name!r}; it has {', '.join(known) or 'none'}")
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(f"{described.name}: {name} is {value!r}; give a number")
        if not known[name].low <= value <= known[name].high:
            raise ValueError(
                f"{described.name}: {name} is {value:g}; give one from {known[name].low:g} to {known[name].high:g}"
            )
    return {name: float(given.get(name, h.default)) for name, h in known.items()}


def open_session(graph: bytes, providers: Sequence[str], threads: int) -> Any:
    """A session of ONNX Runtime. `threads`: 0: one a core.

    Raises ValueError on a provider that the library has not, RuntimeError where it is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise RuntimeError(
            "ONNX Runtime is not installed; pip install 'trimtab[cpu]', or 'trimtab[gpu]' for CUDA"
        ) from None
    there = onnxruntime.get_available_providers()
    if isinstance(providers, str) or not set(providers) <= set(there):
        wrong = providers if isinstance(providers, str) else next(p for p in providers if p not in there)
        raise ValueError(
            f"providers: {wrong!r} is no list of providers that the installed ONNX Runtime has; give some of "
            f"{', '.join(there)}"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # One block laid out beforehand is half as large again as what ever lives at once (measured: 286 against 183 MiB).
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(graph, options, providers=list(providers))
