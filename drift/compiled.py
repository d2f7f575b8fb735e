"""Functions compiled by numba, which is an optional dependency, at first use and kept on disk where that is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

try:
    from numba import njit
except ModuleNotFoundError:
    raise ModuleNotFoundError("HTM needs numba, which is not installed; install trimtab[htm]", name="numba") from None
except OSError as error:  # it asks for a page that it may write and execute
    raise ImportError(
        f"HTM compiles its code when it starts, which this process may not ({str(error.strerror).partition('. ')[0]}); "
        "under systemd, set MemoryDenyWriteExecute=no",
        name="numba",
    ) from None

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function` as machine code. It may only use NumPy arrays, tuples of them, and numbers; it must not raise.

    Arithmetic stays as it is written (no `fastmath`), so that results are the same on every machine.
    """
    try:
        return cast(F, njit(cache=True, error_model="numpy")(function))
    except RuntimeError:  # neither beside the source nor in the user's cache may anything be written
        return cast(F, njit(error_model="numpy")(function))
