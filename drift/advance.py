"""What every signal of every window goes through: standardised by its baseline (trimtab.drift.baseline), then tested
by the SPRT's charts (trimtab.drift.sprt).

`advance` runs as it stands and, where numba can be used, as machine code (trimtab.drift.swift), to the same bits: it is
only arithmetic, square roots and the C library's log1p, in the order written. Hence it calls nothing of our own, and
memory is numbers: of a baseline a tuple, LEVEL; of the charts a row a shift, `[sum upwards, values in it, sum
downwards, values in it]`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

WINSOR = 4.0
"""Deviations at which a value is pulled in before it joins the baseline."""

CLIP = 3.0
"""Deviations at which a value is clipped in a block's mean."""

HUGE = 1e150
"""Values beyond this are skipped: their square is not a number."""

BLOCK = 32
"""Values in a block by which a stream's own variance inflation is measured."""

MOST_BLOCKS = 64.0
"""Blocks remembered; older ones fade."""

FLAT = 1e-9
"""The least deviation, as a share of the mean: below it there is nothing but rounding."""

LEVEL = (
    "mean",
    "mean_count",  # values in it
    "squares",  # about it
    "var_count",  # degrees of freedom
    "block",  # the sum of the block's z, clipped
    "block_left",  # values to come in the block
    "blocks",
    "block_squares",  # of their means
    "excess",
    "learning",  # 1 while the baseline is still learnt from a warm-up
    "resting",  # 1 while all sums of the charts are 0
)
"""What the numbers of a baseline are."""

Level = tuple[float, ...]

Row = Any
"""A list, or an array."""


def advance(
    values: Row,
    begin: int,
    level: Level,
    fixed: tuple[float, ...],
    shifts: Row,
    tests: Row,
    z: Row,
    shares: Row,
) -> tuple[int, Level]:
    """Take `values[begin:]` of a signal whose baseline is learnt, up to the first alarm.

    Returns where it goes on, and the baseline then.

    tests: memory of the charts, changed in place. fixed: memory of the baseline in values, variance inflation of the
    reference, 1 where there is one else 0, and up to where z leaves sums as they are while all are 0. shifts: for each
    shift d, `[d, d / 2, where z is clipped, threshold upwards, threshold downwards]`. z, shares: filled in, for each
    value what it comes to in deviations (NaN where it is skipped), and the nearest chart's sum as a share of its
    threshold: at 1 it is an alarm. They may be one.
    """
    sqrt = math.sqrt
    log1p = math.log1p
    # Written out without min, max and abs: calls are what Python would spend its time on.
    mean, mean_count, squares, var_count, block, left, blocks, block_squares, excess, learning, calm = level
    memory, recorded, measured, idle = fixed
    resting = calm != 0.0
    steady = False
    correlation = freedom = eight = widening = 1.0
    place = begin - 1
    for place in range(begin, len(values)):
        value = values[place]
        if not -HUGE < value < HUGE:
            z[place] = math.nan
            best = 0.0
            for i in range(len(shifts)):
                for side in (0, 1):
                    ratio = tests[i][2 * side] / (shifts[i][3 + side] * excess)
                    if ratio > best:
                        best = ratio
            shares[place] = best
            continue
        if not steady:  # what depends on counts, and on `excess`, alone
            correlation = recorded * excess
            freedom = var_count / correlation
            if freedom < 1.0:
                freedom = 1.0
            eight = 8 * freedom
            widening = sqrt(1.0 + correlation / mean_count)
            steady = mean_count >= memory and var_count >= memory
        scale = sqrt(squares / var_count)
        smallest = FLAT * (mean if mean > 0 else -mean) + 1e-300
        if scale < smallest:
            scale = smallest
        deviation = value - mean
        t = deviation / (scale * widening)
        square = t * t
        if square > 1e300:
            square = 1e300
        score = sqrt(freedom * log1p(square / freedom)) * (eight + 1) / (eight + 3)
        joining, limit = deviation, WINSOR * scale
        if joining > limit:
            joining = limit
        elif joining < -limit:
            joining = -limit
        # Welford's update, in place. Beyond `memory`, old values fade.
        mean_count += 1.0
        var_count += 1.0
        step = joining / mean_count
        mean += step
        squares += joining * (joining - step)
        if mean_count > memory:
            mean_count = memory
        if var_count > memory:
            squares *= memory / var_count
            var_count = memory
        if deviation < 0:
            score = -score
        z[place] = score
        if measured != 0.0:
            block += CLIP if score > CLIP else -CLIP if score < -CLIP else score
            left -= 1.0
            if left == 0.0:
                # Learn from the block's sum how far the stream's values hang together.
                blocks += 1.0
                block_squares += (block / BLOCK) * (block / BLOCK)
                if blocks > MOST_BLOCKS:
                    block_squares *= MOST_BLOCKS / blocks
                    blocks = MOST_BLOCKS
                # Less one deviation of the estimate, which is that of a mean of so many chi-squared values.
                excess = BLOCK * block_squares / blocks / recorded / (1.0 + sqrt(2.0 / blocks))
                if excess < 1.0:
                    excess = 1.0
                block, left, steady = 0.0, float(BLOCK), False
        if resting and -idle <= score <= idle:
            shares[place] = 0.0
            continue
        best = 0.0
        for i in range(len(shifts)):
            shift, test = shifts[i], tests[i]
            d, half, bound = shift[0], shift[1], shift[2]
            near = bound if score > bound else -bound if score < -bound else score
            total = test[0]
            if total != 0.0 or near > half:
                total += d * (near - half)
                if total > 0.0:
                    test[0] = total
                    test[1] += 1.0
                    ratio = total / (shift[3] * excess)
                    if ratio > best:
                        best = ratio
                else:
                    test[0] = test[1] = 0.0
            total = test[2]
            if total != 0.0 or -near > half:
                total += d * (-near - half)
                if total > 0.0:
                    test[2] = total
                    test[3] += 1.0
                    ratio = total / (shift[4] * excess)
                    if ratio > best:
                        best = ratio
                else:
                    test[2] = test[3] = 0.0
        shares[place] = best
        resting = best == 0.0
        if best >= 1.0:
            break
    calm = 1.0 if resting else 0.0
    level = (mean, mean_count, squares, var_count, block, left, blocks, block_squares, excess, learning, calm)
    return place + 1, level


def together(values: Row, levels: Row, fixed: Row, shifts: Row, tests: Row, told: Row) -> bool:
    """`advance` of S signals by N values each, `values [N, S]`, as machine code; the rest has a row a signal.

    told `[N + S]`: after each place the greatest of the signals' shares, and each signal's after the last. Returns
    whether all values are finite and there is no alarm: else nothing but `told` is changed.
    """
    after, sums = levels.copy(), tests.copy()
    count, signals = values.shape
    for s in range(signals):
        row, column, shares = levels[s], np.empty(count), np.empty(count)
        for place in range(count):
            column[place] = values[place, s]
            if not np.isfinite(column[place]):
                return False
        level = (row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9], row[10])
        known = (fixed[s, 0], fixed[s, 1], fixed[s, 2], fixed[s, 3])
        _, now = advance(column, 0, level, known, shifts[s], sums[s], shares, shares)
        for i in range(len(now)):
            after[s, i] = now[i]
        for place in range(count):
            share = shares[place]
            if share >= 1.0:
                return False
            if s == 0 or share > told[place]:
                told[place] = share
        told[count + s] = shares[count - 1]
    levels[:] = after
    tests[:] = sums
    return True
