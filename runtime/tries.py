"""Tries to adapt: what the methods propose and the guard accepts, run beside serving."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.adapters import catalogue
from trimtab.adapters.gradient_steps import GradientSteps, is_row
from trimtab.adapters.guard import CONFIRMED, ERROR, Verdict, judge
from trimtab.adapters.methods import Context, Declined, Method, Windows
from trimtab.adapters.steps import State, StepAdapter, StepGraph
from trimtab.adapters.versions import Version
from trimtab.runtime.blocks import Sample
from trimtab.runtime.bundle import Bundle, read_step
from trimtab.runtime.config import Adaptation, Config
from trimtab.runtime.decisions import short
from trimtab.runtime.errors import ConfigError, InferenceError
from trimtab.runtime.executors import Executor
from trimtab.runtime.providers import library_errors, one_line
from trimtab.runtime.sessions import Engine
from trimtab.runtime.stepping import Stepping
from trimtab.runtime.validation import choice, shown
from trimtab.runtime.watch import SECONDS

RECALLED = 0.01
"""Accepted chance that an earlier version is better only by chance: there may be a dozen of them to choose from."""

OWN = ("batch", "passes", "span")
"""Options of a step graph beside its hyperparameters."""

LEAST_HELD = 24
"""Windows held back, three runs of them, from which on it may be said that nothing is sure."""


@dataclass(slots=True)
class Attempt:
    """What one try, or the judgement at the end of probation, came to."""

    theta: NDArray[np.float32] | None = None
    """The vector to take; None: stay."""
    known: int | None = None
    """The number of the earlier version that it is, where it is one."""
    states: dict[str, State] = field(default_factory=dict)
    """What step graphs remember with it."""
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


@dataclass(frozen=True, slots=True)
class Configured:
    """What there is to adapt by."""

    tried: Sequence[Method | GradientSteps] = ()
    """The methods to try, in order; none where the policy is `off` or `always`."""
    stepped: GradientSteps | None = None
    """The step graph that all windows go through, where the policy is `always`."""


def configured_methods(config: Adaptation, bundle: Bundle) -> Configured:
    """The methods that the configuration names, of these and of the bundle's step graphs.

    Raises ConfigError where there is none of that name, where one cannot be used under the policy, or where an option
    is unknown, out of range, or of a method that is not among them; BundleError where a step graph cannot be read.
    """
    for name in set(config.options) - set(config.methods):
        raise ConfigError(
            f"adaptation.options.{name}: no such method among adaptation.methods; add it there or drop this"
        )
    tried: list[Method | GradientSteps] = []
    there = [m.name for m in bundle.manifest.methods]
    own = ("batch",) if config.policy == "always" else OWN
    for place, name in enumerate(config.methods):
        options = config.options.get(name, {})
        if name not in (*catalogue.names(), *there):
            known = f"the step graphs {', '.join(there)}" if there else "no step graphs"
            raise ConfigError(
                f"adaptation.methods.{place}: {shown(name)} is unknown, and the bundle {bundle.path} has {known}; "
                f"{choice(name, [*catalogue.names(), *there])}"
            )
        graph = None if name in catalogue.names() else read_step(bundle, name)
        try:
            tried.append(catalogue.build(name, options) if graph is None else _steps(graph, options, own))
        except ValueError as error:
            raise ConfigError(f"adaptation.options.{name}: {str(error).removeprefix(f'{name}: ')}") from None
    graphs = [m for m in tried if isinstance(m, GradientSteps)]
    if config.policy == "always":
        if bundle.manifest.task == "regression":
            raise ConfigError(
                "adaptation.policy: `always` guards a step graph by the classes that it predicts, and a regression has "
                "none; use on_drift or scheduled"
            )
        if len(tried) != 1 or not graphs:
            mend = f"name one of {', '.join(there)}" if there else "export the bundle with methods=[...] first"
            raise ConfigError(f"adaptation.methods: the policy `always` takes one step graph of the bundle; {mend}")
        return Configured(stepped=graphs[0])
    for method in graphs:
        if not is_row(method.graph, bundle.layout):
            raise ConfigError(
                f"adaptation.methods: {method.name} cannot be tried, it does not change the parameter vector alone; "
                "use it with `policy: always`, or drop it"
            )
    return Configured(tried=tried if config.policy != "off" else ())


def _steps(graph: StepGraph, options: Mapping[str, Any], own: Sequence[str]) -> GradientSteps:
    """`own`: the options there are beside hyperparameters. Raises ValueError where one is wrong."""
    for option, value in options.items():
        if option not in (*graph.hyper, *own):
            raise ValueError(f"{graph.name} has no option {option!r}; use one of {', '.join([*graph.hyper, *own])}")
        if option in own and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{graph.name}: {option} is {value!r}; give a whole number")
    hyper = {option: value for option, value in options.items() if option not in own}
    return GradientSteps(graph, hyper, **{option: options[option] for option in own if option in options})


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
        configured = configured_methods(self.config, bundle)
        self.methods = configured.tried
        stepped = configured.stepped
        self.batch = stepped.batch if stepped is not None else 0
        """Windows in a step, where the policy is `always`."""
        self._stepper = None
        if stepped is not None:
            self._stepper = StepAdapter(
                stepped.graph, stepped.hyper, engine.providers(), threads=config.sessions.threads
            )
        # A stream is drifted no more when its signals are back among those of the source.
        self.settled = {
            name: float(np.quantile(values[np.isfinite(values)], 0.9))
            for name, values in bundle.source.reference.items()
            if np.isfinite(values).any()
        }
        schedule = self.config.schedule
        self.scheduled = self.config.policy == "scheduled"
        self.every = schedule.every * SECONDS.get(schedule.per, 1.0)
        """Between two tries by schedule, as `moment` counts."""
        self._executor = executor
        self._finished: deque[Job] = deque()

    @property
    def always(self) -> bool:
        """Whether all windows go through a step graph."""
        return self._stepper is not None

    def stepping(self, stream: str) -> Stepping | None:
        """The step graph of a new stream, where the policy is `always`."""
        return Stepping(stream, self._stepper.another(), self.batch) if self._stepper is not None else None

    def moment(self, sample: Sample) -> float:
        """Where `sample` stands on the schedule: its number, or its time in seconds."""
        return float(sample.sequence) if self.config.schedule.per == "windows" else sample.time

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
    attempt = Attempt(states=dict(current.states))
    margin = plan.config.guard.margin
    theta = current.theta
    best = 0.0
    for version in earlier:
        verdict = judge(plan.context, theta, version.theta, held, margin, RECALLED)
        if verdict.accepted and verdict.gain > best:
            best = verdict.gain
            attempt.trail.clear()  # of one that fits less well
            attempt.recall(version.number, version.theta, verdict)
            attempt.states = dict(version.states)
    if attempt.theta is not None:
        theta = attempt.theta
    for method in plan.methods:
        if isinstance(method, GradientSteps):
            try:
                proposal = method.propose(plan.context, theta, windows, attempt.states.get(method.name))
            except library_errors() as fault:
                raise InferenceError(f"{method.name}: {one_line(fault)}") from fault
        else:
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
            if proposal.state is not None:
                attempt.states[method.name] = dict(proposal.state)
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


def _figures(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {key: short(value) for key, value in figures.items()}
