"""The demo: a recorded stream through a real broker and a real daemon process, watched live.

Nothing here is a shortcut: the rows are published as a sensor would, the daemon is `trimtab run` with a configuration
file, and what is shown is what it says over MQTT. Only the true labels, which it never gets, come from the recording.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import paho.mqtt.client as paho
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from trimtab.runtime.blocks import Block, Sample
from trimtab.runtime.bundle import Bundle
from trimtab.runtime.config import Config, load_config
from trimtab.runtime.decisions import Decision, Event, Step
from trimtab.runtime.embedded_broker import embedded_broker
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.live_view import LiveView, PlainView, View
from trimtab.runtime.plot import Trace, draw
from trimtab.runtime.publish import Publisher, message
from trimtab.runtime.recordings import Recording
from trimtab.runtime.replay import DecisionsFile, Sink, replay, static
from trimtab.runtime.summary import SETTLE, Summary, Tally
from trimtab.runtime.windows import Windower

UNDER_WAY = 64
"""Windows sent and not yet decided, at most: a sensor would send no faster, and nothing is dropped."""
PATIENCE = 30.0
"""Seconds without a word from the daemon after which the demo gives up."""
NODE = "demo"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the demo went."""

    adapted: Summary
    """What the daemon decided; its latency is from a window's last row sent to its decision received."""
    static: Summary
    """The same stream without adaptation, replayed."""
    files: list[Path]
    """Written: the configuration, the daemon's log, its decisions, the picture."""


def demo(bundle: Bundle, recording: Path, folder: Path, seconds: float, screen: IO[str], title: str) -> Outcome:
    """Play `recording`, one stream of a classification, within about `seconds`, and show it on `screen`.

    `folder` gets the files. Raises TrimtabError, one sentence, where something is missing or the daemon fails; the
    daemon and the broker are stopped however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log, decisions, picture = folder / "daemon.log", folder / "decisions.jsonl", folder / "demo.png"
    blocks = list(Recording(recording, bundle.manifest).blocks())
    course = windows_of(blocks, bundle)
    tally, trace = Tally(bundle.manifest.task), Trace()
    with ExitStack() as stack:
        port = stack.enter_context(embedded_broker())
        file = write_config(folder, bundle, blocks[0].stream, port)
        config = load_config(file)
        sinks: list[Sink] = [tally, trace, DecisionsFile(stack.enter_context(decisions.open("w", encoding="utf-8")))]
        ears = stack.enter_context(_Ears(config))
        daemon = stack.enter_context(_Daemon(file, log))
        # While it starts: what the model would have said untouched, for the view to show beside each decision.
        plain, plain_trace = _replayed(bundle, static(config), blocks)
        ears.wait_until_online(daemon)
        view = stack.enter_context(_view(screen, course, f"{title} (MQTT broker on 127.0.0.1:{port})"))
        begun = time.perf_counter()
        for step, latency in _played(blocks, course, config, seconds, ears, daemon):
            for sink in sinks:
                sink.take(step, latency)
            for decision in step.decisions:
                view.decided(decision, plain_trace.score[decision.sequence] == 1.0)
            for event in step.events:
                view.happened(event)
        elapsed = time.perf_counter() - begun
    # What the detectors saw is not published; the pipeline sees the same in a replay.
    trace.signals = _replayed(bundle, config, blocks)[1].signals
    adapted = tally.summary(elapsed, elapsed)
    draw(picture, trace, plain_trace, bundle.source.reference, title, subtitle=_in_short(adapted, plain))
    return Outcome(adapted, plain, [file, log, decisions, picture])


def write_config(folder: Path, bundle: Bundle, topic: str, port: int) -> Path:
    """Write `config.yaml` for the demo's daemon into `folder`, and drop what an earlier demo left of its journal."""
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        if (folder / name).is_file():
            (folder / name).unlink()
    file = folder / "config.yaml"
    settings = {
        "bundle": str(bundle.path.resolve()),
        "node": NODE,
        "streams": [{"topic": topic, "payload": "msgpack"}],
        "mqtt": {"host": "127.0.0.1", "port": port},
        "journal": "journal.db",
    }
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return file


def windows_of(blocks: list[Block], bundle: Bundle) -> list[tuple[int, Sample]]:
    """The windows that one stream's `blocks` make, each with the index of the block that completes it.

    Raises ConfigError where there is not exactly one stream of labelled windows of a classification.
    """
    manifest = bundle.manifest
    if manifest.window is None or manifest.task != "classification" or len({b.stream for b in blocks}) != 1:
        raise ConfigError(f"{bundle.path}: the demo plays one stream of windows to classify; see `trimtab replay`")
    windower = Windower(blocks[0].stream, manifest.inputs[0].shape[0], manifest.window)
    return [(i, sample) for i, block in enumerate(blocks) for sample in windower.push(block)]


def _in_short(adapted: Summary, plain: Summary) -> str:
    """Each segment's settled accuracy without and with adaptation."""
    parts = []
    for part, before in zip(adapted.parts, plain.parts, strict=True):
        was, now = before.settled.accuracy(), part.settled.accuracy()
        if was is not None and now is not None:
            parts.append(f"{part.name} {100 * was:.0f} % → {100 * now:.0f} %")
    return f"accuracy after {SETTLE} windows, static → adapted:  " + ",  ".join(parts) if parts else ""


def _replayed(bundle: Bundle, config: Config, blocks: list[Block]) -> tuple[Summary, Trace]:
    tally, trace = Tally(bundle.manifest.task), Trace()
    begun = time.perf_counter()
    busy = replay(bundle, config, blocks, [tally, trace])
    return tally.summary(busy, time.perf_counter() - begun), trace


@contextmanager
def _view(screen: IO[str], course: list[tuple[int, Sample]], heading: str) -> Iterator[View]:
    segments = [window.segment or "" for _, window in course]
    view: View = LiveView(screen, segments, heading) if screen.isatty() else PlainView(screen, len(segments))
    try:
        yield view
    finally:
        view.close()


class _Daemon:
    """`trimtab run` as a process of its own, its log in a file."""

    def __init__(self, config: Path, log: Path) -> None:
        self._config = config
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Daemon:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from trimtab.runtime.cli import main; main()", "run", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for us; we then end the daemon as systemd would.
                process_group=0,
            )
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def check(self) -> None:
        """Raises ConfigError with the daemon's last words where it has ended."""
        if self._process is not None and self._process.poll() is not None:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() or ["it said nothing"]
            raise ConfigError(f"the daemon has ended: {lines[-1].removeprefix('trimtab: ')} (its log: {self.log})")


class _Ears:
    """Hears everything that the daemon publishes."""

    def __init__(self, config: Config) -> None:
        self._prefix = config.prefix + "/"
        self._heard: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self._mqtt = config.mqtt
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{self._prefix}#", qos=1)
        self._client.on_subscribe = lambda *_: self._heard.put(None)
        self._client.on_message = lambda _c, _u, message: self._heard.put((message.topic, bytes(message.payload)))

    def __enter__(self) -> _Ears:
        self._client.connect(self._mqtt.host, self._mqtt.port)
        self._client.loop_start()
        # None stands for the subscription: the daemon may speak only when somebody hears.
        self._heard.get(timeout=PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def listen(self, patience: float) -> tuple[str, Any] | None:
        """The next message as `(topic under the prefix, content)`; None where nothing is said in `patience` s."""
        try:
            heard = self._heard.get(timeout=patience) if patience > 0 else self._heard.get_nowait()
        except queue.Empty:
            return None
        if heard is None:
            return None
        topic = heard[0].removeprefix(self._prefix)
        return topic, heard[1].decode() if topic == "available" else json.loads(heard[1])

    def wait_until_online(self, daemon: _Daemon) -> None:
        """Raises ConfigError where the daemon ends, or does not come online in PATIENCE seconds."""
        end = time.monotonic() + PATIENCE
        while self.listen(0.1) != ("available", "online"):
            daemon.check()
            if time.monotonic() > end:
                raise ConfigError(f"the daemon does not come online; see its log {daemon.log}")


def _played(
    blocks: list[Block],
    course: list[tuple[int, Sample]],
    config: Config,
    seconds: float,
    ears: _Ears,
    daemon: _Daemon,
) -> Iterator[tuple[Step, float]]:
    """Publish the blocks at an even pace, and give what the daemon says, with a decision's latency in seconds.

    Ends when every window is decided. Raises ConfigError where the daemon ends or falls silent.
    """
    pace = seconds / len(blocks)
    sent_at: list[float] = []  # by block
    completed = 0  # windows
    decided = 0
    with Publisher(config.mqtt) as publisher:
        begun = heard_at = time.monotonic()
        while decided < len(course):
            now = time.monotonic()
            due = begun + len(sent_at) * pace
            free = len(sent_at) < len(blocks) and completed - decided < UNDER_WAY
            if free and now >= due:
                block = blocks[len(sent_at)]
                publisher.publish(block.stream, message(block, config.streams[0], len(sent_at)))
                sent_at.append(time.monotonic())
                while completed < len(course) and course[completed][0] < len(sent_at):
                    completed += 1
            heard = ears.listen(max(0.0, min(due - now, 0.2)) if free else 0.2)
            if heard is None:
                daemon.check()
                if completed > decided and time.monotonic() - heard_at > PATIENCE:
                    raise ConfigError(f"the daemon has said nothing for {PATIENCE:.0f} s; see its log {daemon.log}")
                continue
            heard_at = time.monotonic()
            topic, content = heard
            kind = topic.partition("/")[0]
            if kind == "decision" and content["sequence"] == decided:
                index, window = course[decided]
                decided += 1
                yield Step(decisions=[_decision(content, window)]), heard_at - sent_at[index]
            elif kind in ("drift", "adaptation", "state"):
                yield Step(events=[Event(topic, content)]), 0.0
            elif kind == "deadletter":
                raise ConfigError(f"the daemon could not read a message: {content['reason']}")


def _decision(content: dict[str, Any], window: Sample) -> Decision:
    """What was published of a decision, with the truth that only we know."""
    return Decision(
        content["stream"],
        content["sequence"],
        content["time"],
        content["label"],
        content["score"],
        content["version"],
        content["state"],
        content.get("reason"),
        window.label,
        window.segment,
    )
