"""Alarms of many streams: each for itself (`sprt`, Bonferroni over its signals) against together, by online FDR.

    python -m benchmarks.discoveries [--runs 8] [--streams 10]

Streams of the smartwatch, put together from whole exercises on the right arm of people that its model was not trained
on, drawn at random; two of them move to the left arm half-way, and no other ever does. Then streams of two signals of
Gaussian noise, independent or each value 0.7 times the last, with references of 5,000 values; in two of them one signal
rises by 2 deviations half-way. An alarm of any other stream, or before its move, is false, and so is a second one for
the same move. `share` is the mean over runs of false alarms among alarms: what `level` bounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from benchmarks import report
from benchmarks.detection import WATCHED, Windows, smartwatch
from trimtab.drift.catalogue import build_monitor
from trimtab.drift.discoveries import Discoveries

MOVED = 2
"""Streams that drift."""
LEVEL, PERIOD = 0.1, 1000
EVERY, REFRACTORY = 20000, 256

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, bool], tuple[Windows, int]]
"""A stream's signals, and the window at which it moves; beyond its end where it does not."""


def noise(correlation: float) -> tuple[Draw, dict[str, Array]]:
    """Streams of 2,000 values, and references."""

    def values(n: int, rng: np.random.Generator) -> Array:
        drive = np.sqrt(1 - correlation**2) * rng.standard_normal(n + 100)
        return np.asarray(lfilter([1.0], [1.0, -correlation], drive)[100:])

    def draw(rng: np.random.Generator, moves: bool) -> tuple[Windows, int]:
        found = {name: values(2000, rng) for name in ("a", "b")}
        if moves:
            found["a"][1000:] += 2.0
        return found, 1000 if moves else 2000

    rng = np.random.default_rng(99)
    return draw, {name: values(5000, rng) for name in ("a", "b")}


def watches() -> tuple[Draw, dict[str, Array]]:
    """Raises ModuleNotFoundError where the recordings are not installed."""
    bundle, usual, drifted = smartwatch(WATCHED)
    names = list(usual[0])

    def draw(rng: np.random.Generator, moves: bool) -> tuple[Windows, int]:
        parts = [usual[i] for i in rng.integers(len(usual), size=2 * len(usual))]
        half = len(usual)
        if moves:
            parts[half:] = [drifted[i] for i in rng.permutation(len(drifted))]
        at = sum(len(p[names[0]]) for p in parts[:half])
        found = {name: np.concatenate([p[name] for p in parts]) for name in names}
        return found, at if moves else len(found[names[0]])

    return draw, {name: bundle.source.reference[name] for name in names}


def compared(kind: str, draw: Draw, references: Mapping[str, Array], runs: int, streams: int) -> list[dict[str, Any]]:
    """A row each for streams alone and together, on the same streams."""
    signals = list(references)
    tallies: dict[str, list[tuple[int, list[int]]]] = {"alone": [], "together": []}
    windows = 0
    for run in range(runs):
        rng = np.random.default_rng(run)
        drawn = [draw(rng, s < MOVED) for s in range(streams)]
        length = min(len(values[signals[0]]) for values, _ in drawn)
        windows += length * streams
        rows = [list(zip(*(values[s][:length].tolist() for s in signals), strict=True)) for values, _ in drawn]
        monitors = [
            build_monitor(signals, "sprt", every=EVERY, refractory=REFRACTORY, reference=references) for _ in drawn
        ]
        together = Discoveries(signals, level=LEVEL, period=PERIOD, refractory=REFRACTORY, references=references)
        found: dict[str, dict[int, int]] = {"alone": {}, "together": {}}
        false = dict.fromkeys(found, 0)
        for n in range(length):
            for s, (_, at) in enumerate(drawn):
                values = dict(zip(signals, rows[s][n], strict=True))
                alarms = {"alone": monitors[s].update(values), "together": together.update(str(s), values)}
                for way, alarm in alarms.items():
                    if alarm is not None and n >= at and s not in found[way]:
                        found[way][s] = n - at + 1
                    elif alarm is not None:
                        false[way] += 1
        for way, tally in tallies.items():
            tally.append((false[way], list(found[way].values())))
    result = []
    for way, tally in tallies.items():
        delays = [d for _, own in tally for d in own]
        result.append(
            {
                "streams": kind,
                "alarm": way,
                "windows": windows,
                "false alarms": sum(false for false, _ in tally),
                "share": float(np.mean([false / max(false + len(own), 1) for false, own in tally])),
                "moves": runs * MOVED,
                "found": len(delays),
                "median delay": float(median(delays)) if delays else float("nan"),
            }
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--streams", type=int, default=10)
    given = parser.parse_args()
    kinds: list[tuple[str, Draw, Mapping[str, Array]]] = [
        ("independent", *noise(0.0)),
        ("autocorrelated", *noise(0.7)),
    ]
    try:
        kinds.insert(0, ("smartwatch", *watches()))
    except ModuleNotFoundError as error:
        print(f"\nThe smartwatch is left out: {error.name} is not installed; pip install 'trimtab[demo]'.")
    rows = [row for kind in kinds for row in compared(*kind, given.runs, given.streams)]
    report.write("discoveries", rows, runs=given.runs, streams=given.streams, level=LEVEL, every=EVERY)


if __name__ == "__main__":
    main()
