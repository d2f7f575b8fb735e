"""What a benchmark hands over: a table for people, a JSON file for comparing runs."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

OUT = Path(__file__).parent / "out"
"""Not in version control: figures belong to the machine that gave them."""

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch", "river")


def write(name: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> Path:
    """Print `rows` as a table and write them to `benchmarks/out/<name>.json` with the machine, the date and `facts`.

    The columns are the keys of the rows, in the order in which they first occur; a row may leave some out.
    `facts` (settings, targets, single figures) are printed below the table. Returns the file's path.
    """
    print(f"\n{name}")
    print(table(rows))
    for key, value in facts.items():
        print(f"{key}: {_text(value)}")
    OUT.mkdir(exist_ok=True)
    file = OUT / f"{name}.json"
    document = {"name": name, "date": _now(), "machine": machine(), "facts": facts, "rows": [dict(row) for row in rows]}
    file.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")
    return file


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows` as aligned text: numbers to the right, all else to the left."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_text(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]
    numeric = [all(isinstance(row.get(c, 0), int | float) for row in rows) for c in columns]

    def line(texts: Sequence[str]) -> str:
        padded = (t.rjust(w) if n else t.ljust(w) for t, w, n in zip(texts, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(columns), line(["-" * w for w in widths]), *map(line, cells)])


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each call: `rounds` turns, in each of which every call runs `repeats` times in a row.

    `clock`: what counts as time; for calls on one thread `time.process_time` leaves out what others take.

    Taking turns spreads whatever else the machine does over all calls alike, so that their ratios hold. One
    round that is not counted comes first.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            for _ in range(repeats):
                call()
            spent = (clock() - start) / repeats
            if turn:
                times[name].append(spent)
    return {name: median(spent) for name, spent in times.items()}


def machine() -> dict[str, Any]:
    """Processor, cores, Python and the versions of the packages that figures depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **found,
    }


def processor() -> str:
    """The processor's name as the kernel tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)
