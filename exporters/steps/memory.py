"""A memory of samples in a method's state. The stream's samples are put into it one at a time, since whether one is
kept depends on those before it, and each time that as many have come as it holds there is a round of learning from it.

State: `sample.<input> [64, ...]`, standardised; `kept.*`, what a method knows of them, among it `kept.kind [64]`, the
class that each was predicted as, -1 where a place is free (places fill from the first on and are never free again);
and `seen`, the number of samples that have come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from trimtab.exporters.steps.loops import Groups, repeat
from trimtab.exporters.steps.method import State
from trimtab.exporters.steps.model import Inputs, Model

CAPACITY = 64
FREE = -1

Add = Callable[[State, State, Mapping[str, Tensor]], tuple[State, Tensor]]
"""(what is kept, facts of one sample, each `[1]`, hyperparameters) -> (what is kept; which place the sample takes,
`[64]` of booleans, all false where it is not kept)."""
Learn = Callable[[Model, State, Inputs, State, Tensor, Mapping[str, Tensor]], State]
"""(model, what is learnt, the samples in memory `[n, ...]`, what is kept of them `[n]`, the round's number from 1 on,
hyperparameters) -> what is learnt."""


def start(model: Model) -> State:
    """An empty memory."""
    samples = {f"sample.{n}": x.new_zeros(CAPACITY, *x.shape[1:]) for n, x in model.blank.items()}
    kind = torch.full((CAPACITY,), FREE, dtype=torch.int64)
    return {**samples, "kept.kind": kind, "seen": torch.zeros((), dtype=torch.int64)}


def follow(
    model: Model,
    state: State,
    inputs: Inputs,
    facts: State,
    hyper: Mapping[str, Tensor],
    add: Add,
    learn: Learn,
    weighed: Sequence[str] = (),
) -> State:
    """The state after a batch. `facts`: what `add` must know of each sample, each `[N]`; `weighed`: what `learn` must
    know of those in memory. All of the state that is not the memory is learnt."""
    kept, samples = _of(state, "kept"), _of(state, "sample")
    learnt = {n: v for n, v in state.items() if n != "seen" and not n.startswith(("kept.", "sample."))}
    number = torch.ones_like(next(iter(facts.values())), dtype=torch.int64).sum()
    rounds = (state["seen"] % CAPACITY + number + CAPACITY - 1) // CAPACITY
    # What is in memory and the batch lie in one pool; places point into it, so that no sample is moved before the end.
    given = {
        "constants": model.constants,
        "hyper": hyper,
        "facts": facts,
        "pool": {n: torch.cat([samples[n], x]) for n, x in inputs.items()},
        "batch": {"number": number},
    }

    def one(carried: State, given: Groups) -> State:
        at = carried["at"].reshape(1)
        fact = {n: v.index_select(0, at) for n, v in given["facts"].items()}
        kept, taken = add(_of(carried, "kept"), fact, given["hyper"])
        place = torch.where(taken, CAPACITY + at, carried["place"])
        return {**_as("kept", kept), "place": place, "at": carried["at"] + 1}

    def turn(carried: State, given: Groups) -> State:
        coming = torch.minimum(CAPACITY - carried["seen"] % CAPACITY, given["batch"]["number"] - carried["at"])
        filling = {n: v for n, v in carried.items() if n in ("place", "at") or n.startswith("kept.")}
        filled = repeat(coming, one, filling, {n: given[n] for n in ("facts", "hyper")})
        seen = carried["seen"] + coming
        rows = {
            "sample": {n: v.index_select(0, filled["place"]) for n, v in given["pool"].items()},
            "kept": {n: filled[f"kept.{n}"] for n in weighed},
        }
        occupied = (filled["kept.kind"] != FREE).sum()
        due = (seen % CAPACITY == 0).to(torch.int64)
        known = {**{n: given[n] for n in ("constants", "hyper")}, "round": {"number": seen // CAPACITY}}
        after = repeat(due, study, {n: carried[n] for n in learnt}, known, rows, occupied)
        return {**filled, **after, "seen": seen}

    def study(now: State, of: Groups) -> State:
        own, kept = model.bound(of["constants"]), dict(of.get("kept", {}))
        return learn(own, now, of["sample"], kept, of["round"]["number"], of["hyper"])

    begin = {"place": torch.arange(CAPACITY), "at": torch.zeros_like(number), "seen": state["seen"]}
    end = repeat(rounds, turn, {**_as("kept", kept), **learnt, **begin}, given)
    moved = {n: v.index_select(0, end["place"]) for n, v in given["pool"].items()}
    return {**_as("sample", moved), **{n: end[n] for n in state if n in end}}


def crowds(kind: Tensor) -> Tensor:
    """How many places hold the same class as each: `[64]`, 0 where it is free."""
    same = (kind[:, None] == kind[None, :]) & (kind != FREE)[:, None]
    return same.to(torch.int64).sum(1)


def _of(named: Mapping[str, Tensor], key: str) -> State:
    return {name.partition(".")[2]: value for name, value in named.items() if name.startswith(f"{key}.")}


def _as(key: str, named: Mapping[str, Tensor]) -> State:
    return {f"{key}.{name}": value for name, value in named.items()}
