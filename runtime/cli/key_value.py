"""`--option KEY=VALUE`, for all detectors or for one, and what goes with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from trimtab.drift.catalogue import describe
from trimtab.drift.seasonal import period_of
from trimtab.runtime.errors import ConfigError


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """Key to value, which is read as JSON, or taken as it stands. Raises ConfigError where there is no `=`."""
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--option {text} must be KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def of_each(texts: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The options of each detector of `names`: `KEY=VALUE` is for all that have it, `NAME.KEY=VALUE` for one.

    Raises ConfigError where there is no `=`, no such detector among them, or none that has the option.
    """
    given = settings(texts)
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key in sorted(given, key=lambda key: "." in key):  # what is said of one goes before what is said of all
        name, dot, own = key.partition(".")
        if dot and name not in found:
            raise ConfigError(f"--option {key}: {name} is not among the detectors {', '.join(names)}")
        # Where there is but one detector, the catalogue says which options it has.
        having = [name] if dot else [n for n in names if key in describe(n).options or len(names) == 1]
        if not having:
            raise ConfigError(f"--option {key}: none of {', '.join(names)} has it; see `trimtab detectors`")
        for name in having:
            found[name][own or key] = given[key]
    return found


def periods(seasons: Sequence[float | str], recording: NDArray[np.float64] | None) -> dict[str, Any]:
    """`--season` as an option of detectors: `auto` is found in a recording `[n]`, or is none."""
    found = [period_of(recording) if s == "auto" and recording is not None else s for s in seasons]
    known = [period for period in found if period is not None]
    return {"season": known} if known else {}


def has_season(name: str) -> bool:
    """Whether a detector can be told of cycles."""
    return "season" in describe(name).options


class Season(click.ParamType[float | str]):
    """`auto`, or a period in values."""

    name = "season"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        try:
            return "auto" if value == "auto" else float(value)
        except ValueError:
            self.fail(f"{value!r} is no period; give a number of values, or auto", param, ctx)


season_option = click.option(
    "--season", "seasons", multiple=True, type=Season(), metavar="VALUES",
    help="Period of a cycle that is no drift, in values (288: a day of one in five minutes); may be repeated.",
)  # fmt: skip
of_each_option = click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE",
    help="An option of all detectors that have it; DETECTOR.KEY=VALUE: of one.",
)  # fmt: skip
"""For `of_each`."""
