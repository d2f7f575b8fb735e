"""Long streams on which drift comes and goes: does a method under the guard end below the model as exported?

    python -m benchmarks.recurring [--data NAME ...] [--seeds 0 ...] [--methods NAME ...] [--orders NAME ...]
        [--samples 100000] [--batch 64] [--add]

Stretches of 1,000 to 2,500 samples, clean and drifted in turns, another drift each time: written digits under
corruptions of random severity; an invented motion sensor, wrongly mounted, of wrong gain, creeping or dead; the
smartwatch on either arm; gas sensors in their first and in later months; features of image segments (UCI 50, as River
holds them) of wrong gains and offsets, noisy or dead. Classes come mixed; in runs; half of them mixed, others in each
stretch; or one alone in each stretch. Every method runs bare and under the guard; nothing is reset from outside.
Figures are percentage points of accuracy more than the model as exported has. The target is that of the guard: -1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.datasets import ImageSegments

from benchmarks import gas as gases
from benchmarks import generality, targets
from benchmarks.corruptions import CORRUPTIONS, SEVERITIES
from benchmarks.generality import MOTION_FAULTS, Fault, Task
from benchmarks.methods import BATCH, STATIC, merged
from benchmarks.report import OUT, write
from benchmarks.targets import corrupted, exported
from trimtab.adapters import load
from trimtab.adapters.protection import Guarded, source_model
from trimtab.exporters import ExportSpec
from trimtab.exporters.methods import METHODS

SAMPLES = 100_000
STRETCH = (1000, 2500)
TARGET = -1.0
RUNS = OUT / "recurring" / "runs.json"

Array = NDArray[np.float32]
Classes = NDArray[np.int64]
Draw = Callable[[int, str, bool, np.random.Generator], tuple[Array, Classes]]
"""(samples, order, drifted) -> inputs `[n, ...]` and classes `[n]` of one stretch."""


def few(n: int, classes: int, rng: np.random.Generator) -> Classes:
    """`[n]`: half of the classes, mixed."""
    return rng.choice(rng.permutation(classes)[: max(2, classes // 2)], n)


def alone(n: int, classes: int, rng: np.random.Generator) -> Classes:
    """`[n]`: one class."""
    return np.full(n, rng.integers(classes))


ORDERS: dict[str, Callable[[int, int, np.random.Generator], Classes]] = {
    **generality.ORDERS,
    "few": few,
    "alone": alone,
}


def digits(seed: int) -> tuple[ExportSpec, Draw]:
    task = generality.digits(seed)

    def drift(x: Array, rng: np.random.Generator) -> Array:
        return corrupted(x, str(rng.choice(list(CORRUPTIONS))), int(rng.choice(SEVERITIES)), rng)

    return generality.spec(task, "batch", seed), partial(_drawn, task, drift)


def motion(seed: int) -> tuple[ExportSpec, Draw]:
    task = generality.motion(seed)
    faults = [fault for name, fault in MOTION_FAULTS.items() if "NaN" not in name]  # of NaN there is no accuracy

    def drift(x: Array, rng: np.random.Generator) -> Array:
        return faults[rng.choice(len(faults))](x, rng)

    return generality.spec(task, "batch", seed), partial(_drawn, task, drift)


def _drawn(
    task: Task, drift: Fault, n: int, order: str, drifted: bool, rng: np.random.Generator
) -> tuple[Array, Classes]:
    x, y = task.draw(ORDERS[order](n, task.classes, rng), rng)
    return (drift(x, rng) if drifted else x), y


def watch(seed: int) -> tuple[ExportSpec, Draw]:
    target = targets.watch(seed)
    same, other = ((stream.x, stream.y) for stream in target.streams)
    return target.spec, lambda n, order, drifted, rng: _chosen(*(other if drifted else same), n, order, rng)


def gas(seed: int) -> tuple[ExportSpec, Draw]:
    x, y, batch, _ = gases.data()
    early = np.isin(batch, gases.TRAINED)

    def draw(n: int, order: str, drifted: bool, rng: np.random.Generator) -> tuple[Array, Classes]:
        of = batch == rng.choice(gases.STREAMED) if drifted else early
        return _chosen(x[of], y[of], n, order, rng)

    return targets.gas(seed).spec, draw


def segments(seed: int) -> tuple[ExportSpec, Draw]:
    rows = list(ImageSegments())
    x = gases.scaled(np.array([list(features.values()) for features, _ in rows], np.float64))
    names, y = np.unique([name for _, name in rows], return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(x))
    fitted, unseen = np.split(shuffled, 2)
    spread = x[fitted].std(axis=0)

    def draw(n: int, order: str, drifted: bool, rng: np.random.Generator) -> tuple[Array, Classes]:
        found, classes = _chosen(x[unseen], y[unseen], n, order, rng)
        return (_worn(found, spread, rng) if drifted else found), classes

    return gases.spec(seed, x[fitted], y[fitted], names.tolist(), "segments"), draw


def _worn(x: Array, spread: Array, rng: np.random.Generator) -> Array:
    """Features `[n, F]` after one of some faults; `spread [F]` is what they vary by."""
    some = rng.random(x.shape[1]) < rng.uniform(0.2, 0.6)
    faults: list[Callable[[], Any]] = [
        lambda: x * rng.choice([0.5, 0.7, 1.5, 2.0]),
        lambda: x * np.where(some, np.exp(rng.normal(0, 0.7, x.shape[1])), 1.0),
        lambda: x + np.where(some, spread * rng.normal(0, 1.2, x.shape[1]), 0.0),
        lambda: x + spread * rng.normal(0, rng.uniform(0.4, 1.2), x.shape),
        lambda: np.where(some, 0.0, x),
    ]
    return np.asarray(faults[rng.integers(len(faults))](), np.float32)


def _chosen(x: Array, y: Classes, n: int, order: str, rng: np.random.Generator) -> tuple[Array, Classes]:
    """Some of the samples, again and again, of the classes that there are."""
    of_class = [np.flatnonzero(y == k) for k in np.unique(y)]
    places = np.array([rng.choice(of_class[k]) for k in ORDERS[order](n, len(of_class), rng)])
    return x[places], y[places]


DATA: dict[str, Callable[[int], tuple[ExportSpec, Draw]]] = {
    "digits": digits,
    "motion": motion,
    "watch": watch,
    "gas": gas,
    "segments": segments,
}


def batches(draw: Draw, order: str, samples: int, seed: int, size: int = BATCH) -> Iterator[tuple[Array, Classes]]:
    """Inputs `[size, ...]` and classes `[size]`, clean and drifted stretches in turns."""
    rng = np.random.default_rng(400 + seed)
    left, drifted = samples // size, False
    while left:
        stretch = min(int(rng.integers(*STRETCH)) // size, left)
        x, y = draw(stretch * size, order, drifted, rng)
        yield from zip(np.split(x, stretch), np.split(y, stretch), strict=True)
        left, drifted = left - stretch, not drifted


@dataclass
class Course:
    """What became of one method on one stream."""

    step: Callable[[Array, Array, Array | None], Array]
    """(inputs, the static model's outputs and norm-input moments) -> outputs"""
    hits: list[float]
    """Share of each batch."""


def run(folder: Path, methods: Sequence[str], stream: Iterable[tuple[Array, Classes]]) -> list[dict[str, Any]]:
    """One row a method: gains over the static model, bare and guarded, over the whole stream and its last tenth."""
    observe = source_model(folder, threads=1)
    guards = {name: Guarded(load(folder, name, threads=1)) for name in methods}
    courses = {STATIC: Course(lambda x, static, moments: static, [])}
    for name, guard in guards.items():
        bare = load(folder, name, threads=1)
        courses[f"{name}, bare"] = Course(lambda x, static, moments, bare=bare: bare.step(x), [])  # type: ignore[misc]
        courses[f"{name}, guarded"] = Course(guard.step, [])
    trusted = dict.fromkeys(guards, 0)
    for x, truth in stream:
        static, moments = observe({"x": x})
        for course in courses.values():
            course.hits.append(float((course.step(x, static, moments).argmax(1) == truth).mean()))
        for name, guard in guards.items():
            trusted[name] += guard.trusted
    known = np.array(courses[STATIC].hits)
    last = slice(-len(known) // 10, None)
    rows = []
    for name, guard in guards.items():
        row = {"method": name, "static": 100 * known.mean()}
        for way in ("bare", "guarded"):
            gains = 100 * (np.array(courses[f"{name}, {way}"].hits) - known)
            row |= {way: gains.mean(), f"{way}, end": gains[last].mean()}
        rows.append(row | {"trusted": trusted[name] / len(known), "undone": len(guard.events)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", nargs="*", choices=list(DATA), default=list(DATA))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--orders", nargs="*", choices=list(ORDERS), default=list(ORDERS))
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--add", action="store_true", help="to what was measured before")
    given = parser.parse_args()
    begun = time.perf_counter()
    rows: list[dict[str, Any]] = json.loads(RUNS.read_text(encoding="utf-8")) if given.add and RUNS.exists() else []
    for data in given.data:
        for seed in given.seeds:
            spec, draw = DATA[data](seed)
            with tempfile.TemporaryDirectory() as folder:
                _, refused = exported(spec, given.methods, Path(folder))
                able = [m for m in given.methods if m not in refused]
                for order in given.orders:
                    found = run(Path(folder), able, batches(draw, order, given.samples, seed, given.batch))
                    rows = merged(rows, [{"data": data, "order": order, "seed": seed, **row} for row in found])
                    RUNS.parent.mkdir(parents=True, exist_ok=True)
                    RUNS.write_text(json.dumps(rows), encoding="utf-8")
                    print(f"{data}, {order}, seed {seed}: {time.perf_counter() - begun:.0f} s", flush=True)
    settings = (
        f"{given.samples:,} samples in batches of {given.batch}; points above static, bare -> guarded, mean over seeds"
    )
    below = [
        f"{r['method']} on {r['data']}, {r['order']}, seed {r['seed']}: {min(r['guarded'], r['guarded, end']):.1f}"
        for r in rows
        if min(r["guarded"], r["guarded, end"]) < TARGET
    ]
    write("recurring", table(rows, ""), settings=settings, target=TARGET, below="; ".join(below) or "none")
    write("recurring_end", table(rows, ", end"), settings=f"{settings}; the last tenth")


def table(rows: Sequence[dict[str, Any]], part: str) -> list[dict[str, str]]:
    """One row a method, one column a stream: mean over seeds."""
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        cells.setdefault(row["method"], {}).setdefault(f"{row['data']}, {row['order']}", []).append(row)
    return [
        {
            "method": method,
            **{
                stream: " -> ".join(f"{mean(r[way + part] for r in of_seeds):+.1f}" for way in ("bare", "guarded"))
                for stream, of_seeds in streams.items()
            },
        }
        for method, streams in cells.items()
    ]


if __name__ == "__main__":
    main()
