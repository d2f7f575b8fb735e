"""A short visit to the broker, which leaves nothing behind: to publish a recording, or to send a command."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from trimtab.runtime.config import Mqtt
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.mqtt import secure, why


class Visit:
    """A connection as the daemon's, but under a name of its own, without a session, and not made again when lost.

    `patience`: seconds for each step of the way in. `client` is paho's; its network thread runs within the context.
    Raises ConfigError, one sentence, where a file cannot be used, the broker cannot be reached, or refuses.
    """

    def __init__(self, settings: Mqtt, patience: float) -> None:
        self.settings = settings
        self._patience = patience
        self._connected = threading.Event()
        self._refused = ""
        five = settings.version == "5"
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"trimtab-{uuid.uuid4().hex[:12]}",  # as long as MQTT 3.1.1 lets every broker take
            protocol=paho.MQTTv5 if five else paho.MQTTv311,
            clean_session=None if five else True,
            reconnect_on_failure=False,
        )
        self.client.connect_timeout = patience
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        secure(self.client, settings)

    def __enter__(self) -> Visit:
        settings = self.settings
        try:
            self.client.connect(settings.host, settings.port, settings.keepalive)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"mqtt.host: no broker answers at {settings.host}:{settings.port} ({why(error)}); start it, or mend "
                "the key"
            ) from None
        self.client.loop_start()
        if not self._connected.wait(self._patience) or self._refused:
            self.client.loop_stop()
            reason = self._refused or "no answer"
            raise ConfigError(
                f"mqtt.host: the broker at {settings.host}:{settings.port} lets nobody in ({reason}); "
                "see mqtt.username and mqtt.version"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, topic: str, heard: Callable[[str, bytes], None]) -> None:
        """Have `heard` called, on the network thread, with topic and payload of whatever comes from now on.

        Returns as soon as the broker has agreed. Raises ConfigError where it does not.
        """
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.client.on_message = lambda _c, _u, message: heard(message.topic, bytes(message.payload))
        self.client.on_subscribe = lambda _c, _u, _mid, codes, _p: answers.put(codes[0])
        self.client.subscribe(topic, qos=1)
        try:
            refused = answers.get(timeout=self._patience).is_failure
        except queue.Empty:
            refused = True
        if refused:
            raise ConfigError(
                f"mqtt: the broker at {self.settings.host}:{self.settings.port} does not let this user subscribe to "
                f"{topic}; see its access list"
            )

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._refused = str(code)
        self._connected.set()

    def _on_disconnect(self, *_: Any) -> None:
        if not self._connected.is_set():
            self._refused = "it closes the connection"
            self._connected.set()
