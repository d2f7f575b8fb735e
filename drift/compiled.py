"""Functions compiled by numba, which is an optional dependency, at first use and kept on disk from then on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

try:
    from numba import njit
except ModuleNotFoundError:
    raise ModuleNotFoundError("HTM needs numba, which is not installed; install trimtab[htm]", name="numba") from None

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function` as machine code. It may only use NumPy arrays, tuples of them, and numbers; it must not raise.

    Arithmetic stays as it is written (no `fastmath`), so that results are the same on every machine.
    """
    return cast(F, njit(cache=True, error_model="numpy")(function))
