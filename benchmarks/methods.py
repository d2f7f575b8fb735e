"""Accuracy of every method that has a step graph, on data that drifted away from what the model learnt, and its cost.

    python -m benchmarks.methods [--data watch gas digits] [--seeds 5] [--methods NAME ...] [--add]

Each stream begins with the method as exported (published hyperparameters, nothing tuned) and goes in batches of 64, a
rest is left out: in recorded order, which is one class after another, and with the same samples shuffled. Accuracy is
of the outputs of the very steps that adapt, in percent, over models and data of several seeds. `batch norms` only
normalises by each batch's statistics; `own, piped` is what the daemon does (input calibration, norm statistics and bias
vectors under its guard), on streams that are long enough for it. Times are the processor's, on one thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any

import numpy as np
import onnx
import onnx.utils
import onnxruntime
from numpy.typing import NDArray

from benchmarks.generality import Recording, blocks
from benchmarks.report import OUT, interleaved, write
from benchmarks.targets import DRAWN, TARGETS, Stream, Target, exported
from benchmarks.watch import METHODS as OWN
from benchmarks.watch import Kept, configured
from trimtab.adapters import load
from trimtab.exporters.methods import METHODS
from trimtab.runtime.bundle import Bundle
from trimtab.runtime.replay import replay

BATCH = 64
ORDERS = ("runs", "shuffled")
STATIC, NORMS, PIPED = "static", "batch norms", "own, piped"
BASELINES = (STATIC, NORMS)
NAMES = [*METHODS, PIPED]
RUNS = OUT / "methods" / "runs.json"
"""Every run by itself, by corruption and severity, too; written after each model."""
KEYS = ("data", "seed", "part", "order", "method")
"""Which tell one run from another."""
COSTS = 15
"""Turns in which times are taken."""

Array = NDArray[np.float32]
Step = Callable[[Array], Array]
Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", choices=NAMES, default=NAMES, help="beside the baselines")
    parser.add_argument("--add", action="store_true", help="to what was measured before")
    given = parser.parse_args()
    begun = time.perf_counter()
    kept = (
        json.loads(RUNS.read_text(encoding="utf-8"))
        if given.add and RUNS.exists()
        else {"runs": [], "costs": [], "refused": {}}
    )
    for data in given.data:
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                runs, costs, refused = measured(TARGETS[data](seed), given.methods, Path(folder))
            kept["runs"] = merged(kept["runs"], [{"seed": seed, **r} for r in runs])
            kept["costs"] = merged(kept["costs"], [{"data": data, "seed": seed, **c} for c in costs])
            kept["refused"] |= {f"{data}, seed {seed}, {name}": reason for name, reason in refused.items()}
            RUNS.parent.mkdir(parents=True, exist_ok=True)
            RUNS.write_text(json.dumps(kept), encoding="utf-8")
            print(f"{data}, seed {seed}: {time.perf_counter() - begun:.0f} s", flush=True)
    there = {r["method"] for r in kept["runs"]}
    names = [m for m in (*BASELINES, *NAMES) if m in there]
    settings = f"{len({r['seed'] for r in kept['runs']})} seeds, batches of {BATCH}"
    spread = "percent, mean and standard deviation over seeds"
    write("methods", accuracies(kept["runs"], names), settings=f"{settings}; {spread}", **kept["refused"])
    gains = differences(kept["runs"], names[1:])
    write("methods_to_static", gains, settings=f"{settings}; points, mean and (worst seed)")
    costs = prices(kept["costs"], names)
    write("methods_cost", costs, settings=f"milliseconds of a step on {BATCH} samples and (plain forward passes)")


def measured(target: Target, chosen: Sequence[str], folder: Path) -> tuple[list[Run], list[Run], dict[str, str]]:
    """Accuracies, costs, and the methods that the model cannot have, with the reason."""
    methods = [m for m in chosen if m != PIPED]
    bundle, refused = exported(target.spec, list(dict.fromkeys(["tent", *methods])), folder)
    steps = steppers(bundle, [m for m in methods if m not in refused])
    runs = [run for stream in target.streams for run in streamed(steps, stream)]
    if PIPED in chosen:
        long = [stream for stream in target.streams if len(stream.y) > DRAWN]  # else it is over before enough is known
        runs += [run for stream in long for run in piped(bundle, stream)]
    return runs, cost(steps, target.streams[0].x[:BATCH]), refused


def merged(kept: Sequence[Run], new: Sequence[Run]) -> list[Run]:
    """What was kept, but for what is new: runs are the same where their KEYS are."""
    found = {tuple(run.get(key) for key in KEYS): run for run in (*kept, *new)}
    return list(found.values())


@dataclass(frozen=True)
class Stepper:
    step: Step
    reset: Callable[[], None] = lambda: None
    """Back to before the first step."""


def steppers(bundle: Bundle, methods: Iterable[str]) -> dict[str, Stepper]:
    """The baselines and the bundle's `methods`, each on one thread."""
    found = {STATIC: Stepper(static(bundle)), NORMS: Stepper(batch_statistics(bundle))}
    for method in methods:
        adapter = load(bundle.path, method, threads=1)
        found[method] = Stepper(adapter.step, adapter.reset)
    return found


def static(bundle: Bundle) -> Step:
    return outputs(bundle.graph("serve"), bundle.manifest.inputs[0].name, {})


def batch_statistics(bundle: Bundle) -> Step:
    """Tent's forward pass alone: norms by the statistics of the batch, nothing learnt."""
    name, graph = bundle.manifest.inputs[0].name, onnx.load(bundle.path / "step.tent.onnx")
    forward = onnx.utils.Extractor(graph).extract_model([name, "state.theta"], ["y"])
    return outputs(forward.SerializeToString(), name, {"state.theta": load(bundle.path, "tent").theta})


def outputs(graph: bytes, name: str, others: dict[str, Array]) -> Step:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(["y"], {name: x, **others})[0])


def streamed(steps: Mapping[str, Stepper], stream: Stream) -> list[Run]:
    """The share of hits of each in either order, from a fresh start."""
    found = []
    for order in ORDERS:
        places = in_order(stream, order)
        batches = np.split(places, len(places) // BATCH)
        for name, stepper in steps.items():
            stepper.reset()
            hits = [stepper.step(stream.x[b]).argmax(1) == stream.y[b] for b in batches]
            found.append(outcome(stream, order, name, np.concatenate(hits)))
    return found


def piped(bundle: Bundle, stream: Stream) -> list[Run]:
    """The same for the daemon's own methods together."""
    found = []
    for order in ORDERS:
        places = in_order(stream, order)
        kept = Kept()
        samples = blocks(Recording(stream.x[places], stream.y[places], [""] * len(places)))
        replay(bundle, configured(bundle, OWN["together"]), samples, [kept])
        classes = np.array(bundle.manifest.classes)[stream.y[places]]
        hits = np.array([decision.output for decision in kept.decisions]) == classes
        found.append(outcome(stream, order, PIPED, hits))
    return found


def in_order(stream: Stream, order: str) -> NDArray[np.int64]:
    """Places of a stream's samples, without a rest that fills no batch."""
    places = np.arange(len(stream.y)) if order == "runs" else stream.shuffled
    return places[: len(places) // BATCH * BATCH]


def outcome(stream: Stream, order: str, method: str, hits: NDArray[np.bool_]) -> Run:
    accuracy = 100 * float(hits.mean())
    return {"data": stream.data, "part": stream.part, "order": order, "method": method, "accuracy": accuracy}


def cost(steps: Mapping[str, Stepper], batch: Array) -> list[Run]:
    """Milliseconds of the processor for a step of each, in runs that take turns, and in plain forward passes."""
    calls = {name: partial(stepper.step, batch) for name, stepper in steps.items()}
    seconds = interleaved(calls, COSTS, clock=time.process_time)
    return [{"method": m, "ms": 1e3 * s, "forwards": s / seconds[STATIC]} for m, s in seconds.items()]


# -- tables -----------------------------------------------------------------------------------------------------------


BySeed = Mapping[tuple[str, str, str], Mapping[int, float]]
"""(method, data, order) -> accuracy of each seed."""


def by_seed(runs: Iterable[Run]) -> BySeed:
    """The mean over the parts of the data."""
    parts: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for r in runs:
        parts.setdefault((r["method"], r["data"], r["order"]), {}).setdefault(r["seed"], []).append(r["accuracy"])
    return {key: {seed: mean(values) for seed, values in seeds.items()} for key, seeds in parts.items()}


def accuracies(runs: Iterable[Run], methods: Sequence[str]) -> list[dict[str, str]]:
    """One row a method: mean and standard deviation over seeds."""
    return _table(by_seed(runs), methods, lambda seeds, _: f"{mean(seeds.values()):.1f} ± {pstdev(seeds.values()):.1f}")


def differences(runs: Iterable[Run], methods: Sequence[str]) -> list[dict[str, str]]:
    """One row a method: mean difference to static, and that of the worst seed."""

    def cell(seeds: Mapping[int, float], static: Mapping[int, float]) -> str:
        gains = [accuracy - static[seed] for seed, accuracy in seeds.items()]
        return f"{mean(gains):+.1f} ({min(gains):+.1f})"

    return _table(by_seed(runs), methods, cell)


def _table(
    found: BySeed, methods: Sequence[str], cell: Callable[[Mapping[int, float], Mapping[int, float]], str]
) -> list[dict[str, str]]:
    streams = list(dict.fromkeys((data, order) for _, data, order in found))
    return [
        {
            "method": m,
            **{
                f"{d}, {o}": cell(found[m, d, o], found[STATIC, d, o]) if (m, d, o) in found else "-"
                for d, o in streams
            },
        }
        for m in methods
    ]


def prices(costs: Sequence[Run], methods: Sequence[str]) -> list[dict[str, str]]:
    """One row a method: medians over seeds of milliseconds and plain forward passes."""
    rows = []
    for method in methods:
        row = {"method": method}
        for data in dict.fromkeys(c["data"] for c in costs):
            of = [c for c in costs if (c["method"], c["data"]) == (method, data)]
            row[data] = f"{median(c['ms'] for c in of):.2f} ({median(c['forwards'] for c in of):.1f})" if of else "-"
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
