"""What comes in: which topic means what, how a message is known again, and what becomes of one that cannot be read."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from trimtab.runtime.blocks import Label
from trimtab.runtime.config import Config, Stream
from trimtab.runtime.errors import PayloadError
from trimtab.runtime.mqtt import Delivery
from trimtab.runtime.topics import captured, filled

SHOWN = 4096
"""Bytes of a payload that its dead letter carries."""
KNOWN_TOPICS = 16384
"""Routes remembered; then they are looked up anew."""
LONGEST_TOPIC = 32768
"""Bytes; the topic of its decisions must still fit."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """Samples of the stream that is named as the topic."""

    settings: Stream


@dataclass(frozen=True, slots=True)
class Labels:
    """True labels, late; of `stream` where the message names none."""

    stream: str | None


@dataclass(frozen=True, slots=True)
class Command:
    name: str


Route = Sensor | Labels | Command


class Routes:
    """Where the messages of each topic go, by the configuration."""

    def __init__(self, config: Config) -> None:
        self._prefix = config.prefix + "/"
        self._streams = config.streams
        self._known: dict[str, Route | None] = {}

    def filters(self) -> list[str]:
        """All topic filters to subscribe to."""
        labels = [s.labels for s in self._streams if s.labels is not None]
        return list(dict.fromkeys([f"{self._prefix}set/+", *(s.topic for s in self._streams), *labels]))

    def of(self, topic: str) -> Route | None:
        """The route of `topic`; None where nothing is to be done with its messages."""
        try:
            return self._known[topic]
        except KeyError:
            if len(self._known) >= KNOWN_TOPICS:
                self._known.clear()
            found = self._known[topic] = self._find(topic)
            return found

    def _find(self, topic: str) -> Route | None:
        if topic.startswith(self._prefix):
            # A stream's filter may be as wide as `#`: what we say ourselves must not come back as samples.
            name = topic.removeprefix(self._prefix)
            return Command(name.removeprefix("set/")) if name.startswith("set/") else None
        for stream in self._streams:
            if stream.labels is not None and (parts := captured(stream.labels, topic)) is not None:
                return Labels(filled(stream.topic, parts))
        for stream in self._streams:
            if captured(stream.topic, topic) is not None:
                return Sensor(stream)
        return None


def mark(delivery: Delivery, sequence: int | None) -> bytes:
    """By what a message is known when it comes again: 16 bytes.

    A broker sends again under the same message number. A sender that gives its messages numbers may itself have
    sent one twice: then the broker's number differs and does not count.
    """
    digest = blake2b(delivery.payload, digest_size=16)
    digest.update(delivery.topic.encode())
    digest.update(b"\0\xff" if sequence is not None else delivery.mid.to_bytes(2, "big"))
    return digest.digest()


def dead_letter(delivery: Delivery, reason: str) -> bytes:
    """What is published about a message that cannot be used."""
    return json.dumps(
        {
            "topic": delivery.topic[:LONGEST_TOPIC],
            "reason": reason,
            "time": delivery.arrived,
            "bytes": len(delivery.payload),
            "payload": base64.b64encode(delivery.payload[:SHOWN]).decode(),
        }
    ).encode()


def read_label(payload: bytes, route: Labels) -> tuple[str, int, Label]:
    """Stream, window number and label of `{"sequence": n, "label": ..., "stream": ...}`. Raises PayloadError."""
    facts = _object(payload)
    stream = facts.get("stream", route.stream)
    if not isinstance(stream, str):
        raise PayloadError("stream: is missing; name the stream that the label is of")
    sequence, label = facts.get("sequence"), facts.get("label")
    if type(sequence) is not int or sequence < 0:
        raise PayloadError("sequence: is no window number; send the sequence of the decision that the label is of")
    if isinstance(label, bool) or not isinstance(label, str | int | float) or not abs(_size(label)) < 1e300:
        raise PayloadError("label: is neither a class name nor a number; send one")
    return stream, sequence, label if isinstance(label, str) else float(label)


def _size(label: str | int | float) -> int | float:
    return 0 if isinstance(label, str) else label


@dataclass(frozen=True, slots=True)
class Order:
    """The arguments of a command."""

    id: str | None = None
    """Given back in the result. The same id is not carried out twice."""
    stream: str | None = None
    version: int | None = None


def read_order(payload: bytes) -> Order:
    """The arguments in a command's payload; it may be empty. Raises PayloadError."""
    if not payload.strip():
        return Order()
    facts = _object(payload)
    for key in facts:
        if key not in ("id", "stream", "version"):
            raise PayloadError(f"{str(key)[:40]}: no such argument; there are id, stream and version")
    number, stream, version = facts.get("id"), facts.get("stream"), facts.get("version")
    if number is not None and (not isinstance(number, str) or len(number) > 200):
        raise PayloadError("id: is no text of at most 200 characters; send one, or leave it out")
    if stream is not None and not isinstance(stream, str):
        raise PayloadError("stream: is no text; name a stream, or leave it out for all")
    if version is not None and (type(version) is not int or version < 0):
        raise PayloadError("version: is no version number; send a whole number, or leave it out")
    return Order(number, stream, version)


def _object(payload: bytes) -> Mapping[str, Any]:
    try:
        facts = json.loads(payload)
    except (ValueError, RecursionError):
        raise PayloadError("the payload is not JSON; send a JSON object") from None
    if not isinstance(facts, dict):
        raise PayloadError("the payload is no JSON object; send one")
    return facts
