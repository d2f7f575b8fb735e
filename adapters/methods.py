"""What every adaptation method is given and what it gives back.

A method looks at a stream's remembered windows and the parameter vector in use, and proposes another vector (or says
why it does not). It keeps nothing and has no side effect: the same windows give the same proposal, bit for bit. What a
step graph remembers comes with its proposal, and belongs to the version that is made of it. Whether a proposal is
taken is the guard's business (`trimtab.adapters.guard`), not the method's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.adapters.parameters import ParameterLayout


class Outputs(Protocol):
    """What the probe returns for N samples."""

    @property
    def y(self) -> NDArray[np.float32]:
        """[N, K] logits or regression values."""

    @property
    def features(self) -> NDArray[np.float32] | None:
        """[N, F] before `feature.shift`; None where the model has none."""

    @property
    def moments(self) -> NDArray[np.float32] | None:
        """[N, 2, M] mean and variance of each norm's input per sample and channel."""


class Probe(Protocol):
    """Runs samples under candidate parameter vectors: sample n uses `rows[slot[n]]` (the engine's `probe`)."""

    def __call__(
        self, inputs: dict[str, NDArray[np.float32]], rows: NDArray[np.float32], slot: NDArray[np.int64]
    ) -> Outputs: ...


class Wiring(Protocol):
    """What may be wrong with an input's wiring, as the manifest declares it."""

    @property
    def signs(self) -> Sequence[int]: ...
    @property
    def orders(self) -> Sequence[Sequence[int]]: ...
    @property
    def gain(self) -> bool: ...


class Sensor(Protocol):
    """One model input, as the manifest declares it. `mean` and `std` [C] in sensor units, or empty."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def mean(self) -> Sequence[float]: ...
    @property
    def std(self) -> Sequence[float]: ...
    @property
    def calibration(self) -> Wiring | None: ...


class NormLayer(Protocol):
    """One norm layer, as the manifest declares it; their channels in this order make up the axis M."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def channels(self) -> int: ...
    @property
    def eps(self) -> float: ...


class SourceStatistics(Protocol):
    """What the bundle remembers of the source data."""

    @property
    def theta(self) -> NDArray[np.float32]: ...
    @property
    def moments_mean(self) -> NDArray[np.float64]: ...
    @property
    def moments_var(self) -> NDArray[np.float64]: ...
    @property
    def moments_centre(self) -> NDArray[np.float64]: ...
    @property
    def moments_whitening(self) -> NDArray[np.float32]: ...
    @property
    def feature_mean(self) -> NDArray[np.float64]: ...
    @property
    def feature_cov(self) -> NDArray[np.float64]: ...
    @property
    def class_prior(self) -> NDArray[np.float64]: ...
    @property
    def class_feature_mean(self) -> NDArray[np.float64]: ...
    @property
    def class_feature_cov(self) -> NDArray[np.float64]: ...
    @property
    def reference(self) -> dict[str, NDArray[np.float64]]: ...


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Context:
    """The model as the methods see it: the same for all streams of a bundle.

    With a loaded bundle and an engine: `Context(bundle.layout, bundle.source, manifest.inputs, manifest.norms,
    manifest.task, len(manifest.outputs), engine.probe)`.
    """

    layout: ParameterLayout
    source: SourceStatistics
    inputs: Sequence[Sensor]
    norms: Sequence[NormLayer]
    task: Literal["classification", "regression"]
    outputs: int
    """K."""
    probe: Probe


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of one stream, oldest first."""

    inputs: dict[str, NDArray[np.float32]]
    """[n, *shape] per input, sensor units."""
    sequence: NDArray[np.int64]
    """[n] the windows' numbers in the stream, ascending; neighbours overlap and are correlated."""
    predicted: NDArray[np.int64]
    """[n] class predicted when the window was served; -1 in regression."""
    labels: NDArray[np.float64]
    """[n] true class or value where it came (late), else NaN."""

    def __len__(self) -> int:
        return len(self.sequence)

    def take(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> Windows:
        """The windows at indices (or mask) `which`."""
        return Windows(
            {name: x[which] for name, x in self.inputs.items()},
            self.sequence[which],
            self.predicted[which],
            self.labels[which],
        )


@dataclass(frozen=True, slots=True)
class Proposal:
    """Another parameter vector, with what speaks for it."""

    method: str
    theta: NDArray[np.float32]
    """[P]"""
    tested: bool = False
    """The method itself made sure that it is no chance; the guard then only has to confirm."""
    evidence: Mapping[str, float] = field(default_factory=dict)
    """Named figures for the journal and the adaptation topic."""
    state: Mapping[str, NDArray[Any]] | None = None
    """What the method is to be given again when it goes on from this vector (`trimtab.adapters.gradient_steps`)."""


@dataclass(frozen=True, slots=True)
class Declined:
    """No proposal, and why: one sentence."""

    method: str
    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict)


class Method(Protocol):
    """One way of adapting. Built with its options by `trimtab.adapters.catalogue.build`."""

    @property
    def name(self) -> str: ...

    def propose(self, context: Context, theta: NDArray[np.float32], windows: Windows) -> Proposal | Declined:
        """A better vector than `theta [P]` for `windows`, or the reason why there is none.

        `theta` is left as it is. Windows with NaN or Inf are ignored.
        """
