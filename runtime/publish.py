"""A recording as the messages of a sensor: what the daemon is fed with when there is no sensor."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from paho.mqtt.enums import MQTTErrorCode

from trimtab.runtime.blocks import Block
from trimtab.runtime.bundle import Bundle
from trimtab.runtime.clock import Pace
from trimtab.runtime.config import Config, Mqtt, Stream
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.payloads import encode
from trimtab.runtime.recordings import Recording
from trimtab.runtime.topics import filled
from trimtab.runtime.visit import Visit

PATIENCE = 10.0
"""Seconds for the broker to accept the connection, and later each message."""
UNDER_WAY = 200
"""Messages sent and not yet confirmed by the broker, at most."""


class Publisher:
    """A connection that publishes with QoS 1; `publish` blocks while UNDER_WAY messages are not confirmed.

    Raises ConfigError, one sentence, where the broker cannot be reached, refuses, or stops answering.
    """

    def __init__(self, settings: Mqtt) -> None:
        self.settings = settings
        self._room = threading.BoundedSemaphore(UNDER_WAY)
        self._visit = Visit(settings, PATIENCE)
        self._client = self._visit.client
        self._client.max_inflight_messages_set(UNDER_WAY)
        self._client.on_publish = lambda *_: self._room.release()

    def __enter__(self) -> Publisher:
        self._visit.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = time.monotonic() + PATIENCE
        if kind is None:
            # Every message is out when all the room is there again.
            for _ in range(UNDER_WAY):
                self._room.acquire(timeout=max(0.0, end - time.monotonic()))
        self._visit.__exit__(kind, error, trace)

    def publish(self, topic: str, payload: bytes) -> None:
        """Send one message. Raises ConfigError where the broker is gone."""
        gone = not self._room.acquire(timeout=PATIENCE)
        if not gone:
            gone = self._client.publish(topic, payload, qos=1).rc != MQTTErrorCode.MQTT_ERR_SUCCESS
        if gone:
            raise ConfigError(
                f"mqtt.host: the broker at {self.settings.host}:{self.settings.port} takes no more messages; "
                "see its log"
            )


def topic_of(block: Block, settings: Stream) -> str:
    """Where a sensor would publish `block`: the stream's topic, the recording's stream name in place of a wildcard.

    Raises ConfigError where the topic filter has more than one wildcard.
    """
    pattern = settings.topic
    wildcards = sum(level in ("+", "#") for level in pattern.split("/"))
    topic = filled(pattern, [block.stream] * wildcards) if wildcards < 2 else None
    if topic is None:
        raise ConfigError(f"streams: topic {pattern!r} has several wildcards; name one topic to publish to")
    return topic


def message(block: Block, settings: Stream, sequence: int) -> bytes:
    """`block` as a sensor's message, in the stream's payload format."""
    return encode(block.values, settings.payload, dtype=settings.dtype, time=block.time, sequence=sequence)


def publish_recording(recording: Recording, bundle: Bundle, config: Config, speed: float | None) -> int:
    """Publish a recording's blocks to the first of the configured streams, `speed` times faster than recorded.

    `speed` None: as fast as the broker takes them. Labels are not sent. Returns how many messages were published.
    Raises ConfigError or RecordingError.
    """
    if not config.streams:
        raise ConfigError("streams: is empty; name the topic to publish to")
    settings = config.streams[0]
    sent: dict[str, int] = {}
    names: dict[str, str] = {}
    pace = Pace(speed) if speed is not None else None
    with Publisher(config.mqtt) as publisher:
        for block in recording.blocks():
            topic = topic_of(block, settings)
            if names.setdefault(topic, block.stream) != block.stream:
                raise ConfigError(
                    f"streams: topic {settings.topic!r} has no wildcard, but the recording has several streams; "
                    "put a + where the stream's name goes"
                )
            if pace is not None:
                pace.wait_for(block.time)
            sequence = sent.get(topic, 0)
            publisher.publish(topic, message(block, settings, sequence))
            sent[topic] = sequence + 1
    return sum(sent.values())
