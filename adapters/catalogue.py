"""The methods by name, built with their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from trimtab.adapters.bias_vector import BiasVector
from trimtab.adapters.input_calibration import InputCalibration
from trimtab.adapters.methods import Method
from trimtab.adapters.norm_statistics import NormStatistics

_METHODS: dict[str, Callable[..., Method]] = {
    "input_calibration": InputCalibration,
    "norm_statistics": NormStatistics,
    "bias_vector": BiasVector,
}


def names() -> list[str]:
    """The methods that `build` knows, in the order in which they are best tried."""
    return list(_METHODS)


def options(name: str) -> dict[str, Any]:
    """The options of a method and their defaults. Raises ValueError where there is no such method."""
    return {f.name: f.default for f in fields(_method(name)) if f.name != "name"}  # type: ignore[arg-type]


def build(name: str, given: Mapping[str, Any] | None = None) -> Method:
    """The method `name` with options `given`.

    Raises ValueError, one sentence, where the name, an option or its value is wrong.
    """
    method = _method(name)
    known = options(name)
    values = {}
    for option, value in (given or {}).items():
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; use one of {', '.join(known)}")
        whole = isinstance(known[option], int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ValueError(f"{name}: {option} is {value!r}; give a {'whole number' if whole else 'number'}")
        values[option] = value if whole else float(value)
    return method(**values)


def _method(name: str) -> Callable[..., Method]:
    try:
        return _METHODS[name]
    except KeyError:
        raise ValueError(f"there is no adaptation method {name!r}; there are {', '.join(_METHODS)}") from None
