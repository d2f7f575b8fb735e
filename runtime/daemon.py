"""The daemon: broker -> pipeline -> journal -> broker, until it is told to stop.

Threads: messages come from the network thread (`trimtab.runtime.mqtt`), adaptation and folding run on one worker
thread, a reload is prepared on a thread of its own. Everything else, and every change of state, happens on the main
thread, which waits on one queue: for a message, a confirmation, the end of a background job, or a signal.
"""

from __future__ import annotations

import json
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.adapters.versions import Row
from trimtab.runtime import intake
from trimtab.runtime.config import Config, Stream, said_of
from trimtab.runtime.decisions import Event, Step
from trimtab.runtime.errors import ConfigError, PayloadError, TrimtabError
from trimtab.runtime.executors import Job, ThreadExecutor
from trimtab.runtime.journal import Journal, Message, Turn
from trimtab.runtime.loading import Loaded, load
from trimtab.runtime.mqtt import Confirmed, Delivery, Inbox, Link
from trimtab.runtime.outbox import Outbox
from trimtab.runtime.payloads import Form, decode
from trimtab.runtime.pipeline import Pipeline
from trimtab.runtime.systemd import Notifier

log = logging.getLogger("trimtab.daemon")

TIDY = 0.5
"""Seconds between two times that a quiet daemon drops confirmed messages from its journal; a busy one always does."""
FAREWELL = 2.0
"""Seconds, at the least, in which the broker may confirm that this node is offline."""


@dataclass(frozen=True, slots=True)
class Wake:
    """A signal or a message came: look."""


@dataclass(frozen=True, slots=True)
class Worked:
    """A background job has ended: the pipeline may have something to say."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The end of a reload's preparation."""

    loaded: Loaded | None
    error: str


Mail = Confirmed | Wake | Worked | Prepared


class Worker:
    """The worker thread, and mail for the main thread after each of its jobs."""

    def __init__(self, post: Callable[[Mail], None]) -> None:
        self._thread = ThreadExecutor("trimtab-work")
        self._post = post

    def submit(self, job: Job) -> None:
        def whole() -> None:
            try:
                job()
            finally:
                self._post(Worked())

        self._thread.submit(whole)

    def close(self, timeout: float) -> None:
        self._thread.close(timeout)


class Daemon:
    """Serves the configuration in the file `path`.

    Raises TrimtabError, one sentence, where the configuration, the bundle, the journal, a provider or a file for the
    connection cannot be used. A broker that cannot be reached is no error: it is tried again.
    """

    def __init__(self, path: Path, notifier: Notifier) -> None:
        self.path = path
        self.notifier = notifier
        self._mailbox: queue.SimpleQueue[Mail] = queue.SimpleQueue()
        self._worker = Worker(self._mailbox.put)
        self._loaded = load(path, self._worker)
        config = self.config
        self._routes = intake.Routes(config)
        self._form = Form.of(self.pipeline.bundle.manifest)
        self._inbox = Inbox(config.queue, lambda: self._mailbox.put(Wake()))
        self._journal = Journal(
            config.journal or path.with_suffix(".journal.db"), self._loaded.digest, config.journal_sync
        )
        self._messages: list[Message] = []
        self._marks: list[bytes] = []
        self._touched: dict[str, None] = {}
        self._results: list[tuple[str, bytes]] = []
        try:
            with said_of(path):
                self._resume()
            self._outbox = Outbox(self._journal)
            self._link = self._connect()
        except TrimtabError:
            self._journal.close()
            self._leave(FAREWELL)
            raise

        self._orders: list[tuple[intake.Order, bytes]] = []
        """Reload commands that wait for the reload's end."""
        self._worked = False
        self._reloading = False
        self._stop_asked = 0
        self._reload_asked = False
        self._reload_again = False
        self._decisions = 0
        self._failures = 0
        self._dropped = 0
        self._next_ping = 0.0
        self._tidied = 0.0

    @property
    def config(self) -> Config:
        return self._loaded.config

    @property
    def pipeline(self) -> Pipeline:
        return self._loaded.pipeline

    # -- start ------------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Continue every stream from the journal."""
        versions = self._journal.versions()
        streams = self._journal.streams()
        for name, (decided, snapshot) in streams.items():
            self._say(self._restore(self.pipeline, name, decided, snapshot, versions.get(name)))
        if self._journal.started_anew:
            log.warning("the journal is of another bundle: streams start anew, under their old window numbers")
        elif streams:
            log.info("resumed %d streams from %s", len(streams), self._journal.path)

    def _restore(
        self,
        pipeline: Pipeline,
        name: str,
        decided: int,
        snapshot: dict[str, Any] | None,
        versions: tuple[Mapping[str, Any], list[Row]] | None,
    ) -> list[Event]:
        """Continue a stream in `pipeline`, anew where that cannot be; returns what to publish about it.

        Raises ConfigError where the bank has no row for its vector.
        """
        if snapshot is not None:
            try:
                if versions is not None:
                    pipeline.stream(name).adaptation.versions.restore(*versions)
                return pipeline.restore(name, snapshot)
            except ConfigError:
                raise
            except (ValueError, KeyError) as error:
                log.warning("%s: starts anew, its journalled state does not fit: %s", name, error)
                pipeline.streams.pop(name, None)
        self._touched[name] = None
        return pipeline.renumber(name, decided)

    def _connect(self) -> Link:
        """A connection as configured, with everything unconfirmed on its way over it; not started yet."""
        config = self.config
        filters = self._routes.filters()
        link = Link(
            config.mqtt,
            config.client_id,
            f"{config.prefix}/available",
            filters,
            self._journal.filters(),
            self._inbox,
            self._mailbox.put,
        )
        self._journal.subscribed(filters)
        self._outbox.attach(link)
        return link

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then finish what was taken, and leave.

        Raises JournalError where the journal cannot be written any more (a full disk): nothing that could not be
        remembered is published, and the broker keeps what was not acknowledged.
        """
        self._catch_signals()
        self._link.start()
        self._flush()  # what there is to say of streams that began anew
        config = self.config
        log.info(
            "serving %s as %s: %d topic filters, providers %s",
            config.bundle,
            config.node,
            len(config.streams),
            ", ".join(self.pipeline.engine.providers()),
        )
        self.notifier.ready()
        try:
            while not self._stop_asked:
                self._receive(self._patience())
                self._turn()
                self._ping()
                if self._reload_asked:
                    self._reload_asked = False
                    self._begin_reload()
            self._drain()
        finally:
            self._link.close(FAREWELL)
            self._journal.close()
            self._leave(self.config.drain)

    def _leave(self, patience: float) -> None:
        """End the worker thread: a process that ends while one is within ONNX Runtime aborts.

        A try or a build that is under way ends at its next call of the engine, which is closed first.
        """
        self.pipeline.engine.close()
        self._worker.close(patience)

    def _catch_signals(self) -> None:
        def stop(*_: object) -> None:
            self._stop_asked += 1
            if self._stop_asked > 1:
                raise KeyboardInterrupt
            self._mailbox.put(Wake())

        def reload(*_: object) -> None:
            self._reload_asked = True
            self._mailbox.put(Wake())

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, reload)

    def _patience(self) -> float | None:
        """Seconds to wait for mail: until the next batch or ping is due; None: as long as it takes."""
        if len(self._inbox):
            return 0.0
        waits = []
        due = self.pipeline.due()
        if due is not None:
            # Never longer than the deadline, even where the wall clock was set back meanwhile.
            waits.append(min(max(0.0, due - time.time()), self._longest_wait()))
        if self.notifier.watchdog_every is not None:
            waits.append(max(0.0, self._next_ping - time.monotonic()))
        if self._outbox.untidy:
            waits.append(TIDY)
        return min(waits, default=None)

    def _receive(self, patience: float | None) -> None:
        """Wait for mail and read it; then take messages, up to a full batch."""
        try:
            self._open(self._mailbox.get(timeout=patience) if patience != 0.0 else self._mailbox.get_nowait())
            while True:
                self._open(self._mailbox.get_nowait())
        except queue.Empty:
            pass
        while len(self._inbox) and self.pipeline.waiting < self.config.batch.size:
            self._take(self._inbox.take())

    def _open(self, mail: Mail) -> None:
        match mail:
            case Confirmed():
                self._outbox.confirm(mail.keys)
            case Worked():
                self._worked = True
            case Prepared():
                if not self._stop_asked:
                    self._end_reload(mail)
            case Wake():
                pass

    def _turn(self) -> None:
        """Run the pipeline where it is due, and write and publish what there is."""
        due = self.pipeline.due()
        if self._worked or (due is not None and self._is_due(due)):
            self._worked = False
            self._absorb(self.pipeline.step(flush=self._stalled()))
        elif self._outbox.untidy and due is None and not len(self._inbox) and time.monotonic() - self._tidied > TIDY:
            self._tidied = time.monotonic()
            self._outbox.tidy()
        self._flush()

    def _is_due(self, due: float) -> bool:
        ahead = due - time.time()
        # The second: the wall clock was set back.
        return ahead <= 0.0 or ahead > self._longest_wait() or self._stalled()

    def _longest_wait(self) -> float:
        """Seconds for which the pipeline lets a window wait at the most."""
        deadline, patience = self.config.batch.deadline, self.config.adaptation.patience
        return max(deadline, patience) if self.pipeline.plan.always else deadline

    def _stalled(self) -> bool:
        """Nothing more can come before something is acknowledged: waiting for others would be in vain."""
        return self._link.saturated and not len(self._inbox)

    def _absorb(self, step: Step) -> None:
        prefix = self.config.prefix
        for decision in step.decisions:
            self._messages.append(Message(f"{prefix}/decision/{decision.stream}", _json(decision.payload())))
        self._say(step.events)
        self._decisions += len(step.decisions)
        self._failures += step.failure is not None
        self._marks += [token for token in step.tokens if isinstance(token, bytes)]
        self._touched.update(dict.fromkeys(step.streams))

    def _say(self, events: Sequence[Event]) -> None:
        prefix = self.config.prefix
        self._messages += [Message(f"{prefix}/{e.topic}", _json(e.payload), e.retain) for e in events]

    def _flush(self) -> None:
        """One transaction with everything since the last; then publish."""
        if not (self._messages or self._marks or self._touched or self._results):
            return
        pipeline = self.pipeline
        versions = {}
        for name in self._touched:
            adaptation = pipeline.streams[name].adaptation
            if adaptation.changed:
                adaptation.changed = False
                versions[name] = (adaptation.versions.state(), adaptation.versions.to_rows())
        turn = Turn(
            self._messages,
            self._marks,
            {name: pipeline.snapshot(name) for name in self._touched},
            versions,
            commands=self._results,
        )
        self._messages, self._marks, self._touched, self._results = [], [], {}, []
        self._outbox.commit(turn)

    def _ping(self) -> None:
        """Tell systemd that the loop turns, at half the time that it allows."""
        every = self.notifier.watchdog_every
        if every is not None and time.monotonic() >= self._next_ping:
            self._next_ping = time.monotonic() + every
            self.notifier.watchdog()
            self.notifier.status(self.status())

    def status(self) -> str:
        """One line for `systemctl status`."""
        counts = self._link.counts
        return (
            f"{'connected' if self._link.connected.is_set() else 'no connection'}; "
            f"{len(self.pipeline.streams)} streams, {self._decisions} decisions, "
            f"{self._outbox.backlog} to be confirmed, {counts.dropped + self._dropped} messages dropped, "
            f"{self._failures} batches failed"
        )

    # -- messages ---------------------------------------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> None:
        route = self._routes.of(delivery.topic)
        if not delivery.qos and self._outbox.backlog >= self.config.queue:
            self._dropped += 1  # the broker sends faster than it takes what we say
            return
        if route is None or delivery.retain:  # what a broker kept of a topic is no new sample, and no new command
            self._link.acknowledge([delivery])
            return
        match route:
            case intake.Sensor():
                self._take_sample(delivery, route.settings)
            case intake.Labels():
                self._take_label(delivery, route)
            case intake.Command():
                self._take_command(delivery, route.name)

    def _take_sample(self, delivery: Delivery, settings: Stream) -> None:
        try:
            if len(delivery.topic) > intake.LONGEST_TOPIC // 4:
                raise PayloadError(f"the topic is longer than {intake.LONGEST_TOPIC // 4} characters; shorten it")
            block = decode(
                delivery.payload, delivery.topic, settings, self._form, delivery.arrived, delivery.properties
            )
        except PayloadError as error:
            mark = intake.mark(delivery, None)
            if self._outbox.take(delivery, mark, delivery.dup):
                self._bury(delivery, mark, error)
            return
        mark = intake.mark(delivery, block.sequence)
        if self._outbox.take(delivery, mark, delivery.dup or block.sequence is not None):
            block.token = mark
            try:
                self.pipeline.offer(block)
            except PayloadError as error:
                self._bury(delivery, mark, error)
            delivery.payload = b""  # what waits to be acknowledged need not be kept whole

    def _take_label(self, delivery: Delivery, route: intake.Labels) -> None:
        mark = intake.mark(delivery, None)
        if not self._outbox.take(delivery, mark, delivery.dup):
            return
        try:
            stream, sequence, label = intake.read_label(delivery.payload, route)
            if self.pipeline.label(stream, sequence, label):
                self._touched[stream] = None  # what the detector of errors learnt of it is not told again
            else:
                log.debug("a label for window %d of %s found it forgotten", sequence, stream)
            self._marks.append(mark)
        except ValueError as error:  # a PayloadError, or a class that the model does not have
            self._bury(delivery, mark, error)

    def _bury(self, delivery: Delivery, mark: bytes, error: ValueError) -> None:
        """A message that cannot be used: say so, and be done with it."""
        log.warning("%s: dead letter: %s", delivery.topic[:200], error)
        self._messages.append(Message(f"{self.config.prefix}/deadletter", intake.dead_letter(delivery, str(error))))
        self._marks.append(mark)

    # -- commands ---------------------------------------------------------------------------------------------------

    def _take_command(self, delivery: Delivery, name: str) -> None:
        mark = intake.mark(delivery, None)
        if not self._outbox.take(delivery, mark, delivery.dup):
            return
        log.info("command %s %s", name, delivery.payload[:200].decode(errors="replace"))
        try:
            order = intake.read_order(delivery.payload)
        except PayloadError as error:
            self._answer(name, intake.Order(), mark, str(error))
            return
        done = self._journal.command(order.id) if order.id is not None else None
        if done is not None:
            self._messages.append(Message(f"{self.config.prefix}/result/{name}", done))
            self._marks.append(mark)
        elif name == "reload":
            self._orders.append((order, mark))
            self._reload_asked = True
        else:
            try:
                step = self.pipeline.command(name, order.stream, order.version)
            except ValueError as error:
                self._answer(name, order, mark, str(error))
            else:
                self._absorb(step)
                count, refused = len(step.streams), step.refused
                partly = f"done for {count} of {count + len(refused)} streams; {refused[0]}" if refused else None
                self._answer(name, order, mark, partly)

    def _answer(self, name: str, order: intake.Order, mark: bytes, error: str | None) -> None:
        answer: dict[str, Any] = {"id": order.id, "command": name, "ok": error is None}
        if order.stream is not None:
            answer["stream"] = order.stream
        if error is not None:
            answer["error"] = error
        result = _json(answer)
        self._messages.append(Message(f"{self.config.prefix}/result/{name}", result))
        self._marks.append(mark)
        if order.id is not None:
            self._results.append((order.id, result))
        self._flush()  # so that a second command of the same id finds this one's result

    # -- reload -----------------------------------------------------------------------------------------------------

    def _begin_reload(self) -> None:
        """Prepare the new configuration on a thread of its own; the old one serves on meanwhile."""
        if self._reloading:
            self._reload_again = True
            return
        self._reloading = True
        self.notifier.reloading()
        threading.Thread(target=self._prepare, args=(self._loaded,), name="trimtab-reload", daemon=True).start()

    def _prepare(self, running: Loaded) -> None:
        prepared = Prepared(None, "preparing it failed; the log says why")
        try:
            prepared = Prepared(load(self.path, self._worker, running), "")
        except TrimtabError as error:
            prepared = Prepared(None, str(error))
        finally:
            self._mailbox.put(prepared)

    def _end_reload(self, prepared: Prepared) -> None:
        error = prepared.error
        if prepared.loaded is not None:
            try:
                with said_of(self.path):
                    self._switch(prepared.loaded)
            except ConfigError as fault:
                error = str(fault)
        if error:
            log.error("reload refused, the old configuration serves on: %s", error)
        else:
            log.info("reloaded %s", self.path)
        self._reloading = False
        orders, self._orders = self._orders, []
        for order, mark in orders:
            self._answer("reload", order, mark, error or None)
        self.notifier.ready()
        if self._reload_again:
            self._reload_again = False
            self._begin_reload()

    def _switch(self, loaded: Loaded) -> None:
        """Go over to a new configuration between two batches: what was taken is decided by the old one.

        Raises ConfigError where the new bank is too small for the vectors in use; the old one then serves on.
        """
        while self.pipeline.due() is not None:
            self._absorb(self.pipeline.step(flush=True))
        self._flush()
        old, old_prefix, old_filters = self._loaded, self.config.prefix, self._routes.filters()
        same = loaded.digest == old.digest
        events = []
        try:
            for name, stream in self.pipeline.streams.items():
                versions = stream.adaptation.versions
                snapshot = self.pipeline.snapshot(name) if same else None
                kept = (versions.state(), versions.to_rows()) if same else None
                events += self._restore(loaded.pipeline, name, stream.decided, snapshot, kept)
        except ConfigError:
            loaded.pipeline.engine.close()  # not the one in use, in which everything has its row
            raise
        self._loaded = loaded
        self._form = Form.of(self.pipeline.bundle.manifest)
        self._routes = intake.Routes(self.config)
        self._inbox.capacity = self.config.queue
        if not same:
            self._journal.adopt(loaded.digest)
            log.warning("another bundle: streams start anew, under their old window numbers")
        self._say(events)
        if loaded.pipeline.engine is not old.pipeline.engine:
            old.pipeline.engine.close()
        before, now = old.config, self.config
        if (before.mqtt, before.client_id, old_prefix, old_filters) != (
            now.mqtt,
            now.client_id,
            now.prefix,
            self._routes.filters(),
        ):
            self._link.close(FAREWELL)
            self._link = self._connect()
            self._link.start()
        if (before.journal, before.journal_sync) != (now.journal, now.journal_sync):
            log.warning("journal, journal_sync: take effect at the next start")

    # -- end --------------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Decide on what was taken, publish it, and wait for the broker to confirm, up to `drain` seconds."""
        self.notifier.stopping()
        log.info(
            "stopping: %d windows to decide, %d messages to be confirmed", self.pipeline.waiting, self._outbox.backlog
        )
        end = time.monotonic() + self.config.drain
        while self.pipeline.due() is not None:
            self._absorb(self.pipeline.step(flush=True))
            self._flush()
        while self._outbox.backlog and (left := end - time.monotonic()) > 0:
            try:
                self._open(self._mailbox.get(timeout=left))
            except queue.Empty:
                break
            self._flush()
        self._outbox.tidy()
        if self._outbox.backlog:
            log.warning("%d messages not confirmed; they are published at the next start", self._outbox.backlog)
        log.info("stopped after %d decisions", self._decisions)


_encode = json.JSONEncoder(separators=(",", ":")).encode  # `json.dumps` would make a new encoder for each


def _json(payload: Mapping[str, Any]) -> bytes:
    return _encode(payload).encode()
