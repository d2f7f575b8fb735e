"""HTM on the Numenta Anomaly Benchmark's recordings, by NAB's scoring, and milliseconds a record.

    python -m benchmarks.nab [--plain 300] [--seeds 4] [--only VARIANT ...]

Reads `$TRIMTAB_DATA/nab`, by default `../shared/data/nab` beside the checkout: the files there are a part of NAB's
58, so that scores are not comparable with published ones. Every variant runs with one setting for all files, and one
threshold a profile, which NAB's sweep chooses; `own_threshold` is the standard score at the detector's own. What is
random in an HTM moves scores by several points: they are means over seeds, with the standard profile's least and
greatest. `--plain N`: also time a plain NumPy version over N records.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.plain_htm import PlainMemory, PlainPooler
from trimtab.drift import nab
from trimtab.drift.encoders import ScalarEncoder, TimeOfDayEncoder
from trimtab.drift.htm import HtmAnomaly
from trimtab.drift.htm_region import CONNECTED, DECREMENT, INCREMENT, MEMORY, POTENTIAL, Region
from trimtab.drift.htm_sprt import HtmSprtAnomaly
from trimtab.drift.spatial_pooler import new_pool

Records = list[tuple[float, float]]

VARIANTS: dict[str, Callable[[int], HtmAnomaly | HtmSprtAnomaly]] = {
    "htm, no range rule": lambda seed: HtmAnomaly(seed=seed, range_rule=False),
    "htm": lambda seed: HtmAnomaly(seed=seed),
    "htm_sprt, no range rule": lambda seed: HtmSprtAnomaly(seed=seed, range_rule=False),
    "htm_sprt": lambda seed: HtmSprtAnomaly(seed=seed),
}


def recordings() -> dict[str, tuple[Records, list[tuple[int, int]]]]:
    """Name -> records (time, value) and labelled windows (first row, last row)."""
    folder = Path(os.environ.get("TRIMTAB_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")) / "nab"
    labels = folder / "labels" / "combined_windows.json"
    if not labels.exists():
        sys.exit(f"{labels} is not there; set TRIMTAB_DATA to the folder that holds nab/labels/{labels.name}")
    found = {}
    for name, windows in json.loads(labels.read_text(encoding="utf-8")).items():
        file = folder / "data" / name
        if not file.exists():
            continue
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        stamps = [row["timestamp"] for row in rows]
        times = [datetime.fromisoformat(s).replace(tzinfo=UTC).timestamp() for s in stamps]
        values = [float(row["value"]) for row in rows]
        ends = [(stamps.index(left[:19]), stamps.index(right[:19])) for left, right in windows]
        found[name] = (list(zip(times, values, strict=True)), ends)
    return found


def plain_milliseconds(records: Records) -> tuple[float, float]:
    """Milliseconds a record, plain and compiled, of encoders, pooler and memory: they must give the same scores."""
    values = [value for _, value in records]
    scalar, clock = ScalarEncoder((max(values) - min(values)) / 130, values[0]), TimeOfDayEncoder()
    inputs = scalar.size + clock.size
    region = Region(inputs, columns=2048, cells=32, segments=32768)
    pooler = PlainPooler(
        new_pool(inputs, 2048, POTENTIAL, CONNECTED, INCREMENT, 1956).permanence, 40, CONNECTED, INCREMENT, DECREMENT
    )
    memory = PlainMemory(2048, MEMORY, 64, 1960)
    spent = [0.0, 0.0]
    for stamp, value in records:
        start = time.perf_counter()
        bits = np.concatenate([scalar.encode(value), scalar.size + clock.encode(stamp)])
        compiled = region.update(bits)
        middle = time.perf_counter()
        bits = np.concatenate([scalar.encode(value), scalar.size + clock.encode(stamp)])
        plain = memory.step(pooler.step(bits))
        end = time.perf_counter()
        if plain != compiled:
            raise SystemExit(f"the plain version scores {plain} where the compiled one scores {compiled}")
        spent[0] += end - middle
        spent[1] += middle - start
    return 1e3 * spent[0] / len(records), 1e3 * spent[1] / len(records)


def main() -> None:
    """Score every variant, print the table, write benchmarks/out/nab.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", type=int, default=0, metavar="N", help="time the plain version over N records")
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="runs of each variant")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="these variants alone")
    arguments = parser.parse_args()
    corpus = recordings()
    HtmAnomaly(columns=64, cells=2, segments=64).update(0.0, 0.0)
    rows: list[dict[str, Any]] = []
    for variant in arguments.only or VARIANTS:
        results: dict[str, list[nab.Result]] = {profile: [] for profile in nab.PROFILES}
        fixed: list[float] = []
        spent: dict[str, float] = {}
        for seed in range(arguments.seeds):
            files: dict[str, nab.Scored] = {}
            for name, (records, windows) in corpus.items():
                detector = VARIANTS[variant](seed)
                start = time.perf_counter()
                scores = np.array([detector.update(stamp, value) for stamp, value in records])
                taken = 1e3 * (time.perf_counter() - start) / len(records)
                spent[name] = min(taken, spent.get(name, taken))
                files[name] = nab.Scored(scores, windows)
            for profile, weights in nab.PROFILES.items():
                results[profile].append(nab.corpus_score(list(files.values()), weights))
            fixed.append(nab.corpus_score(list(files.values()), nab.PROFILES["standard"], detector.alarm_at).score)
            print(f"{variant}, seed {seed}: {results['standard'][-1].score:.1f}", flush=True)
        standard = results["standard"]
        rows.append(
            {
                "detector": variant,
                **{profile: fmean(r.score for r in found) for profile, found in results.items()},
                "own_threshold": fmean(fixed),
                "least": min(r.score for r in standard),
                "greatest": max(r.score for r in standard),
                "found": fmean(r.found for r in standard),
                "missed": fmean(r.missed for r in standard),
                "false": fmean(r.false for r in standard),
                "ms_a_record": float(np.median(list(spent.values()))),
                "ms_slowest_file": max(spent.values()),
            }
        )
    facts: dict[str, Any] = {
        "files": len(corpus),
        "of": 58,
        "seeds": arguments.seeds,
        "target": "70 (standard profile), 1 ms a record",
    }
    if arguments.plain:
        records = corpus["realKnownCause/nyc_taxi.csv"][0][: arguments.plain]
        facts["plain_ms"], facts["compiled_ms"] = plain_milliseconds(records)
    report.write("nab", rows, **facts)


if __name__ == "__main__":
    main()
