"""A recording through the daemon's own pipeline, on a simulated clock: same input, same decisions, bit for bit."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Protocol

from trimtab.runtime.blocks import Block
from trimtab.runtime.bundle import Bundle
from trimtab.runtime.clock import Pace, SimulatedClock
from trimtab.runtime.config import Config
from trimtab.runtime.decisions import Decision, Step
from trimtab.runtime.executors import InlineExecutor
from trimtab.runtime.pipeline import Pipeline
from trimtab.runtime.sessions import Engine


class Sink(Protocol):
    """Who wants to know what a replay decides."""

    def take(self, step: Step, seconds: float) -> None:
        """`step` took the pipeline `seconds` of this machine's time."""
        ...


def replay(
    bundle: Bundle,
    config: Config,
    blocks: Iterable[Block],
    sinks: Sequence[Sink],
    *,
    speed: float | None = None,
    progress: Callable[[], None] | None = None,
    label_delay: int = 0,
) -> float:
    """Run `blocks` (in time order) through a new pipeline and hand each of its turns to `sinks`.

    The simulated clock stands at the time of the block that arrives. Adaptation runs inline, and a vector that it
    hands over holds from the very next window. So it makes no difference to the decisions where a micro-batch is cut,
    and, since nobody waits for them, windows are run in full batches. With `speed`, the replay waits until the
    recording's time, that many times faster, has passed on the wall, and cuts batches by their deadline as the daemon
    does.

    Where errors are watched (`drift.errors`), a window's label in the recording is known `label_delay` windows of its
    stream later. `progress` is called after every block. Returns the seconds that the pipeline took, without reading
    and waiting. Raises what the recording, the configuration or the bundle raise: all of it TrimtabError.
    """
    if speed is None:  # nobody waits: a step graph's batches are full, too, however slow the recording is
        patient = config.adaptation.model_copy(update={"patience": math.inf})
        config = config.model_copy(update={"adaptation": patient})
    clock = SimulatedClock()
    executor = InlineExecutor()
    engine = Engine(bundle, config.sessions, executor, batch=config.batch.size)
    wall = Pace(speed) if speed is not None else None
    busy = 0.0
    try:
        pipeline = Pipeline(bundle, config, engine, clock, executor, label_delay=label_delay)

        def turn(moment: float, flush: bool = False) -> None:
            nonlocal busy
            clock.advance_to(moment)
            begun = time.perf_counter()
            step = pipeline.step(flush)
            seconds = time.perf_counter() - begun
            busy += seconds
            for sink in sinks:
                sink.take(step, seconds)

        for block in blocks:
            if wall is not None:
                wall.wait_for(block.time)
                while (due := pipeline.due()) is not None and due <= block.time:
                    turn(due)
            clock.advance_to(block.time)
            begun = time.perf_counter()
            pipeline.offer(block)
            busy += time.perf_counter() - begun
            while pipeline.waiting >= config.batch.size:
                turn(clock.now())
            if progress is not None:
                progress()
        while (due := pipeline.due()) is not None:
            turn(due if math.isfinite(due) else clock.now(), flush=True)
    finally:
        engine.close()
    return busy


class DecisionsFile:
    """Writes each decision as a line of JSON: what is published, with the recording's truth and segment."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def take(self, step: Step, seconds: float) -> None:
        for decision in step.decisions:
            self._file.write(json.dumps(line(decision), separators=(",", ":"), ensure_ascii=False) + "\n")


class SignalsFile:
    """Writes what detectors saw of each window as a row of CSV: what `trimtab drift calibrate` takes.

    Cells are empty where a window was not observed.
    """

    def __init__(self, file: IO[str], signals: Iterable[str]) -> None:
        self._signals = list(signals)
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(["timestamp", "stream", "sequence", *self._signals])

    def take(self, step: Step, seconds: float) -> None:
        for decision in step.decisions:
            seen = decision.signals or {}
            values = [seen.get(name, "") for name in self._signals]
            self._rows.writerow([decision.time, decision.stream, decision.sequence, *values])


def line(decision: Decision) -> dict[str, object]:
    """A decision as it is written to a file."""
    message: dict[str, object] = decision.payload()
    if decision.truth is not None:
        message["truth"] = decision.truth
    if decision.segment is not None:
        message["segment"] = decision.segment
    return message


def static(config: Config) -> Config:
    """The same configuration with adaptation off: what there is to compare with."""
    return config.model_copy(update={"adaptation": config.adaptation.model_copy(update={"policy": "off"})})
