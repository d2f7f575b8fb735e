"""An anomaly score from 0 to 1 for each record of a recording, by any detector of the catalogue, in one pass.

A record's score depends on records up to it alone. That of a detector is statistic / (statistic + threshold), which
reaches 0.5 where it alarms. The HTM detectors also use a record's time, and a rule for values beyond the range.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.catalogue import LONGEST, SHORTEST, build, checked

EVERY = 10000.0
"""Records between false alarms where nothing is asked for."""

WITH_TIME = {"htm": "trimtab.drift.htm:HtmAnomaly", "htm_sprt": "trimtab.drift.htm_sprt:HtmSprtAnomaly"}

Score = Callable[[float | None, float], tuple[float, bool]]
"""(time in seconds since 1970 of the local clock or None, value) -> (score, alarm)."""


class _Anomaly(Protocol):
    alarm_at: float

    def update(self, time: float | None, value: float) -> float: ...


def scorer(
    name: str,
    *,
    every: float | None = None,
    options: Mapping[str, Any] | None = None,
    reference: NDArray[np.float64] | None = None,
    range_rule: bool = True,
) -> Score:
    """What scores records by detector `name`; `every`, `options` and `reference` as in `catalogue.build`.

    `every` None: the detector's own default, else EVERY. `range_rule` concerns the HTM detectors alone, which no
    reference does. Raises ValueError and ModuleNotFoundError, in one sentence, as `catalogue.build` does.
    """
    if name not in WITH_TIME:
        detector = build(name, every=EVERY if every is None else every, options=options, reference=reference)

        def score(time: float | None, value: float) -> tuple[float, bool]:
            finding = detector.update(value)
            statistic = max(finding.statistic, 0.0)
            total = statistic + finding.threshold
            return (statistic / total if total > 0 else float(finding.alarm)), finding.alarm

        return score
    settings = checked(name, options or {})
    if every is not None:
        if not SHORTEST <= every <= LONGEST:
            raise ValueError(f"one false alarm in {every:g} values is asked for; give a number from 10 to 1e+09")
        settings["every"] = every
    module, attribute = WITH_TIME[name].split(":")
    anomaly: _Anomaly = getattr(importlib.import_module(module), attribute)(range_rule=range_rule, **settings)

    def score_timed(time: float | None, value: float) -> tuple[float, bool]:
        found = anomaly.update(time, value)
        return found, found >= anomaly.alarm_at

    return score_timed
