"""Drift detectors: false alarms against the rate asked for, delay, time per update.

    python -m benchmarks.detection [--streams 200] [--only PART ...]

1. `sprt` with a reference of 2,000 values, on streams of the same kind as the reference, then shifted.
2. Every detector that takes any number, on independent Gaussian values; time per update side by side.
3. Streams with a daily or weekly cycle: false alarms and delay with the season given, without a recording and with
   one of 600 values that the stream goes on from; and what it costs where there is no cycle.
4. The smartwatch: the shipped bundle's own signals of people that it was not trained on. Streams are put together from
   whole exercises on the right arm, drawn at random; then the watch moves to the left arm, at each exercise in turn.
   Left out, with a word, where the recordings (PyPI's seglearn) are not installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from benchmarks import report
from trimtab.drift.catalogue import build, build_monitor, describe, names
from trimtab.drift.detector import Detector
from trimtab.drift.evaluation import Labelled, Make, score
from trimtab.drift.streams import draw as draw_stream

Array = NDArray[np.float64]
Draw = Callable[[int, np.random.Generator], Array]

SHIFTS = (0.5, 1.0, 2.0, 5.0)
EVERY = 20000
"""Of the smartwatch's streams: the daemon's default."""
"""In deviations of the signal."""
SLOW = {"kswin", "ks", "cramer_von_mises", "wasserstein", "psi", "mmd", "lsdd"}
"""Those that take a tenth of a millisecond or more a value, or to learn."""

SEASONS = {"seasonal": 288, "seasonal_amplitude": 288, "seasonal_week": 168, "stable": 288, "abrupt": 288}
SEASONED = ("sprt", "glr", "ewma", "ks", "adwin")
WITHIN = 30
"""Windows in which the watch's change of arm should be seen."""


def autoregressive(phi: float) -> Draw:
    def draw(n: int, rng: np.random.Generator) -> Array:
        noise = rng.standard_normal(n + 200) * np.sqrt(1 - phi * phi)
        return np.asarray(lfilter([1.0], [1.0, -phi], noise)[200:])

    return draw


def switching(n: int, rng: np.random.Generator) -> Array:
    """Seven classes, each with a level of its own, for 24 to 36 values at a time; about unit deviation."""
    levels = np.array([-1.2, -0.8, -0.3, 0.0, 0.2, 0.7, 1.6])
    parts: list[Array] = []
    while sum(map(len, parts)) < n:
        level = levels[rng.integers(7)] + 0.25 * rng.standard_normal()
        parts.append(level + 0.35 * autoregressive(0.5)(int(rng.integers(24, 37)), rng))
    return np.concatenate(parts)[:n]


KINDS: dict[str, Draw] = {
    "gaussian": lambda n, rng: rng.standard_normal(n),
    "student-t, 3 df": lambda n, rng: rng.standard_t(3, n) / np.sqrt(3),
    "gamma, shape 1.5": lambda n, rng: rng.gamma(1.5, size=n) / np.sqrt(1.5),
    "AR(1), 0.5": autoregressive(0.5),
    "AR(1), 0.9": autoregressive(0.9),
    "class-switching": switching,
}


def alarms(detector: Detector, values: Array) -> int:
    return sum(detector.update(v).alarm for v in values.tolist())


def delay(detector: Detector, values: Array) -> float:
    """Values until the alarm; infinite where there is none."""
    return next((i + 1.0 for i, v in enumerate(values.tolist()) if detector.update(v).alarm), np.inf)


def finite(value: float) -> float | None:
    """None for what never came: JSON has no infinity."""
    return value if np.isfinite(value) else None


def referenced(streams: int, every: float = 2000.0, length: int = 1500) -> list[dict[str, Any]]:
    """Part 1. Ten recordings a kind, so that luck with one of them shows little."""
    rows = []
    for kind, draw in KINDS.items():
        rng = np.random.default_rng(7)
        found, delays = 0, {shift: [] for shift in SHIFTS}  # type: dict[float, list[float]]
        for _ in range(10):
            reference = draw(2000, rng)
            found += sum(
                alarms(build("sprt", every=every, reference=reference), draw(length, rng)) for _ in range(streams // 10)
            )
            for shift in SHIFTS:
                for _ in range(3):
                    detector = build("sprt", every=every, reference=reference)
                    alarms(detector, draw(300, rng))
                    delays[shift].append(delay(detector, draw(1500, rng) + shift))
        row = {"stream": kind, "asked": streams // 10 * 10 * length / every, "false alarms": found}
        rows.append(row | {f"delay {shift:g} sd": finite(median(delays[shift])) for shift in SHIFTS})
    return rows


def independent(streams: int, every: float = 1000.0, length: int = 1500) -> list[dict[str, Any]]:
    """Part 2."""
    chosen = [name for name in names() if describe(name).values == "any"]
    detectors = {name: build(name, every=1e6) for name in chosen}
    values = np.random.default_rng(0).standard_normal(500).tolist()

    def turn(detector: Detector) -> Callable[[], None]:
        def call() -> None:
            for value in values:
                detector.update(value)

        return call

    times = report.interleaved({name: turn(detector) for name, detector in detectors.items()}, rounds=7)
    rows = []
    for name in chosen:
        rng = np.random.default_rng(3)
        count = max(streams // 20, 1) if name in SLOW else streams
        found = sum(alarms(build(name, every=every), rng.standard_normal(length)) for _ in range(count))
        row: dict[str, Any] = {"detector": name, "asked": count * length / every, "false alarms": found}
        for shift in SHIFTS:
            delays = []
            for _ in range(4 if name in SLOW else 30):
                detector = build(name, every=every)
                alarms(detector, rng.standard_normal(500))
                delays.append(delay(detector, rng.standard_normal(1000) + shift))
            row[f"delay {shift:g} sd"] = finite(median(delays))
        rows.append(row | {"us per update": 1e6 * times[name] / len(values)})
    return rows


def seasonal(streams: int, every: float = 1000.0, length: int = 6000) -> list[dict[str, Any]]:
    """Part 3."""

    def maker(name: str, season: int | None) -> Make:
        options = {} if season is None else {"season": season}
        return lambda reference: build(name, every=every, options=options, reference=reference, follows=True)

    rows = []
    for kind, period in SEASONS.items():
        drawn = [Labelled(*draw_stream(kind, length, repeat)) for repeat in range(max(streams // 25, 1))]
        for name in SEASONED:
            for season, reference in ((None, 0), (period, 0), (period, 600)):
                found = score(name, kind, maker(name, season), drawn, margin=500, reference=reference)
                rows.append(
                    {
                        "stream": kind,
                        "detector": name,
                        "season": season,
                        "reference": reference,
                        "false / 10,000": found.false_per_10000,
                        "missed": found.missed,
                        "median delay": found.median_delay,
                        "us per update": found.microseconds,
                    }
                )
    return rows


Windows = dict[str, Array]
"""Signals of one exercise: name to `[n]`."""


def held_back(
    usual: Sequence[Windows],
    drifted: Sequence[Windows],
    reference: Mapping[str, Array],
    every: float,
    streams: int,
    signals: Sequence[str],
) -> dict[str, Any]:
    """False alarms of `streams` streams of exercises drawn from `usual`; delays where `drifted` ones begin.

    Each stream holds as many exercises as `usual` does. In the second part a stream holds all of `usual` in random
    order, and goes on with `drifted` from each of its exercises on; "the first" is the demo's.
    """
    rng = np.random.default_rng(0)

    def monitor_over(parts: Sequence[Windows]) -> tuple[int, int, int | None]:
        """Windows and alarms in `parts`, and the first alarm's window."""
        monitor = build_monitor(signals, "sprt", every=every, refractory=256, reference=reference)
        return run(monitor, parts)

    def run(monitor: Any, parts: Sequence[Windows]) -> tuple[int, int, int | None]:
        count, found, first = 0, 0, None
        for part in parts:
            for row in zip(*(part[s].tolist() for s in signals), strict=True):
                count += 1
                if monitor.update(dict(zip(signals, row, strict=True))) is not None:
                    found += 1
                    first = count if first is None else first
        return count, found, first

    windows = found = 0
    for _ in range(streams):
        count, raised, _ = monitor_over([usual[i] for i in rng.integers(len(usual), size=len(usual))])
        windows, found = windows + count, found + raised
    delays = []
    for begin in range(len(drifted)):
        monitor = build_monitor(signals, "sprt", every=every, refractory=256, reference=reference)
        run(monitor, [usual[i] for i in rng.permutation(len(usual))])
        first = run(monitor, [*drifted[begin:], *drifted[:begin]])[2]
        delays.append(np.inf if first is None else float(first))
    return {
        "signals": " ".join(signals),
        "asked": windows / every,
        "false alarms": found,
        "delay at the first": finite(delays[0]),
        "median delay": finite(median(delays)),
        "longest": finite(max(delays)),
        f"within {WITHIN}": sum(d <= WITHIN for d in delays) / len(delays),
    }


WATCHED = ("divergence", "departure", "distance", "entropy")
"""Signals that are watched unless others are named."""


def smartwatch(signals: Sequence[str]) -> tuple[Any, list[Windows], list[Windows]]:
    """The shipped bundle, and these signals of exercises on the right arm and on the left, of people unknown to it.

    Raises ModuleNotFoundError where the recordings are not installed.
    """
    import onnxruntime

    from trimtab.examples.watch import BUNDLE
    from trimtab.examples.watch.recordings import UNSEEN, Arm, Recording, load, windows, worn
    from trimtab.runtime.bundle import load_bundle
    from trimtab.runtime.config import Drift
    from trimtab.runtime.sessions import Outputs
    from trimtab.runtime.watch import Taps, watched_signals

    recordings = load()
    bundle = load_bundle(BUNDLE)
    session = onnxruntime.InferenceSession(bundle.graph("observe"), providers=["CPUExecutionProvider"])
    watched = watched_signals(bundle, Drift.model_validate({"signals": list(signals)}))

    def observed(recording: Recording) -> Windows:
        inputs = {bundle.manifest.inputs[0].name: windows([recording])[0]}
        taps = Taps(Outputs(*session.run(["y", "features", "moments"], inputs)), inputs)
        return {name: signal.of(taps) for name, signal in watched.items()}

    def exercises(arm: Arm) -> list[Windows]:
        return [observed(recording) for recording in worn(recordings, UNSEEN, arm)]

    return bundle, exercises("right"), exercises("left")


def watch(streams: int) -> list[dict[str, Any]]:
    """Part 4. Raises ModuleNotFoundError where the recordings are not installed."""
    bundle, usual, drifted = smartwatch([*WATCHED, "raw", "spectra"])
    groups = [[name] for name in usual[0]] + [list(WATCHED), list(usual[0])]
    return [held_back(usual, drifted, bundle.source.reference, EVERY, streams, group) for group in groups]


PARTS: dict[str, tuple[str, Callable[[int], list[dict[str, Any]]], dict[str, float]]] = {
    "reference": ("detection_reference", referenced, {"run_length": 2000}),
    "independent": ("detection", independent, {"run_length": 1000}),
    "seasonal": ("detection_seasonal", seasonal, {"run_length": 1000}),
    "watch": ("detection_watch", watch, {"run_length": EVERY}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    given = parser.parse_args()
    for part in given.only:
        name, measure, facts = PARTS[part]
        try:
            rows = measure(given.streams)
        except ModuleNotFoundError as error:
            print(f"\nThe smartwatch is left out: {error.name} is not installed; pip install 'trimtab[demo]'.")
            continue
        report.write(name, rows, streams=given.streams, **facts)


if __name__ == "__main__":
    main()
