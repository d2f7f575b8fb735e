"""What a pipeline watches: the configured signals that a bundle can give, and how often they may alarm falsely."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.catalogue import LONGEST, SHORTEST, build, build_monitor, describe, names
from trimtab.drift.detector import Detector
from trimtab.drift.monitor import Monitor
from trimtab.drift.signals import Departure, Distance, Divergence, Softmax, log_variances, whitening
from trimtab.runtime.bundle import Bundle
from trimtab.runtime.config import Drift, FalseAlarms
from trimtab.runtime.errors import BundleError, ConfigError
from trimtab.runtime.sessions import Outputs


class Taps:
    """What the observe graph gave for N samples, and what several signals need of it, taken once."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs

    @cached_property
    def softmax(self) -> Softmax:
        return Softmax(self._outputs.y)

    @property
    def features(self) -> NDArray[np.float32]:
        return _observed(self._outputs.features)

    @property
    def moments(self) -> NDArray[np.float32]:
        return _observed(self._outputs.moments)

    @cached_property
    def logs(self) -> NDArray[np.float32]:
        return log_variances(self.moments)


Signal = Callable[[Taps], NDArray[np.float64]]
"""From what was observed of N samples to one figure each, `[N]`."""

SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0, "month": 2629800.0}


def _divergence(bundle: Bundle) -> Signal | None:
    if not bundle.manifest.norms or "observe" not in bundle.manifest.graphs:
        return None
    # In the precision of moments, as departure is: it costs half.
    mean, var = bundle.source.moments_mean, bundle.source.moments_var
    divergence = Divergence(mean.astype(np.float32), var.astype(np.float32))
    return lambda taps: divergence(taps.moments, taps.logs)


def _departure(bundle: Bundle) -> Signal | None:
    if not bundle.source.moments_centre.size:
        return None
    departure = Departure(bundle.source.moments_centre, bundle.source.moments_whitening)
    return lambda taps: departure(taps.moments, taps.logs)


def _distance(bundle: Bundle) -> Signal | None:
    if not bundle.manifest.features or "observe" not in bundle.manifest.graphs:
        return None
    try:
        distance = Distance(bundle.source.feature_mean, whitening(bundle.source.feature_cov))
    except ValueError:
        raise BundleError(
            f"{bundle.path / bundle.manifest.source}: feature_cov has negative eigenvalues; export the bundle again"
        ) from None
    return lambda taps: distance(taps.features)


def _entropy(bundle: Bundle) -> Signal | None:
    if bundle.manifest.task != "classification":
        return None
    return lambda taps: taps.softmax.entropy()


def _observed(tap: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if tap is None:
        raise TypeError("these outputs were served, not observed: they have no taps")
    return tap


def watched_signals(bundle: Bundle, drift: Drift) -> dict[str, Signal]:
    """The configured signals that this bundle can give.

    Raises ConfigError where there is none, BundleError where the source statistics of one make no sense.
    """
    makers = {"divergence": _divergence, "departure": _departure, "distance": _distance, "entropy": _entropy}
    found: dict[str, Signal] = {name: signal for name in drift.signals if (signal := makers[name](bundle)) is not None}
    if not found:
        manifest = bundle.manifest
        raise ConfigError(
            f"drift.signals: {bundle.path} ({manifest.task}, {len(manifest.norms)} norm layers, {manifest.features} "
            f"features) gives none of {', '.join(drift.signals)}; name another"
        )
    return found


def false_alarm_run(drift: Drift, bundle: Bundle) -> float:
    """The accepted false alarms as an average run length in observed windows: those are what detectors count.

    Raises ConfigError where they are set per time but the bundle has no rate, or where detectors cannot keep them.
    """
    observed = _windows(drift.false_alarms, bundle) / drift.observe_every
    longest = LONGEST / len(drift.signals)  # which share it
    if not SHORTEST <= observed <= longest:
        raise ConfigError(
            f"drift.false_alarms.every: one in {observed:g} observed windows is asked for; give what comes to "
            f"{SHORTEST:g} to {longest:.1g} windows"
        )
    return observed


def new_monitor(
    bundle: Bundle, drift: Drift, signals: Iterable[str], reference: Mapping[str, NDArray[np.float64]]
) -> Monitor:
    """The detectors of one stream, of the signals that are watched (see `watched_signals`).

    `reference`: what the bundle recorded of them. Raises ConfigError where the detector, one of its options or the
    accepted false alarms cannot be, or what the detector needs is not installed.
    """
    every = false_alarm_run(drift, bundle)
    options = dict(drift.options)
    if "season" in options:
        options["season"] = _periods(options["season"], bundle)
    try:
        return build_monitor(
            list(signals),
            drift.detector,
            every=every,
            refractory=drift.refractory,
            options=options,
            reference=reference,
        )
    except ModuleNotFoundError as error:
        raise ConfigError(f"drift.detector: {error}") from None
    except ValueError as error:
        key = "options" if drift.detector in names() else "detector"
        raise ConfigError(f"drift.{key}: {error}") from None


def new_error_detector(bundle: Bundle, drift: Drift) -> Detector | None:
    """The detector of one stream's errors by late labels; None where none is asked for.

    Raises ConfigError where it is none of rates, or the model gives no classes.
    """
    if drift.errors is None:
        return None
    if bundle.manifest.task != "classification":
        raise ConfigError("drift.errors: this bundle is of a regression, whose decisions are neither right nor wrong")
    try:
        if describe(drift.errors).values != "0..1":
            raise ValueError(f"{drift.errors} is no detector of rates; choose ddm, sprt_bernoulli, hddm_a or hddm_w")
        return build(drift.errors, every=false_alarm_run(drift, bundle))
    except (ValueError, ModuleNotFoundError) as error:
        raise ConfigError(f"drift.errors: {error}") from None


def _periods(season: Any, bundle: Bundle) -> Any:
    """`drift.options.season` with hours, days and weeks as numbers of windows; the rest as it is."""
    given = season if isinstance(season, list) else [season]
    return [
        _per(period, "options.season", "give a number of windows", bundle)
        if isinstance(period, str) and period in SECONDS
        else period
        for period in given
    ]


def _windows(accepted: FalseAlarms, bundle: Bundle) -> float:
    if accepted.per == "windows":
        return accepted.every
    return accepted.every * _per(accepted.per, "false_alarms.per", "use `per: windows`", bundle)


def _per(unit: str, key: str, mend: str, bundle: Bundle) -> float:
    """Windows in a unit of time. Raises ConfigError, naming `drift.KEY`, where the bundle has no rate."""
    window = bundle.manifest.window
    if window is None or window.rate is None:
        raise ConfigError(f"drift.{key}: the bundle {bundle.path} has no rate, so that {unit!r} means nothing; {mend}")
    return SECONDS[unit] * window.rate / window.hop
