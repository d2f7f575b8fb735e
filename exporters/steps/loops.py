"""Loops in step graphs: what must be done sample by sample, and what is done only now and then.

A loop that runs once or not at all is a branch: a backward pass in it costs nothing in the steps that skip it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

Groups = Mapping[str, Mapping[str, Tensor]]
"""Group -> name -> tensor."""
Body = Callable[[dict[str, Tensor], Groups], Mapping[str, Tensor]]
"""(carried, given) -> carried, of the same names, shapes and types."""

torch.library.define(
    "trimtab::repeat",
    "(int key, Tensor times, Tensor count, Tensor[] carried, Tensor[] rows, Tensor[] given) -> Tensor[]",
)


def _like_carried(
    key: int, times: Tensor, count: Tensor, carried: list[Tensor], rows: list[Tensor], given: list[Tensor]
) -> list[Tensor]:
    return [torch.empty_like(c) for c in carried]


torch.library.register_fake("trimtab::repeat", _like_carried)


@dataclass(frozen=True)
class Recording:
    """The body of a loop that is being traced, as a function of named values."""

    body: Body
    carried: list[str]
    rows: list[tuple[str, str]]
    given: list[tuple[str, str]]

    def names(self) -> list[str]:
        """Of all that it takes, in the order of the operator's arguments."""
        return [*(f"carried.{n}" for n in self.carried), *(f"{g}.{n}" for g, n in (*self.rows, *self.given))]

    def __call__(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        groups: dict[str, dict[str, Tensor]] = {}
        for group, name in (*self.rows, *self.given):
            groups.setdefault(group, {})[name] = named[f"{group}.{name}"]
        after = self.body({n: named[f"carried.{n}"] for n in self.carried}, groups)
        return {n: after[n] for n in self.carried}


_recordings: list[list[Recording]] = []


@contextmanager
def recorded_loops() -> Iterator[list[Recording]]:
    """The bodies of the loops that are traced meanwhile; a loop's `key` is its place among them."""
    _recordings.append([])
    try:
        yield _recordings[-1]
    finally:
        _recordings.pop()


def repeat(
    times: Tensor,
    body: Body,
    carried: Mapping[str, Tensor],
    given: Groups,
    rows: Groups | None = None,
    count: Tensor | None = None,
) -> dict[str, Tensor]:
    """Run `body` `times` (int64 scalar) times, from what is `carried` to what is carried after it.

    A traced body is recorded for itself, so all tensors that it reads must be `given`, or be `rows`: of those it sees
    the first `count` (int64 scalar), which may be another number in each step.
    """
    rows = rows or {}
    if get_proxy_mode() is None:
        end = None if count is None else int(count)
        seen = {g: {n: v[:end] for n, v in group.items()} for g, group in rows.items()}
        now = dict(carried)
        for _ in range(int(times)):
            now = dict(body(now, {**given, **seen}))
        return now
    recording = Recording(
        body,
        list(carried),
        [(g, n) for g, group in rows.items() for n in group],
        [(g, n) for g in given for n in given[g]],
    )
    _recordings[-1].append(recording)
    after: Any = torch.ops.trimtab.repeat(
        len(_recordings[-1]) - 1,
        times,
        times if count is None else count,
        [v.contiguous() for v in carried.values()],
        [rows[g][n] for g, n in recording.rows],
        [given[g][n] for g, n in recording.given],
    )
    return dict(zip(carried, after, strict=True))
