"""What the comparisons of methods stream: small models, and data that have drifted away from what they learnt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import gas as gases
from benchmarks import generality
from benchmarks.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from trimtab.examples.watch import recordings
from trimtab.examples.watch.train import spec as watch_spec
from trimtab.exporters import ExportSpec
from trimtab.runtime.bundle import Bundle
from trimtab.runtime.errors import ExportError

Array = NDArray[np.float32]
Classes = NDArray[np.int64]

DRAWN = 640
"""Images of a stream of digits."""


@dataclass(frozen=True)
class Stream:
    """Samples `[n, ...]` in sensor units and their classes `[n]`, as they were recorded: in runs of a class."""

    data: str
    """What it counts to in tables."""
    part: str
    x: Array
    y: Classes
    shuffled: Classes
    """Another order of the same samples."""


@dataclass(frozen=True)
class Target:
    spec: ExportSpec
    streams: list[Stream]


def watch(seed: int) -> Target:
    """Three people that the model has not seen, on the arm that it was trained on, and on the other."""
    unseen, recorded = recordings.held_out(seed), recordings.load()
    streams = []
    for data, arm in (("watch, same arm", "right"), ("watch, other arm", "left")):
        x, y = recordings.windows(recordings.worn(recorded, unseen, arm))  # type: ignore[arg-type]
        streams.append(Stream(data, "all", x, y, np.random.default_rng(seed).permutation(len(y))))
    spec = watch_spec([p for p in recordings.PEOPLE if p not in unseen], seed, recorded)
    return Target(replace(spec, window=None), streams)  # windows come whole, so that they may be shuffled


def gas(seed: int) -> Target:
    """Four batches of sensors that age; recorded order is the file's, gas by gas, shuffled is within each batch."""
    x, y, batch, names = gases.data()
    known = np.isin(batch, gases.TRAINED)
    recorded, mixed = (gases.in_order(kind, batch, seed) for kind in ("file", "mixed"))
    place = np.zeros(len(y), np.int64)
    place[recorded] = np.arange(len(recorded))
    spec = gases.spec(seed, x[known], y[known], names)
    return Target(spec, [Stream("gas", "all", x[recorded], y[recorded], place[mixed])])


def digits(seed: int) -> Target:
    """Unseen images, clean and under each corruption in each severity: each a stream of its own."""
    task = generality.digits(seed)
    rng = np.random.default_rng(300 + seed)
    streams = []
    for kind, severity in [("clean", 0), *((kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES)]:
        x, y = task.draw(generality.in_runs(DRAWN, task.classes, rng), rng)
        data, part = ("digits, corrupted", f"{kind} {severity}") if severity else ("digits, clean", "all")
        if severity:
            x = corrupted(x, kind, severity, rng)
        streams.append(Stream(data, part, x, y, rng.permutation(DRAWN)))
    return Target(generality.spec(task, "batch", seed), streams)


def corrupted(x: Array, kind: str, severity: int, rng: np.random.Generator) -> Array:
    """Images of `generality.digits`, which go from -8 to 8, under a corruption."""
    return 16 * corrupt(((x + 8) / 16).astype(np.float32), kind, severity, rng) - 8


TARGETS: dict[str, Callable[[int], Target]] = {"watch": watch, "gas": gas, "digits": digits}


def exported(spec: ExportSpec, methods: Sequence[str], folder: Path) -> tuple[Bundle, dict[str, str]]:
    """The bundle in `folder` with all of the methods that the model can have, and why it cannot have the others."""
    spec = replace(spec, source_batches=list(spec.source_batches), methods=methods)
    refused: dict[str, str] = {}
    try:
        return spec.export(folder).bundle, refused
    except ExportError:
        for name in methods:
            try:
                replace(spec, methods=[name]).export(folder)
            except ExportError as error:
                refused[name] = str(error)
    return replace(spec, methods=[m for m in methods if m not in refused]).export(folder).bundle, refused
