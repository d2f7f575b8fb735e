"""Tries to adapt: what the methods propose and the guard accepts, run beside serving."""

from __future__ import annotations

import math
import queue
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.adapters import catalogue
from trimtab.adapters.guard import CONFIRMED, ERROR, Verdict, judge
from trimtab.adapters.methods import Context, Declined, Method, Windows
from trimtab.adapters.versions import Version
from trimtab.runtime.bundle import Bundle
from trimtab.runtime.config import Adaptation, Config
from trimtab.runtime.errors import ConfigError, InferenceError
from trimtab.runtime.executors import Executor
from trimtab.runtime.sessions import Engine

RECALLED = 0.01
"""Accepted chance that an earlier version is better only by chance: there may be a dozen of them to choose from."""

LEAST_HELD = 24
"""Windows held back, three runs of them, from which on it may be said that nothing is sure."""


@dataclass(slots=True)
class Attempt:
    """What one try, or the judgement at the end of probation, came to."""

    theta: NDArray[np.float32] | None = None
    """The vector to take; None: stay."""
    known: int | None = None
    """The number of the earlier version that it is, where it is one."""
    accepted: list[str] = field(default_factory=list)
    trail: list[dict[str, Any]] = field(default_factory=list)
    """One entry a method: what it proposed or why it did not, and the guard's scores."""
    worse: bool = False
    """The vector on probation was found worse than the one before."""
    failure: str | None = None

    def recall(self, number: int, theta: NDArray[np.float32], verdict: Verdict) -> None:
        """Take the earlier version `number` of vector `theta [P]`."""
        self.theta, self.known = theta, number
        self.accepted = [f"recall of version {number}"]
        self.trail.append({"method": "recall", "accepted": True, "version": number, **_figures(verdict.scores)})


@dataclass(slots=True, eq=False)
class Job:
    """A try, or a judgement, that is under way for a stream."""

    stream: str
    final: bool
    """It is the judgement at the end of probation."""
    attempt: Attempt = field(default_factory=lambda: Attempt(failure="it ended without an outcome"))


def configured_methods(config: Adaptation) -> list[Method]:
    """The methods to try, in order; none where the policy is off.

    Raises ConfigError where an option is unknown, out of range, or of a method that is not among them.
    """
    for name in set(config.options) - set(config.methods):
        raise ConfigError(
            f"adaptation.options.{name}: no such method among adaptation.methods; add it there or drop this"
        )
    found: list[Method] = []
    for name in config.methods:
        try:
            found.append(catalogue.build(name, config.options.get(name, {})))
        except ValueError as error:
            raise ConfigError(f"adaptation.options.{name}: {error}") from None
    return found if config.policy != "off" else []


class Plan:
    """What the streams of a pipeline share: the model as the methods see it, the methods, and the executor.

    Raises ConfigError where a method or one of its options is unknown.
    """

    def __init__(self, bundle: Bundle, config: Config, engine: Engine, executor: Executor) -> None:
        self.bundle = bundle
        self.config = config.adaptation
        self.engine = engine
        manifest = bundle.manifest
        self.context = Context(
            bundle.layout,
            bundle.source,
            manifest.inputs,
            manifest.norms,
            manifest.task,
            len(manifest.outputs),
            engine.probe,
        )
        self.methods = configured_methods(self.config)
        # A stream is drifted no more when its signals are back among those of the source.
        self.settled = {
            name: float(np.quantile(values[np.isfinite(values)], 0.9))
            for name, values in bundle.source.reference.items()
            if np.isfinite(values).any()
        }
        self._executor = executor
        self._finished: deque[Job] = deque()

    def run(self, job: Job, work: Callable[[], Attempt]) -> None:
        """Do a job's work on the executor; its outcome is among `finished` afterwards, whatever happens."""

        def whole() -> None:
            try:
                job.attempt = work()
            except InferenceError as error:
                job.attempt = Attempt(failure=str(error))
            finally:
                self._finished.append(job)

        try:
            self._executor.submit(whole)
        except queue.Full:
            job.attempt = Attempt(failure="too much other work waits; it is tried again later")
            self._finished.append(job)

    @property
    def any_finished(self) -> bool:
        """Whether `finished` has something to give."""
        return bool(self._finished)

    def finished(self) -> list[Job]:
        """The jobs that have finished since the last call."""
        jobs = []
        while self._finished:
            jobs.append(self._finished.popleft())
        return jobs


def attempted(plan: Plan, current: Version, earlier: Sequence[Version], windows: Windows, held: Windows) -> Attempt:
    """One try: recall an earlier version if one fits better; then every method, each on top of what was accepted."""
    attempt = Attempt()
    margin = plan.config.guard.margin
    theta = current.theta
    best = 0.0
    for version in earlier:
        verdict = judge(plan.context, theta, version.theta, held, margin, RECALLED)
        if verdict.accepted and verdict.gain > best:
            best = verdict.gain
            attempt.trail.clear()  # of one that fits less well
            attempt.recall(version.number, version.theta, verdict)
    if attempt.theta is not None:
        theta = attempt.theta
    for method in plan.methods:
        proposal = method.propose(plan.context, theta, windows)
        if isinstance(proposal, Declined):
            attempt.trail.append(
                {"method": method.name, "accepted": False, "reason": proposal.reason, **_figures(proposal.evidence)}
            )
            continue
        error = CONFIRMED if proposal.tested else ERROR
        verdict = judge(plan.context, theta, proposal.theta, held, margin, error)
        entry = {"method": method.name, "accepted": verdict.accepted, **_figures(proposal.evidence)}
        attempt.trail.append({**entry, **_figures(verdict.scores)})
        if verdict.accepted:
            theta = attempt.theta = proposal.theta
            attempt.known = None
            attempt.accepted.append(method.name)
    whole = max(LEAST_HELD, min(plan.config.guard.holdout, plan.config.memory // 4))
    if attempt.theta is None and current.number != 0 and len(held) >= whole:
        _back_to_source(plan, current, held, attempt)
    return attempt


def _back_to_source(plan: Plan, current: Version, held: Windows, attempt: Attempt) -> None:
    """Under suspicion, and where nothing better is found, the vector in use must surely be better than the source's.

    What came with a drift often goes with it. Then nothing may fit surely better than anything else, and what was
    adapted to the drift would stay for ever.
    """
    source = plan.context.source.theta
    verdict = judge(plan.context, source, current.theta, held, 0.0)
    if not verdict.accepted:
        attempt.recall(0, source, verdict)


def judged(plan: Plan, current: NDArray[np.float32], before: Version | None, held: Windows) -> Attempt:
    """The end of probation: is the vector before the switch clearly better on the newest windows after all?"""
    attempt = Attempt()
    if before is not None:
        verdict = judge(plan.context, current, before.theta, held, plan.config.guard.margin)
        attempt.worse = verdict.accepted
        attempt.trail.append({"method": "probation", "accepted": not verdict.accepted, **_figures(verdict.scores)})
    return attempt


def short(value: float) -> float | None:
    """Six significant digits: figures for people, equal on every machine; JSON knows no NaN or infinity."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _figures(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {key: short(value) for key, value in figures.items()}
