"""What a method of test-time adaptation is: a few plain functions and what must be said about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from trimtab.exporters.steps.model import Inputs, Model
from trimtab.exporters.steps.optimisers import OPTIMISERS

Need = Literal[
    "fisher",
    "class_gaussians",
    "prior",
    "posterior",
    "prototypes",
    "warm_up",
    "replay",
    "feature_moments",
    "confusion",
    "consistency",
    "label_shift",
]
"""What the exporter can compute from source batches: see `source.gather`."""

State = dict[str, Tensor]
Metrics = dict[str, Tensor]
Init = Callable[[Model], State]
"""The state before the first step."""
Step = Callable[[Model, State, Inputs, Mapping[str, Tensor]], tuple[State, Tensor, Metrics]]
"""(model, state, standardised inputs, hyperparameters) -> (state of the same names, shapes and types; `y [N, K]`;
scalar metrics). Traced once: what depends on values is written with `torch.where`, never with `if`."""


@dataclass(frozen=True)
class Hyper:
    """One hyperparameter: a scalar input of the step graph."""

    default: float
    low: float
    high: float
    meaning: str


@dataclass(frozen=True)
class Method:
    """One method. `changes`, `optimiser` and rates are defaults that an export may replace."""

    name: str
    paper: str
    does: str
    """In one sentence."""
    init_state: Init
    step: Step
    hyper: Mapping[str, Hyper]
    """Its own; those of the optimiser are added."""
    changes: str = "affine"
    """See `model.choose`; "" where no parameter changes."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Optimiser -> published learning rate; the first is the default. Empty: no backward pass."""
    needs: tuple[Need, ...] = ()
    proof: Mapping[str, float] = field(default_factory=dict)
    """Hyperparameters that the proof at export takes in place of their defaults: without choices that rounding decides,
    and with fewer repetitions."""
    frozen: str = ""
    """A regular expression: norm layers in whose dotted names it is found stay as they are."""
    augments: bool = False
    """Whether it looks at augmented views of its inputs, of which an export may choose others."""
    adds: bool = False
    """Whether `changes` says to which modules' outputs vectors are added (see `additive`), not what of the weights may
    change."""
    alone: str = ""
    """Why many streams cannot step in one call; "" where they can."""
    regression: bool = False
    """Whether it works without classes, too."""

    @property
    def learns_by(self) -> dict[str, float]:
        """Optimiser -> learning rate: those of `rates`, then those that have a rate of their own."""
        others = {name: o.rate for name, o in OPTIMISERS.items() if o.rate and self.rates and name not in self.rates}
        return {**self.rates, **others}
