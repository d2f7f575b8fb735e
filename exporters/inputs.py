"""What is said about a model's inputs, checked and turned into the manifest's entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from trimtab.exporters.lowering import RESERVED
from trimtab.runtime.bundle import Calibration, Input
from trimtab.runtime.errors import ExportError

T = TypeVar("T")
PerInput = Sequence[T] | Mapping[str, Sequence[T]]
"""One value a channel: of the first input, or by the input's name."""
Calibrations = Calibration | Mapping[str, Calibration | None] | None

DEFAULT = Calibration(gain=True)


def describe_inputs(
    shapes: Mapping[str, list[int]],
    integers: set[str],
    *,
    channels: PerInput[str],
    mean: PerInput[float],
    std: PerInput[float],
    calibration: Calibrations,
) -> list[Input]:
    """The manifest's inputs. Raises ExportError where what is said does not fit the shapes."""
    first = next(iter(shapes))
    for name in shapes:
        if name in RESERVED:
            raise ExportError(f"an input may not be named {name!r}: the bundle's graphs use that name; rename it")
    named = _per_input("channels", channels, first, shapes)
    means = _per_input("mean", mean, first, shapes)
    stds = _per_input("std", std, first, shapes)
    if isinstance(calibration, Mapping):
        unknown = set(calibration) - set(shapes)
        if unknown:
            raise ExportError(f"calibration: there is no input {min(unknown)!r}; inputs are {', '.join(shapes)}")
    entries = []
    for name, shape in shapes.items():
        given = calibration.get(name) if isinstance(calibration, Mapping) else calibration
        if name in integers:
            if name in means or name in stds or (isinstance(calibration, Mapping) and given is not None):
                raise ExportError(f"{name}: whole-number inputs are no sensors; give it no mean, std or calibration")
            given = None
        if given is not None:
            _check(name, given, shape[0])
        if not all(s > 0 for s in stds.get(name, [])):
            raise ExportError(f"std: {name}: every value must be greater than 0")
        entries.append(
            Input(
                name=name,
                shape=shape,
                channels=[str(c) for c in named.get(name, [])],
                mean=[float(m) for m in means.get(name, [])],
                std=[float(s) for s in stds.get(name, [])],
                calibration=given,
            )
        )
    return entries


def _per_input(key: str, value: PerInput[T], first: str, shapes: Mapping[str, list[int]]) -> dict[str, list[T]]:
    by_name = {k: list(v) for k, v in value.items()} if isinstance(value, Mapping) else {first: list(value)}
    for name, values in by_name.items():
        if name not in shapes:
            raise ExportError(f"{key}: there is no input {name!r}; inputs are {', '.join(shapes)}")
        if values and len(values) != shapes[name][0]:
            raise ExportError(f"{key}: {name} has {shapes[name][0]} channels, but {len(values)} values are given")
    return {name: values for name, values in by_name.items() if values}


def _check(name: str, calibration: Calibration, channels: int) -> None:
    if any(not 0 <= s < channels for s in calibration.signs):
        raise ExportError(f"calibration: {name}: signs are channel numbers from 0 to {channels - 1}")
    for order in calibration.orders:
        if sorted(order) != list(range(channels)):
            raise ExportError(f"calibration: {name}: {order} is not an order of the channels 0 to {channels - 1}")
