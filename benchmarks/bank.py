"""A bank of restarting SPRTs against river's Page-Hinkley objects in a loop: streams a second, side by side.

    python -m benchmarks.bank [--streams 10000]

Every stream gets one value a round; BATCH rounds are timed together, as they come in a process that does nothing
else. The loop is over river's objects alone, without a baseline or calibration; the bank's are learnt (or given) a
stream. "scalar sprt" is trimtab's own detector in the same loop. Needs a quiet machine: others take more from calls
that are long.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.drift import PageHinkley

from benchmarks import report
from trimtab.drift.bank import Bank
from trimtab.drift.sprt import Sprt

ROUNDS, BATCH = 15, 5
TARGET = 20.0
"""Times the throughput of river's loop."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=10000)
    streams: int = parser.parse_args().streams
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((70, streams))
    learnt, gappy = Bank(streams, every=1e6), Bank(streams, every=1e6)
    given = Bank(streams, every=1e6, baseline=(0.0, 1.0))
    scalar = [Sprt(every=1e6) for _ in range(streams)]
    river = [PageHinkley(threshold=1e6) for _ in range(streams)]
    for row in rows:  # Beyond the warm-up.
        learnt.update(row)
        gappy.update(row)
        for detector, value in zip(scalar, row.tolist(), strict=True):
            detector.update(value)
    fresh = [rng.standard_normal(streams) for _ in range((ROUNDS + 1) * BATCH)]
    gaps = [np.where(rng.random(streams) < 0.1, np.nan, row) for row in fresh]

    def loop(detectors: list[Any]) -> Callable[[], None]:
        rounds = iter([row.tolist() for row in fresh])

        def call() -> None:
            for _ in range(BATCH):
                for detector, value in zip(detectors, next(rounds), strict=True):
                    detector.update(value)

        return call

    def bank(held: Bank, rounds: list[NDArray[np.float64]]) -> Callable[[], None]:
        each = iter(rounds)

        def call() -> None:
            for _ in range(BATCH):
                held.update(next(each))

        return call

    times = report.interleaved(
        {
            "river PageHinkley loop": loop(river),
            "scalar sprt loop": loop(scalar),
            "bank, baseline learnt": bank(learnt, fresh),
            "bank, learnt, 10 % gaps": bank(gappy, gaps),
            "bank, baseline given": bank(given, fresh),
        },
        rounds=ROUNDS,
    )
    slowest = times["river PageHinkley loop"]
    report.write(
        "bank",
        [
            {
                "detectors": name,
                "ms a round": 1e3 * seconds / BATCH,
                "ns a stream": 1e9 * seconds / BATCH / streams,
                "times river": slowest / seconds,
            }
            for name, seconds in times.items()
        ],
        streams=streams,
        target=TARGET,
    )


if __name__ == "__main__":
    main()
