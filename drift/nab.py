"""The Numenta Anomaly Benchmark's scoring (Lavin and Ahmad 2015, "Evaluating Real-time Anomaly Detection Algorithms").

Each row of a recording has an anomaly score from 0 to 1; a row is a detection where its score reaches the threshold.
Rows of the probation, the first 15 % (of at most 5,000 rows), do not count. With s(x) = 2 / (1 + exp(5 x)) - 1:

- A labelled window [left, right] earns tp s(x) / s(-1) for its best detection, x = -(right - row + 1) / width from -1
  at its first row to -1 / width at its last, and costs fn where there is none.
- Each detection outside of windows costs fp |s(x)|, x = (row - right) / (width - 1) by the window before it; 1 where x
  is above 3, or there is no window before.

The sum over all files of a corpus, at the one threshold at which it is largest, is scaled so that a detector which
detects nothing gets 0, and one that detects each window in its first row and nothing else gets 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PROBATION, LONGEST = 0.15, 5000
NEVER = math.inf
"""The threshold of no detection at all."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a detected window earns, and what a false detection and a missed window cost."""

    tp: float
    fp: float
    fn: float


PROFILES = {
    "standard": Profile(1.0, 0.11, 1.0),
    "reward_low_fp": Profile(1.0, 0.22, 1.0),
    "reward_low_fn": Profile(1.0, 0.11, 2.0),
}


@dataclass(frozen=True, slots=True)
class Scored:
    """One recording: its rows' anomaly scores `[n]`, and its labelled windows as (first row, last row), in order."""

    scores: NDArray[np.float64]
    windows: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Result:
    """A corpus' score, the threshold it is reached at, and what detections did there."""

    score: float
    threshold: float
    found: int
    missed: int
    false: int


def probation(rows: int) -> int:
    """How many of a recording's first rows do not count."""
    return min(math.floor(PROBATION * rows), int(PROBATION * LONGEST))


def sigmoid(position: float) -> float:
    """s(x), from 1 far before a window's end, by 0 at its end, to -1 behind it; exactly -1 where x is above 3."""
    return -1.0 if position > 3.0 else 2.0 / (1.0 + math.exp(5.0 * position)) - 1.0


def weights(rows: int, windows: Sequence[tuple[int, int]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What a detection in each row counts before a profile weighs it, `[rows]`, and the row's window, `[rows]`.

    From 0 to 1 in a window, from -1 to 0 outside; the window's number is -1 outside. Raises ValueError where windows
    are not in order within the rows.
    """
    worth = np.full(rows, -1.0)
    member = np.full(rows, -1, np.int64)
    for number, (left, right) in enumerate(windows):
        before = windows[number - 1][1] if number else -1
        if not before < left <= right < rows:
            raise ValueError(f"window {number} from row {left} to {right} is not in order within {rows} rows")
        width = right - left + 1
        for row in range(left, right + 1):
            worth[row] = sigmoid(-(right - row + 1) / width) / sigmoid(-1.0)
            member[row] = number
        following = windows[number + 1][0] if number + 1 < len(windows) else rows
        for row in range(right + 1, following):
            worth[row] = sigmoid((row - right) / (width - 1)) if width > 1 else -1.0
    return worth, member


def corpus_score(files: Sequence[Scored], profile: Profile, threshold: float | None = None) -> Result:
    """The normalised score of a corpus, at `threshold`, or at the best one where that is None.

    Windows that lie in the probation as a whole count neither way. Raises ValueError where no window is left, or a
    score is not a number.
    """
    scores, worth, group = _pooled(files)
    count = int(group.max(initial=-1)) + 1
    if count == 0:
        raise ValueError("there is no labelled window to score by")
    if np.isnan(scores).any():
        raise ValueError("anomaly scores must be numbers; one is NaN")
    order = np.argsort(-scores, kind="stable")
    best = np.full(count, -profile.fn)
    raw = -profile.fn * count
    top, cut, false_cost = raw, NEVER, 0.0
    total = raw
    for place, i in enumerate(order):
        if threshold is not None and scores[i] < threshold:
            break
        if group[i] < 0:
            false_cost += profile.fp * worth[i]
        elif profile.tp * worth[i] > best[group[i]]:
            raw += profile.tp * worth[i] - best[group[i]]
            best[group[i]] = profile.tp * worth[i]
        total = raw + false_cost
        # A threshold cannot part rows of equal score.
        last = place + 1 == order.size or scores[order[place + 1]] != scores[i]
        if last and total > top:
            top, cut = total, float(scores[i])
    if threshold is not None:
        top, cut = total, threshold
    nothing = -profile.fn * count
    hit = scores >= cut
    found = np.unique(group[hit & (group >= 0)]).size
    score = 100.0 * (top - nothing) / (profile.tp * count - nothing)
    return Result(float(score), cut, found, count - found, int((hit & (group < 0)).sum()))


def _pooled(
    files: Sequence[Scored],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Scores, worth and window (numbered through the corpus, -1 outside) of all rows that count."""
    scores: list[NDArray[np.float64]] = [np.zeros(0)]
    worths: list[NDArray[np.float64]] = [np.zeros(0)]
    groups: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    count = 0
    for file in files:
        start = probation(file.scores.size)
        worth, member = weights(file.scores.size, file.windows)
        kept = member[start:]
        numbers = np.unique(kept[kept >= 0])
        scores.append(file.scores[start:])
        worths.append(worth[start:])
        groups.append(np.where(kept >= 0, np.searchsorted(numbers, kept) + count, -1))
        count += numbers.size
    return np.concatenate(scores), np.concatenate(worths), np.concatenate(groups)
