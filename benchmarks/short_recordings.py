"""What short recordings are worth: run lengths over those asked, and delays, by recordings of 100 to 3,000 values.

    python -m benchmarks.short_recordings [--recordings 16] [--only DETECTOR ...]

Each of many recordings calibrates a detector, which is tried on streams of its own. *Found / asked* is by the mean rate
of all recordings, *median* that of the middle one, *worst tenth* what nine in ten keep. Delays are mean and median
values until a shift of the mean, in deviations, EARLY values after the start is found, of streams without an alarm
before it; one that is not found after LATEST values counts as that. "none" has no recording: values are taken to be
independent.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.run_lengths import WARMUP, drawn, rate, recording, until_found, watched
from trimtab.drift.catalogue import build
from trimtab.drift.detector import Detector
from trimtab.drift.detector_bank import DetectorBank

LENGTHS = (0, 100, 300, 1000, 3000)
NOISES = ("gaussian", "student-t, 5 df", "student-t, 3 df", "AR(1), 0.5", "AR(1), 0.8")
RUN_LENGTHS = {"sprt": (1e3, 1e4), "ewma": (1e3,), "cusum_variance": (1e3,)}
SHIFTS = (1.0, 2.0)
EACH = 40
"""Streams of each recording; a quarter of them for delays."""
EARLY, LATEST = 200, 1000


def delays(detectors: list[Detector], noise: str, shift: float) -> NDArray[np.float64]:
    """Values until the shift is found, a stream without an alarm before it."""
    bank = DetectorBank([d for d in detectors for _ in range(EACH // 4)])  # type: ignore[misc]
    values = drawn(noise, len(detectors) * EACH // 4, np.random.default_rng(2))
    return until_found(bank, values, shift, EARLY, LATEST)


def row(name: str, every: float, noise: str, n: int, recordings: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    made = [build(name, every=every, reference=recording(noise, n, rng) if n else None) for _ in range(recordings)]
    alarms, tested = watched(made, EACH, int(every), noise, rng)
    tested -= 0 if n else WARMUP * EACH
    found, error = rate(alarms, tested)
    rates = every * alarms / tested
    shifted = {d: delays(made, noise, d) for d in SHIFTS if name != "cusum_variance"}
    return {
        "detector": name,
        "run length": every,
        "noise": noise,
        "recording": n or "none",
        "found / asked": found / every,
        "standard error": found / every * error,
        "median": 1 / float(np.median(rates)) if np.median(rates) > 0 else math.inf,
        "worst tenth": 1 / max(float(np.quantile(rates, 0.9)), 1e-9),
        **{f"{d:g} sd": f"{took.mean():.1f}, {np.median(took):g}" for d, took in shifted.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--recordings", type=int, default=16)
    parser.add_argument("--only", nargs="+", choices=list(RUN_LENGTHS), default=list(RUN_LENGTHS))
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in given.only:
        for every in RUN_LENGTHS[name]:
            for noise in NOISES:
                rows += [row(name, every, noise, n, given.recordings) for n in LENGTHS]
                print(report.table(rows[-len(LENGTHS) :]), flush=True)
    report.write("short_recordings", rows, recordings=given.recordings, streams=EACH)


if __name__ == "__main__":
    main()
