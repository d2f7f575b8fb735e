"""Data that nobody tuned to: does adaptation help where it can, and do no harm where it cannot?

    python -m benchmarks.generality [--seeds 1] [--cases WORD ...] [--full] [--each]

Three small tasks of other kinds than the smartwatch and the gas sensors: written digits (8 x 8 images of scikit-learn;
convolutions with batch, group, layer or no norm), movements of an invented motion sensor with acceleration and angular
velocity, and the regression of their pace and strength. Each case is one stream through the real pipeline, served
static and adapted: clean windows, windows under a fault, then clean ones again, in mixed order or in runs of one class.
Cases of the kind `calm` have no fault, and ask for no harm: new people, other class frequencies, a long stretch of one
class. The error is the share of wrong classes, or the root mean square error over the target's deviation.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from benchmarks import report
from benchmarks.watch import METHODS, Kept, configured
from trimtab.drift import reference
from trimtab.exporters import ExportSpec
from trimtab.runtime.blocks import Block
from trimtab.runtime.bundle import Bundle, Calibration
from trimtab.runtime.replay import replay

Array = NDArray[np.float32]
Truth = NDArray[Any]
Fault = Callable[[Array, np.random.Generator], Array]
"""Changes windows `[n, C, ...]`, which follow one another in time."""

CLEAN, FAULTY, BACK = 500, 1000, 600
"""Windows before, under and after the fault."""
LONG = 3000
"""Windows of a calm stream."""
SETTLING = 256
"""Windows after a change that do not count."""
RUNS = (20, 60)
"""Windows of one class in a row, in correlated order."""
CLASSES = 5
ROWS = 64
PACES = np.array([1.6, 1.9, 2.3, 2.7, 3.2])
"""Periods of each movement in a window."""


# -- tasks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What a bundle is trained for, and where more of the same comes from."""

    fitted: tuple[Array, Truth]
    source: tuple[Array, Truth]
    """In recorded order, of people or sheets that the model was not fitted to."""
    draw: Callable[[NDArray[np.int64], np.random.Generator], tuple[Array, Truth]]
    """Unseen windows of the classes `[n]`, and their truth: classes `[n]` or values `[n, K]`."""
    classes: int
    regression: bool = False
    calibration: Calibration | None = None


def digits(seed: int) -> Task:
    """Images `[1, 8, 8]` from -8 to 8: a sensor with its zero in the middle, so that its sign may be turned."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(x))
    images, y = (x[shuffled].reshape(-1, 1, 8, 8) - 8.0).astype(np.float32), y[shuffled].astype(np.int64)
    images = images + rng.normal(0, 0.3, images.shape).astype(np.float32)
    fitted, kept, unseen = slice(0, 700), slice(700, 1200), slice(1200, None)
    by_class = [np.flatnonzero(y[unseen] == k) + 1200 for k in range(10)]

    def draw(classes: NDArray[np.int64], rng: np.random.Generator) -> tuple[Array, Truth]:
        chosen = np.array([rng.choice(by_class[k]) for k in classes])
        return images[chosen], classes

    runs = reference.in_runs(y[kept], seed)  # each image once: one that is there twice would vouch for itself
    recorded = runs + kept.start
    return Task(
        (images[fitted], y[fitted]),
        (images[recorded], y[recorded]),
        draw,
        10,
        calibration=Calibration(signs=[0], gain=True),
    )


@dataclass(frozen=True)
class Person:
    """How one moves: turned a little, stronger or weaker, faster or slower."""

    turn: NDArray[np.float64]
    strength: float
    pace: float

    @classmethod
    def random(cls, rng: np.random.Generator, spread: float = 1.0) -> Person:
        angles = rng.normal(0, 0.12 * spread, 3)
        a, b, c = angles
        cross = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
        u, _s, v = np.linalg.svd(np.eye(3) + cross)
        return cls(u @ v, float(np.exp(rng.normal(0, 0.12 * spread))), float(np.exp(rng.normal(0, 0.05 * spread))))


def _movements(
    classes: NDArray[np.int64], person: Person, rng: np.random.Generator
) -> tuple[Array, NDArray[np.float64]]:
    """Windows `[n, 6, ROWS]` (m/s2 and rad/s), and pace and strength `[n, 2]`."""
    n = len(classes)
    fixed = np.random.default_rng(7)  # the movements are the same for all
    gravity = fixed.normal(0, 0.4, (CLASSES, 3)) + np.array([0.0, 0.3, 1.0])
    gravity *= 9.81 / np.linalg.norm(gravity, axis=1, keepdims=True)
    swing, turn = fixed.normal(0, 1.5, (CLASSES, 3)), fixed.normal(0, 0.7, (CLASSES, 3))
    lag, harmonic = fixed.uniform(0, 2 * np.pi, (CLASSES, 6, 1)), fixed.uniform(0.1, 0.7, (CLASSES, 6, 1))
    pace = PACES[classes] * person.pace * np.exp(rng.normal(0, 0.1, n))
    strength = person.strength * np.exp(rng.normal(0, 0.2, n))
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1)) + 2 * np.pi * pace[:, None, None] * np.arange(ROWS) / ROWS
    wave = np.sin(phase + lag[classes]) + harmonic[classes] * np.sin(2 * phase + 3 * lag[classes])
    x = np.concatenate([swing[classes], turn[classes]], axis=1)[:, :, None] * strength[:, None, None] * wave
    x[:, :3] += (gravity[classes] + rng.normal(0, 0.8, (n, 3)))[:, :, None]
    x = np.concatenate([person.turn @ x[:, :3], person.turn @ x[:, 3:]], axis=1)
    x += rng.normal(0, 1, x.shape) * np.array([1.5] * 3 + [0.6] * 3)[:, None]
    return x.astype(np.float32), np.stack([np.log(pace), strength], axis=1)


AXES = ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])


def motion(seed: int, regression: bool = False) -> Task:
    """Acceleration and angular velocity; a mounting may swap axes (of both alike) and turn signs."""
    rng = np.random.default_rng(seed)
    people = [Person.random(rng) for _ in range(13)]

    def recorded(some: Sequence[Person], each: int) -> tuple[Array, Truth]:
        parts = []
        for person in some:
            classes = in_runs(each, CLASSES, rng)
            x, values = _movements(classes, person, rng)
            parts.append((x, values if regression else classes))
        return np.concatenate([x for x, _ in parts]), np.concatenate([t for _, t in parts])

    def draw(classes: NDArray[np.int64], rng: np.random.Generator) -> tuple[Array, Truth]:
        x, values = _movements(classes, people[-1], rng)
        return x, values if regression else classes

    return Task(
        recorded(people[:8], 150),
        recorded(people[8:12], 150),
        draw,
        CLASSES,
        regression,
        Calibration(gain=True)
        if regression
        else Calibration(signs=list(range(6)), orders=[[*o, *(3 + i for i in o)] for o in AXES], gain=True),
    )


# -- models -----------------------------------------------------------------------------------------------------------


def _norm(kind: str, channels: int, dimensions: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels) if dimensions == 2 else nn.BatchNorm1d(channels)
    return nn.GroupNorm(4, channels) if kind == "group" else nn.Identity()


class Images(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            _norm(kind, 16, 2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            _norm(kind, 32, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 16, 32),
            nn.LayerNorm(32) if kind == "layer" else nn.Identity(),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x))
        return y


class Series(nn.Module):
    def __init__(self, kind: str, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(6, 24, 7, 2, 3), _norm(kind, 24, 1), nn.ReLU(), nn.Conv1d(24, 32, 5, 2, 2), _norm(kind, 32, 1)
        )
        self.head = nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.relu(self.body(x)).mean(2))
        return y


def spec(task: Task, kind: str, seed: int) -> ExportSpec:
    """Fit a small model with norms of `kind`, and say how it is exported."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    x, truth = task.fitted
    axes = (0, *range(2, x.ndim))
    centre, spread = x.mean(axes, dtype=np.float64), x.std(axes, dtype=np.float64)
    outputs = truth.shape[1] if task.regression else task.classes
    model: nn.Module = Images(kind) if x.ndim == 4 else Series(kind, outputs)
    column = (-1,) + (1,) * (x.ndim - 2)
    standard = torch.from_numpy(((x - centre.reshape(column)) / spread.reshape(column)).astype(np.float32))
    wanted = torch.from_numpy(truth.astype(np.float32) if task.regression else truth)
    epochs = 25
    optimiser = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, total_steps=epochs * (len(x) // 32))
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(32)[: len(x) // 32]:  # type: ignore[no-untyped-call]
            y = model(standard[batch] + 0.1 * torch.randn_like(standard[batch]))
            loss = mse_loss(y, wanted[batch]) if task.regression else cross_entropy(y, wanted[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    source, known = task.source
    return ExportSpec(
        model=model.eval(),
        example_inputs=torch.from_numpy(source[:4]),
        source_batches=[(source, known)],
        name=kind,
        classes=() if task.regression else [str(k) for k in range(task.classes)],
        targets=["pace", "strength"] if task.regression else (),
        mean=centre.tolist(),
        std=spread.tolist(),
        calibration=task.calibration or Calibration(),
    )


# -- streams ----------------------------------------------------------------------------------------------------------


def in_runs(n: int, classes: int, rng: np.random.Generator, prior: NDArray[np.float64] | None = None) -> Any:
    """`[n]` classes, each repeated for RUNS windows."""
    found: list[int] = []
    while len(found) < n:
        found += [int(rng.choice(classes, p=prior))] * int(rng.integers(RUNS[0], RUNS[1] + 1))
    return np.array(found[:n], np.int64)


def mixed(n: int, classes: int, rng: np.random.Generator, prior: NDArray[np.float64] | None = None) -> Any:
    return rng.choice(classes, n, p=prior).astype(np.int64)


def _scaled(gain: float, offset: float, channels: Sequence[int]) -> Fault:
    def fault(x: Array, _rng: np.random.Generator) -> Array:
        x = x.copy()
        x[:, channels] = gain * x[:, channels] + offset
        return x

    return fault


def _noisy(deviation: float) -> Fault:
    return lambda x, rng: np.asarray(x + rng.normal(0, deviation, x.shape), np.float32)


def _blurred(x: Array, _rng: np.random.Generator) -> Array:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    around = [padded[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    return np.asarray(np.mean(around, axis=0), np.float32)


def _hidden(x: Array, _rng: np.random.Generator) -> Array:
    x = x.copy()
    x[:, :, 5:] = -8.0
    return x


def _mounted(order: Sequence[int], signs: Sequence[float]) -> Fault:
    turned = np.asarray(signs, np.float32)[:, None]
    return lambda x, _rng: np.asarray(x[:, order] * turned, np.float32)


def _creeping(x: Array, _rng: np.random.Generator) -> Array:
    x = x.copy()
    x[:, 0] += np.linspace(0, 6, len(x), dtype=np.float32)[:, None]
    return x


def _dead(x: Array, _rng: np.random.Generator) -> Array:
    x = x.copy()
    x[:, 1] = 0.0
    return x


def _lost(x: Array, _rng: np.random.Generator) -> Array:
    """A channel that is stuck, then gives NaN for a while."""
    x = x.copy()
    x[:, 4] = 3.0
    x[len(x) // 3 : len(x) // 2, 4] = np.nan
    return x


IMAGE_FAULTS: dict[str, Fault] = {
    "brightness +4": _scaled(1, 4, [0]),
    "contrast 0.5": _scaled(0.5, 0, [0]),
    "contrast 2": _scaled(2, 0, [0]),
    "inverted": _scaled(-1, 0, [0]),
    "noise": _noisy(4.0),
    "blur": _blurred,
    "occlusion": _hidden,
}
MOTION_FAULTS: dict[str, Fault] = {
    "mount yxz": _mounted([1, 0, 2, 4, 3, 5], [1, 1, 1, 1, 1, 1]),
    "mount turned": _mounted([1, 0, 2, 4, 3, 5], [-1, 1, 1, -1, 1, 1]),
    "upside down": _mounted(range(6), [-1, 1, -1, -1, 1, -1]),
    "gain 1.5": _scaled(1.5, 0, [2]),
    "offset creeps": _creeping,
    "dead channel": _dead,
    "stuck and NaN": _lost,
}
SERIES_FAULTS: dict[str, Fault] = {
    "gain 1.5": _scaled(1.5, 0, [2]),
    "all gains 0.7": _scaled(0.7, 0, range(6)),
    "offset +3": _scaled(1, 3, [0]),
    "dead channel": _dead,
}


@dataclass(frozen=True)
class Recording:
    x: Array
    truth: Truth
    segment: list[str]


def faulty(task: Task, fault: Fault, order: Callable[..., Any], seed: int) -> Recording:
    rng = np.random.default_rng(100 + seed)
    x, truth = task.draw(order(CLEAN + FAULTY + BACK, task.classes, rng), rng)
    x[CLEAN : CLEAN + FAULTY] = fault(x[CLEAN : CLEAN + FAULTY], rng)
    return Recording(x, truth, ["clean"] * CLEAN + ["fault"] * FAULTY + ["back"] * BACK)


def calm(task: Task, kind: str, seed: int) -> Recording:
    """No fault. `kind`: mixed, runs, shares (frequencies change strongly), stretch (one class for 500 windows)."""
    rng = np.random.default_rng(200 + seed)
    order = mixed if kind == "mixed" else in_runs
    classes = order(LONG, task.classes, rng)
    if kind == "shares":
        prior = 0.5 ** np.arange(task.classes)
        classes[LONG // 3 :] = order(LONG - LONG // 3, task.classes, rng, rng.permutation(prior / prior.sum()))
    if kind == "stretch":
        classes[1000:1500] = rng.integers(task.classes)
    x, truth = task.draw(classes, rng)
    return Recording(x, truth, ["clean"] * LONG)


# -- figures ----------------------------------------------------------------------------------------------------------


def blocks(recording: Recording, stream: str = "s") -> Iterator[Block]:
    """Whole samples: windows that do not overlap."""
    for i, x in enumerate(recording.x):
        yield Block(stream, float(i), {"x": x}, segment=recording.segment[i])


def figures(kept: Kept, recording: Recording, regression: bool) -> dict[str, Any]:
    """Errors by segment (of settled windows), alarms, switches and the longest turn in seconds."""
    decided = np.array([d.output is not None for d in kept.decisions])
    if regression:
        targets = ("pace", "strength")
        values = np.array(
            [[d.output[t] if isinstance(d.output, dict) else np.nan for t in targets] for d in kept.decisions]
        )
        error = (((values - recording.truth) / recording.truth.std(axis=0)) ** 2).mean(axis=1)
    else:
        error = np.array([str(d.output) for d in kept.decisions]) != recording.truth.astype(str)
    where = np.array(recording.segment)
    found: dict[str, Any] = {}
    for name in dict.fromkeys(recording.segment):
        counted = (where == name) & decided
        counted[np.flatnonzero(where == name)[: SETTLING if name != "clean" else 0]] = False
        mean_error = float(error[counted].mean())
        found[name] = mean_error**0.5 if regression else mean_error
    alarms = [e.payload["sequence"] for e in kept.events if e.topic.startswith("drift/")]
    told = [e.payload for e in kept.events if e.topic.startswith("adaptation/")]
    switches = [p for p in told if p["from"] != p["to"]]
    return {
        **found,
        "false": sum(where[a] == "clean" for a in alarms),
        "alarms": len(alarms),
        "tries": len(told),
        "switches": len(switches),
        "back_offs": sum(bool(p.get("rolled_back")) for p in told),
        "by": " ".join(f"{p['sequence']}:{'+'.join(m[:5] for m in p['methods'])}" for p in switches),
    }


Make = Callable[[int], Task]
CASES: list[tuple[str, Make, str, str, str]] = [
    *[("digits", digits, "batch", fault, order) for fault in IMAGE_FAULTS for order in ("mixed", "runs")],
    *[
        ("digits", digits, norm, fault, "runs")
        for norm in ("group", "layer", "none")
        for fault in ("brightness +4", "contrast 0.5", "inverted")
    ],
    *[("motion", motion, "batch", fault, "runs") for fault in MOTION_FAULTS],
    *[("motion", motion, "none", fault, "runs") for fault in ("mount turned", "gain 1.5")],
    *[("series", lambda seed: motion(seed, regression=True), "batch", fault, "runs") for fault in SERIES_FAULTS],
    *[(name, make, "batch", "calm", kind) for name, make in (("digits", digits), ("motion", motion))
      for kind in ("mixed", "runs", "shares", "stretch")],
    *[("series", lambda seed: motion(seed, regression=True), "batch", "calm", kind) for kind in ("runs", "stretch")],
]  # fmt: skip
SHORT = (
    "digits batch contrast 0.5 runs",
    "digits batch inverted runs",
    "digits group brightness +4 runs",
    "digits none contrast 0.5 runs",
    "motion batch mount turned runs",
    "motion batch gain 1.5 runs",
    "motion batch stuck and NaN runs",
    "series batch gain 1.5 runs",
    "series batch dead channel runs",
    "digits batch calm shares",
    "motion batch calm runs",
    "motion batch calm stretch",
    "series batch calm runs",
)
"""Cases that are run unless all are asked for: some two minutes a seed."""
FAULTS = {"digits": IMAGE_FAULTS, "motion": MOTION_FAULTS, "series": SERIES_FAULTS}
ORDERS = {"mixed": mixed, "runs": in_runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cases", nargs="*", default=[], help="only cases with one of these words in their name")
    parser.add_argument("--full", action="store_true", help="all cases")
    parser.add_argument("--each", action="store_true", help="each method alone, too")
    given = parser.parse_args()
    methods = list(METHODS) if given.each else ["static", "together"]
    rows: list[dict[str, Any]] = []
    made: dict[tuple[str, str, int], tuple[Task, Bundle]] = {}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, make, norm, fault, order in CASES:
            case = f"{name} {norm} {fault} {order}"
            wanted = any(word in case for word in given.cases) if given.cases else given.full or case in SHORT
            if not wanted:
                continue
            results: dict[str, list[dict[str, Any]]] = {m: [] for m in methods}
            for seed in range(given.seeds):
                key = (name, norm, seed)
                if key not in made:
                    task = make(seed)
                    made[key] = task, spec(task, norm, seed).export(Path(folder) / "-".join(map(str, key))).bundle
                task, bundle = made[key]
                recording = (
                    calm(task, order, seed)
                    if fault == "calm"
                    else faulty(task, FAULTS[name][fault], ORDERS[order], seed)
                )
                for method in methods:
                    kept = Kept()
                    replay(bundle, configured(bundle, METHODS[method]), blocks(recording), [kept])
                    results[method].append(figures(kept, recording, task.regression))
            static = results["static"]
            for method in methods:
                row: dict[str, Any] = {"case": case, "methods": method}
                for part in ("clean", "fault", "back"):
                    if part in static[0]:
                        row[part] = mean(r[part] for r in results[method])
                        row[f"{part} worst"] = max(
                            r[part] - s[part] for r, s in zip(results[method], static, strict=True)
                        )
                for count in ("false", "alarms", "tries", "switches", "back_offs"):
                    row[count] = sum(r[count] for r in results[method])
                rows.append(row)
                print(
                    {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()},
                    [r["by"] for r in results[method]],
                    flush=True,
                )
    report.write(
        "generality",
        rows,
        settings=f"{given.seeds} seeds; after a change without its first {SETTLING} windows; worst: to static",
        seconds=time.perf_counter() - begun,
    )


if __name__ == "__main__":
    main()
