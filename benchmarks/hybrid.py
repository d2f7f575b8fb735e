"""HTM x SPRT against Kolmogorov-Smirnov, Wasserstein and PSI: false alarms at equal delay, on every stream.

    python -m benchmarks.hybrid [--repeats 4] [--length 4000] [--only STREAM ...]

Every detector runs at several accepted run lengths (SWEEP), on the same streams and with the same margin, without a
reference. The delay is the mean over all changes, where one that is missed counts as the margin. For each setting of a
rival, `htm_sprt` is given the fewest false alarms that it has in any setting with a delay as short: *better* are
those with fewer, *worse* those with more or with no such setting. The settings shown are the rival's of the median
delay. A stream without changes has no delay: rates are compared at equal run lengths asked, and shown at 1,000.
HTM's raw scores do not depend on the setting, and are taken once.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import report
from trimtab.drift.calibration import fits
from trimtab.drift.catalogue import build
from trimtab.drift.evaluation import Counts, Labelled, alarms, count
from trimtab.drift.htm_score import HtmScore
from trimtab.drift.htm_sprt import HtmSprt
from trimtab.drift.streams import STREAMS, draw

RIVALS = ("ks", "wasserstein", "psi")
SWEEP = (10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 1e5)
MARGIN = 500
SIZES = {"columns": 2048, "cells": 32, "segments": 32768, "regions": 1}

Point = tuple[float, float]
"""Mean delay (nan where nothing changes) and false alarms per 10,000 quiet values."""


def raw_scores(stream: Labelled) -> list[float | None]:
    score = HtmScore(**SIZES)
    return [score.update(None, value) for value in stream.values.tolist()]


def hybrid_alarms(stream: Labelled, raw: Sequence[float | None], every: float) -> list[int]:
    detector = HtmSprt(every=every, **SIZES)
    pairs = zip(raw, stream.values.tolist(), strict=True)
    return [t for t, (score, value) in enumerate(pairs) if detector.decide(score, value).alarm]


def rival_alarms(name: str, stream: Labelled, every: float) -> list[int]:
    return alarms(build(name, every=every), stream.values)[0]


def point(streams: Sequence[Labelled], alarms_in: Callable[[int], list[int]]) -> Point:
    """Of one detector in one setting; `alarms_in(i)`: its alarms in the i-th stream."""
    total = Counts()
    for i, stream in enumerate(streams):
        total.add(count(alarms_in(i), stream.changes, len(stream.values), MARGIN))
    missed = total.changes - len(total.delays)
    delay = (sum(total.delays) + MARGIN * missed) / total.changes if total.changes else math.nan
    return delay, 1e4 * total.false / total.quiet


def compared(kind: str, streams: Sequence[Labelled]) -> list[dict[str, Any]]:
    """A row for each rival on one kind of stream."""
    raw = [raw_scores(stream) for stream in streams]
    own = [point(streams, lambda i, e=every: hybrid_alarms(streams[i], raw[i], e)) for every in SWEEP]
    rows = []
    for rival in RIVALS:
        theirs = [point(streams, lambda i, n=rival, e=every: rival_alarms(n, streams[i], e)) for every in SWEEP]
        pairs = [(their, _matched(own, their, i)) for i, their in enumerate(theirs)]
        by_delay = sorted(pairs, key=lambda pair: pair[0][0])
        middle = by_delay[(len(pairs) - 1) // 2] if streams[0].changes else pairs[SWEEP.index(1e3)]
        rows.append(
            {
                "stream": kind,
                "rival": rival,
                "delay": middle[0][0],
                "false": middle[0][1],
                "htm_sprt delay": middle[1][0],
                "htm_sprt false": middle[1][1],
                "better": sum(mine[1] < their[1] for their, mine in pairs),
                "equal": sum(mine[1] == their[1] for their, mine in pairs),
                "worse": sum(mine[1] > their[1] for their, mine in pairs),
            }
        )
    return rows


def _matched(own: Sequence[Point], their: Point, setting: int) -> Point:
    """Of `own` settings with a delay as short as `their`, the one with the fewest false alarms."""
    if math.isnan(their[0]):
        return own[setting]
    quick = [mine for mine in own if mine[0] <= their[0]]
    return min(quick, key=lambda mine: (mine[1], mine[0]), default=(math.nan, math.inf))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--length", type=int, default=4000)
    parser.add_argument("--only", nargs="*", choices=list(STREAMS), help="these streams alone")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for kind in arguments.only or STREAMS:
        streams = [Labelled(*draw(kind, arguments.length, repeat)) for repeat in range(arguments.repeats)]
        if all(fits(name, stream.values) for name in RIVALS for stream in streams):
            rows += compared(kind, streams)
            print(report.table(rows[-len(RIVALS) :]), flush=True)
    report.write("hybrid", rows, repeats=arguments.repeats, length=arguments.length, margin=MARGIN, every=list(SWEEP))


if __name__ == "__main__":
    main()
