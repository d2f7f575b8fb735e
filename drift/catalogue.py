"""The detectors by name: what each watches for, its options, where it comes from, and how to build one.

A detector's module is imported when it is first built.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.detector import Detector
from trimtab.drift.monitor import Monitor

SHORTEST, LONGEST = 10.0, 1e9
"""Accepted run lengths, in values."""

ENOUGH = 200
"""Finite values that a reference must hold; thresholds from fewer would be worth less than those from theory."""

UNBOUNDED = ("divergence", "departure", "distance", "entropy")
"""Signals that go beyond 1."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a detector."""

    kind: type[int] | type[float] | type[list[float]] | type[bool]
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
    """`any` number, or only `0..1`."""


_WARMUP = Option(int, 64, 8, 100000, "values from which the baseline is learnt before the first test")
_MEMORY = Option(int, 5000, 8, 10**9, "values that the baseline remembers; older ones fade")
_RIVER = "trimtab.drift.river_adapter:"
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
        "the same by sequential tests, which also tell whether it lasts",
        {"hold": Option(int, 100, 10, 100000, "values of an event, in which there is no other alarm"), **_HTM},
        "Wald's bound for normal anomaly scores: approximate",
        "Bandyopadhyay, Bose and Roy Chowdhury 2025",
    ),
}


def names() -> list[str]:
    """The names of all detectors."""
    return list(CATALOGUE)


def describe(name: str) -> Entry:
    """The entry of one detector. Raises ValueError on an unknown name."""
    try:
        return CATALOGUE[name]
    except KeyError:
        raise ValueError(f"detector {name!r} is unknown; choose one of {', '.join(CATALOGUE)}") from None


def build(
    name: str,
    *,
    every: float,
    options: Mapping[str, Any] | None = None,
    reference: NDArray[np.float64] | None = None,
) -> Detector:
    """A detector that gives one false alarm in `every` values on average.

    `reference [n]`: the signal recorded in order without drift; it calibrates the detectors that can use one. It is
    left out where it holds fewer than ENOUGH finite values, or only equal ones.

    Raises ValueError, in one sentence, on an unknown name or option, or a value out of range; ModuleNotFoundError, in
    one sentence, where an optional dependency of the detector is not installed.
    """
    entry = describe(name)
    if not SHORTEST <= every <= LONGEST:
        raise ValueError(
            f"one false alarm in {every:g} values is asked for; give a number from {SHORTEST:g} to {LONGEST:g}"
        )
    settings = checked(name, options or {})
    if reference is not None:
        reference = np.asarray(reference, np.float64).ravel()
        reference = reference[np.isfinite(reference)]
        if reference.size < ENOUGH or np.ptp(reference) == 0:
            reference = None
    module, attribute = entry.where.split(":")
    make = getattr(importlib.import_module(module), attribute)
    detector: Detector = make(every=float(every), reference=reference, **settings)
    return detector


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
    detector or an option is wrong, ModuleNotFoundError as `build` does.
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
    wanted = {int: "a whole number", float: "a number", list: "a list of numbers", bool: "true or false"}[option.kind]
    values = value if option.kind is list and isinstance(value, list | tuple) and value else [value]
    for v in values:
        right = isinstance(v, bool) if option.kind is bool else isinstance(v, int | float) and not isinstance(v, bool)
        if option.kind is int:
            right = right and isinstance(v, int)
        if option.kind is list:
            right = right and values is not None and isinstance(value, list | tuple)
        if not right or not (option.kind is bool or option.low <= v <= option.high):
            limits = "" if option.kind is bool else f" from {option.low:g} to {option.high:g}"
            raise ValueError(f"detector {name}: option {key} is {value!r}; give {wanted}{limits}")
    return tuple(float(v) for v in value) if option.kind is list else option.kind(value)
