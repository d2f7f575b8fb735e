"""Run lengths found over those asked for, and delays beside Lorden's bound: detector x run length x noise.

    python -m benchmarks.run_lengths [--scale 1] [--only DETECTOR ...]

*Run lengths.* On independent Gaussian values the detectors here have their thresholds from theory. On Student's t (3
degrees of freedom) and autoregressive values (0.5) they are calibrated by recordings of RECORDED run lengths, many of
them, each tried on streams of its own; standard errors count in how these differ. River's detectors and the e-detector,
whose bounds are wide, are brought to the run length asked for by what they are asked for (`asked`), on Gaussian
values, as far as that goes; they run so on the other noises too, for which there is nothing to calibrate them by.

*Delays.* SETTLED values without a change, then a shift of the mean, in deviations; the mean over streams without an
alarm in the last 200 of them, where one that has not come after LATEST counts as that. "sprt, shift known" also knows
the baseline, as Lorden's bound does: 2 ln(run length) / shift^2, the least that any test can have, to first order.

Detectors side by side are run in banks (trimtab.drift.detector_bank), others one after another: fewer of them, and
KSWIN, which takes a tenth of a millisecond a value, not at the longest run length. All of it takes some 20 minutes on
one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from benchmarks import report
from trimtab.drift.bank import Bank
from trimtab.drift.catalogue import SHORTEST, build
from trimtab.drift.detector import Detector
from trimtab.drift.detector_bank import DetectorBank

Array = NDArray[np.float64]
RUN_LENGTHS = (1e3, 1e4, 1e5)
FAMILY = ("sprt", "ewma", "glr", "shiryaev_roberts")
RIVALS = ("e_detector", "page_hinkley", "adwin", "kswin")
NOISES = ("gaussian", "student-t, 3 df", "AR(1), 0.5")
SHIFTS = (0.25, 0.5, 1.0, 2.0)

RECORDED = 50
"""Run lengths that a recording holds."""
WARMUP = 64
"""Values that nothing is tested in, at the start without a recording and after each alarm."""
SETTLED, LATEST = 1000, 3000
CHUNK = 256


@dataclass(frozen=True)
class Size:
    """How much is run at one run length."""

    recordings: int
    streams: int
    """Of all recordings together."""
    length: float
    """Of each stream, in run lengths."""
    delayed: int
    """Streams of which delays are taken."""


SIZES = {1e3: Size(24, 2400, 2, 960), 1e4: Size(24, 2400, 0.75, 960), 1e5: Size(12, 2400, 0.4, 480)}
ALONE = {"page_hinkley": (400, 60), "adwin": (400, 60), "kswin": (60, 20)}
"""Alarms to be counted, and streams for delays, of those that do not go side by side; alarms a third at 10,000, ..."""
LONGEST = {"kswin": 1e4}
"""The longest run lengths of those that take too long."""


def block(noise: str, shape: tuple[int, int], rng: np.random.Generator, state: Array) -> tuple[Array, Array]:
    """Values `[n, streams]` of unit deviation, and the filter's state after them; it is theirs before them."""
    if noise.startswith("student-t"):
        freedom = int(noise.split()[1])
        return rng.standard_t(freedom, shape) * math.sqrt(1 - 2 / freedom), state
    values = rng.standard_normal(shape)
    if noise == "gaussian":
        return values, state
    phi = float(noise.split()[1])
    filtered, state = lfilter([math.sqrt(1 - phi * phi)], [1.0, -phi], values, axis=0, zi=phi * state)
    return np.asarray(filtered), np.asarray(state) / phi


def drawn(noise: str, streams: int, rng: np.random.Generator) -> Iterator[Array]:
    """Values `[streams]`, without end."""
    state = rng.standard_normal((1, streams))
    while True:
        values, state = block(noise, (CHUNK, streams), rng, state)
        yield from values


def recording(noise: str, n: int, rng: np.random.Generator) -> Array:
    """One stream's values `[n]`."""
    return block(noise, (n, 1), rng, rng.standard_normal((1, 1)))[0][:, 0]


def rate(alarms: Array, values: Array) -> tuple[float, float]:
    """Values to an alarm, and that one's relative standard error, by the counts in independent groups."""
    rest = alarms - alarms.sum() / values.sum() * values
    return float(values.sum() / alarms.sum()), math.sqrt(float((rest**2).sum())) / float(alarms.sum())


def banked(name: str, asked: float, every: float, noise: str, scale: float) -> tuple[float, float, int]:
    """Values to an alarm, relative standard error and alarms of a detector that goes side by side."""
    size, rng = SIZES[every], np.random.default_rng(1)
    known = noise != "gaussian" and name in FAMILY
    groups = size.recordings
    each = max(int(scale * size.streams) // groups, 1)
    made = [
        build(name, every=asked, reference=recording(noise, int(RECORDED * every), rng) if known else None)
        for _ in range(groups if known else 1)
    ]
    alarms, tested = watched([made[i % len(made)] for i in range(groups)], each, int(size.length * every), noise, rng)
    return *rate(alarms, tested - (0 if known else WARMUP * each)), int(alarms.sum())


def watched(
    detectors: list[Detector], each: int, length: int, noise: str, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Alarms of so many streams of each detector together, and values tested, but those learnt from after an alarm."""
    bank = DetectorBank([d for d in detectors for _ in range(each)])  # type: ignore[misc]
    alarms = np.zeros(len(detectors) * each)
    values = drawn(noise, alarms.size, rng)
    for _ in range(length):
        alarms += bank.update(next(values)).alarm
    alarms = alarms.reshape(-1, each).sum(axis=1)
    return alarms, each * length - WARMUP * alarms


def alone(name: str, asked: float, every: float, noise: str, scale: float) -> tuple[float, float, int]:
    """The same of one that does not; all infinite where it has none in three times the values."""
    wanted = scale * ALONE[name][0] / 3 ** math.log10(every / 1e3)
    rng = np.random.default_rng(2)
    alarms: list[int] = []
    tested: list[int] = []
    while sum(alarms) < wanted and sum(tested) < 3 * wanted * every:
        values = recording(noise, int(5 * every), rng)
        detector = build(name, every=asked)
        alarms.append(sum(detector.update(v).alarm for v in values.tolist()))
        tested.append(values.size - warmup(name) * (alarms[-1] + 1))
    if sum(alarms) == 0:
        return math.inf, math.inf, 0
    return *rate(np.array(alarms, np.float64), np.array(tested, np.float64)), sum(alarms)


def warmup(name: str) -> int:
    return 100 if name == "kswin" else WARMUP


def equalised(name: str, every: float, scale: float) -> float:
    """The run length to ask a detector for so that it has `every`, on Gaussian values; the nearest that can be."""
    asked = every
    for _ in range(4):
        measure = alone if name in ALONE else banked
        found, error, _ = measure(name, asked, every, "gaussian", scale / 2)
        if math.isfinite(found) and abs(math.log(found / every)) < max(error, 0.05):
            break
        # Not all at once: run lengths do not grow in proportion to what is asked.
        asked = max(asked * max(every / found, 0.05), SHORTEST)
    return asked


def delays(name: str, asked: float, every: float, scale: float) -> dict[str, float]:
    found = {}
    for shift in SHIFTS:
        rng = np.random.default_rng(3)
        if name in ALONE:
            took: list[int] = []
            while len(took) < max(scale * ALONE[name][1], 1):
                detector = build(name, every=asked)
                before = [detector.update(v).alarm for v in rng.standard_normal(SETTLED).tolist()]
                if not any(before[-200:]):
                    took.append(first(detector, rng.standard_normal(LATEST) + shift))
            found[f"{shift:g} sd"] = float(np.mean(took))
        else:
            streams = max(int(scale * SIZES[every].delayed), 1)
            if name == "sprt, shift known":
                bank: Any = Bank(streams, every=every, shifts=(shift,), baseline=(0.0, 1.0))
            else:
                bank = DetectorBank([build(name, every=asked)] * streams)  # type: ignore[list-item]
            values = (rng.standard_normal(streams) for _ in count())
            found[f"{shift:g} sd"] = float(until_found(bank, values, shift, SETTLED, LATEST).mean())
    return found


def first(detector: Detector, values: Array) -> int:
    """Values until the alarm, at most all of them."""
    return next((i + 1 for i, v in enumerate(values.tolist()) if detector.update(v).alarm), values.size)


def until_found(bank: Any, values: Iterator[Array], shift: float, settled: int, latest: int) -> Array:
    """Values until `shift` is found, a stream that had no alarm in the last 200 of `settled` values before it; one that
    is not found after `latest` counts as that. `values`: an array, one a stream, at a time."""
    early = np.array(False)
    for i in range(settled):
        early = early | bank.update(next(values)).alarm & (i >= settled - 200)
    waiting, took = ~early, np.full(early.shape, float(latest))
    for i in range(1, latest + 1):
        alarm = bank.update(next(values) + shift).alarm & waiting
        took[alarm] = i
        waiting &= ~alarm
        if not waiting.any():
            break
    return np.asarray(took[~early])


def rows_of(name: str, every: float, scale: float) -> Iterator[dict[str, Any]]:
    asked = equalised(name, every, scale) if name in RIVALS else every
    for noise in NOISES:
        measure = alone if name in ALONE else banked
        found, error, alarms = measure(name, asked, every, noise, scale)
        if name in RIVALS:
            by = f"asked for {asked:.3g}" if noise == "gaussian" else "the same"
        else:
            by = "theory" if noise == "gaussian" else f"recordings of {RECORDED} run lengths"
        yield {
            "detector": name,
            "run length": every,
            "noise": noise,
            "calibrated by": by,
            "found / asked": found / every if math.isfinite(found) else None,
            "standard error": found / every * error if math.isfinite(found) else None,
            "alarms": alarms,
            **(delays(name, asked, every, scale) if noise == "gaussian" else {}),
        }


def known(every: float, scale: float) -> list[dict[str, Any]]:
    """Rows of Lorden's bound, and of the SPRT that knows what it is a bound for."""
    unknown = {"found / asked": None, "standard error": None, "alarms": None}
    bound = {f"{d:g} sd": 2 * math.log(every) / d**2 for d in SHIFTS}
    found = delays("sprt, shift known", every, every, scale)
    return [
        {"detector": name, "run length": every, "noise": "gaussian", "calibrated by": by} | unknown | values
        for name, by, values in (("Lorden's bound", "", bound), ("sprt, shift known", "theory", found))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of streams")
    parser.add_argument("--only", nargs="+", choices=[*FAMILY, *RIVALS], default=[*FAMILY, *RIVALS])
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for every in RUN_LENGTHS:
        rows += known(every, given.scale)
        for name in given.only:
            if every <= LONGEST.get(name, math.inf):
                rows += rows_of(name, every, given.scale)
                print(report.table(rows[-len(NOISES) :]), flush=True)
    report.write("run_lengths", rows, scale=given.scale, recorded=RECORDED)


if __name__ == "__main__":
    main()
