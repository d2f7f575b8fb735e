"""Detectors held against streams whose changes are known: delay, misses, false alarms, run lengths, F1, time.

**Counting.** A change at index c is new from value c on. An alarm at index t with c <= t < c + margin, and before the
next change, lies *within* the change. The first such alarm is its *hit*, with delay t - c + 1 (values seen of what is
new), others are *repeats*; a change without one is *missed*. Every other alarm is *false*, also a late one. So each
change is found at most once, and F1 counts repeats against a detector, as in van den Burg and Williams 2020 ("An
evaluation of change point detection algorithms"; they also allow alarms before the change, which no online detector
has a use for): precision = hits / alarms, recall = hits / changes, F1 = 2 hits / (alarms + changes).

The rate of false alarms is over *quiet* values, those that lie within no change.

**Run lengths** are the values from the start of a stream, or from an alarm, to a false alarm. One that a change or
the stream's end cuts short was at least that long: quantiles are of Kaplan and Meier's estimate (1958), which counts
that in, and are None where too few runs were followed for so long. One that a repeat ends is left out, as is one that
begins before a change that was missed.

**Time** of an update is the median over streams of the mean within one: what is compiled or calibrated for the first
stream alone does not show.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.detector import Detector

Array = NDArray[np.float64]
Make = Callable[[Array | None], Detector]
"""A new detector; from a recording without drift `[n]`, where there is one."""

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A stream whose changes are known."""

    values: Array
    """`[n]`; those that are NaN count as time."""
    changes: tuple[int, ...]
    """Indices of the first values of what is new, rising."""

    def __post_init__(self) -> None:
        inside = all(0 <= c < len(self.values) for c in self.changes)
        if not inside or any(b <= a for a, b in zip(self.changes, self.changes[1:], strict=False)):
            raise ValueError(
                f"changes must be rising places in a stream of {len(self.values)} values, counted from 0, "
                f"not {', '.join(map(str, self.changes))}"
            )


@dataclass(slots=True)
class Counts:
    """What one detector did on one or more streams. See the module for the words."""

    values: int = 0
    quiet: int = 0
    changes: int = 0
    repeats: int = 0
    false: int = 0
    delays: list[int] = field(default_factory=list)
    """Of hits."""
    runs: list[int] = field(default_factory=list)
    """Lengths of runs that a false alarm ended."""
    cut: list[int] = field(default_factory=list)
    """Lengths of runs that a change or the stream's end cut short."""

    def add(self, other: Counts) -> None:
        """Take in those of another stream."""
        self.values += other.values
        self.quiet += other.quiet
        self.changes += other.changes
        self.repeats += other.repeats
        self.false += other.false
        self.delays += other.delays
        self.runs += other.runs
        self.cut += other.cut


@dataclass(frozen=True, slots=True)
class Score:
    """One detector on one kind of stream. None: there was nothing to tell it from."""

    detector: str
    stream: str
    streams: int
    """How many of that kind."""
    values: int
    changes: int
    missed: int
    repeats: int
    false: int
    median_delay: float | None
    """In values, of hits."""
    mean_delay: float | None
    false_per_10000: float | None
    """False alarms per 10,000 quiet values."""
    run_lengths: tuple[int | None, int | None, int | None]
    """QUANTILES of the run length, in values."""
    longest_run: int
    """Values that a run was followed for at most: run lengths that are None are above it."""
    f1: float | None
    """None where nothing changes."""
    microseconds: float
    """Per update."""


def count(alarms: Sequence[int], changes: Sequence[int], n: int, margin: int) -> Counts:
    """What `alarms` (rising indices) in a stream of `n` values with these `changes` are.

    Raises ValueError where the margin is below 1.
    """
    if margin < 1:
        raise ValueError(f"margin must be 1 or more, not {margin}")
    nexts = [*changes[1:], n]
    ends = [min(c + margin, following) for c, following in zip(changes, nexts, strict=False)]
    counts = Counts(n, n - sum(end - c for c, end in zip(changes, ends, strict=True)), len(changes))
    found: set[int] = set()
    begin: int | None = 0  # of the run under way; None: a change has cut it short
    changed = 0  # changes so far
    for t in alarms:
        past = bisect_right(changes, t)
        if past > changed and begin is not None:
            counts.cut.append(changes[changed] - begin)
            begin = None
        changed = past
        if past and t < ends[past - 1]:
            if past in found:
                counts.repeats += 1
            else:
                found.add(past)
                counts.delays.append(t - changes[past - 1] + 1)
        else:
            counts.false += 1
            if begin is not None:
                counts.runs.append(t + 1 - begin)
        begin = t + 1
    if begin is not None:
        counts.cut.append((changes[changed] if changed < len(changes) else n) - begin)
    counts.cut = [length for length in counts.cut if length > 0]
    return counts


def run_length(runs: Sequence[int], cut: Sequence[int], quantile: float) -> int | None:
    """The length that a share `quantile` of runs does not exceed, by Kaplan and Meier's estimate.

    `runs` are whole, `cut` were at least so long. None where the estimate does not go so far.
    """
    lengths, times = np.sort([*runs, *cut]), np.sort(runs)
    surviving = 1.0
    for length, ended in zip(*np.unique(times, return_counts=True), strict=True):
        at_risk = lengths.size - np.searchsorted(lengths, length)
        surviving *= 1 - ended / at_risk
        if surviving <= 1 - quantile + 1e-12:
            return int(length)
    return None


def alarms(detector: Detector, values: Array) -> tuple[list[int], float]:
    """Indices of `values [n]` at which the detector alarms, and the seconds that all updates took."""
    update = detector.update
    given = values.tolist()
    begin = perf_counter()
    found = [t for t, value in enumerate(given) if update(value).alarm]
    return found, perf_counter() - begin


def evaluate(
    detectors: Mapping[str, Make], streams: Mapping[str, Sequence[Labelled]], *, margin: int, reference: int = 0
) -> list[Score]:
    """Each of `detectors` on each of `streams`, by its name: a new detector for each, the same streams for all.

    margin: values within which an alarm after a change is a hit. reference: a detector is made from the first so many
    values of its stream, and given the others.

    Raises ValueError where a stream's first change lies within `reference`, or the margin is below 1.
    """
    return [
        score(name, kind, make, drawn, margin=margin, reference=reference)
        for kind, drawn in streams.items()
        for name, make in detectors.items()
    ]


def score(
    detector: str, stream: str, make: Make, streams: Sequence[Labelled], *, margin: int, reference: int = 0
) -> Score:
    """One of them, see `evaluate`: `make`, by the name `detector`, on all `streams` of one kind, at least one."""
    total = Counts()
    seconds = []
    for labelled in streams:
        if reference >= len(labelled.values) or any(c < reference for c in labelled.changes):
            raise ValueError(
                f"stream {stream} changes or ends within the {reference} values taken as reference; "
                "take fewer, or a longer stream"
            )
        made = make(labelled.values[:reference] if reference else None)
        rest = labelled.values[reference:]
        found, spent = alarms(made, rest)
        seconds.append(spent / len(rest))
        total.add(count(found, [c - reference for c in labelled.changes], len(rest), margin))
    hits, raised = len(total.delays), len(total.delays) + total.repeats + total.false
    low, middle, high = (run_length(total.runs, total.cut, q) for q in QUANTILES)
    return Score(
        detector=detector,
        stream=stream,
        streams=len(streams),
        values=total.values,
        changes=total.changes,
        missed=total.changes - hits,
        repeats=total.repeats,
        false=total.false,
        median_delay=float(median(total.delays)) if hits else None,
        mean_delay=fmean(total.delays) if hits else None,
        false_per_10000=1e4 * total.false / total.quiet if total.quiet else None,
        run_lengths=(low, middle, high),
        longest_run=max([*total.runs, *total.cut], default=0),
        f1=2 * hits / (raised + total.changes) if total.changes else None,
        microseconds=1e6 * median(seconds),
    )
