"""HTM columns on a stream of vectors: a network trained on labelled anomalies against the rule without labels.

    python -m benchmarks.columns [--records 20000] [--seeds 3]

A plant of four sensors, each with a cycle of its own. Most surprises are harmless: single sensors stumble now and
then, one of them often, and two others always stumble together when something is switched. An anomaly is a stumble
of the pressure and, up to 10 records later, of the flow: each of them looks like a harmless one. Networks are
trained on one recording and judged on another, drawn by another seed, from a rule's alarms at each of several rates.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks import report
from trimtab.drift.combiner import Combiner
from trimtab.drift.htm_columns import HOLD, HtmColumns
from trimtab.drift.score_baseline import AVERAGED
from trimtab.exporters.combiner import runs, sliding, spaced, train

Array = NDArray[np.float64]

SENSORS = ("pressure", "flow", "heat", "current")
CYCLES = (48, 36, 60, 80)
SURPRISE = 6
"""Records that a stumble lasts."""
APART = 100
"""Records from one event to the next, on average 1.5 times that."""


def plant(n: int, seed: int) -> tuple[Array, NDArray[np.bool_]]:
    """Values `[n, 4]`, and labels `[n]` which are True from an anomaly's first stumble to the end of its second."""
    rng = np.random.default_rng(seed)
    t = np.arange(n)[:, None]
    values = np.sin(2 * np.pi * t / np.array(CYCLES)) + 0.3 * np.sin(2 * np.pi * 3 * t / np.array(CYCLES))
    labels = np.zeros(n, bool)

    def stumble(sensor: int, at: int) -> None:
        values[at : at + SURPRISE, sensor] = rng.uniform(-1, 1, SURPRISE)

    at = 1000
    while at + 2 * APART < n:
        kind = rng.choice(["anomaly", "pressure", "flow", "heat", "switched"], p=[0.3, 0.2, 0.2, 0.2, 0.1])
        if kind == "anomaly":
            later = at + int(rng.integers(0, 11))
            stumble(0, at)
            stumble(1, later)
            labels[at : later + SURPRISE] = True
        elif kind == "switched":
            stumble(2, at)
            stumble(3, at)
        else:
            stumble(SENSORS.index(kind), at)
        at += APART + int(rng.integers(APART))
    return values + 0.02 * rng.standard_normal(values.shape), labels


def scores_of(values: Array, **options: int) -> Array:
    """The columns' scores `[n, D]`."""
    detector = HtmColumns(values.shape[1], **options)
    found = []
    for record in values.tolist():
        detector.update(None, record)
        found.append(detector.scores)
    return np.array(found)


def judged(score: Array, threshold: float, labels: NDArray[np.bool_], after: int) -> tuple[int, int]:
    """Anomalies found and false alarms by one `score [n]` a record, at a threshold, with HOLD records an event.

    An alarm up to `after` records past an anomaly has found it.
    """
    alarms = spaced(score >= threshold, HOLD)
    near = [{a for a in alarms if begin <= a < end + after} for begin, end in runs(labels)]
    return sum(map(bool, near)), len(set(alarms).difference(*near))


def best(score: Array, labels: NDArray[np.bool_], after: int, false: int) -> int:
    """The most anomalies that any threshold finds with at most `false` false alarms."""
    found = [judged(score, t, labels, after) for t in np.unique(np.quantile(score, 1 - np.geomspace(1e-4, 0.2, 200)))]
    return max((hits for hits, wrong in found if wrong <= false), default=0)


def compared(records: int, seed: int, every: float, history: int, **options: int) -> list[dict[str, Any]]:
    """A network trained on one recording, and the highest score, both on another."""
    values, labels = plant(records, 2 * seed)
    trained = train(
        scores_of(values, **options), labels, SENSORS, every=every, history=history, hold=HOLD, options=options
    )
    values, labels = plant(records, 2 * seed + 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "combiner.onnx"
        onnx.save(trained.model, str(file))
        network = Combiner(file)
    scores = scores_of(values, **options)
    windows = np.ascontiguousarray(sliding(scores, history))
    start = time.perf_counter()
    for window in windows[:1000]:
        network(window[None])
    spent = 1e3 * (time.perf_counter() - start)
    after = history + AVERAGED
    rows = []
    for rule, score, threshold in (
        ("network", network(windows).astype(np.float64), trained.recipe.threshold),
        ("highest score", scores.max(axis=1), HtmColumns(len(SENSORS), every=every, **options).alarm_at),
    ):
        found, false = judged(score, threshold, labels, after)
        rows.append(
            {
                "seed": seed,
                "rule": rule,
                "anomalies": len(runs(labels)),
                "found": found,
                "false alarms": false,
                "accepted": round(float((~labels).sum()) / every, 1),
                **{f"found at <= {n} false": best(score, labels, after, n) for n in (0, 5, 20)},
                "us a record": spent if rule == "network" else 0.0,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=20000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--every", type=float, default=5000.0)
    parser.add_argument("--history", type=int, default=10)
    arguments = parser.parse_args()
    rows = [
        row
        for seed in range(arguments.seeds)
        for row in compared(arguments.records, seed, arguments.every, arguments.history)
    ]
    report.write("columns", rows, records=arguments.records, every=arguments.every, history=arguments.history)


if __name__ == "__main__":
    main()
