"""What a pipeline watches: the configured signals that a bundle can give, and how often they may alarm falsely."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.adapters.parameters import ParameterLayout
from trimtab.drift import input_signals
from trimtab.drift.catalogue import LONGEST, SEASON, SHORTEST, build, build_monitor, describe, names
from trimtab.drift.compiled import possible, works
from trimtab.drift.detector import Detector
from trimtab.drift.discoveries import Discoveries
from trimtab.drift.measure import SIGNALS, Measure
from trimtab.drift.monitor import Monitor
from trimtab.drift.signals import Departure, Distance, Divergence, Softmax, log_variances, whitening
from trimtab.runtime.bundle import Bundle
from trimtab.runtime.config import Drift, FalseAlarms
from trimtab.runtime.errors import BundleError, ConfigError
from trimtab.runtime.sessions import Outputs
from trimtab.runtime.validation import shown

log = logging.getLogger(__name__)

Inputs = dict[str, NDArray[np.float32]]
"""The model's inputs by name, each `[N, C, ...]`, in sensor units as `calibrated` gives them."""


class Taps:
    """What the observe graph took and gave for N samples, and what several signals need of it, taken once."""

    def __init__(self, outputs: Outputs, inputs: Inputs) -> None:
        self.inputs = inputs
        self.outputs = outputs

    @cached_property
    def softmax(self) -> Softmax:
        return Softmax(self.outputs.y)

    @property
    def features(self) -> NDArray[np.float32]:
        return _observed(self.outputs.features)

    @property
    def moments(self) -> NDArray[np.float32]:
        return _observed(self.outputs.moments)

    @cached_property
    def logs(self) -> NDArray[np.float32]:
        return log_variances(self.moments)


Measured = Divergence | Departure | Distance


@dataclass(frozen=True, slots=True)
class Signal:
    """From what was observed of N samples to one figure each, `[N]`."""

    of: Callable[[Taps], NDArray[np.float64]]
    by: Measured | None = None
    """What `trimtab.drift.measure` can take it by."""


SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0, "month": 2629800.0}

CYCLES = ("hour", "day", "week")
"""Cycles that have a name; months differ in length, and two of a year are more than detectors remember."""


def _divergence(bundle: Bundle) -> Signal | None:
    if not bundle.manifest.norms or "observe" not in bundle.manifest.graphs:
        return None
    # In the precision of moments, as departure is: it costs half.
    mean, var = bundle.source.moments_mean, bundle.source.moments_var
    divergence = Divergence(mean.astype(np.float32), var.astype(np.float32))
    return Signal(lambda taps: divergence(taps.moments, taps.logs), divergence)


def _departure(bundle: Bundle) -> Signal | None:
    if not bundle.source.moments_centre.size:
        return None
    departure = Departure(bundle.source.moments_centre, bundle.source.moments_whitening)
    return Signal(lambda taps: departure(taps.moments, taps.logs), departure)


def _distance(bundle: Bundle) -> Signal | None:
    if not bundle.manifest.features or "observe" not in bundle.manifest.graphs:
        return None
    try:
        distance = Distance(bundle.source.feature_mean, whitening(bundle.source.feature_cov))
    except ValueError:
        raise BundleError(
            f"{bundle.path / bundle.manifest.source}: feature_cov has negative eigenvalues; export the bundle again"
        ) from None
    return Signal(lambda taps: distance(taps.features), distance)


def _entropy(bundle: Bundle) -> Signal | None:
    if bundle.manifest.task != "classification":
        return None
    return Signal(lambda taps: taps.softmax.entropy())


def _of_inputs(name: str, bundle: Bundle) -> Signal:
    """Raises ConfigError where the inputs do not give it, BundleError where the source's figures are missing."""
    sensors = bundle.manifest.sensors
    try:
        input_signals.layout(name, list(sensors.values()))
    except ValueError as error:
        raise ConfigError(f"drift.signals: {bundle.path}: {error}; drop {name}") from None
    if name not in bundle.source.usual:
        raise BundleError(
            f"{bundle.path / bundle.manifest.source}: usual.{name} is missing (it was written by an older trimtab, or "
            f"from too few source samples); export the bundle again, or drop {name} from drift.signals"
        )
    unusual = input_signals.Unusual(bundle.source.usual[name])
    return Signal(lambda taps: unusual(input_signals.figures(name, [taps.inputs[s] for s in sensors])))


def calibrated(inputs: Inputs, thetas: Sequence[NDArray[np.float32] | None], layout: ParameterLayout) -> Inputs:
    """The inputs as the graphs calibrate them by each sample's vector `thetas [N]` (None: the source's)."""
    rows = [(i, theta) for i, theta in enumerate(thetas) if theta is not None]
    if not rows:
        return inputs
    found: Inputs = {}
    for name, x in inputs.items():
        if f"input.{name}.gain" in layout:
            x = x.copy()
            for i, theta in rows:
                part = {key: layout.view(theta, f"input.{name}.{key}") for key in ("gain", "offset")}
                column = (-1,) + (1,) * (x.ndim - 2)
                order = f"input.{name}.order"
                row = x[i][layout.view(theta, order).astype(np.intp)] if order in layout else x[i]
                x[i] = part["gain"].reshape(column) * row + part["offset"].reshape(column)
        found[name] = x
    return found


def _observed(tap: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if tap is None:
        raise TypeError("these outputs were served, not observed: they have no taps")
    return tap


def watched_signals(bundle: Bundle, drift: Drift) -> dict[str, Signal]:
    """The configured signals that this bundle can give; signals of inputs, which nobody asks for unawares, it must.

    Raises ConfigError where there is none, BundleError where the source statistics of one make no sense.
    """
    makers: dict[str, Callable[[Bundle], Signal | None]] = {
        "divergence": _divergence,
        "departure": _departure,
        "distance": _distance,
        "entropy": _entropy,
        **{name: partial(_of_inputs, name) for name in input_signals.SIGNALS},
    }
    found: dict[str, Signal] = {name: signal for name in drift.signals if (signal := makers[name](bundle)) is not None}
    if not found:
        manifest = bundle.manifest
        raise ConfigError(
            f"drift.signals: {bundle.path} ({manifest.task}, {len(manifest.norms)} norm layers, {manifest.features} "
            f"features) gives none of {', '.join(drift.signals)}; name another"
        )
    return found


class Signals:
    """The watched signals of micro-batches, a row a window; those of `drift.measure` by machine code after `compile`.

    Raises what `watched_signals` raises.
    """

    def __init__(self, bundle: Bundle, drift: Drift) -> None:
        self._manifest = bundle.manifest
        self._signals = watched_signals(bundle, drift)
        self.names = list(self._signals)
        self._measure: Measure | None = None
        self._others = list(enumerate(self._signals.values()))
        """Those that are not taken by machine code, and their columns."""

    def compile(self) -> None:
        """Take them by machine code from now on, where that is possible.

        For the first time on a machine it takes seconds.
        """
        others = [(i, signal) for i, signal in self._others if self.names[i] not in SIGNALS]
        if not possible() or len(others) == len(self.names):
            return
        measure = Measure(self.names, [s.by for s in self._signals.values()])
        manifest, table = self._manifest, self._table(1)
        # Zeros of the shapes that the observe graph gives for one sample.
        channels = sum(norm.channels for norm in manifest.norms)
        moments = np.zeros((1, 2, channels), np.float32) if channels else None
        features = np.zeros((1, manifest.features), np.float32) if manifest.features else None
        y = np.zeros((1, len(manifest.outputs)), np.float32)
        if works(lambda: measure(moments, features, y, table), "signals"):
            self._measure, self._others = measure, others

    def _table(self, count: int) -> NDArray[np.float64]:
        return np.empty((count, len(self.names)))

    def __call__(self, taps: Taps) -> list[list[float]]:
        """`[N, S]`."""
        outputs = taps.outputs
        table = self._table(len(outputs.y))
        if self._measure is not None:
            self._measure(outputs.moments, outputs.features, outputs.y, table)
        if self._others:
            with np.errstate(all="ignore"):
                for i, signal in self._others:
                    table[:, i] = signal.of(taps)
        rows: list[list[float]] = table.tolist()
        return rows


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


def references(bundle: Bundle, drift: Drift, signals: Iterable[str]) -> dict[str, NDArray[np.float64]]:
    """Recordings without drift by signal, each `[n]`: the bundle's, and those of `drift.calibrations` in their place.

    Raises ConfigError where a file is none of `trimtab drift calibrate`, or not of what is watched here.
    """
    found = dict(bundle.source.reference)
    if not drift.calibrations:
        return found
    from trimtab.runtime import calibrations  # brings scipy.stats along: half a second that only they should cost

    watched = list(signals)
    every = false_alarm_run(drift, bundle) * len(watched)
    taken: dict[str, Path] = {}
    for place, file in enumerate(drift.calibrations):
        try:
            held = calibrations.read(file)
            signal = held.recording.column
            if signal not in watched:
                raise ConfigError(
                    f"{file} is of the column {shown(signal)}, and what is watched is {', '.join(watched)}; drop it, "
                    "or calibrate by a column named as one of them"
                )
            if signal in taken:
                raise ConfigError(f"{file} and {taken[signal]} are both of {signal}; drop one of them")
            entry = held.fitting(file, drift.detector, every, _options(drift, bundle))
        except ConfigError as error:
            raise ConfigError(f"drift.calibrations.{place}: {error}") from None
        except ValueError:  # of the detector or its options: `new_monitor` says which
            continue
        taken[signal] = file
        found[signal] = held.reference()
        log.info(
            "%s: threshold %g of %s by %s (column %s, sha256 %s), calibrated by trimtab %s in %s",
            signal, entry.threshold, entry.detector, held.recording.file, signal, held.recording.sha256[:12],
            held.trimtab, file,
        )  # fmt: skip
    return found


def new_monitor(
    bundle: Bundle, drift: Drift, signals: Iterable[str], reference: Mapping[str, NDArray[np.float64]]
) -> Monitor:
    """The detectors of one stream, of the signals that are watched (see `watched_signals`).

    `reference`: recordings of them (see `references`). Raises ConfigError where the detector, one of its options or the
    accepted false alarms cannot be, or what the detector needs is not installed.
    """
    every = false_alarm_run(drift, bundle)
    options = _options(drift, bundle)
    try:
        return build_monitor(
            list(signals),
            drift.detector,
            every=every,
            refractory=drift.refractory,
            options=options,
            reference=reference,
        )
    except ImportError as error:
        raise ConfigError(f"drift.detector: {error}") from None
    except ValueError as error:
        key = "options" if drift.detector in names() else "detector"
        raise ConfigError(f"drift.{key}: {error}") from None


def new_discoveries(bundle: Bundle, drift: Drift, signals: Iterable[str]) -> Discoveries | None:
    """What decides about the alarms of all streams; None where each stream does for itself."""
    if drift.discoveries is None:
        return None
    chosen = drift.discoveries
    return Discoveries(
        list(signals),
        level=chosen.level,
        period=chosen.period,
        refractory=-(-drift.refractory // drift.observe_every),  # it counts observed windows alone
        references=bundle.source.reference,
    )


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
    except (ValueError, ImportError) as error:
        raise ConfigError(f"drift.errors: {error}") from None


def _options(drift: Drift, bundle: Bundle) -> dict[str, Any]:
    """`drift.options`, with a season in windows."""
    options = dict(drift.options)
    if "season" in options:
        options["season"] = _periods(options["season"], bundle)
    return options


def _periods(season: Any, bundle: Bundle) -> Any:
    """`drift.options.season` with hours, days and weeks as numbers of windows; the rest as it is.

    Raises ConfigError on another text, or a time that is too short or too long a cycle in windows.
    """
    return [_period(period, bundle) for period in (season if isinstance(season, list) else [season])]


def _period(period: Any, bundle: Bundle) -> Any:
    if not isinstance(period, str):
        return period
    if period not in CYCLES:
        raise ConfigError(
            f"drift.options.season: {shown(period)} is no cycle that is known; give {', '.join(CYCLES)} or a number of "
            "windows"
        )
    windows = _per(period, "options.season", "give a number of windows", bundle)
    if not SEASON.low <= windows <= SEASON.high:
        raise ConfigError(
            f"drift.options.season: {period} is a cycle of {windows:g} windows here; give one of {SEASON.low:g} to "
            f"{SEASON.high:g} windows"
        )
    return windows


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
