"""An anomaly score from 0 to 1 for each record of a recording, by any detector of the catalogue, in one pass.

A record's score depends on records up to it alone. That of a detector is statistic / (statistic + threshold), which
reaches 0.5 where it alarms. The HTM detectors also use a record's time, and a rule for values beyond the range.
`htm` takes records of several columns, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.catalogue import LONGEST, SHORTEST, build, checked

EVERY = 10000.0
"""Records between false alarms where nothing is asked for."""

WITH_TIME = {"htm": "trimtab.drift.htm:HtmAnomaly", "htm_sprt": "trimtab.drift.htm_sprt:HtmSprtAnomaly"}

Score = Callable[[float | None, float], tuple[float, bool]]
"""(time in seconds since 1970 of the local clock or None, value) -> (score, alarm)."""


VectorScore = Callable[[float | None, Sequence[float]], tuple[float, bool]]
"""The same of a record with a value a column."""

MULTIVARIATE = "htm"


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
    reference does. Raises ValueError and ImportError, in one sentence, as `catalogue.build` does.
    """
    if name not in WITH_TIME:
        detector = build(name, every=EVERY if every is None else every, options=options, reference=reference)

        def score(time: float | None, value: float) -> tuple[float, bool]:
            finding = detector.update(value)
            statistic = max(finding.statistic, 0.0)
            total = statistic + finding.threshold
            return (statistic / total if total > 0 else float(finding.alarm)), finding.alarm

        return score
    settings = _settings(name, every, options)
    module, attribute = WITH_TIME[name].split(":")
    anomaly: _Anomaly = getattr(importlib.import_module(module), attribute)(range_rule=range_rule, **settings)

    def score_timed(time: float | None, value: float) -> tuple[float, bool]:
        found = anomaly.update(time, value)
        return found, found >= anomaly.alarm_at

    return score_timed


def columns_scorer(
    name: str,
    columns: Sequence[str],
    *,
    every: float | None = None,
    options: Mapping[str, Any] | None = None,
    range_rule: bool = True,
    combiner: Path | None = None,
) -> VectorScore:
    """What scores records of several `columns` by detector `name`, which must be MULTIVARIATE (htm_columns).

    combiner: the network that combines their scores; it knows its columns, `every` and options. Raises ValueError
    and ImportError, in one sentence, as `scorer` does.
    """
    if name != MULTIVARIATE:
        raise ValueError(f"detector {name} takes one column; {MULTIVARIATE} takes several, and a combiner")
    from trimtab.drift.combiner import Combiner
    from trimtab.drift.htm_columns import HtmColumns

    if combiner is None:
        detector = HtmColumns(len(columns), range_rule=range_rule, **_settings(name, every, options))
    else:
        if every is not None or options or not range_rule:
            raise ValueError(
                f"{combiner} was trained for one rate of false alarms and one HTM; leave its settings as they are, or "
                "train another"
            )
        network = Combiner(combiner)
        recipe = network.recipe
        if tuple(columns) != recipe.columns:
            raise ValueError(
                f"{combiner} was trained for the columns {','.join(recipe.columns)}, in this order, not "
                f"{','.join(columns)}"
            )
        detector = HtmColumns(len(columns), hold=recipe.hold, combiner=network, **dict[str, Any](recipe.options))

    def score(time: float | None, values: Sequence[float]) -> tuple[float, bool]:
        found = detector.update(time, values)
        return found, found >= detector.alarm_at

    return score


def _settings(name: str, every: float | None, options: Mapping[str, Any] | None) -> dict[str, Any]:
    settings = checked(name, options or {})
    if every is not None:
        if not SHORTEST <= every <= LONGEST:
            raise ValueError(f"one false alarm in {every:g} values is asked for; give a number from 10 to 1e+09")
        settings["every"] = every
    return settings
