"""Input calibration: which channel was flipped or swapped, and by how much it is off.

Much drift is in the sensor: worn on the other arm, mounted upside down, re-wired, ageing. The manifest declares which
signs may flip and which channel orders a mounting can produce. Every declared setting is tried on the remembered
windows, as a row of one banked probe call, *on top of the source's vector*: what was adapted under a wrong setting must
not speak for it. The setting that fits best (`trimtab.adapters.fit`) is proposed where the evidence against the vector
in use is strong, and against the source's own setting, which is always among them: so the way back is found by the
same means.

Gain and offset, where declared, are then matched to the source's mean and variance in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from trimtab.adapters.balance import class_weights, lasting, relative_moments, too_alike
from trimtab.adapters.fit import Fit, finite_windows, measure
from trimtab.adapters.methods import Context, Declined, Proposal, Sensor, Windows
from trimtab.adapters.parameters import Kind, Parameter

WHOLE = 1024
"""Settings that are all tried; more are searched one coordinate at a time."""
SCREENED = 16
"""Windows on which settings are screened first; then the best quarter on four times as many, and so on ..."""
FINALISTS = 8
"""... until so few are left: those are measured on all windows."""
SWEEPS = 4
STILL = 1e-3
"""A channel whose deviation is less than this times the source's stands still."""


@dataclass(frozen=True, slots=True)
class InputCalibration:
    """Options:

    error: chance of a wrong switch that is accepted at each try, by the jackknife over runs of windows.
    caution, span: of gain and offset, which are statistics (see `norm_statistics`); signs and orders need neither.
    """

    error: float = 0.003
    caution: float = 4.0
    span: int = 256
    name: str = "input_calibration"

    def __post_init__(self) -> None:
        if not 0 < self.error < 0.5:
            raise ValueError(f"error is {self.error}; give a number between 0 and 0.5")

    def propose(self, context: Context, theta: NDArray[np.float32], windows: Windows) -> Proposal | Declined:
        sensors = [s for s in context.inputs if s.calibration is not None]
        coordinates = [c for s in sensors for c in _coordinates(s)]
        gains = [s for s in sensors if s.calibration is not None and s.calibration.gain]
        if not coordinates and not gains:
            return Declined(self.name, "the bundle declares no signs, orders or gains that may be wrong")
        windows = finite_windows(windows)
        if len(windows) == 0:
            return Declined(self.name, "no finite window is remembered")
        # No sign or order explains a channel that stands still, and the one that hides it best is a wrong one.
        still = any(_stands_still(s, windows) for s in sensors)
        present = _with_inputs_of(context, theta)
        best = present if still else _search(context, coordinates, windows)
        if gains and not _same_wiring(context, best, theta):
            best = _wiring(context, [present, best], gains, windows)
        rows = [theta, context.source.theta, best]
        for sparse in (True, False):
            rows += _matched(context, best, gains, windows, self.caution, self.span, sparse)
        fit = measure(context, np.stack(rows), windows)
        found = self._simplest(fit)
        row, misfit = rows[found], fit.misfit()
        gain, chance = fit.certainty(found, 0)
        evidence = {
            "misfit": float(misfit[found]),
            "misfit_now": float(misfit[0]),
            "gain": gain,
            "chance": chance,
            "runs": float(fit.runs),
            "windows": float(len(windows)),
        }
        unmoved = _same_inputs(context, row, theta)
        if unmoved:  # another may fit better, only not surely
            gain, chance = fit.certainty(2, 1)
            evidence |= {"gain": gain, "chance": chance}
        if gain <= 0 or (unmoved and chance <= self.error):
            return Declined(self.name, "the present setting fits best", evidence)
        if chance > self.error:
            return Declined(
                self.name,
                f"another setting fits better by {gain:.3g} nats, but by chance with probability {chance:.2g}, "
                f"where {self.error:g} is accepted",
                evidence,
            )
        return Proposal(self.name, row, tested=True, evidence=evidence)

    def _simplest(self, fit: Fit) -> int:
        """Of the candidates from 1 on, which come from simple to complex: one more complex must surely fit better.

        What is matched to the windows fits them by that alone, and of many settings one will fit a few windows better
        than the source's own, 1, which is the likeliest beforehand.
        """
        misfit = fit.misfit()
        found = 2 if fit.certainty(2, 1)[1] <= self.error else 1
        # Channel by channel, then all channels as one: each group by its best.
        for group in np.array_split(np.arange(3, len(fit)), 2):
            if len(group) == 0:
                continue
            best = int(group[np.argmin(misfit[group])])
            if fit.certainty(best, found)[1] <= self.error:
                found = best
        return found


@dataclass(frozen=True, slots=True)
class Coordinate:
    """One thing that may be set: a channel's sign, or an input's order. Setting 0 is the source's."""

    settings: int
    apply: Callable[[Context, NDArray[np.float32], int], None]
    """Change a row [P] in place to setting i."""


def _coordinates(sensor: Sensor) -> list[Coordinate]:
    wiring = sensor.calibration
    if wiring is None:
        return []
    found = []
    if wiring.orders:
        # Settings are in source order; orders come before signs, so that a sign belongs to the model's channel.
        orders = np.asarray(wiring.orders, np.float32)

        def set_order(context: Context, row: NDArray[np.float32], i: int) -> None:
            if i:
                context.layout.view(row, f"input.{sensor.name}.order")[:] = orders[i - 1]

        found.append(Coordinate(1 + len(orders), set_order))
    for channel in wiring.signs:

        def set_sign(context: Context, row: NDArray[np.float32], i: int, channel: int = channel) -> None:
            if i:
                context.layout.view(row, f"input.{sensor.name}.gain")[channel] *= -1.0

        found.append(Coordinate(2, set_sign))
    return found


def _row(context: Context, coordinates: list[Coordinate], setting: tuple[int, ...]) -> NDArray[np.float32]:
    row = context.source.theta.copy()
    for coordinate, i in zip(coordinates, setting, strict=True):
        coordinate.apply(context, row, i)
    return row


def _search(context: Context, coordinates: list[Coordinate], windows: Windows) -> NDArray[np.float32]:
    """The setting that fits `windows` best, as a row [P]."""
    if not coordinates:
        return context.source.theta
    if np.prod([float(c.settings) for c in coordinates]) <= WHOLE:
        every = list(product(*[range(c.settings) for c in coordinates]))
        return _best(context, [_row(context, coordinates, s) for s in every], windows)
    setting = tuple(0 for _ in coordinates)
    for _ in range(SWEEPS):
        # All rows that differ from the present setting in one coordinate or two: flips often come in pairs.
        near = {setting}
        for a, ca in enumerate(coordinates):
            for i in range(ca.settings):
                one = (*setting[:a], i, *setting[a + 1 :])
                near.add(one)
                for b in range(a + 1, len(coordinates)):
                    if len(near) < WHOLE:
                        near.update((*one[:b], j, *one[b + 1 :]) for j in range(coordinates[b].settings))
        nearby = sorted(near)
        best = _best(context, [_row(context, coordinates, s) for s in nearby], windows)
        chosen = next(s for s in nearby if np.array_equal(_row(context, coordinates, s), best))
        if chosen == setting:
            break
        setting = chosen
    return _row(context, coordinates, setting)


def _best(context: Context, rows: list[NDArray[np.float32]], windows: Windows) -> NDArray[np.float32]:
    """The best of many rows by successive halving (Karnin, Koren and Somekh 2013; here in quarters).

    Most settings are far off, and a few spread windows tell: what is spent on the many is spent again on each smaller
    round. The first row, the source's, stays to the end.
    """
    some = SCREENED
    while len(rows) > FINALISTS and some < len(windows):
        few = windows.take(np.linspace(0, len(windows) - 1, some).round().astype(np.int64))
        order = np.argsort(measure(context, np.stack(rows), few).misfit(), kind="stable")
        kept = order[: max(FINALISTS, -(-len(rows) // 4))]
        rows = [rows[i] for i in sorted({0, *kept.tolist()})]
        some *= 4
    fit: Fit = measure(context, np.stack(rows), windows)
    return rows[int(np.argmin(fit.misfit()))]


def _wiring(
    context: Context, rows: list[NDArray[np.float32]], sensors: list[Sensor], windows: Windows
) -> NDArray[np.float32]:
    """Of rows of different signs or orders the one that fits best when gains and offsets are free in each.

    A gain that is off makes a wrong sign look better than the right one. Like is compared with like: each wiring by the
    best that gains and offsets can make of it, whatever the windows hold (a profile likelihood).
    """
    profiles = [[row, *_matched(context, row, sensors, windows, 0.0, 0, sparse=False)] for row in rows]
    misfit = measure(context, np.stack([row for profile in profiles for row in profile]), windows).misfit()
    ends = np.cumsum([len(profile) for profile in profiles])
    return rows[int(np.argmin([part.min() for part in np.split(misfit, ends[:-1])]))]


def _matched(
    context: Context,
    row: NDArray[np.float32],
    sensors: list[Sensor],
    windows: Windows,
    caution: float,
    span: int,
    sparse: bool,
) -> list[NDArray[np.float32]]:
    """`row` with offset, gain, or both matched per channel to the source's mean and standard deviation.

    `sparse`: a few channels are at fault, and each must show it for itself, beyond what the largest of so many would
    by chance (the universal threshold of Donoho and Johnstone 1994); the others stay. Else all are moved alike.
    `span` 0: whatever the windows hold.
    """
    if not sensors:
        return []
    y = context.probe(windows.inputs, row[None], np.zeros(len(windows), np.int64)).y
    if not np.isfinite(y).all() or (span and too_alike(context, y, windows, span) is not None):
        return []
    weights = class_weights(context, y)
    rows = []
    for with_gain, with_offset in ((False, True), (True, False), (True, True)):
        changed = row.copy()
        for sensor in sensors:
            if not len(sensor.mean) or not len(sensor.std):
                continue
            gain = context.layout.view(changed, f"input.{sensor.name}.gain")
            offset = context.layout.view(changed, f"input.{sensor.name}.offset")
            x = windows.inputs[sensor.name].astype(np.float64)
            if f"input.{sensor.name}.order" in context.layout:
                x = x[:, context.layout.view(changed, f"input.{sensor.name}.order").astype(np.int64)]
            x = x.reshape(*x.shape[:2], -1) * gain[:, None] + offset[:, None]
            wanted, spread = np.asarray(sensor.mean), np.asarray(sensor.std)
            means, variances = x.mean(axis=2), x.var(axis=2)
            relative = relative_moments(means, variances, wanted, spread**2)
            if sparse:
                channels = len(wanted)
                cautious = max(caution, 2.0 * float(np.log(2 * channels)))
                pairs = [relative[:, [c, channels + c]] for c in range(channels)]
                share = np.array([lasting(pair, weights, windows.sequence, cautious) for pair in pairs])
            else:
                share = np.full(len(wanted), lasting(relative, weights, windows.sequence, caution))
            mean = weights @ means
            std = np.sqrt(weights @ variances + weights @ (means - mean) ** 2)
            # A channel that stands still has no spread to match.
            ratio = np.where(std > 1e-6 * spread, spread / np.maximum(std, 1e-30), 1.0) ** share
            if not with_gain:
                ratio = np.ones_like(ratio)
            gain *= ratio.astype(np.float32)
            offset *= ratio.astype(np.float32)
            if with_offset:
                offset += (wanted + (1 - share) * (mean - wanted) - ratio * mean).astype(np.float32)
        rows.append(changed)
    if not span:
        return rows
    # Of one class alone any gain looks right; and how many classes there are, a wrong vector may be mistaken about.
    slot = np.zeros(len(windows), np.int64)
    found = (context.probe(windows.inputs, changed[None], slot).y for changed in rows)
    return [changed for changed, y in zip(rows, found, strict=True) if too_alike(context, y, windows, span) is None]


def _stands_still(sensor: Sensor, windows: Windows) -> bool:
    """Whether a channel that has a spread on the source holds one value, within most of the windows."""
    if not len(sensor.std):
        return False
    x = windows.inputs[sensor.name].astype(np.float64)
    x = x.reshape(*x.shape[:2], -1)
    spread = np.median(x.std(axis=2), axis=0) if x.shape[2] > 1 else x.std(axis=(0, 2))
    return bool((spread < STILL * np.asarray(sensor.std)).any())


def _with_inputs_of(context: Context, theta: NDArray[np.float32]) -> NDArray[np.float32]:
    """The source's vector [P] with the input calibration of `theta`."""
    row = context.source.theta.copy()
    for part in _input_parts(context):
        row[part.slice] = theta[part.slice]
    return row


def _same_wiring(context: Context, one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether signs and orders are the same."""
    orders, gains = context.layout.of_kind("input.order"), context.layout.of_kind("input.gain")
    return all(np.array_equal(one[p.slice], other[p.slice]) for p in orders) and all(
        np.array_equal(np.sign(one[p.slice]), np.sign(other[p.slice])) for p in gains
    )


def _input_parts(context: Context) -> list[Parameter]:
    kinds: tuple[Kind, ...] = ("input.order", "input.gain", "input.offset")
    return [part for kind in kinds for part in context.layout.of_kind(kind)]


def _same_inputs(context: Context, one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return all(np.array_equal(one[p.slice], other[p.slice]) for p in _input_parts(context))
