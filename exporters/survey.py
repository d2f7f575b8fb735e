"""What a bundle remembers of the source data (`runtime.bundle.Source`), from one pass of the observe graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from trimtab.drift import input_signals, signals
from trimtab.exporters.marked import Array, Marked
from trimtab.exporters.reference_signals import JOINTLY, Described, reference_signals
from trimtab.runtime.bundle import Input
from trimtab.runtime.errors import ExportError

Batch = tuple[Any, Any]
"""Inputs (an array; a sequence of arrays; or a mapping of input name to array) and labels `[n]`, or None."""

RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NotImplemented,
    errors.RuntimeException,
)
"""What ONNX Runtime raises where a model cannot be loaded or run; they have no base class of their own."""

KEPT = 64
"""Source samples kept for the comparison of the graphs."""

MANY_CLASSES, MANY_NUMBERS = 64, 2**24
"""From so many classes, or numbers in the covariances of their features, on one covariance serves them all: a thousand
classes of 2048 features would take 31 GiB."""


@dataclass
class Survey:
    source: dict[str, NDArray[Any]]
    """The fields of `runtime.bundle.Source`, and `reference.<signal>`."""
    samples: dict[str, Array]
    """The first source samples, at most KEPT, per input."""
    count: int
    examples: dict[str, NDArray[Any]]
    """`y [n, K]`, `features [n, F]` and `labels` of all source samples; nothing where they have no labels."""

    @property
    def labelled(self) -> bool:
        return bool(self.examples)


def session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def loaded(graph: bytes, which: str) -> onnxruntime.InferenceSession:
    """A session of the graph `which`. Raises ExportError where ONNX Runtime does not take it."""
    try:
        return session(graph)
    except RUNTIME_ERRORS as error:
        raise ExportError(f"{which} graph: ONNX Runtime does not take it ({str(error).splitlines()[0]})") from error


def outputs(run: onnxruntime.InferenceSession, feed: dict[str, NDArray[Any]], which: str) -> dict[str, NDArray[Any]]:
    """All outputs by name. Raises ExportError where the graph `which` does not run."""
    names = [o.name for o in run.get_outputs()]
    try:
        return dict(zip(names, run.run(names, feed), strict=True))
    except RUNTIME_ERRORS as error:
        count = len(next(iter(feed.values())))
        raise ExportError(
            f"{which} graph: does not run in a batch of {count} ({str(error).splitlines()[0]})"
        ) from error


def named(inputs: Any, entries: Sequence[Input], where: str) -> dict[str, Array]:
    """One batch's inputs by name, float32. Raises ExportError where names, number or shapes do not fit."""
    names = [e.name for e in entries]
    if isinstance(inputs, Mapping):
        arrays = dict(inputs)
    elif isinstance(inputs, (list, tuple)):
        arrays = dict(zip(names, inputs, strict=False)) if len(inputs) == len(names) else {}
    else:
        arrays = {names[0]: inputs}
    if set(arrays) != set(names):
        raise ExportError(f"{where}: the model's inputs are {', '.join(names)}; give one array for each")
    out: dict[str, Array] = {}
    for entry in entries:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused below
            value = np.asarray(arrays[entry.name], np.float32)
        if value.ndim == 0 or list(value.shape[1:]) != entry.shape:
            raise ExportError(
                f"{where}: {entry.name} has the shape {list(value.shape)} where "
                f"[n, {', '.join(map(str, entry.shape))}] is needed"
            )
        if not np.isfinite(value).all():
            raise ExportError(f"{where}: {entry.name} holds NaN or infinity; source data must be whole")
        out[entry.name] = value
    if len({len(v) for v in out.values()}) != 1:
        raise ExportError(f"{where}: the inputs differ in their number of samples")
    return out


def survey(graph: bytes, marked: Marked, task: str, batches: Iterable[Batch]) -> Survey:
    """Run the observe `graph` over the source and take its statistics. Labels serve where every batch has them.

    Covariances are of the population (divided by n). Raises ExportError where a batch does not fit.
    """
    run = loaded(graph, "observe")
    taken: dict[str, list[NDArray[Any]]] = {}
    labels: list[NDArray[Any]] = []
    samples: list[dict[str, Array]] = []
    moments = _InputMoments(marked)
    described = _Described(marked)
    count = 0
    for number, (inputs, given) in enumerate(batches):
        where = f"source batch {number}"
        arrays = named(inputs, marked.inputs, where)
        n = len(next(iter(arrays.values())))
        if n == 0:
            continue
        for name, value in outputs(run, dict(arrays), "observe").items():
            taken.setdefault(name, []).append(value)
        if given is not None:
            labels.append(_labels(given, n, task, marked.outputs, where))
        if count < KEPT:
            samples.append({name: value[: KEPT - count] for name, value in arrays.items()})
        moments.add(arrays)
        described.add(arrays)
        count += n
    if not count:
        raise ExportError("the source holds no sample; give batches of (inputs, labels or None)")
    found = {name: np.concatenate(values) for name, values in taken.items()}
    if not all(np.isfinite(v).all() for v in found.values()):
        raise ExportError("the model gives NaN or infinity on the source data")
    if task == "classification" and (found["y"] >= 0).all() and np.allclose(found["y"].sum(1), 1.0, atol=1e-4):
        marked.notes.append(
            "the outputs look like probabilities, never negative and 1 together on every source sample; they should be "
            "logits"
        )
    truth = np.concatenate(labels) if labels else None
    if truth is not None and len(truth) != count:
        raise ExportError("some source batches have labels and some have none; give labels with all or with none")
    kept = {e.name: np.concatenate([s[e.name] for s in samples]) for e in marked.inputs}
    source: dict[str, NDArray[Any]] = {
        "theta": marked.theta(),
        **moments.result(),
        **statistics(marked, task, found, truth, described.result()),
    }
    examples = {} if truth is None else {"y": found["y"], "features": features_of(found), "labels": truth}
    return Survey(source, kept, count, examples)


def labels_of(known: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Those of all source samples `[n]`, from `Survey.examples`. Raises ExportError where there are none."""
    if "labels" not in known:
        raise ExportError("needs the classes of the source samples; give labels with source_batches")
    return known["labels"]


def features_of(taken: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """`[n, F]`; F = 0 where the model has none."""
    return taken.get("features", np.zeros((len(taken["y"]), 0), np.float32))


def statistics(
    marked: Marked, task: str, taken: dict[str, NDArray[Any]], labels: NDArray[Any] | None, inputs: Described
) -> dict[str, NDArray[Any]]:
    """The statistics of outputs, features, moments and inputs, and the reference signals of each sample in order."""
    y = taken["y"]
    source: dict[str, NDArray[Any]] = {}
    channels = sum(layer.channels for layer in marked.layers)
    moments = taken.get("moments", np.zeros((len(y), 2, 0), np.float32))
    source["moments_mean"], source["moments_var"] = signals.pooled(moments)

    features = features_of(taken).astype(np.float64)
    source["feature_mean"], source["feature_cov"] = signals.gaussian(features)
    classes = marked.outputs if task == "classification" else 0
    size = features.shape[1]
    source["class_feature_mean"] = np.zeros((classes, size))
    apart = classes < MANY_CLASSES and classes * size**2 < MANY_NUMBERS
    source["class_feature_cov"] = np.zeros((classes if apart else 1, size, size))
    if task == "classification":
        members = y.argmax(1) if labels is None else labels
        source["class_prior"] = np.bincount(members, minlength=classes) / len(members)
        for k in np.unique(members):
            source["class_feature_mean"][k], cov = signals.gaussian(features[members == k])
            source["class_feature_cov"][k if apart else 0] += cov * (1.0 if apart else source["class_prior"][k])
    else:
        source["class_prior"] = (y if labels is None else labels).mean(0, dtype=np.float64)
    if channels and len(moments) >= JOINTLY:
        centre, whiten = signals.moment_whitening(moments)
        source["moments_centre"], source["moments_whitening"] = centre, whiten.astype(np.float32)
    for signal, (figures, of) in inputs.items():
        for part, array in input_signals.usual(figures, of)._asdict().items():
            source[f"usual.{signal}.{part}"] = array
    predicted = y.argmax(1) if task == "classification" else None
    for name, values in reference_signals(y, features, moments, predicted, inputs).items():
        source[f"reference.{name}"] = values
    return source


def _labels(given: Any, n: int, task: str, outputs: int, where: str) -> NDArray[Any]:
    """Labels `[n]` (classes) or `[n, K]` (targets), checked."""
    array = np.asarray(given)
    if task == "regression":
        array = array.astype(np.float64).reshape(len(array), -1) if array.ndim else array
        if array.shape != (n, outputs):
            raise ExportError(f"{where}: the labels must have the shape [{n}, {outputs}]")
        return array
    if array.shape != (n,) or not np.all(array == np.floor(array)) or not np.all((array >= 0) & (array < outputs)):
        raise ExportError(f"{where}: the labels must be {n} class numbers from 0 to {outputs - 1}")
    return array.astype(np.int64)


class _InputMoments:
    """Mean and variance per channel of the first calibrated input, in sensor units."""

    def __init__(self, marked: Marked) -> None:
        calibrated = [e for e in marked.inputs if e.calibration is not None]
        self.entry = calibrated[0] if calibrated else None
        self.means: list[NDArray[np.float64]] = []
        self.variances: list[NDArray[np.float64]] = []
        self.counts: list[int] = []

    def add(self, arrays: dict[str, Array]) -> None:
        if self.entry is None:
            return
        value = arrays[self.entry.name]
        value = np.moveaxis(value, 1, -1).reshape(-1, value.shape[1]).astype(np.float64)
        self.means.append(value.mean(0))
        self.variances.append(value.var(0))
        self.counts.append(len(value))

    def result(self) -> dict[str, NDArray[np.float64]]:
        if self.entry is None:
            return {"input_mean": np.zeros(0), "input_var": np.zeros(0)}
        weights = np.asarray(self.counts, np.float64) / sum(self.counts)
        means = np.stack(self.means)
        mean = weights @ means
        return {"input_mean": mean, "input_var": weights @ (np.stack(self.variances) + (means - mean) ** 2)}


class _Described:
    """What the signals of the sensors' inputs are made of."""

    def __init__(self, marked: Marked) -> None:
        sensors = [e for e in marked.inputs if e.calibration is not None]
        self.names = [e.name for e in sensors]
        self.layouts: dict[str, input_signals.Layout] = {}
        for signal in input_signals.SIGNALS:
            try:
                self.layouts[signal] = input_signals.layout(signal, [e.shape for e in sensors])
            except ValueError:  # these inputs do not give it
                continue
        self.found: dict[str, list[NDArray[np.float64]]] = {signal: [] for signal in self.layouts}

    def add(self, arrays: dict[str, Array]) -> None:
        for signal, found in self.found.items():
            found.append(input_signals.figures(signal, [arrays[name] for name in self.names]))

    def result(self) -> Described:
        """Nothing where there are too few samples to tell what is usual."""
        whole = {signal: np.concatenate(found) for signal, found in self.found.items() if found}
        return {signal: (v, self.layouts[signal]) for signal, v in whole.items() if len(v) >= JOINTLY}
