"""A detector calibrated by a recording without drift, and whether the calibration holds.

The detector's threshold comes from the whole recording. How far to trust it is told by its two halves: a detector made
from the first one watches the second one, where each alarm is a false one. With so few alarms as that gives, their
true rate is uncertain; the interval is Garwood's exact one for a Poisson count (1936), which takes alarms as
independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from trimtab.drift.advance import HUGE
from trimtab.drift.catalogue import ENOUGH, build, checked, describe
from trimtab.drift.evaluation import alarms
from trimtab.drift.reference import inflation
from trimtab.drift.seasonal import needed, residuals

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Calibration:
    """What came out of a calibration."""

    detector: str
    options: dict[str, Any]
    every: float
    """Values between false alarms that were asked for."""
    method: str
    """How the detector comes by its threshold."""
    values: int
    """Finite values of the recording."""
    inflation: float
    """Variance inflation of a mean by autocorrelation, cycles left out: so many values weigh as much as one
    independent one."""
    threshold: float
    """Of the detector made from the whole recording, at its start; of its first test, where it has several."""
    held_back: int
    """Finite values of the second half."""
    expected: float
    """False alarms in them at the rate asked for."""
    found: int
    """False alarms in them of the detector made from the first half."""
    run_length: tuple[float, float | None]
    """Values between false alarms, at least and at most, that `found` is compatible with (CONFIDENCE); None: any."""


def calibrate(
    name: str, values: NDArray[np.float64], *, every: float, options: Mapping[str, Any] | None = None
) -> Calibration:
    """Calibrate detector `name` by a recording without drift, `values [n]` in order; NaN and infinite ones are skipped,
    but count as time where the options name a `season`.

    Raises ValueError, in one sentence, where an option is wrong, values are not what the detector takes, all the same
    or too few; ImportError as `catalogue.build` does.
    """
    settings = checked(name, options or {})
    season = settings.get("season")
    finite = values[np.abs(values) < HUGE]
    entry = describe(name)
    if takes := unfit(name, values):
        raise ValueError(f"detector {name} takes {takes}")
    size = entry.options.get("size")
    # Windowed detectors ignore a recording that does not fill their reference window.
    least = max(ENOUGH, int(settings.get("size", size.default)) if size else 0, needed(season) if season else 0)
    if finite.size < 2 * least:
        raise ValueError(f"{finite.size} finite values are too few; {2 * least} are needed for {name}")
    if not season:
        values = finite
    first, second = np.split(values, [values.size // 2])
    if not np.ptp(first[np.isfinite(first)]) > 0:
        raise ValueError("the first half's values are all the same; record what varies")
    found = len(alarms(build(name, every=every, options=settings, reference=first, follows=True), second)[0])
    held_back = int(np.isfinite(second).sum())
    rest = residuals(values, season)[0] if season else values
    # A value that is skipped changes nothing, and the finding tells the threshold.
    threshold = build(name, every=every, options=settings, reference=values).update(math.nan).threshold
    return Calibration(
        detector=name,
        options=settings,
        every=every,
        method=entry.calibration,
        values=finite.size,
        inflation=inflation(rest),
        threshold=threshold,
        held_back=held_back,
        expected=held_back / every,
        found=found,
        run_length=between(found, held_back),
    )


def unfit(name: str, values: NDArray[np.float64]) -> str | None:
    """What detector `name` takes, where finite `values` are not such; None: they are. Raises ValueError on its name."""
    entry = describe(name)
    finite = values[np.abs(values) < HUGE]
    if entry.values != "any" and not ((finite >= 0).all() and (entry.values == "0.." or (finite <= 1).all())):
        return f"numbers from 0 {'to 1' if entry.values == '0..1' else 'up'} alone"
    if not entry.binary and np.unique(finite[:1000]).size == 2 == np.unique(finite).size:
        return "numbers of more than two kinds; for a rate use sprt_bernoulli"
    return None


def between(found: int, n: int) -> tuple[float, float | None]:
    """Run lengths, the least and the most, that `found` alarms in `n` values are compatible with (CONFIDENCE)."""
    tail = (1 - CONFIDENCE) / 2
    most_alarms = float(chi2.ppf(1 - tail, 2 * found + 2)) / 2
    least_alarms = float(chi2.ppf(tail, 2 * found)) / 2 if found else 0.0
    return n / most_alarms, n / least_alarms if found else None
