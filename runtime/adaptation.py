"""When a stream adapts: its drift state, the windows gathered since the alarm, tries, probation and roll-back.

    stable -> suspect -> drifted -> adapting -> probation -> stable
                            ^___________|            |____-> rolled_back -> stable

What is proposed is the methods' business, and whether it is taken the guard's (both in `trimtab.adapters`). A try runs
on the executor, on copies of the gathered windows, and its outcome is collected at the pipeline's next turn: serving
never waits for it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.adapters.memory import BalancedMemory
from trimtab.adapters.methods import Windows
from trimtab.adapters.versions import Versions
from trimtab.drift.detector import Finding
from trimtab.drift.monitor import Alarm
from trimtab.runtime.blocks import Label, Sample
from trimtab.runtime.decisions import Event, short
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.tries import Attempt, Job, Plan, attempted, judged

log = logging.getLogger(__name__)

DriftState = Literal["stable", "suspect", "drifted", "adapting", "probation", "rolled_back"]

SUSPECT = 0.5
"""Share of an alarm's threshold from which a stream counts as suspect."""

HOLDOUT_RUN = 8
"""Windows are held back in runs of this many, one run in four: neighbours overlap, so single ones would be known."""

LONGEST_WAIT = 1024
"""Windows between two tries at the most: the wait doubles while nothing is found."""


class Gathered:
    """The windows of one stream since its alarm: some to adapt on, some held back to judge by."""

    def __init__(self, plan: Plan, since: int) -> None:
        config = plan.config
        manifest = plan.bundle.manifest
        self.since = since
        self.names = [i.name for i in manifest.inputs]
        classes = len(manifest.classes)
        self.adapt = BalancedMemory(config.memory, classes)
        self.held = BalancedMemory(config.guard.holdout, classes)
        self.recent: deque[dict[str, float]] = deque(maxlen=config.minimum)
        self.seen = 0

    def add(self, sample: Sample, predicted: int) -> None:
        held = (self.seen // HOLDOUT_RUN) % 4 == 3
        self.seen += 1
        inputs = dict(zip(self.names, sample.inputs, strict=True))
        (self.held if held else self.adapt).add(inputs, sample.sequence, predicted)


class Adaptation:
    """One stream's drift state and parameter versions."""

    def __init__(self, stream: str, plan: Plan) -> None:
        self.stream = stream
        self.plan = plan
        self.state: DriftState = "stable"
        self.paused = False
        self.rebaseline = False
        """Set when the vector changed: the monitor is to learn its baselines anew."""
        self.versions = Versions(plan.bundle.source.theta)
        self.changed = False
        """Set when `versions` changed: the journal is to write them."""
        self._gathered: Gathered | None = None
        self._job: Job | None = None
        self._next = 0  # window number of the next try
        self._wait = plan.config.retry
        self._due: float | None = None  # moment of the next try by schedule
        self._until = 0  # window number at which probation, or the rest after a roll-back, ends
        self._before: int | None = None  # version to fall back to while on probation
        self._sequence = 0
        self._told: tuple[DriftState, int] = ("stable", 0)  # state and version that were last published

    @property
    def version(self) -> int:
        """The number of the vector in use."""
        return self.versions.current.number

    @property
    def vector(self) -> NDArray[np.float32] | None:
        """The vector in use; None: the source's."""
        current = self.versions.current
        return current.theta if current.number else None

    @property
    def calm(self) -> bool:
        """Nothing is gathered and nothing waited for: the common case, in which there is nothing to do."""
        return self._gathered is None and self.state != "rolled_back"

    # -- what the pipeline reports ----------------------------------------------------------------------------------

    def alarmed(self, alarm: Alarm, sample: Sample) -> list[Event]:
        """The monitor raised an alarm at `sample`: start gathering, whatever was going on."""
        self._gather(sample.sequence)
        onset = max(0, sample.sequence - alarm.onset) if alarm.onset is not None else None
        event = self._told_of("virtual", alarm.signal, alarm.detector, alarm, onset, sample.sequence, sample.time)
        return [event, *self._enter("drifted", sample.sequence, sample.time)]

    def erred(self, finding: Finding, detector: str, sequence: int, now: float) -> list[Event]:
        """Late labels, of which that of window `sequence` is the latest, tell of more errors (or fewer) than before.

        Gathering starts where nothing is going on; windows that are being gathered go on to be.
        """
        event = self._told_of("real", "errors", detector, finding, None, sequence, now)
        if not self.calm and self.state not in ("stable", "suspect"):  # those gather by schedule
            return [event]
        self._gather(self._sequence)
        return [event, *self._enter("drifted", self._sequence, now)]

    def _told_of(
        self,
        kind: Literal["virtual", "real"],
        signal: str,
        detector: str,
        found: Alarm | Finding,
        onset: int | None,
        sequence: int,
        time: float,
    ) -> Event:
        return Event(
            f"drift/{self.stream}",
            {
                "stream": self.stream,
                "sequence": sequence,
                "time": time,
                "kind": kind,
                "signal": signal,
                "detector": detector,
                "statistic": short(found.statistic),
                "threshold": short(found.threshold),
                "onset": onset,
                "version": self.version,
            },
        )

    def _scheduled(self, sample: Sample) -> bool:
        """Whether the schedule asks for a try; the first moment that is seen only starts its clock."""
        now = self.plan.moment(sample)
        due = self._due is not None and now >= self._due
        if due or self._due is None:
            self._due = now + self.plan.every
        return due

    def _gather(self, sequence: int) -> None:
        """Remember windows from `sequence` on, and drop a try that is under way: it knows nothing of them."""
        self._job = None
        self._gathered = Gathered(self.plan, sequence)
        self._wait = self.plan.config.retry
        self._next = sequence + self.plan.config.minimum

    def pressed(self, pressure: float, sample: Sample) -> list[Event]:
        """No alarm at `sample`; the strongest detector stands at `pressure` of its threshold."""
        self._sequence = sample.sequence
        if self.plan.scheduled and self._scheduled(sample) and not self.paused and self.versions.pinned is None:
            self._gather(sample.sequence)
        if self.state == "stable" and pressure >= SUSPECT:
            return self._enter("suspect", sample.sequence, sample.time)
        if self.state == "suspect" and pressure < SUSPECT:
            return self._enter("stable", sample.sequence, sample.time)
        return []

    def saw(self, sample: Sample, predicted: int, signals: dict[str, float]) -> list[Event]:
        """An observed, finite window was decided."""
        self._sequence = sample.sequence
        gathered = self._gathered
        if gathered is None:
            if self.state == "rolled_back" and sample.sequence >= self._until:
                return self._enter("stable", sample.sequence, sample.time)
            return []
        gathered.recent.append(signals)
        if self.plan.methods:
            gathered.add(sample, predicted)
        if self._job is not None:
            return []
        if self.state == "probation" and sample.sequence >= self._until:
            self._start_judgement(gathered)
        elif self.state == "drifted" and self._settled(gathered):
            self._gathered = None
            return self._enter("stable", sample.sequence, sample.time)
        elif sample.sequence >= self._next and self._may_try(gathered):
            events = self._enter("adapting", sample.sequence, sample.time) if self.state == "drifted" else []
            self._start_try(gathered)
            return events
        return []

    def label(self, sequence: int, label: Label) -> bool:
        """A true label came late. Returns whether its window is still remembered. Raises ValueError on no class."""
        classes = self.plan.bundle.manifest.classes
        if isinstance(label, str) and label not in classes:
            raise ValueError(f"{self.stream}: label {label!r} is none of the classes {', '.join(classes)}")
        value = float(classes.index(label)) if isinstance(label, str) else float(label)
        if self._gathered is None:
            return False
        return self._gathered.adapt.label(sequence, value) or self._gathered.held.label(sequence, value)

    def _may_try(self, gathered: Gathered) -> bool:
        return (
            bool(self.plan.methods)
            and not self.paused
            and self.versions.pinned is None
            and len(gathered.held) > 0
            and len(gathered.adapt) >= self.plan.config.minimum // 2
        )

    def _settled(self, gathered: Gathered) -> bool:
        """Whether the recent windows look like the source's: the drift went away by itself.

        Not before a memory's worth of windows: what a person does for a minute may look well though the rest does not.
        """
        recent = gathered.recent
        # An adapted vector is held against the source's once more, with all windows, before it may stay.
        whole = self.plan.config.memory + (self.plan.config.retry if self.version else 0)
        if gathered.seen <= whole:
            return False
        return all(
            float(np.median([signals[name] for signals in recent])) <= bound
            for name, bound in self.plan.settled.items()
            if name in recent[-1]
        )

    # -- tries, on the executor -------------------------------------------------------------------------------------

    def _start(self, work: Callable[[Windows, Windows], Attempt], gathered: Gathered, final: bool = False) -> None:
        """Hand `work` to the executor with copies of the windows. It must not touch what the loop may change."""
        windows, held = gathered.adapt.windows(), gathered.held.windows()
        self._job = Job(self.stream, final)
        self.plan.run(self._job, lambda: work(windows, held))

    def _start_try(self, gathered: Gathered) -> None:
        current, earlier = self.versions.current, self.versions.candidates()
        self._start(lambda windows, held: attempted(self.plan, current, earlier, windows, held), gathered)

    def _start_judgement(self, gathered: Gathered) -> None:
        current = self.versions.current.theta
        before = None if self._before is None else self.versions.find(self._before)
        self._start(lambda _, held: judged(self.plan, current, before, held), gathered, final=True)

    def collect(self, job: Job, now: float) -> list[Event]:
        """Take up the outcome of a finished job. One that an alarm or a command has overtaken is passed over."""
        if job is not self._job:
            return []
        self._job = None
        attempt = job.attempt
        before = self.version
        if attempt.theta is not None:
            try:
                self._use(attempt.theta, attempt.known, attempt, now)
            except ConfigError as error:
                attempt = Attempt(trail=attempt.trail, failure=str(error))
        if attempt.failure is not None:
            log.error("%s: an adaptation failed: %s", self.stream, attempt.failure)
        if job.final:
            return self._end_probation(attempt, now) if attempt.failure is None else self._judge_later()
        sequence = self._sequence
        if attempt.theta is None:
            self._next = sequence + self._wait
            # While the memory fills, evidence grows by every window; from then on it hardly does.
            if self._gathered is not None and self._gathered.seen >= self.plan.config.memory:
                self._wait = min(2 * self._wait, LONGEST_WAIT)
            events = self._enter("drifted", sequence, now) if self.state == "adapting" else []
            if self.state in ("stable", "suspect"):  # by schedule: the next one is another day's
                self._gathered = None
            return [self._report(attempt, before, before, False, now), *events]
        if self._before is None or self.state != "probation":
            self._before = before
        return [self._report(attempt, before, self.version, True, now), *self._enter("probation", sequence, now)]

    def _end_probation(self, attempt: Attempt, now: float) -> list[Event]:
        before, version = self._before, self.version
        if not attempt.worse or before is None:
            self._before = self._gathered = None
            return self._enter("stable", self._sequence, now)
        try:
            self._use(self.versions.get(before).theta, before, attempt, now)
        except ConfigError as error:
            log.error("%s: cannot be rolled back: %s", self.stream, error)
            return self._judge_later()
        self._before = self._gathered = None
        report = self._report(attempt, version, self.version, False, now, rolled_back=True)
        return [report, *self._enter("rolled_back", self._sequence, now)]

    def _judge_later(self) -> list[Event]:
        """The judgement failed, or could not be carried out: what was not judged stays on probation."""
        self._until = self._sequence + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        return []

    def _use(self, theta: NDArray[np.float32], known: int | None, attempt: Attempt, now: float) -> None:
        """Take `theta` into use, as the earlier version `known` or as a new one.

        Raises ConfigError where the bank has no row left, ValueError where another version is pinned; nothing is
        changed then.
        """
        if self.versions.pinned is not None and self.versions.pinned != known:
            raise ValueError(f"{self.stream}: version {self.versions.pinned} is pinned; unpin it first")
        self.plan.engine.bind(self.stream, None if known == 0 else theta)
        if known is not None:
            self.versions.recall(known, now)
        else:
            evidence = {
                key: value
                for entry in attempt.trail
                if entry["accepted"]  # what spoke against another method is no evidence for this version
                for key, value in entry.items()
                if isinstance(value, float)
            }
            self.versions.add(theta, "+".join(attempt.accepted), evidence, now, attempt.states)
        # Everything that judged the old vector begins anew.
        self.rebaseline = True
        self.changed = True
        self._until = self._sequence + self.plan.config.guard.probation
        if self._gathered is not None:
            # What is slower to show may still be added, and a hasty switch be mended, until the memory is full.
            self._until = max(self._until, self._gathered.since + self.plan.config.memory + self.plan.config.minimum)
        self._wait = self.plan.config.retry
        self._next = self._sequence + self._wait

    # -- commands ---------------------------------------------------------------------------------------------------

    def pause(self, now: float) -> list[Event]:
        """Try nothing until `resume`, and drop a try that is under way; drift is still watched."""
        self.paused = True
        if self.state != "adapting":
            return []
        self._job = None
        return self._enter("drifted", self._sequence, now)

    def resume(self) -> list[Event]:
        self.paused = False
        return []

    def reset(self, now: float) -> list[Event]:
        """Back to the source's vector. Raises ValueError where another is pinned."""
        return self._go_to(0, "reset", now)

    def rollback(self, now: float) -> list[Event]:
        """Back to the version that was in use before this one. Raises ValueError where there is none."""
        parent = self.versions.current.parent
        if parent is None:
            raise ValueError(f"{self.stream} is at version {self.version}, which has none before it")
        return self._go_to(parent, "rollback", now)

    def pin(self, number: int | None, now: float) -> list[Event]:
        """Use version `number` (None: the present one) and adapt no more. Raises ValueError where there is no such."""
        number = self.version if number is None else number
        self.versions.get(number)
        pinned = self.versions.pinned
        self.versions.unpin()
        try:
            events = self._go_to(number, "pin", now)
        except ConfigError:
            if pinned is not None:
                self.versions.pin(pinned)
            raise
        self.versions.pin(number)
        return events

    def unpin(self) -> list[Event]:
        self.versions.unpin()
        self.changed = True
        return []

    def adapt(self, now: float) -> list[Event]:
        """Start gathering now and try as soon as there are windows enough, alarm or none.

        Raises ValueError where adaptation is off or a version is pinned.
        """
        if self.plan.always:
            raise ValueError("adaptation.policy is always: every window is adapted to as it is")
        if not self.plan.methods:
            raise ValueError("adaptation.policy is off; set it to on_drift and reload")
        if self.versions.pinned is not None:
            raise ValueError(f"{self.stream}: version {self.versions.pinned} is pinned; unpin it first")
        self._gather(self._sequence)
        return self._enter("drifted", self._sequence, now)

    def _go_to(self, number: int, reason: str, now: float) -> list[Event]:
        """Somebody decided: whatever was under way ends."""
        before = self.version
        self._use(self.versions.get(number).theta, number, Attempt(), now)
        self._job = None
        self._gathered = None
        self._before = None
        report = self._report(Attempt(accepted=[reason]), before, self.version, True, now)
        return [report, *self._enter("stable", self._sequence, now)]

    # -- restart ----------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """What a restart needs beside the versions: JSON-able. Gathered windows are gathered anew."""
        return {
            "state": self.state,
            "paused": self.paused,
            "sequence": self._sequence,
            "until": self._until,
            "before": self._before,
            "due": self._due,
        }

    def restore(self, snapshot: dict[str, Any], now: float) -> list[Event]:
        """Continue from `snapshot`; `versions` has been restored before.

        Raises ConfigError where the bank has no row left.
        """
        self.state = snapshot["state"]
        self.paused = bool(snapshot["paused"])
        self._sequence = int(snapshot["sequence"])
        self._until = int(snapshot["until"])
        self._before = snapshot["before"]
        self._due = snapshot.get("due")
        current = self.versions.current
        if current.number != 0:
            self.plan.engine.bind(self.stream, current.theta)
        self._told = (self.state, self.version)
        if self.state in ("drifted", "adapting", "probation"):
            self._gather(self._sequence)
        # A try that was under way is lost.
        return self._enter("drifted", self._sequence, now) if self.state == "adapting" else []

    def begin_anew(self, sequence: int, now: float) -> list[Event]:
        """Forget everything, also what the engine, the journal and the broker still hold of the stream."""
        self._sequence = sequence
        self.changed = True
        self.plan.engine.bind(self.stream, None)
        return [self._tell(sequence, now)]

    # -- reports ----------------------------------------------------------------------------------------------------

    def _enter(self, state: DriftState, sequence: int, time: float) -> list[Event]:
        self.state = state
        return [self._tell(sequence, time)] if self._told != (state, self.version) else []

    def _tell(self, sequence: int, time: float) -> Event:
        self._told = self.state, self.version
        facts = {"stream": self.stream, "state": self.state, "version": self.version}
        return Event(f"state/{self.stream}", {**facts, "sequence": sequence, "time": time}, retain=True)

    def _report(
        self, attempt: Attempt, before: int, after: int, accepted: bool, now: float, rolled_back: bool = False
    ) -> Event:
        payload: dict[str, Any] = {
            "stream": self.stream,
            "sequence": self._sequence,
            "time": now,
            "from": before,
            "to": after,
            "accepted": accepted,
            "methods": attempt.accepted,
            "trail": attempt.trail,
        }
        if rolled_back:
            payload["rolled_back"] = True
        if attempt.failure is not None:
            payload["failure"] = attempt.failure
        return Event(f"adaptation/{self.stream}", payload)
