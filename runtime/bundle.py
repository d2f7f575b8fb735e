"""A bundle: the folder that the exporter writes and the box loads.

`manifest.yaml` describes it (this module's pydantic models are its schema), ONNX graphs run it, and `source.npz`
(read with `allow_pickle=False`) holds what must be remembered of the source data. Every file but the manifest
is covered by a sha256.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trimtab.adapters.parameters import Kind, Parameter, ParameterLayout
from trimtab.runtime.errors import BundleError
from trimtab.runtime.validation import sentence

SCHEMA = 1
GRAPHS = ("serve", "observe", "banked", "probe")
"""serve: y. observe: y, features, moments. banked: serve with `slot` and `bank`. probe: observe likewise."""

PositiveInt = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    eps: float
    groups: int = 0


class ParameterEntry(Strict):
    name: str
    kind: Kind
    owner: str
    size: PositiveInt


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
    features: int
    """F: size of the feature vector before the last layer; 0 where none was found."""
    parameters: list[ParameterEntry]
    graphs: dict[Literal["serve", "observe", "banked", "probe"], str]
    source: str = "source.npz"
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
        for name in (*self.graphs.values(), self.source):
            if name not in self.files:
                raise ValueError(f"files: {name} has no sha256")
        if "serve" not in self.graphs:
            raise ValueError("graphs: the serve graph is missing")
        if self.window is not None and len(self.inputs[0].shape) != 2:
            raise ValueError("window: only an input of shape [channels, rows] can be windowed")
        return self

    @property
    def outputs(self) -> list[str]:
        """Names of the K outputs: classes or targets."""
        return self.classes if self.task == "classification" else self.targets


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
    """[K, F, F]; regression: [0, F, F]."""
    reference: dict[str, NDArray[np.float64]]
    """Scalar signals per source window in recorded order (see trimtab.drift.signals), for calibration:
    keys `divergence`, `distance`, `entropy` (those that apply), each [n]."""
    input_mean: NDArray[np.float64]
    """[C] of the first calibrated input, sensor units; empty where there is none."""
    input_var: NDArray[np.float64]


class Bundle:
    """A loaded bundle: its manifest, layout, source statistics and the bytes of its graphs."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.layout = ParameterLayout.of((p.name, p.kind, p.owner, p.size) for p in manifest.parameters)

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
        """The source statistics. Raises BundleError where an array is missing."""
        file = self.path / self.manifest.source
        try:
            with np.load(file, allow_pickle=False) as arrays:
                reference = {k.removeprefix("reference."): arrays[k] for k in arrays if k.startswith("reference.")}
                plain = {k: arrays[k] for k in arrays if not k.startswith("reference.")}
            source = Source(reference=reference, **plain)
        except (OSError, ValueError, TypeError) as error:
            raise BundleError(f"{file}: cannot be read ({error}); export the bundle again") from error
        if source.theta.shape != (self.layout.size,):
            raise BundleError(
                f"{file}: theta has {source.theta.size} values where the manifest's parameters have "
                f"{self.layout.size}; export the bundle again"
            )
        return source

    @property
    def samples_shape(self) -> list[tuple[int, ...]]:
        """Shape of one sample of each input."""
        return [tuple(i.shape) for i in self.manifest.inputs]


def load_bundle(path: str | Path) -> Bundle:
    """Load and verify the bundle in folder `path`.

    Raises BundleError where the folder, the manifest, a file or a checksum is wrong.
    """
    path = Path(path)
    file = path / "manifest.yaml"
    if not path.is_dir():
        raise BundleError(f"{path}: no such folder; give the folder that `trimtab export` wrote")
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{file}: not found; give the folder that `trimtab export` wrote") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BundleError(f"{file}: is not YAML ({' '.join(str(error).split())}); export the bundle again") from error
    if not isinstance(raw, dict):
        raise BundleError(f"{file}: holds no mapping; export the bundle again")
    if raw.get("schema_version") != SCHEMA:
        raise BundleError(
            f"{file}: schema_version: this trimtab reads version {SCHEMA}, the bundle has "
            f"{raw.get('schema_version')!r}; export the bundle again"
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        raise BundleError(sentence(error, str(file))) from None
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise BundleError(f"{file}: files: {name!r} is not a plain file name; export the bundle again")
        try:
            found = hashlib.sha256((path / name).read_bytes()).hexdigest()
        except OSError:
            raise BundleError(f"{path / name}: not found; copy the whole bundle folder again") from None
        if found != expected:
            raise BundleError(
                f"{path / name}: its sha256 differs from the manifest's; copy the whole bundle folder again"
            )
    return Bundle(path, manifest)


def write_bundle(
    path: str | Path, manifest: dict[str, Any], graphs: dict[str, bytes], source: dict[str, NDArray[Any]]
) -> Bundle:
    """Write a bundle folder: `manifest` without `schema_version`, `graphs`, `source` and `files`, which are added.

    `source` maps the fields of `Source` (and `reference.<signal>`) to arrays. The manifest is written last, so
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
    files = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in (*names.values(), "source.npz")}
    whole = {
        "schema_version": SCHEMA,
        **manifest,
        "graphs": names,
        "source": "source.npz",
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
    "Parameter",
    "Source",
    "Window",
    "load_bundle",
    "write_bundle",
]
