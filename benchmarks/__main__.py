"""All benchmarks, one after another: `make bench`, or `python -m benchmarks [NAME ...]` for some of them.

Each prints its table and writes `benchmarks/out/NAME.json`. One that fails does not keep the others from running.
"""

from __future__ import annotations

import subprocess
import sys
import time

NAMES = (
    "sessions",
    "detection",
    "run_lengths",
    "short_recordings",
    "discoveries",
    "bank",
    "nab",
    "columns",
    "hybrid",
    "cost",
    "replay",
    "watch",
    "gas",
    "generality",
    "methods",
    "recurring",
    "steps",
    "mqtt",
    "kill",
    "mistakes",
    "brokers",
)


def main(names: list[str]) -> int:
    unknown = set(names) - set(NAMES)
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    failed = []
    for name in names or NAMES:
        print(f"\n== {name}", flush=True)
        begun = time.perf_counter()
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
        print(f"   {time.perf_counter() - begun:.0f} s", flush=True)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
