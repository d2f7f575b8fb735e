"""The smartwatch on the wrong arm: accuracy with each adaptation method alone, with all, and with none.

    python -m benchmarks.watch [--seeds 5] [--keep FOLDER]

Per seed, three people are held out and a network is trained on the right arms of the seven others, exported, and
served through the real pipeline (as `trimtab replay` does): the three people's recordings, person by person and
exercise by exercise, on the right arm, then the left, then the right again. Labels only count the hits.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks import report
from trimtab.examples.watch import stream
from trimtab.examples.watch.recordings import HOP, PEOPLE, RATE, held_out, load
from trimtab.examples.watch.train import spec
from trimtab.runtime.blocks import Block
from trimtab.runtime.bundle import Bundle, load_bundle
from trimtab.runtime.config import Config, parse_config
from trimtab.runtime.decisions import Decision, Event, Step
from trimtab.runtime.replay import replay

METHODS: dict[str, list[str]] = {
    "static": [],
    "norm_statistics": ["norm_statistics"],
    "bias_vector": ["bias_vector"],
    "input_calibration": ["input_calibration"],
    "together": ["input_calibration", "norm_statistics", "bias_vector"],
}
SETTLING = 256
"""Windows after the move to the left arm that do not count."""
RECOVERY = 300
"""Windows within which it must be itself again, back on the right arm."""
RUN = 64
"""Windows over which accuracy is taken to say when it has recovered."""


class Kept:
    """A replay's sink that keeps everything."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.events: list[Event] = []

    def take(self, step: Step, seconds: float) -> None:
        self.decisions += step.decisions
        self.events += step.events


def trained(seed: int, folder: Path) -> Bundle:
    """The bundle of `seed` in `folder`; trained and exported where it is not there yet."""
    path = folder / f"watch-{seed}"
    if not (path / "manifest.yaml").exists():
        spec([p for p in PEOPLE if p not in held_out(seed)], seed, load()).export(path)
    return load_bundle(path)


def blocks(recording: stream.Stream) -> Iterator[Block]:
    """One block a hop, as a sensor would send them."""
    for i in range(0, len(recording.values), HOP):
        rows = slice(i, i + HOP)
        yield Block(
            "watch",
            float(recording.time[rows][-1]),
            recording.values[rows],
            labels=list(recording.label[rows]),
            segment=recording.segment[i],
        )


def configured(bundle: Bundle, methods: Sequence[str], adaptation: dict[str, Any] | None = None) -> Config:
    """The defaults, with these methods."""
    settings: dict[str, Any] = {"policy": "on_drift" if methods else "off", **(adaptation or {})}
    if methods:
        settings["methods"] = list(methods)
    return parse_config({"bundle": str(bundle.path), "adaptation": settings}, "benchmarks/watch.py")


def run(bundle: Bundle, config: Config, recording: stream.Stream) -> Kept:
    kept = Kept()
    replay(bundle, config, blocks(recording), [kept])
    return kept


def figures(kept: Kept) -> dict[str, Any]:
    """Accuracy per segment, when it recovered, and what happened."""
    right = np.array([d.output == d.truth for d in kept.decisions])
    segment = np.array([d.segment for d in kept.decisions])
    parts = {name: right[segment == name] for name in stream.SEGMENTS}
    moved = int(np.argmax(segment == "left"))
    alarms = [e.payload["sequence"] for e in kept.events if e.topic.startswith("drift/")]
    first = next((a for a in alarms if a >= moved), None)
    switches = [e for e in kept.events if e.topic.startswith("adaptation/") and e.payload["from"] != e.payload["to"]]
    back, tail = parts["back"], parts["back"][RECOVERY:]
    return {
        "right": float(parts["right"].mean()),
        "left": float(parts["left"][SETTLING:].mean()),
        "back": float(tail.mean()),
        "recovered": _recovered(back, float(parts["right"].mean())),
        "alarms": len(alarms),
        "delay": None if first is None else first - moved,
        "switches": len(switches),
    }


def _recovered(hits: np.ndarray[Any, np.dtype[np.bool_]], usual: float) -> int | None:
    """Windows after the move until a run of RUN windows begins that is not 5 points under the usual accuracy.

    Exercises are not equally hard, so that a single run says little: it is the first of such runs that counts.
    """
    sums = np.convolve(hits, np.ones(RUN), "valid") / RUN
    good = np.flatnonzero(sums >= usual - 0.05)
    return int(good[0]) if len(good) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder in which trained bundles are kept and found again")
    parser.add_argument("--only", nargs="*", default=list(METHODS), help="rows to run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = given.keep or Path(temporary)
        rows = []
        recordings = load()
        for seed in range(given.seeds):
            bundle = trained(seed, folder)
            recording = stream.build(held_out(seed), recordings=recordings)
            for name in given.only:
                found = figures(run(bundle, configured(bundle, METHODS[name]), recording))
                rows.append({"seed": seed, "people": " ".join(map(str, held_out(seed))), "methods": name, **found})
                print(rows[-1], flush=True)
    rows += [
        {
            "seed": "mean",
            "people": "",
            "methods": name,
            **{key: mean(r[key] for r in rows if r["methods"] == name) for key in ("right", "left", "back")},
        }
        for name in given.only
    ]
    report.write(
        "watch",
        rows,
        settings=f"left after its first {SETTLING} windows, back after its first {RECOVERY}; hop {HOP / RATE:g} s",
        targets="left >= 0.75 together; right not 0.02 under static; back recovered within 300",
    )


if __name__ == "__main__":
    main()
