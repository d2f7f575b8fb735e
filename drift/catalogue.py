"""The detectors by name: what each watches for, its options, where it comes from, and how to build one.

A detector's module is imported when it is first built.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.advance import HUGE
from trimtab.drift.detector import Detector
from trimtab.drift.monitor import Monitor
from trimtab.drift.seasonal import Seasonal

SHORTEST, LONGEST = 10.0, 1e9
"""Accepted run lengths, in values."""

ENOUGH = 100
"""Finite values that a reference must hold; thresholds from fewer would be worth less than those from theory."""

UNBOUNDED = ("divergence", "departure", "distance", "entropy", "raw", "spectra")
"""Signals that go beyond 1."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a detector."""

    kind: type[int] | type[float] | type[list[float]] | type[bool]
    """`list`: of numbers, or one number."""
    default: Any
    low: float
    high: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One detector of the catalogue."""

    where: str
    """`module:class`."""
    watches: str
    options: dict[str, Option]
    calibration: str
    """How the accepted run length becomes a threshold."""
    reference: str
    values: str = "any"
    """`any` number, or only `0..1`, or only `0..` (from 0 up)."""
    binary: bool = True
    """Whether a signal of two different values alone will do: their deviation follows from their mean."""


_WARMUP = Option(int, 64, 8, 100000, "values from which the baseline is learnt before the first test")
_MEMORY = Option(int, 5000, 8, 10**9, "values that the baseline remembers; older ones fade")
_RIVER = "trimtab.drift.river_adapter:"
_WINDOWS = {
    "size": Option(int, 300, 20, 10000, "values of the reference window"),
    "recent": Option(int, 100, 10, 10000, "newest values, held against them"),
    "clock": Option(int, 10, 1, 1000, "values between two tests"),
}
_BOOTSTRAP = "bootstrap of the reference window for independent values, in blocks of a recording where there is one"
_UNIFORM = "simulation, for independent values of any continuous distribution; by bootstrap of a recording in blocks"
_HTM = {
    "columns": Option(int, 2048, 64, 65536, "columns of the HTM"),
    "cells": Option(int, 32, 1, 64, "cells of a column"),
    "segments": Option(int, 32768, 64, 131072, "segments that it can learn; then old ones make way"),
    "regions": Option(int, 1, 1, 8, "HTMs of different seeds whose mean score is taken"),
}

CATALOGUE: dict[str, Entry] = {
    "sprt": Entry(
        "trimtab.drift.sprt:Sprt",
        "a lasting shift of the mean, up or down",
        {
            "shifts": Option(
                list, None, 0.05, 6, "shifts to detect fastest, in deviations; none: 1, and what the reference asks for"
            ),
            "warmup": _WARMUP,
            "memory": _MEMORY,
        },
        "exact for independent Gaussian values; by bootstrap of the reference where there is one",
        "Wald 1945; Page 1954; Hawkins 1987",
    ),
    "sprt_bernoulli": Entry(
        "trimtab.drift.sprt_bernoulli:SprtBernoulli",
        "a lasting change of a rate, up or down",
        {
            "odds": Option(float, 2.0, 1.1, 100, "change of the odds to detect fastest, as a factor"),
            "warmup": _WARMUP,
            "memory": _MEMORY,
        },
        "Markov chain for independent values; a reference tells how far values hang together",
        "Wald 1945; Reynolds and Stoumbos 1999",
        "0..1",
    ),
    "sprt_poisson": Entry(
        "trimtab.drift.sprt_poisson:SprtPoisson",
        "a lasting change of the rate of counted events, up or down",
        {
            "ratio": Option(float, 1.5, 1.05, 100, "change of the rate to detect fastest, as a factor"),
            "warmup": _WARMUP,
            "memory": _MEMORY,
        },
        "Markov chain for independent Poisson counts; a reference tells how far they vary more, and hang together",
        "Wald 1945; Lucas 1985",
        "0..",
    ),
    "sprt_exponential": Entry(
        "trimtab.drift.sprt_exponential:SprtExponential",
        "a lasting change of the mean of waiting times or magnitudes, up or down",
        {
            "ratio": Option(float, 1.5, 1.05, 100, "change of the mean to detect fastest, as a factor"),
            "warmup": _WARMUP,
            "memory": _MEMORY,
        },
        "Markov chain for independent exponential values; a reference tells how far they vary more, and hang together",
        "Wald 1945; Vardeman and Ray 1985",
        "0..",
    ),
    "glr": Entry(
        "trimtab.drift.glr:glr",
        "a lasting shift of the mean of any size, up or down",
        {
            "window": Option(int, 200, 10, 5000, "longest time since a change that is considered, in values"),
            "warmup": _WARMUP,
            "memory": _MEMORY,
        },
        "extremes of a Gaussian field, for independent Gaussian values; by replay of the reference where there is one",
        "Lai 1995; Siegmund and Venkatraman 1995",
    ),
    "shiryaev_roberts": Entry(
        "trimtab.drift.shiryaev_roberts:shiryaev_roberts",
        "a lasting shift of the mean, up or down",
        {
            "shifts": Option(list, None, 0.05, 6, "shifts to detect fastest, in deviations; none: 0.5, 1 and 2"),
            "warmup": _WARMUP,
            "memory": _MEMORY,
        },
        "renewal theory, for independent Gaussian values; by replay of the reference where there is one",
        "Shiryaev 1963; Roberts 1966; Pollak 1987",
    ),
    "ewma": Entry(
        "trimtab.drift.ewma:ewma",
        "a lasting shift of the mean, up or down",
        {
            "weight": Option(float, 0.1, 0.005, 0.5, "weight of the newest value in the mean"),
            "warmup": _WARMUP,
            "memory": _MEMORY,
        },
        "exact for independent Gaussian values; by replay of the reference where there is one",
        "Roberts 1959; Crowder 1987",
    ),
    "cusum_variance": Entry(
        "trimtab.drift.cusum_variance:cusum_variance",
        "a lasting change of the variance, up or down",
        {
            "ratio": Option(float, 1.5, 1.05, 10, "change of the deviation to detect fastest, as a factor"),
            "warmup": _WARMUP,
            "memory": _MEMORY,
        },
        "Markov chain, for independent Gaussian values; by replay of the reference where there is one",
        "Page 1954; Hawkins 1981",
        binary=False,
    ),
    "e_detector": Entry(
        "trimtab.drift.e_detector:e_detector",
        "a lasting shift of the mean, up or down",
        {
            "bounded": Option(bool, False, 0, 1, "assume nothing of the distribution but its mean and deviation"),
            "warmup": _WARMUP,
            "memory": _MEMORY,
        },
        "guaranteed by e-values: fewer false alarms than asked; by replay of the reference where that says more",
        "Shin, Ramdas and Rinaldo 2022",
    ),
    "conformal_martingale": Entry(
        "trimtab.drift.conformal_martingale:ConformalMartingale",
        "a lasting change of level or spread, by ranks",
        {
            "warmup": _WARMUP,
            "memory": Option(int, 500, 8, 20000, "values among which a new one is ranked"),
        },
        "guaranteed for exchangeable values of any distribution: fewer false alarms than asked",
        "Vovk et al. 2021",
    ),
    "bocpd": Entry(
        "trimtab.drift.bocpd:bocpd",
        "a lasting change of mean or variance",
        {
            "window": Option(int, 200, 10, 5000, "longest time since a change that is told from none, in values"),
            "warmup": _WARMUP,
            "memory": _MEMORY,
        },
        "guaranteed for independent Gaussian values: fewer false alarms than asked; by replay of the reference",
        "Adams and MacKay 2007",
        binary=False,
    ),
    "ks": Entry(
        "trimtab.drift.ks:ks",
        "any change of the distribution, by the greatest difference",
        _WINDOWS,
        _UNIFORM,
        "Kolmogorov 1933; Smirnov 1939",
    ),
    "cramer_von_mises": Entry(
        "trimtab.drift.cramer_von_mises:cramer_von_mises",
        "any change of the distribution, by the mean square difference",
        _WINDOWS,
        _UNIFORM,
        "Anderson 1962",
    ),
    "wasserstein": Entry(
        "trimtab.drift.wasserstein:wasserstein",
        "any change of the distribution, by how far values have moved",
        _WINDOWS,
        _BOOTSTRAP,
        "Vallender 1974",
    ),
    "psi": Entry(
        "trimtab.drift.psi:psi",
        "any change of the distribution, by a histogram",
        _WINDOWS,
        _UNIFORM,
        "Siddiqi 2006",
    ),
    "mmd": Entry(
        "trimtab.drift.mmd:mmd",
        "any change of the distribution, by a Gaussian kernel",
        _WINDOWS,
        _BOOTSTRAP,
        "Gretton et al. 2012",
    ),
    "lsdd": Entry(
        "trimtab.drift.lsdd:lsdd",
        "any change of the distribution, by the difference of densities",
        _WINDOWS,
        _BOOTSTRAP,
        "Sugiyama et al. 2013; Bu, Alippi and Zhao 2016",
    ),
    "adwin": Entry(
        _RIVER + "adwin",
        "a change of the mean between any two parts of a window that grows while nothing changes",
        {"clock": Option(int, 32, 1, 1000, "values between two checks"), "warmup": _WARMUP},
        "ADWIN's own bound, for independent values: fewer false alarms than asked",
        "Bifet and Gavalda 2007",
    ),
    "kswin": Entry(
        _RIVER + "kswin",
        "any change of the distribution, by a Kolmogorov-Smirnov test of recent values",
        {
            "window": Option(int, 100, 20, 10000, "values remembered"),
            "recent": Option(int, 30, 10, 5000, "of these, the newest, tested against the others"),
        },
        "level of each test, for independent values",
        "Raab, Heusinger and Schleif 2020",
    ),
    "page_hinkley": Entry(
        _RIVER + "page_hinkley",
        "a lasting shift of the mean, up or down",
        {"shift": Option(float, 1.0, 0.05, 6, "shift to detect fastest, in deviations"), "warmup": _WARMUP},
        "run length of a CUSUM, for independent Gaussian values",
        "Page 1954",
    ),
    "ddm": Entry(
        _RIVER + "ddm",
        "a rise of an error rate",
        {"warmup": _WARMUP},
        "by simulation, for independent values",
        "Gama et al. 2004",
        "0..1",
    ),
    "hddm_a": Entry(
        _RIVER + "hddm_a",
        "a change of a rate, abrupt",
        {},
        "Hoeffding's bound, for independent values",
        "Frias-Blanco et al. 2015",
        "0..1",
    ),
    "hddm_w": Entry(
        _RIVER + "hddm_w",
        "a change of a rate, gradual",
        {"weight": Option(float, 0.05, 0.001, 0.5, "weight of the newest value in the mean")},
        "McDiarmid's bound, for independent values",
        "Frias-Blanco et al. 2015",
        "0..1",
    ),
    "htm": Entry(
        "trimtab.drift.htm:Htm",
        "sequences that were not seen before, in a signal that is predictable",
        _HTM,
        "normal tail of means of ten anomaly scores: approximate",
        "Hawkins and Ahmad 2016; Ahmad et al. 2017",
    ),
    "htm_sprt": Entry(
        "trimtab.drift.htm_sprt:HtmSprt",
        "the same by sequential tests, which also tell whether it lasts; and a lasting shift of the mean",
        {"hold": Option(int, 100, 10, 100000, "values of an event, in which there is no other alarm"), **_HTM},
        "Wald's bound for normal anomaly scores: approximate; bootstrap of the reference, or of the first values",
        "Bandyopadhyay, Bose and Roy Chowdhury 2025",
    ),
}

SEASON = Option(
    list, None, 4, 1e6, "periods of cycles that are no drift, such as a day, in values; none: there are none"
)
for _name, _entry in CATALOGUE.items():
    # A residual is no count, and HTMs learn sequences by themselves.
    if _entry.values == "any" and _name not in ("htm", "htm_sprt"):
        _entry.options["season"] = SEASON


def names() -> list[str]:
    """The names of all detectors."""
    return list(CATALOGUE)


def describe(name: str) -> Entry:
    """The entry of one detector. Raises ValueError on an unknown name."""
    try:
        return CATALOGUE[name]
    except KeyError:
        near = get_close_matches(name, CATALOGUE, n=3) or ["sprt"]
        raise ValueError(
            f"detector {name!r} is unknown; choose {' or '.join(near)}, or another that `trimtab detectors` lists"
        ) from None


def build(
    name: str,
    *,
    every: float,
    options: Mapping[str, Any] | None = None,
    reference: NDArray[np.float64] | None = None,
    follows: bool = False,
) -> Detector:
    """A detector that gives one false alarm in `every` values on average.

    `reference [n]`: the signal recorded in order without drift; it calibrates the detectors that can use one. It is
    left out where it holds fewer than ENOUGH finite values, or only equal ones. `follows`: the stream goes on where the
    reference ends, so that the phase of a `season` is known (trimtab.drift.seasonal).

    Raises ValueError, in one sentence, on an unknown name or option, or a value out of range; ImportError, in one
    sentence, where an optional dependency of the detector is not installed, or cannot work in this process.
    """
    entry = describe(name)
    if not SHORTEST <= every <= LONGEST:
        raise ValueError(
            f"one false alarm in {every:g} values is asked for; give a number from {SHORTEST:g} to {LONGEST:g}"
        )
    settings = checked(name, options or {})
    season = settings.pop("season", None)
    module, attribute = entry.where.split(":")
    maker = getattr(importlib.import_module(module), attribute)

    def make(recorded: NDArray[np.float64] | None) -> Detector:
        detector: Detector = maker(every=float(every), reference=usable(recorded), **settings)
        return detector

    known = None if reference is None else np.asarray(reference, np.float64).ravel()
    return Seasonal(make, season, reference=known, follows=follows) if season else make(known)


def usable(recorded: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """The finite values of a recording; None where they are fewer than ENOUGH, or all the same."""
    if recorded is None:
        return None
    recorded = recorded[np.abs(recorded) < HUGE]  # neither NaN nor infinity
    return None if recorded.size < ENOUGH or np.ptp(recorded) == 0 else recorded


def build_monitor(
    signals: Sequence[str],
    detector: str,
    every: float,
    refractory: int,
    options: Mapping[str, Any] | None = None,
    reference: Mapping[str, NDArray[np.float64]] | None = None,
) -> Monitor:
    """A monitor with one `detector` a signal, all together one false alarm in `every` observed windows.

    Each signal gets its even share of the rate (Bonferroni: valid however the signals hang together). `reference`
    maps signals to recordings without drift `[n]`, see `build`. Raises ValueError where the
    detector or an option is wrong, ImportError as `build` does.
    """
    unbounded = [s for s in signals if s in UNBOUNDED]
    if describe(detector).values == "0..1" and unbounded:
        raise ValueError(f"detector {detector} takes numbers from 0 to 1, and {unbounded[0]} is not; choose another")
    share = every * len(signals)
    known = reference or {}
    return Monitor(
        {s: build(detector, every=share, options=options, reference=known.get(s)) for s in signals}, refractory
    )


def checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A detector's options, each of the right kind and in range. Raises ValueError, in one sentence, where not."""
    known = describe(name).options
    return {key: _checked(name, known, key, value) for key, value in options.items()}


def _checked(name: str, options: Mapping[str, Option], key: str, value: Any) -> Any:
    option = options.get(key)
    if option is None:
        known = f"use one of {', '.join(options)}" if options else "leave it out, it has none"
        raise ValueError(f"detector {name} has no option {key!r}; {known}")
    wanted = {int: "a whole number", float: "a number", list: "a number or a list of them", bool: "true or false"}[
        option.kind
    ]
    values = value if option.kind is list and isinstance(value, list | tuple) and value else [value]
    for v in values:
        right = isinstance(v, bool) if option.kind is bool else isinstance(v, int | float) and not isinstance(v, bool)
        if option.kind is int:
            right = right and isinstance(v, int)
        if not right or not (option.kind is bool or option.low <= v <= option.high):
            limits = "" if option.kind is bool else f" from {option.low:g} to {option.high:g}"
            raise ValueError(f"detector {name}: option {key} is {value!r}; give {wanted}{limits}")
    return tuple(float(v) for v in values) if option.kind is list else option.kind(value)
