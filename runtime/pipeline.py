"""The way of a sample: rows -> window -> micro-batch across streams -> model -> detect -> decide.

The daemon and the replay run this same code; only the clock, the executor and the source differ. The pipeline does no
input or output: it takes blocks, is told when to turn (`due`), and gives back what is to be published (`Step`).
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.drift import input_signals
from trimtab.drift.detector import Finding
from trimtab.drift.monitor import Alarm, Monitor
from trimtab.runtime.adaptation import Adaptation
from trimtab.runtime.blocks import Block, Sample
from trimtab.runtime.bundle import Bundle
from trimtab.runtime.clock import Clock
from trimtab.runtime.config import Config
from trimtab.runtime.decisions import Decision, Event, Step
from trimtab.runtime.errors import InferenceError, PayloadError
from trimtab.runtime.executors import Executor
from trimtab.runtime.late import LateLabels
from trimtab.runtime.sessions import Engine, Outputs
from trimtab.runtime.stepping import Held, Stepping
from trimtab.runtime.tries import Plan
from trimtab.runtime.watch import (
    Inputs,
    Signals,
    Taps,
    calibrated,
    new_discoveries,
    new_error_detector,
    new_monitor,
    references,
)
from trimtab.runtime.windows import Windower

log = logging.getLogger(__name__)

SHOWN = 20
"""Streams that a sentence names."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A block on its way: what is to be done once everything before its end is decided."""

    stream: StreamState
    token: object
    window: dict[str, Any] | None
    """The windower's state after it: where a restart continues."""
    until: int
    """Its stream's next sample number after it: done with when that many are decided."""
    since: float


class StreamState:
    """All that is remembered of one stream."""

    __slots__ = ("adaptation", "decided", "late", "monitor", "name", "sequence", "stepping", "window", "windower")

    def __init__(
        self,
        name: str,
        windower: Windower | None,
        monitor: Monitor,
        adaptation: Adaptation,
        stepping: Stepping | None,
        late: LateLabels | None,
    ) -> None:
        self.name = name
        self.late = late
        """None: errors are not watched."""
        self.windower = windower
        self.monitor = monitor
        self.adaptation = adaptation
        self.stepping = stepping
        """Where all windows go through a step graph."""
        self.sequence = 0
        """Number of the next sample."""
        self.decided = 0
        """Number after that of the last decision: what comes again under a smaller one is passed over."""
        self.window: dict[str, Any] | None = None
        """The windower's state after the last block that is done with: what a restart continues from."""


Kept = tuple[NDArray[np.float32], NDArray[np.float32] | None]
"""Outputs `[K]` of one sample, and where it was observed norm-input moments `[2, M]`."""
Result = tuple[Any, Any, list[float] | None, Kept | None]
"""Of one sample, as Python numbers: class and its probability, or values and whether they are finite; the watched
signals. And what a step graph's guard is to have."""

Sighting = tuple[Alarm | None, float]
"""What a stream's detectors made of one window: an alarm, and how near they stand to one."""


class Pipeline:
    """Decides on every window of every stream of one bundle.

    Parameters
    ----------
    bundle, config
        What to run and how.
    engine
        Sessions over the bundle.
    clock
        When a micro-batch is due. `SimulatedClock` makes a run repeatable bit for bit.
    executor
        Where adaptation runs: inline in a replay, on its own thread in the daemon.
    resumable
        Keep what `snapshot` needs. A replay does without.
    label_delay
        Windows of its stream after which a label that came with its window (in a recording) is known to the detector
        of errors.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: Config,
        engine: Engine,
        clock: Clock,
        executor: Executor,
        resumable: bool = False,
        label_delay: int = 0,
    ) -> None:
        self.bundle = bundle
        self.config = config
        self.engine = engine
        self.clock = clock
        self.resumable = resumable
        self._label_delay = label_delay
        self.streams: dict[str, StreamState] = {}
        self._names = [i.name for i in bundle.manifest.inputs]
        self._classes = bundle.manifest.classes
        self._classify = bundle.manifest.task == "classification"
        self._every = config.drift.observe_every
        self._pending: deque[tuple[float, Sample]] = deque()
        self._holding: dict[str, Stepping] = {}  # those for which windows wait
        self._taken: deque[Taken] = deque()
        self._targets = bundle.manifest.targets
        self._signals = Signals(bundle, config.drift)
        self._watched = watched = self._signals.names
        self._of_inputs = any(name in watched for name in input_signals.SIGNALS)
        self._unknown = [math.nan] * len(watched)
        self._reference = references(bundle, config.drift, watched)
        self._discoveries = new_discoveries(bundle, config.drift, watched)
        self.plan = Plan(bundle, config, engine, executor)
        self._noticed: list[Event] = []
        """What labels told since the last turn."""
        self._new_late()
        self._new_monitor()  # a wrong detector or option shows itself at the start, not at the first sample
        self._signals.compile()

    # -- taking samples ---------------------------------------------------------------------------------------------

    def offer(self, block: Block) -> None:
        """Take a block. Raises PayloadError where its shape is not the model's, or where it would begin a stream beyond
        `max_streams`; nothing is decided then."""
        stream = self.streams.get(block.stream)
        if stream is None:
            if len(self.streams) >= self.config.max_streams:
                raise PayloadError(
                    f"{block.stream}: would be one stream more than the {self.config.max_streams} of max_streams; "
                    "raise it, or narrow the topics under streams"
                )
            stream = self.stream(block.stream)
        samples = self._cut(stream, block)
        now = self.clock.now()
        if samples and samples[0].sequence < stream.decided:
            samples = [s for s in samples if s.sequence >= stream.decided]
        pending = self._pending
        for sample in samples:
            pending.append((now, sample))
        if self.resumable or block.token is not None:
            windower = stream.windower
            state = windower.state() if self.resumable and windower is not None else None
            self._taken.append(Taken(stream, block.token, state, stream.sequence, now))

    def _cut(self, stream: StreamState, block: Block) -> list[Sample]:
        values = block.values
        if stream.windower is not None:
            if not isinstance(values, np.ndarray) or values.ndim != 2 or values.shape[1] != stream.windower.channels:
                found = "several inputs" if isinstance(values, dict) else f"shape {list(values.shape)}"
                raise PayloadError(
                    f"{block.stream}: values: the model takes rows of {stream.windower.channels} channels, "
                    f"found {found}; send [rows, {stream.windower.channels}]"
                )
            samples = stream.windower.push(block)
            stream.sequence = stream.windower.sequence
            return samples
        if not isinstance(values, dict):
            raise PayloadError(f"{block.stream}: values: the model takes whole samples by input name")
        inputs = []
        for spec in self.bundle.manifest.inputs:
            value = values.get(spec.name)
            if value is None or list(value.shape) != spec.shape:
                found = "nothing" if value is None else f"shape {list(value.shape)}"
                raise PayloadError(
                    f"{block.stream}: values.{spec.name}: the model takes shape {spec.shape}, found {found}"
                )
            inputs.append(value)
        finite = all(bool(np.isfinite(value).all()) for value in inputs)
        label = block.labels[-1] if block.labels else None
        sample = Sample(block.stream, stream.sequence, block.time, inputs, finite, label, block.segment)
        stream.sequence += 1
        return [sample]

    def due(self) -> float | None:
        """The moment (Unix seconds) at which `step` should be called next; None while there is nothing to do."""
        if len(self._pending) >= self.config.batch.size:
            return self._pending[0][0]
        if self._pending:
            return self._pending[0][0] + self.config.batch.deadline
        if self._noticed:
            return self.clock.now()
        if self._holding:
            moments = [s.since + self.config.adaptation.patience for s in self._holding.values()]
            moments += [t.since + self.config.batch.deadline for t in self._taken if t.stream.decided >= t.until]
            return min(moments)
        if self._taken:
            return self._taken[0].since + self.config.batch.deadline
        return None

    @property
    def waiting(self) -> int:
        """Samples that are waiting for the model."""
        return len(self._pending)

    # -- one turn ---------------------------------------------------------------------------------------------------

    def step(self, flush: bool = False) -> Step:
        """Run one micro-batch (of at most `batch.size` samples) and say what came of it.

        `flush`: let no window wait for others of its stream that a step graph would take with it.

        A vector that an adaptation hands over holds from the very next sample: what is left of its stream in the batch
        is run again with it. So where a batch was cut makes no difference to what is decided.
        """
        step = Step()
        touched: dict[str, None] = {}
        step.events += self._noticed
        self._noticed = []
        self._collect(step, touched, self.clock.now())
        pending = self._pending
        count = min(len(pending), self.config.batch.size)
        if count:
            self._run([pending.popleft()[1] for _ in range(count)], step, touched)
        if self._holding:
            self._go_through_held(step, touched, flush and not pending)
        self._release(step, touched)
        step.streams = list(touched)
        return step

    def _run(self, samples: list[Sample], step: Step, touched: dict[str, None]) -> None:
        """Infer, watch and decide `samples`."""
        results = self._infer(samples, step)
        if self.plan.always:
            self._hold(samples, results, step, touched)
            return
        sightings = self._watch(samples, results)
        streams, decisions, plan = self.streams, step.decisions, self.plan
        for i, sample in enumerate(samples):
            stream = streams[sample.stream]
            stream.decided = sample.sequence + 1
            touched[sample.stream] = None
            decisions.append(self._decide(stream, sample, results[i], sightings[i], step))
            if plan.any_finished:
                changed = self._collect(step, touched, sample.time)
                rest = [j for j in range(i + 1, len(samples)) if samples[j].stream in changed]
                again = [samples[j] for j in rest]
                found = self._infer(again, step)
                for j, result, sighting in zip(rest, found, self._watch(again, found), strict=True):
                    results[j], sightings[j] = result, sighting

    def _watch(self, samples: list[Sample], results: list[Result | None]) -> list[Sighting]:
        """What each stream's detectors make of its samples, all of a stream at once.

        They go on to the end of the batch. Should a stream have another vector before that, its detectors begin anew
        with it, and nothing is left of what they had seen beyond.
        """
        places: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            places.setdefault(sample.stream, []).append(i)
        if len(places) == 1:
            return self._sightings(self.streams[samples[0].stream].monitor, results)
        sightings: list[Sighting] = [(None, 0.0)] * len(samples)
        for name, own in places.items():
            found = self._sightings(self.streams[name].monitor, [results[i] for i in own])
            for i, sighting in zip(own, found, strict=True):
                sightings[i] = sighting
        return sightings

    def _sightings(self, monitor: Monitor, results: list[Result | None]) -> list[Sighting]:
        """Of one stream's consecutive windows. One that is not decided, or was not observed, counts as a window.

        Where streams alarm together, each window is seen in its turn, when it is decided.
        """
        if self._discoveries is not None:
            return [(None, 0.0)] * len(results)
        alarms, pressures = monitor.update_many(
            [
                result[2] or self._unknown if result is not None and result[1] > 0 else self._unknown
                for result in results
            ]
        )
        if not alarms:
            return [(None, pressure) for pressure in pressures]
        return [(alarms.get(i), pressure) for i, pressure in enumerate(pressures)]

    def _hold(self, samples: list[Sample], results: list[Result | None], step: Step, touched: dict[str, None]) -> None:
        """Let windows wait for their batch, and step where it is full."""
        now = self.clock.now()
        for sample, result in zip(samples, results, strict=True):
            stepping = self.streams[sample.stream].stepping
            if stepping is None:
                raise RuntimeError(f"{sample.stream} has no step graph")
            self._holding[sample.stream] = stepping
            static, moments = (None, None) if result is None or result[3] is None else result[3]
            if stepping.hold(Held(sample, result, static, moments), now):
                self._step_on(stepping, step, touched)

    def _go_through_held(self, step: Step, touched: dict[str, None], flush: bool) -> None:
        """Step where windows have waited long enough (or the clock was set back)."""
        now, patience = self.clock.now(), self.config.adaptation.patience
        for stepping in list(self._holding.values()):
            if flush or not 0.0 <= now - stepping.since < patience:
                self._step_on(stepping, step, touched)

    def _step_on(self, stepping: Stepping, step: Step, touched: dict[str, None]) -> None:
        """Decide the windows that wait: by the step graph, or where the stream is paused or pinned, by the model."""
        stream = self.streams[stepping.stream]
        adaptation = stream.adaptation
        results = [held.result for held in stepping.held]
        watched = [None if result is None else result[2] for result in results]
        method = None
        if not adaptation.paused and adaptation.versions.pinned is None:
            trusted = stepping.guarded.trusted
            try:
                y, places = stepping.step(self._names)
            except InferenceError as error:
                step.failure = str(error)
                log.error("a step on %d windows of %s failed: %s", len(stepping.held), stream.name, error)
                places = []
            if places and stepping.guarded.trusted:
                method = stepping.name
                for i, (found, score, _, kept) in zip(places, self._read(Outputs(y, None, None), None), strict=True):
                    results[i] = (found, score, watched[i], kept)
            step.events += stepping.report(adaptation.version, trusted)
        touched[stream.name] = None
        sightings = self._sightings(stream.monitor, results)
        for held, result, sighting in zip(stepping.held, results, sightings, strict=True):
            stream.decided = held.sample.sequence + 1
            decision = self._decide(stream, held.sample, result, sighting, step)
            decision.method = method if held.static is not None else None
            step.decisions.append(decision)
        stepping.held.clear()
        del self._holding[stream.name]

    def _release(self, step: Step, touched: dict[str, None]) -> None:
        """Find the blocks that are done with, and where a restart of their streams continues."""
        waiting: deque[Taken] = deque()
        for block in self._taken:
            stream = block.stream
            if stream.decided < block.until:
                waiting.append(block)
                continue
            stream.window = block.window
            touched[stream.name] = None
            if block.token is not None:
                step.tokens.append(block.token)
        self._taken = waiting

    def _collect(self, step: Step, touched: dict[str, None], now: float) -> set[str]:
        """Take up what adaptation has finished; returns the streams that have another vector now."""
        changed = set()
        for job in self.plan.finished():
            stream = self.streams.get(job.stream)
            if stream is not None:
                step.events += stream.adaptation.collect(job, now)
                touched[stream.name] = None
                if self._after(stream):
                    changed.add(stream.name)
        return changed

    def _after(self, stream: StreamState) -> bool:
        """What a new vector means for the rest of the stream's state; returns whether there is one."""
        changed = stream.adaptation.rebaseline
        if changed:
            stream.adaptation.rebaseline = False
            stream.monitor.reset()
            if self._discoveries is not None:
                self._discoveries.reset(stream.name)
            if stream.late is not None:
                stream.late.reset()
        return changed

    def _infer(self, samples: list[Sample], step: Step) -> list[Result | None]:
        """A result per sample; None for one that is not finite, or where the model failed."""
        results: list[Result | None] = [None] * len(samples)
        observed: list[int] = []
        served: list[int] = []
        for i, sample in enumerate(samples):
            if sample.finite:
                (observed if sample.sequence % self._every == 0 else served).append(i)
        for which, observe in ((observed, True), (served, False)):
            if not which:
                continue
            chosen = [samples[i] for i in which] if len(which) < len(samples) else samples
            inputs = self._stack(chosen)
            try:
                outputs = self.engine.infer(inputs, [s.stream for s in chosen], observe)
            except InferenceError as error:
                step.failure = str(error)
                log.error("a batch of %d windows failed: %s", len(chosen), error)
                continue
            if observe and self._of_inputs:
                inputs = calibrated(
                    inputs, [self.streams[s.stream].adaptation.vector for s in chosen], self.bundle.layout
                )
            for i, result in zip(which, self._read(outputs, inputs if observe else None), strict=True):
                results[i] = result
        return results

    def _stack(self, samples: list[Sample]) -> Inputs:
        if len(samples) == 1:
            return {name: x[None] for name, x in zip(self._names, samples[0].inputs, strict=True)}
        # As np.stack does it, but for a call an array.
        return {
            name: np.concatenate([s.inputs[k] for s in samples]).reshape(len(samples), *samples[0].inputs[k].shape)
            for k, name in enumerate(self._names)
        }

    def _read(self, outputs: Outputs, inputs: Inputs | None) -> list[Result]:
        """Outputs as plain Python numbers, one result a sample; signals where `inputs` were observed."""
        y = outputs.y
        rows: Sequence[list[float] | None] = [None] * len(y)
        kept: Sequence[Kept | None] = [None] * len(y)
        if self.plan.always:
            kept = list(zip(y, [None] * len(y) if outputs.moments is None else outputs.moments, strict=True))
        taps = Taps(outputs, inputs or {})
        if inputs is not None:
            rows = self._signals(taps)
        with np.errstate(all="ignore"):
            if not self._classify:
                finite = [bool(f) for f in np.logical_and.reduce(np.isfinite(y), axis=1)]
                return list(zip(y.astype(np.float64).tolist(), finite, rows, kept, strict=True))
            top = y.argmax(axis=1)
            score = 1.0 / taps.softmax.total
            return list(zip(top.tolist(), score.tolist(), rows, kept, strict=True))

    def _decide(
        self, stream: StreamState, sample: Sample, result: Result | None, sighting: Sighting, step: Step
    ) -> Decision:
        adaptation = stream.adaptation
        version = adaptation.version
        output: str | dict[str, float] | None = None
        reason = shown = watched = None
        if result is None:
            reason = "the model failed on this window" if sample.finite else "the window holds NaN or infinity"
        elif not result[1] > 0:  # NaN, or an infinite logit
            reason = "the model's output is not finite"
        else:
            found, score, row, _ = result
            if row is not None:
                watched = dict(zip(self._watched, row, strict=True))
            predicted = -1
            if self._classify:
                output, shown, predicted = self._classes[found], round(score, 6), found
                if stream.late is not None:
                    stream.late.decided(sample.sequence, predicted)
            else:
                output = dict(zip(self._targets, found, strict=True))
            if watched is not None:
                alarm, pressure = sighting
                if self._discoveries is not None:
                    alarm = self._discoveries.update(stream.name, watched)
                    if alarm is not None and alarm.onset is not None:  # in observed windows
                        alarm = replace(alarm, onset=alarm.onset * self._every)
                    pressure = self._discoveries.pressure(stream.name)
                if alarm is not None:
                    step.events += adaptation.alarmed(alarm, sample)
                elif adaptation.calm:
                    step.events += adaptation.pressed(pressure, sample)
                if not adaptation.calm:
                    step.events += adaptation.saw(sample, predicted, watched)
            if stream.late is not None:
                true = self._classes.index(sample.label) if isinstance(sample.label, str) else None
                for number, finding in stream.late.recorded(sample.sequence, true):
                    step.events += self._erred(stream, finding, number, sample.time)
        return Decision(
            stream.name,
            sample.sequence,
            sample.time,
            output,
            shown,
            version,
            adaptation.state,
            reason,
            sample.label,
            sample.segment,
            watched,
        )

    # -- streams ----------------------------------------------------------------------------------------------------

    def stream(self, name: str) -> StreamState:
        """The state of stream `name`, made where it is new."""
        found = self.streams.get(name)
        if found is None:
            windower = None
            window = self.bundle.manifest.window
            if window is not None:
                windower = Windower(name, self.bundle.manifest.inputs[0].shape[0], window)
            found = StreamState(
                name,
                windower,
                self._new_monitor(),
                Adaptation(name, self.plan),
                self.plan.stepping(name),
                self._new_late(),
            )
            self.streams[name] = found
        return found

    def _new_late(self) -> LateLabels | None:
        detector = new_error_detector(self.bundle, self.config.drift)
        return None if detector is None else LateLabels(detector, self._label_delay)

    def _new_monitor(self) -> Monitor:
        if self._discoveries is not None:
            return Monitor({}, 0)
        monitor = new_monitor(self.bundle, self.config.drift, self._watched, self._reference)
        monitor.compile()
        return monitor

    def command(self, name: str, stream: str | None, version: int | None = None) -> Step:
        """Carry out `pause`, `resume`, `reset`, `rollback`, `pin`, `unpin` or `adapt` for one stream, or for all.

        Raises ValueError, one sentence, where there is no such command, stream or version; nothing is changed then. Of
        all streams, those that can carry it out do, and `Step.refused` tells of the others; raises where none can.
        """
        if stream is not None and stream not in self.streams:
            known = ", ".join(map(repr, islice(self.streams, SHOWN))) or "none yet"
            rest = f" and {len(self.streams) - SHOWN} more" if len(self.streams) > SHOWN else ""
            raise ValueError(f"no stream {stream[:200]!r}; there are {known}{rest}")
        chosen = [self.streams[stream]] if stream is not None else list(self.streams.values())
        now = self.clock.now()
        commands: dict[str, Callable[[Adaptation], list[Event]]] = {
            "pause": lambda a: a.pause(now),
            "resume": lambda a: a.resume(),
            "reset": lambda a: a.reset(now),
            "rollback": lambda a: a.rollback(now),
            "pin": lambda a: a.pin(version, now),
            "unpin": lambda a: a.unpin(),
            "adapt": lambda a: a.adapt(now),
        }
        if name not in commands:
            raise ValueError(f"no command {name!r}; there are {', '.join(commands)} and reload")
        step = Step()
        for found in chosen:
            try:
                step.events += commands[name](found.adaptation)
            except ValueError as error:
                if len(chosen) == 1:
                    raise
                step.refused.append(str(error))
                continue
            self._after(found)
            if name == "reset" and found.stepping is not None:
                found.stepping.reset()
            step.streams.append(found.name)
        if step.refused and not step.streams:
            raise ValueError(step.refused[0])
        return step

    def label(self, stream: str, sequence: int, label: str | float) -> bool:
        """A true label came late. Returns whether its window is still remembered. Raises ValueError on no class."""
        found = self.streams.get(stream)
        if found is None:
            return False
        remembered = found.adaptation.label(sequence, label)
        finding = None
        if found.late is not None and isinstance(label, str):
            finding = found.late.label(sequence, self._classes.index(label))
            if finding is not None:
                self._noticed += self._erred(found, finding, sequence, self.clock.now())
        return remembered or finding is not None

    def _erred(self, stream: StreamState, finding: Finding, sequence: int, now: float) -> list[Event]:
        """What to publish of a label: that of window `sequence`, by which the detector of errors came to `finding`."""
        if not finding.alarm or stream.late is None:
            return []
        return stream.adaptation.erred(finding, stream.late.detector.name, sequence, now)

    def snapshot(self, name: str) -> dict[str, Any]:
        """What a restart needs of a stream: JSON-able but for `window.rows` and `stepping` (bytes). Versions are kept
        apart."""
        stream = self.streams[name]
        return {
            "decided": stream.decided,
            "window": stream.window,
            "monitor": stream.monitor.state(),
            "discoveries": None if self._discoveries is None else self._discoveries.state(name),
            "late": None if stream.late is None else stream.late.state(),
            "adaptation": stream.adaptation.snapshot(),
            "stepping": stream.stepping.state() if stream.stepping is not None else None,
        }

    def restore(self, name: str, snapshot: dict[str, Any]) -> list[Event]:
        """Continue a stream from `snapshot`; returns what is to be published about it.

        Raises ValueError where it does not fit the bundle, ConfigError where the bank has no row for its vector.
        """
        stream = self.stream(name)
        if stream.windower is not None and snapshot["window"] is not None:
            stream.windower.restore(snapshot["window"])
            stream.window = snapshot["window"]
        stream.decided = int(snapshot["decided"])
        stream.sequence = stream.windower.sequence if stream.windower is not None else stream.decided
        try:
            stream.monitor.restore(snapshot["monitor"])
        except ValueError as error:  # the detectors were configured anew
            log.warning("%s: its drift detectors start anew: %s", name, error)
            stream.monitor = self._new_monitor()
        if self._discoveries is not None and snapshot.get("discoveries") is not None:
            try:
                self._discoveries.restore(name, snapshot["discoveries"])
            except ValueError as error:
                log.warning("%s: its tests start anew: %s", name, error)
        data = snapshot.get("stepping")
        if stream.stepping is not None and data is not None:
            try:
                stream.stepping.restore(data)
            except ValueError as error:
                log.warning("%s: its step graph starts anew: %s", name, error)
        if stream.late is not None and snapshot.get("late") is not None:
            try:
                stream.late.restore(snapshot["late"])
            except ValueError as error:
                log.warning("%s: its detector of errors starts anew: %s", name, error)
                stream.late = self._new_late()
        return stream.adaptation.restore(snapshot["adaptation"], self.clock.now())

    def renumber(self, name: str, decided: int) -> list[Event]:
        """Begin stream `name` anew, but never give a window number below `decided` again; returns what to publish."""
        stream = self.stream(name)
        stream.decided = stream.sequence = decided
        if stream.windower is not None:
            stream.windower.sequence = decided
            stream.window = stream.windower.state()
        return stream.adaptation.begin_anew(decided, self.clock.now())
