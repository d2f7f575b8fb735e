"""A recording as the messages of a sensor: what the daemon is fed with when there is no sensor."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from trimtab.runtime.blocks import Block
from trimtab.runtime.bundle import Bundle
from trimtab.runtime.config import Config, Mqtt, Stream
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.mqtt import secure
from trimtab.runtime.payloads import encode
from trimtab.runtime.recordings import Recording
from trimtab.runtime.topics import filled

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
        self._connected = threading.Event()
        self._refused = ""
        five = settings.version == "5"
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            protocol=paho.MQTTv5 if five else paho.MQTTv311,
            clean_session=None if five else True,
            reconnect_on_failure=False,
        )
        self._client.max_inflight_messages_set(UNDER_WAY)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = lambda *_: self._room.release()
        secure(self._client, settings)

    def __enter__(self) -> Publisher:
        settings = self.settings
        try:
            self._client.connect(settings.host, settings.port, settings.keepalive)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                f"mqtt.host: no broker answers at {settings.host}:{settings.port} ({reason}); start it, or mend the key"
            ) from None
        self._client.loop_start()
        if not self._connected.wait(PATIENCE) or self._refused:
            self._client.loop_stop()
            reason = self._refused or "no answer"
            raise ConfigError(
                f"mqtt.host: the broker at {settings.host}:{settings.port} lets nobody in ({reason}); "
                "see mqtt.username and mqtt.version"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = time.monotonic() + PATIENCE
        if kind is None:
            # Every message is out when all the room is there again.
            for _ in range(UNDER_WAY):
                self._room.acquire(timeout=max(0.0, end - time.monotonic()))
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._refused = str(code)
        self._connected.set()

    def _on_disconnect(self, *_: Any) -> None:
        if not self._connected.is_set():
            self._refused = "it closes the connection"
            self._connected.set()

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
    first: tuple[float, float] | None = None
    with Publisher(config.mqtt) as publisher:
        for block in recording.blocks():
            topic = topic_of(block, settings)
            if names.setdefault(topic, block.stream) != block.stream:
                raise ConfigError(
                    f"streams: topic {settings.topic!r} has no wildcard, but the recording has several streams; "
                    "put a + where the stream's name goes"
                )
            if speed is not None:
                first = first or (block.time, time.monotonic())
                wait = first[1] + (block.time - first[0]) / speed - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
            sequence = sent.get(topic, 0)
            publisher.publish(topic, message(block, settings, sequence))
            sent[topic] = sequence + 1
    return sum(sent.values())
