"""Functions compiled by numba, which is an optional dependency, at first use and kept on disk where that is allowed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, TypeVar, cast

log = logging.getLogger("trimtab.drift")

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function` as machine code. It may only use NumPy arrays, tuples of them, and numbers; it must not raise.

    Arithmetic stays as it is written (no `fastmath`), so that results are the same on every machine. Raises
    ImportError, in one sentence, where numba is not installed or the process may make no code.
    """
    try:
        return kept(function)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "HTM needs numba, which is not installed; install trimtab[htm]", name="numba"
        ) from None
    except OSError as error:  # it asks for a page that it may write and execute
        raise ImportError(
            f"HTM compiles its code when it starts, which this process may not "
            f"({str(error.strerror).partition('. ')[0]}); under systemd, set MemoryDenyWriteExecute=no",
            name="numba",
        ) from None
    except RuntimeError:  # neither beside the source nor in the user's cache may anything be written
        from numba import njit

        return cast(F, njit(error_model="numpy")(function))


def kept(function: F) -> F:
    """`compiled`, but that what numba raises is raised: ModuleNotFoundError, OSError, and RuntimeError where machine
    code cannot be kept."""
    from numba import njit

    return cast(F, njit(cache=True, error_model="numpy")(function))


@cache
def possible() -> bool:
    """Whether what can do without machine code should have it: made where that may be, and kept, since it takes
    seconds to make."""
    try:
        kept(lambda: 0)
    except (ModuleNotFoundError, OSError, RuntimeError):
        return False
    return True


def works(first: Callable[[], object], what: str) -> bool:
    """Whether the first call of machine code does: numba then reads what was kept, which may be cut short, or keeps it,
    on a disk that may be full. For what can do without."""
    try:
        first()
    except Exception as error:  # noqa: BLE001 - a damaged file raises what it will
        log.warning("%s go on without machine code: %s: %s", what, type(error).__name__, error)
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
