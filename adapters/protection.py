"""A step graph under guard: what a method says is taken only where there is evidence that it is right more often than
the model as exported, and a method that went astray is brought back.

    guarded = trimtab.adapters.guarded("bundle", "tent", lr=1e-3)
    y = guarded.step(x)

    many = trimtab.adapters.guarded_streams("bundle", "tent", 16)
    y = many.step(x, active)  # x [16, N, ...]: each stream with a guard of its own

Labels are never seen; `trimtab.adapters.evidence` says what is gone by. Every batch is run by the method and by the
source model. The source model's outputs are given until the method is surely better, and again from when it no longer
seems so. In a stream that repeats classes it must also be no worse where the class is known from a sample's neighbours:
a method may well be steadier by taking one class for another. In any other stream it can be better only while samples
do not look like the source's, and must predict classes about as often as they came before.

A method is undone where it collapsed (it predicts less than half as many classes as the source model does), is surely
worse, or is not finite: back to its state when it was last trusted, and if that does not last, to its start. The wait
until it may be undone again doubles as long as it earns no trust: some methods cannot do better on a stream, and a
reset every few batches would be of no use to anybody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.adapters.evidence import AT_HOME, RUN, RUNS, Evidence, Finding
from trimtab.adapters.home import Home
from trimtab.adapters.steps import Array, Part, State, StepAdapter, finite_samples, load, open_session, read_graph
from trimtab.adapters.streams import StreamsAdapter, load_streams

MARGIN = {"persistence": 0.01, "shares": 0.05, "prior": 0.05}
"""Gain that is asked before a method is trusted, by the kind of evidence. Of 512 samples that are mixed, the shares of
classes are off by some 0.03 by chance."""
LOSS = {"persistence": 0.01, "shares": 0.2, "prior": 0.2}
"""Loss with which a method has gone astray. At home the source model's own errors are in the shares gone by."""
ERROR = 0.05
"""Accepted chance that the gain, or the loss, is none."""
COLLAPSE = 0.5
"""A method that predicts less than this share of the classes that the source model does has collapsed."""
OFF = {"shares": 0.2, "prior": 0.1}
"""A method whose shares of classes are further off than that is not trusted ..."""
STRANGE = {"shares": AT_HOME, "prior": 0.9}
"""... nor one of a stream of which not more than this share is strange ..."""
LOST = 0.1
"""... nor one that has lost more of the mutual information of sample and class than that, nats."""
SURE = 0.125
"""Where only the source's prior is known, a method must be about as sure as the source model is at home: at most this
share of the way from there to ln K in mean entropy. A norm that few classes are fed to is not."""
FORMAT = 2
"""Of the state."""
LONGEST_WAIT = 2**14
"""Samples between two undoings at the most."""


Observe = Callable[[Mapping[str, Array]], tuple[Array, Array | None]]


@dataclass(frozen=True, slots=True)
class Undone:
    """A method was brought back."""

    sample: int
    """The number of samples seen by then."""
    reason: str
    to: str
    """"trusted", its state when it was last trusted, or "start"."""


class Method(Protocol):
    """What a guard needs of a method, whoever takes its steps: see `StepAdapter`."""

    @property
    def name(self) -> str: ...
    @property
    def classifies(self) -> bool: ...
    @property
    def home(self) -> Home | None: ...
    @property
    def parts(self) -> tuple[Part, ...]: ...
    @property
    def outputs(self) -> int: ...
    @property
    def remembered(self) -> State: ...
    def state(self) -> State: ...
    def checked_state(self, state: Mapping[str, NDArray[Any]]) -> State: ...
    def restore(self, state: Mapping[str, NDArray[Any]]) -> None: ...
    def reset(self) -> None: ...


class Guard:
    """What there is to know of a method on one stream, and what follows from it. Not thread-safe.

    Raises ValueError in regression: what it goes by are classes.
    """

    def __init__(self, adapter: Method) -> None:
        if not adapter.classifies:
            raise ValueError(f"{adapter.name}: the guard judges classes, and this bundle is a regression")
        self.trusted = False
        """Whether the outputs of the last step were the method's."""
        self.finding: Finding | None = None
        """What the last step's decision went by; None while too little is known."""
        self.events: list[Undone] = []
        """Of this step and those before; whoever reads them may clear the list."""
        self.method_y: Array | None = None
        """`[N, K]` of the last step, as the method predicts, whether it is trusted or not ..."""
        self.static_y: Array | None = None
        """... and as the source model does."""
        self._method = adapter
        outputs = adapter.outputs
        self._evidence = Evidence(np.full(outputs, 1.0 / outputs) if adapter.home is None else adapter.home.prior)
        # What changes nothing in the model, or weighs classes by how often they come, predicts as many as it will.
        self._weighs = not adapter.parts or any(name.startswith("shares") for name in adapter.remembered)
        self._good: State | None = None
        self._seen = 0
        self._next = 0  # samples seen before which nothing is undone
        self._wait = RUN * RUNS

    def judge(self, y: Array, static: Array, moments: Array | None, finite: NDArray[np.bool_], refused: bool) -> Array:
        """A step was taken: `y [N, K]` as the method and as the source model predicts, norm-input moments `[N, 2, M]`
        (NaN or None: not known), whether samples `[N]` are finite, and whether the method's new state was not.

        Gives `y [N, K]`: the method's where it is trusted, else the source model's; NaN where samples are not finite.
        """
        strange = np.full(len(y), -1)
        if moments is not None and self._method.home is not None:
            strange = self._method.home.strange(moments)
        self.method_y, self.static_y = y, static
        whole = np.logical_and(np.isfinite(y).all(axis=1), np.isfinite(static).all(axis=1))
        self._seen += len(y)
        if whole.any():
            self._evidence.add(y[whole], static[whole], strange[whole])
        self._decide(refused)
        chosen: Array = np.where(whole[:, None], y, static) if self.trusted else static.copy()
        chosen[~finite] = np.nan
        return chosen

    def reset(self) -> None:
        """The method back to its start, and nothing known of it."""
        self._method.reset()
        self.trusted = False
        self.finding = None
        self._good = None
        self._evidence.clear()
        self._next, self._wait = self._seen, RUN * RUNS

    def state(self) -> State:
        """A copy of all that method and guard remember: arrays by name."""
        own = {
            "format": np.array(FORMAT),
            "trusted": np.array(self.trusted),
            "counts": np.array([self._seen, self._next, self._wait], np.int64),
            **{f"evidence.{name}": value for name, value in self._evidence.state().items()},
        }
        good = self._good if self._good is not None and not self.trusted else {}
        return {
            **{f"guard.{name}": value for name, value in own.items()},
            **{f"method.{name}": value for name, value in self._method.state().items()},
            **{f"good.{name}": value.copy() for name, value in good.items()},
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on, bit for bit, from what `state` gave. Raises ValueError where it is of another method, bundle or
        version, or damaged; nothing is changed then."""

        def part(prefix: str) -> State:
            return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}

        own, good = part("guard."), part("good.")
        if not {"trusted", "counts"} <= set(own):
            raise ValueError(f"{self._method.name}: the state is not that of a guarded method")
        if "format" not in own or own["format"] != FORMAT:
            raise ValueError(f"{self._method.name}: the guard's state is of another version of trimtab")
        if own["trusted"].shape or own["counts"].shape != (3,) or own["counts"].dtype.kind != "i":
            raise ValueError(f"{self._method.name}: the guard's counts are damaged")
        method = self._method.checked_state(part("method."))
        try:
            kept = self._method.checked_state(good) if good else None
        except ValueError as error:
            raise ValueError(f"{error} (as it was when it was last trusted)") from None
        self._evidence.restore({n.removeprefix("evidence."): v for n, v in own.items() if n.startswith("evidence.")})
        self._method.restore(method)
        self.trusted = bool(own["trusted"])
        self._good = self._method.remembered if self.trusted else kept
        self._seen, self._next, self._wait = (int(n) for n in own["counts"])

    def _decide(self, refused: bool) -> None:
        found = self.finding = self._evidence.finding()
        fault = _fault(found) if found is not None else ""
        if refused:
            fault = "its state was not finite"
        self.trusted = not fault and found is not None and self._earns(found)
        if self.trusted:
            self._good = self._method.remembered
            self._wait = RUN * RUNS
        elif fault and self._seen >= self._next and self._method.remembered:
            self._undo(fault)

    def _earns(self, found: Finding) -> bool:
        may_be = found.known >= 0 if found.kind == "persistence" else self._may_know_better(found)
        if found.recent < 0 or not may_be:
            return False
        if self.trusted:
            return found.gain > 0
        return found.gain >= MARGIN[found.kind] and found.chance <= ERROR

    def _may_know_better(self, found: Finding) -> bool:
        """Whether shares of classes speak for the method at all."""
        home = self._method.home
        if home is None or self._weighs or found.strange <= STRANGE[found.kind]:
            return False
        if found.off > OFF[found.kind] or found.spread < -LOST:
            return False
        return found.kind == "shares" or found.entropy <= home.entropy + SURE * (
            math.log(self._method.outputs) - home.entropy
        )

    def _undo(self, reason: str) -> None:
        if self._good is not None:
            self._method.restore(self._good)
        else:
            self._method.reset()
        self.events.append(Undone(self._seen, reason, "start" if self._good is None else "trusted"))
        self._good = None
        self._evidence.clear()
        self._next = self._seen + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)


class Guarded(Guard):
    """A method and the source model side by side on one stream of batches. Not thread-safe.

    adapter: the method. static: the source model, from inputs by name to `y [N, K]` and norm-input moments `[N, 2, M]`
    (`source_model`); may be left out where every `step` is given its outputs. Raises ValueError in regression.
    """

    def __init__(self, adapter: StepAdapter, static: Observe | None = None) -> None:
        super().__init__(adapter)
        self.adapter = adapter
        self._static = static

    def step(
        self, inputs: Array | Mapping[str, Array], static: Array | None = None, moments: Array | None = None
    ) -> Array:
        """One step on a batch `[N, ...]` in sensor units; gives `y [N, K]`: the method's where it is trusted, else the
        source model's.

        Samples with NaN or infinity get NaN. `static [N, K]` and `moments [N, 2, M]`: the source model's outputs, where
        the caller has them already; moments that are not known are NaN, or left out. Raises ValueError on wrong shapes.
        """
        named = self.adapter.named(inputs)
        if static is None:
            if self._static is None:
                raise ValueError("give the source model, or its outputs for this batch")
            static, moments = self._static(named)
        finite = self.adapter.finite(named)
        static, expected = np.asarray(static, np.float32), (len(finite), self.adapter.outputs)
        if static.shape != expected:
            raise ValueError(f"static has the shape {list(static.shape)} where {list(expected)} is needed")
        refused = self.adapter.refused
        y = self.adapter.step(named)
        return self.judge(y, static, moments, finite, self.adapter.refused > refused)


class GuardedStreams:
    """A method on many streams that step in one call, each with a guard of its own. Not thread-safe.

    `static`, errors: as for `Guarded`.
    """

    def __init__(self, adapter: StreamsAdapter, static: Observe) -> None:
        self.adapter = adapter
        self.streams = [Guard(adapter.stream(row)) for row in range(adapter.count)]
        """Evidence, events and state of each; its state is that of a `Guarded`, and can be moved to one and back."""
        self._static = static

    @property
    def trusted(self) -> NDArray[np.bool_]:
        """`[S]`: whether the outputs of its last step were the method's."""
        return np.array([stream.trusted for stream in self.streams])

    def step(self, inputs: Array | Mapping[str, Array], active: NDArray[np.bool_] | None = None) -> Array:
        """One step of each stream on its batch, as `StreamsAdapter.step` takes it; gives `y [S, N, K]`: the method's
        where a stream trusts it, else the source model's, and NaN for samples with NaN or infinity and for streams that
        sit out, which learn nothing. Raises ValueError on wrong shapes."""
        named = self.adapter.named(inputs)
        refused = self.adapter.refused.copy()
        y = self.adapter.step(named, active)
        rows = np.arange(self.adapter.count) if active is None else np.flatnonzero(active)
        finite = finite_samples(named, 2)
        if len(rows):
            size = y.shape[1]
            static, moments = self._static({n: v[rows].reshape(-1, *v.shape[2:]) for n, v in named.items()})
            for place, row in enumerate(rows):
                of = slice(place * size, (place + 1) * size)
                known = None if moments is None else moments[of]
                again = bool(self.adapter.refused[row] > refused[row])
                y[row] = self.streams[row].judge(y[row].copy(), static[of], known, finite[row], again)
        return y


def _fault(found: Finding) -> str:
    """What is wrong with a method, in one sentence, or nothing."""
    if found.classes < COLLAPSE * found.classes_static:
        return f"it predicts {found.classes:.1f} classes where the source model predicts {found.classes_static:.1f}"
    if found.gain <= -LOSS[found.kind] and found.chance >= 1.0 - ERROR:
        return f"it is worse by {-found.gain:.3g} as its {found.kind} goes"
    return ""


def guarded(
    bundle: str | Path,
    method: str,
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
    **hyper: float,
) -> Guarded:
    """The method of that name in the bundle's folder, under guard, with `hyper` in place of its defaults.

    Raises as `trimtab.adapters.load` does, and ValueError in regression.
    """
    adapter = load(bundle, method, providers=providers, threads=threads, **hyper)
    return Guarded(adapter, source_model(bundle, providers, threads))


def guarded_streams(
    bundle: str | Path,
    method: str,
    count: int,
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
    **hyper: float,
) -> GuardedStreams:
    """The method of that name in the bundle's folder for `count` streams, each under guard, with `hyper` in place of
    its defaults.

    Raises as `trimtab.adapters.load_streams` does, and ValueError in regression.
    """
    adapter = load_streams(bundle, method, count, providers=providers, threads=threads, **hyper)
    return GuardedStreams(adapter, source_model(bundle, providers, threads))


def source_model(bundle: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",), threads: int = 0) -> Observe:
    """The model as exported, from inputs by name to `y [N, K]` and norm-input moments `[N, 2, M]`."""
    session = open_session(read_graph(Path(bundle), "observe"), providers, threads)
    names = [output.name for output in session.get_outputs()]

    def observe(inputs: Mapping[str, Array]) -> tuple[Array, Array | None]:
        found = session.run([n for n in ("y", "moments") if n in names], dict(inputs))
        return found[0], found[1] if len(found) > 1 else None

    return observe
