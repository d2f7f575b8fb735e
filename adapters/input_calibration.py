"""Input calibration: which channel was flipped or swapped, and by how much it is off.

Much drift is in the sensor: worn on the other arm, mounted upside down, re-wired, ageing. The manifest declares which
signs may flip and which channel orders a mounting can produce. Every declared setting is tried on the remembered
windows, as a row of one banked probe call, *on top of the source's vector*: what was adapted under a wrong setting must
not speak for it. The setting that fits best (`trimtab.adapters.fit`) is proposed where the evidence against the vector
in use is strong. The source's own setting is always among them, so that the way back is found by the same means.

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

WHOLE = 1024
"""Settings that are all tried; more are searched one coordinate at a time."""
SCREENED = 64
"""Windows on which settings are screened first ..."""
FINALISTS = 24
"""... and how many of them are measured on all windows."""
SWEEPS = 4


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
        best = _search(context, coordinates, windows)
        matched = _matched(context, best, gains, windows, self.caution, self.span)
        rows = np.stack([theta, context.source.theta, best, *matched])
        fit = measure(context, rows, windows)
        misfit = fit.misfit()
        found = 1 + int(np.argmin(misfit[1:]))
        row = rows[found]
        gain, chance = fit.certainty(found, 0)
        evidence = {
            "misfit": float(misfit[found]),
            "misfit_now": float(misfit[0]),
            "gain": gain,
            "chance": chance,
            "runs": float(fit.runs),
            "windows": float(len(windows)),
        }
        if _same_inputs(context, row, theta):
            return Declined(self.name, "the present setting fits best", evidence)
        if gain <= 0 or chance > self.error:
            return Declined(
                self.name,
                f"another setting fits better by {gain:.3g} nats, but by chance with probability {chance:.2g}, "
                f"where {self.error:g} is accepted",
                evidence,
            )
        return Proposal(self.name, row, tested=True, evidence=evidence)


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
    """The best of many rows: all on a few spread windows first, the best of those on all windows."""
    if len(rows) > FINALISTS and len(windows) > SCREENED:
        few = windows.take(np.linspace(0, len(windows) - 1, SCREENED).round().astype(np.int64))
        order = np.argsort(measure(context, np.stack(rows), few).misfit(), kind="stable")
        rows = [rows[i] for i in sorted({0, *order[:FINALISTS].tolist()})]
    fit: Fit = measure(context, np.stack(rows), windows)
    return rows[int(np.argmin(fit.misfit()))]


def _matched(
    context: Context, row: NDArray[np.float32], sensors: list[Sensor], windows: Windows, caution: float, span: int
) -> list[NDArray[np.float32]]:
    """`row` with offset, gain, or both matched per channel to the source's mean and standard deviation."""
    if not sensors:
        return []
    y = context.probe(windows.inputs, row[None], np.zeros(len(windows), np.int64)).y
    if not np.isfinite(y).all() or too_alike(context, y, windows, span) is not None:
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
            share = lasting(relative_moments(means, variances, wanted, spread**2), weights, windows.sequence, caution)
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
    return rows


def _same_inputs(context: Context, one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    parts = [p for kind in ("input.order", "input.gain", "input.offset") for p in context.layout.of_kind(kind)]
    return all(np.array_equal(one[p.slice], other[p.slice]) for p in parts)
