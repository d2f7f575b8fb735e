"""Functions as machine code by numba, an optional dependency: compiled at first use, kept on disk from then on."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function` as machine code. It may only use NumPy arrays, tuples of them, and numbers; it must not raise.

    Arithmetic stays as it is written (no `fastmath`), so that results are the same on every machine. Raises
    ModuleNotFoundError, in one sentence, where numba is not installed.
    """
    try:
        from numba import njit
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "HTM needs numba, which is not installed; install trimtab[htm]", name="numba"
        ) from None
    return cast(F, njit(cache=True, error_model="numpy")(function))


@cache
def possible() -> bool:
    """Whether what can do without machine code should have it: numba is installed, has a place to keep it (compiling
    takes seconds), and the process may run what it has made (not under systemd's MemoryDenyWriteExecute)."""
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
        compiled(lambda: 0)
    except (OSError, ModuleNotFoundError, RuntimeError):
        return False
    return True


def compiled_with(function: F, **calls: Callable[..., Any]) -> F:
    """`function` as machine code, which calls these, compiled, by their names.

    They must stand in one file: numba looks at a function's own file to tell whether what it has kept still holds.
    """
    if not isinstance(function, FunctionType):
        raise TypeError("only plain functions can be compiled")
    known = {**function.__globals__, **{name: compiled(call) for name, call in calls.items()}}
    bound = FunctionType(function.__code__, known, function.__name__)
    bound.__module__, bound.__qualname__ = function.__module__, function.__qualname__
    return cast(F, compiled(bound))
