"""The parameter vector `theta [P]`: everything inside a model that may change, as one flat float32 row.

A layout names each part and says where it lies. Both sides use it: the exporter writes it into the manifest,
the box cuts a row into initializers (folded serving) or leaves it whole as a row of the bank (banked serving).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal[
    "input.order",  # [C] which channel feeds channel c (whole numbers), where the manifest declares permutations
    "input.gain",  # [C] sign and gain in sensor units: x' = gain * x[order] + offset
    "input.offset",  # [C] sensor units
    "norm.mean",  # [C] running mean of a batch norm
    "norm.var",  # [C] running variance of a batch norm
    "norm.weight",  # [C] affine weight of any norm
    "norm.bias",  # [C] affine bias of any norm
    "channel.bias",  # [C] bias of a convolution or matrix product, where its norm was folded away
    "feature.shift",  # [F] added to the features before the last layer
    "output.shift",  # [K] added to the logits or regression values
]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One named part of the parameter vector."""

    name: str
    """Unique, and the name of the initializer in the serve and observe graphs, e.g. `norm.bn1.mean`."""
    kind: Kind
    owner: str
    """The norm layer, input, or node that it belongs to."""
    size: int
    offset: int
    """Where it begins in the row."""

    @property
    def slice(self) -> slice:
        return slice(self.offset, self.offset + self.size)


class ParameterLayout:
    """The parts of a parameter vector, in order and without gaps.

    Raises ValueError where parts overlap, leave a gap or share a name.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.parameters: tuple[Parameter, ...] = tuple(parameters)
        self._by_name = {p.name: p for p in self.parameters}
        if len(self._by_name) != len(self.parameters):
            raise ValueError("two parameters share a name")
        expected = 0
        for p in self.parameters:
            if p.offset != expected or p.size < 1:
                raise ValueError(f"parameter {p.name} begins at {p.offset} with size {p.size}, expected {expected}")
            expected += p.size
        self.size = expected
        """P: the length of a row."""

    @classmethod
    def of(cls, parts: Iterable[tuple[str, Kind, str, int]]) -> ParameterLayout:
        """Lay `(name, kind, owner, size)` parts out one after another."""
        offset = 0
        parameters = []
        for name, kind, owner, size in parts:
            parameters.append(Parameter(name, kind, owner, size, offset))
            offset += size
        return cls(parameters)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Parameter:
        return self._by_name[name]

    def of_kind(self, kind: Kind) -> list[Parameter]:
        """All parts of one kind, in layout order (for norms: in the model's order)."""
        return [p for p in self.parameters if p.kind == kind]

    def view(self, theta: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """The part `name` of `theta [..., P]` as a view `[..., size]`."""
        return theta[..., self._by_name[name].slice]

    def flatten(self, values: dict[str, NDArray[np.floating]]) -> NDArray[np.float32]:
        """One row `[P]` from a value per part. Raises ValueError on a missing part or a wrong size."""
        theta = np.empty(self.size, np.float32)
        for p in self.parameters:
            if p.name not in values:
                raise ValueError(f"no value for parameter {p.name}")
            value = np.asarray(values[p.name], np.float32)
            if prod(value.shape) != p.size:
                raise ValueError(f"parameter {p.name} has {prod(value.shape)} values, expected {p.size}")
            theta[p.slice] = value.reshape(-1)
        return theta
