"""river's drift detectors behind trimtab's protocol (Montiel et al. 2021), each told what false alarms are accepted.

**Calibration.** With `every` values between false alarms:

- adwin: delta = clock / every. ADWIN's bound holds for each check, one in `clock` values (Bifet and Gavalda 2007,
  theorem 3.1): at most the rate asked, in practice far below it.
- kswin: alpha = 1 / every. Each value is tested at level alpha (Raab, Heusinger and Schleif 2020).
- page_hinkley: a CUSUM, whose threshold is solved for (trimtab.drift.run_length), of values standardised by
  trimtab.drift.baseline: by a deviation from a short warm-up alone alarms were a fifth to a half rarer than asked.
- ddm: drift threshold sqrt(2 ln every) deviations, 3.7 for 1,000 and 4.5 for 20,000: no theory is known. In
  simulations of rates 0.05 to 0.5 the false alarms stay below the rate asked (tests/drift).
- hddm_a, hddm_w: confidence 1 / (2 every) a direction, by Hoeffding's and McDiarmid's bound for each value
  (Frias-Blanco et al. 2015).

All of that is for independent values: none of them can use a reference. EDDM is left out: its alarms come from a ratio
of 0.9 that no false-alarm rate follows from.

**Scale.** ADWIN's bound is for values from 0 to 1: it is given an eighth of (x - mean) / deviation of a warm-up. The
binary detectors take values from 0 to 1 and skip others.

**State** is exact: the attributes of river's object are walked and written down as JSON, with those of its compiled
parts as the bytes that these give of themselves (ADWIN, EWMean). It is bound to the river version that wrote it.
"""

from __future__ import annotations

import collections
import math
import random
import statistics
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import drift
from river.drift import binary

from trimtab.drift.advance import HUGE
from trimtab.drift.baseline import Baseline
from trimtab.drift.detector import Finding, State
from trimtab.drift.run_length import threshold

MEMORY = 5000
"""Values that a baseline remembers."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What differs from one of river's detectors to the next."""

    name: str
    make: Callable[[], Any]
    limit: float
    """The threshold that `statistic` is held against."""
    statistic: Callable[[Any], float]
    onset: Callable[[Any], int | None]
    """Values ago at which the change began, by the detector after its alarm."""
    scale: float = 0.0
    """Deviations that make up 1 in what the detector is given; 0: values are given as they are."""
    standardised: bool = False
    """The detector is given z, by a baseline."""
    share: bool = False
    """Only values from 0 to 1 are taken."""


class River:
    """One of river's detectors. See the module for calibration, scale and state; `warmup` applies to scaled ones."""

    def __init__(self, kind: _Kind, warmup: int = 64) -> None:
        self.name = kind.name
        self._kind = kind
        self._warmup = warmup
        self._baseline = Baseline(warmup, MEMORY, None) if kind.standardised else None
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._detector = self._kind.make()
        self._learning: list[float] = []
        self._centre: float | None = None
        self._unit = 1.0
        if self._baseline is not None:
            self._baseline.reset()

    def update(self, value: float) -> Finding:
        """Take one value."""
        kind = self._kind
        taken = 0 <= value <= 1 if kind.share else -HUGE < value < HUGE
        if not taken:
            return self._finding()
        if kind.scale:
            if self._centre is None:
                self._learn(value)
                return self._finding()
            value = (value - self._centre) / self._unit
        if self._baseline is not None:
            z = self._baseline.take(value)
            if z is None:
                return self._finding()
            value = z
        self._detector.update(float(value))  # a NumPy number would leave flags in its state that are no bool
        if not self._detector.drift_detected:
            return self._finding()
        finding = Finding(True, max(kind.statistic(self._detector), kind.limit), kind.limit, kind.onset(self._detector))
        self.reset()
        return finding

    def _learn(self, value: float) -> None:
        self._learning.append(value)
        if len(self._learning) == self._warmup:
            self._centre = statistics.fmean(self._learning)
            deviation = statistics.pstdev(self._learning, self._centre)
            self._unit = self._kind.scale * max(deviation, 1e-9 * abs(self._centre), 1e-300)
            self._learning = []

    def _finding(self) -> Finding:
        return Finding(False, min(self._kind.statistic(self._detector), self._kind.limit), self._kind.limit, None)

    def state(self) -> State:
        """All of the memory."""
        return {
            "detector": self.name,
            "version": 2,
            "river": version("river"),
            "baseline": None if self._baseline is None else self._baseline.state(),
            "learning": list(self._learning),
            "centre": self._centre,
            "unit": self._unit,
            "attributes": _written(self._detector),
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector, version or river."""
        if (state.get("detector"), state.get("version"), state.get("river")) != (self.name, 2, version("river")):
            raise ValueError(f"this state is not of {self.name} with river {version('river')}; reset the detector")
        detector = self._kind.make()
        _read(detector, state["attributes"])
        self._detector = detector
        if self._baseline is not None:
            self._baseline.restore(state["baseline"])
        self._learning = [float(v) for v in state["learning"]]
        self._centre = None if state["centre"] is None else float(state["centre"])
        self._unit = float(state["unit"])


def adwin(*, every: float, reference: NDArray[np.float64] | None, clock: int = 32, warmup: int = 64) -> River:
    """Adaptive windowing: the mean of the older values against that of the newer, at any cut."""
    make = _maker(drift.ADWIN, delta=min(clock / every, 0.5), clock=clock)
    return River(_Kind("adwin", make, 1.0, _flag, lambda d: max(int(d.width) - 1, 0), scale=8.0), warmup)


def kswin(*, every: float, reference: NDArray[np.float64] | None, window: int = 100, recent: int = 30) -> River:
    """Kolmogorov-Smirnov test of the `recent` values against as many drawn from the rest of the `window`."""
    if recent * 2 > window:
        raise ValueError(f"recent must be at most half of window ({window}), not {recent}")
    make = _maker(drift.KSWIN, alpha=1 / every, window_size=window, stat_size=recent, seed=0)

    def statistic(d: Any) -> float:
        # Before its first test river's p is 0.
        tested = len(d.window) >= window or d.drift_detected
        return -math.log(max(float(d.p_value), 1e-300)) if tested else 0.0

    return River(_Kind("kswin", make, math.log(every), statistic, lambda d: recent - 1))


def page_hinkley(*, every: float, reference: NDArray[np.float64] | None, shift: float = 1.0, warmup: int = 64) -> River:
    """Page-Hinkley test for a `shift` of the mean, in deviations."""
    limit = threshold(shift / 2, 2 * every)  # one-sided, of two
    make = _maker(drift.PageHinkley, min_instances=1, delta=shift / 2, threshold=limit, alpha=1.0)

    def statistic(d: Any) -> float:
        return float(max(0.0, d._sum_increase - d._min_increase, d._max_decrease - d._sum_decrease))

    return River(_Kind("page_hinkley", make, limit, statistic, lambda d: None, standardised=True), warmup)


def ddm(*, every: float, reference: NDArray[np.float64] | None, warmup: int = 64) -> River:
    """Drift detection method: the error rate so far against its lowest."""
    limit = math.sqrt(2 * math.log(every))
    make = _maker(binary.DDM, warm_start=warmup, warning_threshold=limit, drift_threshold=limit)

    def statistic(d: Any) -> float:
        if not d._s_min:
            return 0.0
        rate = float(d._p.get())
        return float(max(0.0, (rate + math.sqrt(rate * (1 - rate) / d._p.n) - d._p_min) / d._s_min))

    return River(_Kind("ddm", make, limit, statistic, lambda d: None, share=True))


def hddm_a(*, every: float, reference: NDArray[np.float64] | None) -> River:
    """Hoeffding's bound on the mean so far against the mean up to its lowest (highest) point."""
    make = _maker(binary.HDDMA, drift_confidence=0.5 / every, warning_confidence=0.5 / every, two_sided_test=True)

    def onset(d: Any) -> int:
        return int(d._z.n - min(d._x_min.n, d._x_max.n)) - 1

    return River(_Kind("hddm_a", make, 1.0, _flag, onset, share=True))


def hddm_w(*, every: float, reference: NDArray[np.float64] | None, weight: float = 0.05) -> River:
    """McDiarmid's bound on exponentially weighted means (`weight` of the newest value)."""
    make = _maker(
        binary.HDDMW,
        drift_confidence=0.5 / every,
        warning_confidence=0.5 / every,
        lambda_val=weight,
        two_sided_test=True,
    )
    return River(_Kind("hddm_w", make, 1.0, _flag, lambda d: None, share=True))


def _maker(kind: Callable[..., Any], **settings: Any) -> Callable[[], Any]:
    return lambda: kind(**settings)


def _flag(detector: Any) -> float:
    """For detectors that show no statistic."""
    return float(detector.drift_detected)


def _written(thing: Any) -> Any:
    """An attribute, or an object of river's with all of its attributes, as JSON."""
    if thing is None or isinstance(thing, bool | int | str):
        return thing
    if isinstance(thing, float):
        return float(thing) if math.isfinite(thing) else {"float": str(float(thing))}
    if isinstance(thing, collections.deque):
        return {"values": [_written(v) for v in thing]}
    if isinstance(thing, random.Random):
        kind, internal, normal = thing.getstate()
        return {"random": [kind, list(internal), normal]}
    if hasattr(thing, "__dict__"):
        # Bound methods are chosen by the settings, and made with the object.
        return {"attributes": {key: _written(v) for key, v in vars(thing).items() if not callable(v)}}
    data = thing.__getstate__()
    if not isinstance(data, bytes):
        raise TypeError(f"river {version('river')} keeps a {type(thing).__name__} that gives no bytes of its state")
    return {"bytes": data.hex(), "crc32": zlib.crc32(data)}


def _read(into: Any, written: Any) -> Any:
    """The inverse: fills `into`, made by the same settings, or gives the value to put in its place."""
    if not isinstance(written, dict):
        return written
    if "float" in written:
        return float(written["float"])
    if "values" in written:
        return collections.deque((_read(None, v) for v in written["values"]), into.maxlen)
    if "random" in written:
        kind, internal, normal = written["random"]
        into.setstate((kind, tuple(internal), normal))
    elif "bytes" in written:
        data = bytes.fromhex(written["bytes"])
        if zlib.crc32(data) != written["crc32"]:
            # The compiled parts abort on bytes that they cannot read.
            raise ValueError("the state of a river detector is damaged; reset the detector")
        into.__setstate__(data)
    else:
        for key, value in written["attributes"].items():
            setattr(into, key, _read(getattr(into, key), value))
    return into
