"""A bundle: the folder that the exporter writes and the box loads.

`manifest.yaml` describes it (this module's pydantic models are its schema), ONNX graphs run it, and `source.npz`
(read with `allow_pickle=False`) holds what must be remembered of the source data. Every file but the manifest
is covered by a sha256.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trimtab.adapters.parameters import Kind, ParameterLayout
from trimtab.adapters.steps import SCHEMA, StepGraph, read
from trimtab.drift import input_signals
from trimtab.drift.input_signals import Usual
from trimtab.runtime.errors import BundleError
from trimtab.runtime.validation import NotYaml, listed, read_yaml, sentence, shown

AGAIN = "export the bundle again"
"""The mend of what an exporter writes and nobody should have touched."""
GRAPHS = ("serve", "observe", "banked", "probe")
"""serve: y. observe: y, features, moments. banked: serve with `slot` and `bank`. probe: observe likewise."""

PositiveInt = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Calibration(Strict):
    """What may be wrong with an input's wiring: the candidates of input calibration."""

    signs: list[int] = []
    """Channels whose sign may be flipped."""
    orders: list[list[int]] = []
    """Channel orders that a mounting can produce, beside the identity: x'[c] = x[order[c]]."""
    gain: bool = False
    """Whether gain and offset may be re-estimated per channel."""


class Input(Strict):
    """One model input. Graphs take sensor units; they standardise inside: (gain*x[order]+offset-mean)/std."""

    name: str
    shape: list[PositiveInt]
    """Of one sample, without the batch axis; channels first: `[C]`, `[C, T]`, `[C, H, W]`."""
    channels: list[str] = []
    mean: list[float] = []
    std: list[float] = []
    calibration: Calibration | None = None
    """None: the input is no sensor (say, token ids), and has no part in theta."""

    @model_validator(mode="after")
    def _consistent(self) -> Input:
        count = self.shape[0] if self.shape else 0
        if not self.shape:
            raise ValueError("shape is empty")
        for key in ("channels", "mean", "std"):
            if len(getattr(self, key)) not in (0, count):
                raise ValueError(f"{key} has {len(getattr(self, key))} entries where the shape has {count} channels")
        if len(set(self.channels)) != len(self.channels):
            raise ValueError(f"channels holds a name twice: {listed(self.channels)}")
        if any(s <= 0 for s in self.std):
            raise ValueError(f"std holds {shown(min(self.std))}, which is not more than 0")
        if self.calibration is not None:
            if not set(self.calibration.signs) <= set(range(count)):
                raise ValueError(f"calibration.signs names a channel that is not among 0 to {count - 1}")
            if any(sorted(order) != list(range(count)) for order in self.calibration.orders):
                raise ValueError(f"calibration.orders holds one that is no order of the channels 0 to {count - 1}")
        return self


class Window(Strict):
    """How a stream's rows `[C]` become samples `[C, rows]`."""

    rows: PositiveInt
    hop: PositiveInt
    rate: Annotated[float, Field(gt=0)] | None = None
    """Rows per second, for display and for time-based settings."""


class Norm(Strict):
    """One norm layer, in the model's order: also the order of its channels in `moments [N, 2, M]`."""

    name: str
    kind: Literal["batch", "group", "layer", "instance", "bias"]
    """`bias`: no norm any more, but a per-channel bias left by a folded one (imported files)."""
    channels: PositiveInt
    eps: Annotated[float, Field(ge=0)]
    groups: int = 0


class ParameterEntry(Strict):
    name: str
    kind: Kind
    owner: str
    size: PositiveInt


class HyperEntry(Strict):
    """One hyperparameter of a method: a scalar input `hyper.<name>` of its step graph."""

    default: float
    low: float
    high: float
    meaning: str


class PartEntry(Strict):
    """One named tensor of the vector that a method changes, in order and without gaps."""

    name: str
    """That of the layout where theta holds it, else `model.<dotted name of the parameter>`."""
    shape: list[PositiveInt]


class MethodEntry(Strict):
    """One method of adaptation as a step graph: inputs, `state.*` and `hyper.*` -> `next.*`, `y [N, K]`, `metric.*`."""

    name: str
    method: str
    """The method's own name, where the bundle holds it twice with different choices."""
    does: str
    paper: str
    graph: str
    state: str
    """The file of its state before the first step."""
    streams: str = ""
    """The step graph of many streams at once: all but `hyper.*` have a first axis of streams. Empty: there is none."""
    optimiser: str = ""
    """Empty where there is no backward pass."""
    parameters: list[PartEntry]
    hyper: dict[str, HyperEntry]
    metrics: list[str]


class Manifest(Strict):
    schema_version: Literal[1]
    name: str
    task: Literal["classification", "regression"]
    inputs: list[Input]
    window: Window | None = None
    """None: every message is one whole sample."""
    classes: list[str] = []
    targets: list[str] = []
    norms: list[Norm]
    features: Annotated[int, Field(ge=0)]
    """F: size of the feature vector before the last layer; 0 where none was found."""
    parameters: list[ParameterEntry]
    graphs: dict[Literal["serve", "observe", "banked", "probe"], str]
    source: str = "source.npz"
    methods: list[MethodEntry] = []
    """Methods of adaptation that the bundle has a step graph of."""
    files: dict[str, str]
    """sha256 of every file of the bundle but the manifest."""
    provenance: dict[str, Any] = {}
    """Versions, opset, parity table: for people, not read by the box."""

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if self.task == "classification" and len(self.classes) < 2:
            raise ValueError("classes: a classification bundle needs at least two classes")
        if self.task == "regression" and not self.targets:
            raise ValueError("targets: a regression bundle needs at least one target")
        if not self.inputs:
            raise ValueError("inputs: a bundle needs at least one input")
        steps = [name for m in self.methods for name in (m.graph, m.state)]
        for name in (*self.graphs.values(), self.source, *steps):
            if name not in self.files:
                raise ValueError(f"files: {name} has no sha256")
        if "serve" not in self.graphs:
            raise ValueError("graphs: the serve graph is missing")
        if self.window is not None and len(self.inputs[0].shape) != 2:
            raise ValueError("window: only an input of shape [channels, rows] can be windowed")
        if self.window is not None and len(self.inputs) > 1:
            raise ValueError("window: only a bundle with one input can be windowed")
        if self.window is not None and self.inputs[0].shape[1] != self.window.rows:
            raise ValueError(
                f"window.rows: a window of {self.window.rows} rows does not fit an input of {self.inputs[0].shape}"
            )
        _once("inputs", [i.name for i in self.inputs])
        _once("classes", self.classes)
        _once("targets", self.targets)
        _once("norms", [n.name for n in self.norms])
        _once("parameters", [p.name for p in self.parameters])
        _once("methods", [m.name for m in self.methods])
        sizes = {n.name: n.channels for n in self.norms} | {i.name: i.shape[0] for i in self.inputs}
        for i, p in enumerate(self.parameters):
            wanted = self.features if p.kind == "feature.shift" else sizes.get(p.owner, p.size)
            wanted = len(self.outputs) if p.kind == "output.shift" else wanted
            if p.size != wanted:
                raise ValueError(f"parameters.{i}.size: {p.name} has {p.size} values where {wanted} belong")
        return self

    @property
    def sensors(self) -> dict[str, list[int]]:
        """Names and shapes of the inputs that sensors give, those with a calibration."""
        return {i.name: i.shape for i in self.inputs if i.calibration is not None}

    @property
    def outputs(self) -> list[str]:
        """Names of the K outputs: classes or targets."""
        return self.classes if self.task == "classification" else self.targets


def _once(key: str, names: Sequence[str]) -> None:
    if twice := [n for i, n in enumerate(names) if n in names[:i]]:
        raise ValueError(f"{key}: {shown(twice[0])} is there twice")


@dataclass(frozen=True)
class Source:
    """What a bundle remembers of the source data; float64 but where noted. M: all norm channels together."""

    theta: NDArray[np.float32]
    """[P] the parameter vector as trained."""
    moments_mean: NDArray[np.float64]
    """[M] pooled mean of the norm inputs."""
    moments_var: NDArray[np.float64]
    """[M] pooled variance of the norm inputs (law of total variance)."""
    feature_mean: NDArray[np.float64]
    """[F]"""
    feature_cov: NDArray[np.float64]
    """[F, F]"""
    class_prior: NDArray[np.float64]
    """[K] share of each class (classification), else mean of the targets."""
    class_feature_mean: NDArray[np.float64]
    """[K, F]; zeros where a class has no source sample. Regression: [0, F]."""
    class_feature_cov: NDArray[np.float64]
    """[K, F, F]; [1, F, F], pooled within classes, where there are too many of them; regression: [0, F, F]."""
    reference: dict[str, NDArray[np.float64]]
    """Scalar signals per source window (see trimtab.drift.signals), for calibration: keys `divergence`, `departure`,
    `distance`, `entropy`, `raw`, `spectra` (those that apply), each [n], by statistics of other windows, in an order
    like a stream's."""
    input_mean: NDArray[np.float64]
    """[C] of the first calibrated input, sensor units; empty where there is none."""
    input_var: NDArray[np.float64]
    moments_centre: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """[2M] and, below, what whitens moments jointly (see `drift.signals.departure`); empty without
    norms, or where there were too few source samples."""
    moments_whitening: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """[R, 2M], kept in float32 for its size."""
    usual: dict[str, Usual] = field(default_factory=dict)
    """What the signals of the inputs need: keys `raw`, `spectra` (see trimtab.drift.input_signals); those that apply,
    where there were enough source samples."""


class Bundle:
    """A loaded bundle: its manifest, layout, source statistics and the bytes of its graphs."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.layout = ParameterLayout.of((p.name, p.kind, p.owner, p.size) for p in manifest.parameters)

    @cached_property
    def digest(self) -> str:
        """sha256 of the manifest, which in turn covers all files: what a journal knows a bundle by."""
        return hashlib.sha256((self.path / "manifest.yaml").read_bytes()).hexdigest()

    def graph(self, which: str) -> bytes:
        """The bytes of a graph. Raises BundleError where the bundle has none of that kind."""
        try:
            name = self.manifest.graphs[which]  # type: ignore[index]
        except KeyError:
            raise BundleError(
                f"{self.path / 'manifest.yaml'}: graphs: there is no {which!r} graph; export the bundle again"
            ) from None
        return (self.path / name).read_bytes()

    @cached_property
    def source(self) -> Source:
        """The source statistics. Raises BundleError where an array is missing, or is not what the manifest says."""
        file = self.path / self.manifest.source
        arrays = _read_arrays(file)
        reference = {k.removeprefix("reference."): v for k, v in arrays.items() if k.startswith("reference.")}
        usual = {k.removeprefix("usual."): v for k, v in arrays.items() if k.startswith("usual.")}
        plain = {k: v for k, v in arrays.items() if not k.startswith(("reference.", "usual."))}
        known = {f.name for f in fields(Source)} - {"reference", "usual"}
        optional = {f.name for f in fields(Source) if f.default_factory is not MISSING}
        if missing := known - optional - set(plain):
            raise BundleError(f"{file}: the arrays {listed(sorted(missing))} are missing; {AGAIN}")
        if unknown := set(plain) - known:
            raise BundleError(f"{file}: the arrays {listed(sorted(unknown))} are unknown to this trimtab; {AGAIN}")
        if plain["theta"].shape != (self.layout.size,):
            raise BundleError(
                f"{file}: theta has {plain['theta'].size} values where the manifest's parameters have "
                f"{self.layout.size}; {AGAIN}"
            )
        source = Source(reference=reference, usual=_usual(usual, self.manifest, file), **plain)
        _check_source(source, self.manifest, file)
        return source


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an NPZ file, none of them of Python objects. Raises BundleError."""
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is one array")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "pickle" in reason:  # numpy advises to allow it, which is the last thing to do
            reason = "it is no NPZ file, or holds Python objects, which are not read"
        raise BundleError(f"{file}: cannot be read ({reason[:120]}); {AGAIN}") from None


def _usual(arrays: dict[str, NDArray[Any]], manifest: Manifest, file: Path) -> dict[str, Usual]:
    """The arrays `<signal>.<part>` put together. Raises BundleError where one is missing, unknown or misshapen."""
    found: dict[str, Usual] = {}
    for signal in dict.fromkeys(name.partition(".")[0] for name in arrays):
        try:
            size = len(input_signals.layout(signal, list(manifest.sensors.values())).power)
            parts = {part: arrays.pop(f"{signal}.{part}") for part in Usual._fields}
        except (ValueError, KeyError):
            raise BundleError(
                f"{file}: usual.{signal} is no signal of this bundle's inputs, or not whole; {AGAIN}"
            ) from None
        shapes = {"floor": (size,), "centre": (size,), "whitening": (*parts["whitening"].shape[:1], size)}
        for part, array in parts.items():
            if array.shape != shapes[part] or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
                raise BundleError(f"{file}: usual.{signal}.{part} is no array {list(shapes[part])} of numbers; {AGAIN}")
        found[signal] = Usual(**parts)
    if arrays:
        raise BundleError(f"{file}: the arrays {listed(sorted(f'usual.{n}' for n in arrays))} are unknown; {AGAIN}")
    return found


def _check_source(source: Source, manifest: Manifest, file: Path) -> None:
    """Raises BundleError where an array has another shape than the manifest asks for, or is not finite."""
    m, f, k = sum(n.channels for n in manifest.norms), manifest.features, len(manifest.outputs)
    classes = k if manifest.task == "classification" else 0
    shapes: dict[str, tuple[int, ...]] = {
        "moments_mean": (m,),
        "moments_var": (m,),
        "feature_mean": (f,),
        "feature_cov": (f, f),
        "class_prior": (k,),
        "class_feature_mean": (classes, f),
        "class_feature_cov": (classes, f, f),
    }
    if classes and len(source.class_feature_cov) == 1:
        shapes["class_feature_cov"] = (1, f, f)
    if source.moments_centre.size:
        shapes["moments_centre"] = (2 * m,)
        shapes["moments_whitening"] = (len(source.moments_whitening), 2 * m)
    for name in ("theta", "input_mean", "input_var", *shapes):
        array = getattr(source, name)
        wanted = shapes.get(name, array.shape)
        if array.shape != wanted:
            raise BundleError(f"{file}: {name} has the shape {list(array.shape)} and not {list(wanted)}; {AGAIN}")
        if array.dtype.kind not in "fiu":
            raise BundleError(f"{file}: {name} holds {array.dtype} and not numbers; {AGAIN}")
        if not np.isfinite(array).all():
            raise BundleError(f"{file}: {name} holds a value that is not finite; {AGAIN}")
        positive = name in ("moments_var", "input_var") or (name == "class_prior" and classes)
        if positive and (array < 0).any():
            raise BundleError(f"{file}: {name} holds a negative value; {AGAIN}")
    for name, array in source.reference.items():
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            raise BundleError(f"{file}: reference.{name} is no row of numbers; {AGAIN}")


def load_bundle(path: str | Path) -> Bundle:
    """Load and verify the bundle in folder `path`.

    Raises BundleError where the folder, the manifest, a file or a checksum is wrong.
    """
    path = Path(path)
    file = path / "manifest.yaml"
    if not path.is_dir():
        found = "is a file" if path.exists() else "no such folder"
        raise BundleError(f"{path}: {found}; give the folder that `trimtab export` wrote")
    try:
        raw = read_yaml(file.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{file}: not found; give the folder that `trimtab export` wrote") from None
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); copy the whole bundle folder again") from None
    except NotYaml as error:
        raise BundleError(f"{file}: {str(error).partition(';')[0]}; {AGAIN}") from error
    if not isinstance(raw, dict):
        raise BundleError(f"{file}: holds no mapping; {AGAIN}")
    version = raw.get("schema_version")
    if version != SCHEMA or isinstance(version, bool):
        newer = isinstance(version, int) and version > SCHEMA
        found = "none" if version is None else shown(version)
        raise BundleError(
            f"{file}: schema_version: this trimtab reads version {SCHEMA}, the bundle has {found}; "
            f"{'update trimtab, or ' if newer else ''}{AGAIN}"
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        raise BundleError(sentence(error, str(file), Manifest, AGAIN)) from None
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise BundleError(f"{file}: files: {name!r} is no plain file name; {AGAIN}")
        try:
            found = hashlib.sha256((path / name).read_bytes()).hexdigest()
        except OSError:
            raise BundleError(f"{path / name}: not found; copy the whole bundle folder again") from None
        if found != expected:
            raise BundleError(
                f"{path / name}: its sha256 differs from the manifest's; copy the whole bundle folder again"
            )
    return Bundle(path, manifest)


def read_step(bundle: Bundle, method: str) -> StepGraph:
    """One of the bundle's step graphs. Raises BundleError where it cannot be read."""
    try:
        return read(bundle.path, method)
    except ValueError as error:
        raise BundleError(str(error)) from None


@dataclass(frozen=True)
class StepFiles:
    """What is written of one method: its step graph, and its state before the first step."""

    graph: bytes
    state: dict[str, NDArray[Any]]
    streams: bytes = b""


def write_bundle(
    path: str | Path,
    manifest: dict[str, Any],
    graphs: dict[str, bytes],
    source: dict[str, NDArray[Any]],
    steps: Sequence[tuple[MethodEntry, StepFiles]] = (),
) -> Bundle:
    """Write a bundle folder: `manifest` without `schema_version`, `graphs`, `source` and `files`, which are added.

    `source` maps the fields of `Source` (and `reference.<signal>`) to arrays; `steps` are the methods, whose entries go
    into the manifest. The manifest is written last, so
    that a folder with a manifest is whole. Returns the bundle, loaded and verified.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / "manifest.yaml").unlink(missing_ok=True)
    names = {which: f"{which}.onnx" for which in graphs}
    for which, data in graphs.items():
        (path / names[which]).write_bytes(data)
    # Without allow_pickle=False: older NumPy would store it as an array. Plain arrays are never pickled.
    np.savez_compressed(path / "source.npz", **source)  # type: ignore[arg-type]
    for entry, step in steps:
        (path / entry.graph).write_bytes(step.graph)
        if entry.streams:
            (path / entry.streams).write_bytes(step.streams)
        np.savez_compressed(path / entry.state, **step.state)  # type: ignore[arg-type]
    made = [name for entry, _ in steps for name in (entry.graph, entry.state, entry.streams) if name]
    written = [*names.values(), "source.npz", *made]
    files = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in written}
    whole = {
        "schema_version": SCHEMA,
        **manifest,
        "graphs": names,
        "source": "source.npz",
        "methods": [entry.model_dump() for entry, _ in steps],
        "files": files,
    }
    text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=110)
    (path / "manifest.yaml").write_text(text, encoding="utf-8")
    return load_bundle(path)


__all__ = [
    "Bundle",
    "Calibration",
    "Input",
    "Manifest",
    "Norm",
    "Source",
    "Window",
    "load_bundle",
    "write_bundle",
]
