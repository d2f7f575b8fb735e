"""The connection to the broker: paho-mqtt, driven by one thread of ours.

paho is used through its interface for other event loops, so that everything it does happens on this one thread:
publishing needs no lock and no wake-up per message, waits between attempts to connect can be jittered and cut short,
and closing is immediate. The loop thread of the daemon talks to it through two calls (`send`, `acknowledge`) and hears
from it through `post`.
"""

from __future__ import annotations

import logging
import random
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from trimtab.runtime.config import Mqtt, Tls
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.payloads import MAX_BYTES

log = logging.getLogger("trimtab.mqtt")

OUTGOING = 256
"""Messages sent and not yet confirmed by the broker, at most; fewer where a broker of MQTT 5 asks for it."""
ROOM = 8 * MAX_BYTES
"""Bytes of payloads that may wait for the loop thread, however few messages they are."""
READ = 65536
"""Bytes read from the socket at a time."""
STEADY = 10.0
"""Seconds after which a connection counts as good: the waits between attempts begin anew."""
FIRST_WAIT = 1.0
"""Seconds before the second attempt to connect; doubled after each, up to `reconnect_max`."""


@dataclass(slots=True, eq=False)
class Delivery:
    """A message from the broker, until it is acknowledged."""

    topic: str
    payload: bytes
    qos: int
    mid: int
    dup: bool
    retain: bool
    properties: dict[str, str]
    """MQTT 5 user properties."""
    arrived: float
    """Unix seconds."""
    done: bool = False


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish with QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False
    key: int | None = None
    """Posted back in `Confirmed` when the broker has it."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker has these."""

    keys: list[int]


@dataclass(slots=True)
class Counts:
    """What passed, since the start."""

    received: int = 0
    dropped: int = 0
    """Messages of QoS 0 that found the inbox full; those of QoS 1 wait at the broker instead."""
    published: int = 0


class Inbox:
    """Deliveries on their way from the network thread to the loop thread.

    Confirmations go another way (`post`), so that they need not wait behind deliveries. No lock is needed: one side
    appends, the other takes, and each keeps a count of its own. `wake` is called when there is something after there
    was nothing. `capacity`: messages that may wait; their payloads have ROOM.
    """

    def __init__(self, capacity: int, wake: Callable[[], None]) -> None:
        self.capacity = capacity
        self._wake = wake
        self._waiting: deque[Delivery] = deque()
        self._came = 0  # bytes of all payloads that were ever appended
        self._went = 0  # ... and taken

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def fill(self) -> float:
        """How full it is; from 1 on nothing more should come."""
        return max(len(self._waiting) / self.capacity, (self._came - self._went) / ROOM)

    def append(self, delivery: Delivery) -> None:
        self._came += len(delivery.payload)
        self._waiting.append(delivery)
        if len(self._waiting) == 1:
            self._wake()

    def take(self) -> Delivery:
        """The oldest. Raises IndexError where there is none."""
        delivery = self._waiting.popleft()
        self._went += len(delivery.payload)
        return delivery


class Buffered(paho.Client):
    """paho reads the head of a packet byte by byte. From a buffer that costs no system call, and so no change of
    threads, for each. Where a paho of another version calls this no more, nothing but the gain is lost."""

    _data = b""
    _at = 0

    @property
    def buffered(self) -> bool:
        """Whether there is something to read that the socket does not tell of."""
        return self._at < len(self._data)

    def unbuffer(self) -> None:
        """Forget what was read of an earlier connection."""
        self._data, self._at = b"", 0

    def _sock_recv(self, bufsize: int) -> bytes:
        begin = self._at
        if begin >= len(self._data):
            self._data, begin = super()._sock_recv(READ), 0
        self._at = begin + bufsize
        return self._data[begin : self._at]


class Link:
    """A connection to the broker that comes back whenever it is lost.

    Parameters
    ----------
    settings, client_id
        Where and how to connect.
    availability
        Topic on which `online` and `offline` (also the last will) are kept.
    filters
        Topic filters to subscribe to with QoS 1.
    obsolete
        Filters that a session of before may hold, and that are not wanted any more.
    inbox
        Bounds how many deliveries may wait. More of QoS 0 are dropped and counted; before more of QoS 1, reading
        stops until there is room.
    post
        Called on the network thread with what the broker has confirmed; must not block.

    Raises ConfigError where the password file or a file of `tls` cannot be used.
    """

    def __init__(
        self,
        settings: Mqtt,
        client_id: str,
        availability: str,
        filters: Sequence[str],
        obsolete: Sequence[str],
        inbox: Inbox,
        post: Callable[[Confirmed], None],
    ) -> None:
        self.settings = settings
        self.counts = Counts()
        self.connected = threading.Event()
        self._availability = availability
        self._filters = list(dict.fromkeys(filters))
        self._obsolete = [f for f in obsolete if f not in self._filters]
        self._inbox = inbox
        self._post = post
        self._five = settings.version == "5"
        self._closing = threading.Event()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._outgoing: deque[Outgoing] = deque()
        self._acknowledged: deque[Delivery] = deque()
        self._unacknowledged: deque[Delivery] = deque()  # of this connection, in order of arrival
        self._inflight: dict[int, int | None] = {}  # message number -> key
        self._limit = OUTGOING
        self._confirmed: list[int] = []
        self._refused: set[str] = set()
        self._reason = ""
        self._full = False
        self._leaving = False
        self._farewell: int | None = None  # number of the message that says offline, until it is confirmed
        self._client = self._build(client_id)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    # -- the loop thread's side -------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish `messages`, in order, as soon as the connection allows. Never blocks."""
        self._outgoing.extend(messages)
        self._wake()

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """These are done with. Those of an earlier connection are passed over: the broker sends them again."""
        self._acknowledged.extend(deliveries)
        self._wake()

    @property
    def saturated(self) -> bool:
        """Whether the broker sends nothing more before something is acknowledged."""
        return len(self._unacknowledged) >= self.settings.inflight

    def close(self, patience: float) -> bool:
        """Say `offline`, disconnect, and end the thread. Returns whether the broker confirmed within `patience` s."""
        self._closing.set()
        self._wake()
        self._thread.join(patience)
        return not self._thread.is_alive() and self._leaving and self._farewell is None

    def _wake(self) -> None:
        with suppress(OSError):  # it is awake already; or has ended
            self._wake_out.send(b"\0")

    # -- the network thread -----------------------------------------------------------------------------------------

    def _build(self, client_id: str) -> Buffered:
        settings = self.settings
        client = Buffered(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if self._five else False,
            protocol=paho.MQTTv5 if self._five else paho.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_inflight_messages_set(0)  # `_limit` is what holds; paho forgets its own over a reconnect
        client.max_queued_messages_set(0)
        secure(client, settings)
        client.will_set(self._availability, b"offline", qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_connect_fail = None
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_socket_open = self._on_socket_open
        # Set, it keeps `publish` from writing to the socket at once: a turn's messages are written together.
        client.on_socket_register_write = lambda *_: None
        if self._five:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = settings.session_expiry
            properties.ReceiveMaximum = settings.inflight
            properties.MaximumPacketSize = MAX_BYTES + 2**17
            client.connect_async(
                settings.host, settings.port, settings.keepalive, clean_start=False, properties=properties
            )
        else:
            client.connect_async(settings.host, settings.port, settings.keepalive)
        return client

    def _run(self) -> None:
        attempt = 0
        while not self._closing.is_set():
            self._reason = ""
            begun = time.monotonic()
            try:
                self._client.reconnect()
                self._serve()
            except (OSError, ValueError) as error:  # ValueError: a certificate or host name that cannot be
                self._reason = self._reason or why(error)
            except Exception:
                # A packet that paho trips over, say. Without this thread the box would be deaf until somebody looks.
                log.exception("the connection is given up and made again")
                self._reason = "an error within this client"
            self.connected.clear()
            if self._closing.is_set():
                break
            if time.monotonic() - begun > STEADY:
                attempt = 0
            wait = random.uniform(0.5, 1.0) * min(self.settings.reconnect_max, FIRST_WAIT * 2**attempt)
            attempt = min(attempt + 1, 16)
            log.warning(
                "no connection to %s:%d (%s); next attempt in %.1f s",
                self.settings.host,
                self.settings.port,
                self._reason or "closed by the broker",
                wait,
            )
            self._closing.wait(wait)
        self._wake_in.close()
        self._wake_out.close()

    def _serve(self) -> None:
        """Until this connection ends."""
        client = self._client
        connection = client.socket()
        if connection is None:
            return
        beat = max(1.0, self.settings.keepalive / 4)
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)
            selector.register(self._wake_in, selectors.EVENT_READ)
            registered = selectors.EVENT_READ
            while self._turn(client):
                # A full inbox is a reason to stop reading, and so in the end to stop the broker: receive maximum
                # should, but Mosquitto 2.0.11 (Debian 12) lets every acknowledgement free that many messages more.
                self._full = self._full and self._inbox.fill > 0.5
                wanted = selectors.EVENT_WRITE if client.want_write() else 0
                wanted |= 0 if self._full else selectors.EVENT_READ
                if wanted != registered:
                    if registered and wanted:
                        selector.modify(connection, wanted)
                    elif wanted:
                        selector.register(connection, wanted)
                    else:
                        selector.unregister(connection)
                    registered = wanted
                pending = client.buffered or (isinstance(connection, ssl.SSLSocket) and connection.pending() > 0)
                pending = pending and not self._full
                for key, events in selector.select(0.0 if pending else beat):
                    if key.fileobj is self._wake_in:
                        self._drain_wake()
                    elif events & selectors.EVENT_READ:
                        pending = True
                going = not pending or client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS
                if self._confirmed:
                    keys, self._confirmed = self._confirmed, []
                    self._post(Confirmed(keys))
                if not going or client.socket() is not connection:
                    return
                if client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    self._reason = self._reason or "the broker does not answer"
                    return

    def _turn(self, client: paho.Client) -> bool:
        """Hand over what is to be written, and write. Returns whether the connection still stands."""
        if self._closing.is_set() and not self._leaving:
            if not self.connected.is_set():
                return False
            self._leaving = True
            self._farewell = client.publish(self._availability, b"offline", qos=1, retain=True).mid
        if self.connected.is_set():
            self._acknowledge()
            self._publish()
        if client.want_write() and client.loop_write() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        return client.socket() is not None

    def _drain_wake(self) -> None:
        with suppress(BlockingIOError):
            while len(self._wake_in.recv(4096)) == 4096:
                pass

    def _acknowledge(self) -> None:
        """Acknowledge what is done with, in the order in which it came (MQTT-4.6.0-2)."""
        acknowledged = self._acknowledged
        while acknowledged:
            acknowledged.popleft().done = True
        waiting = self._unacknowledged
        while waiting and waiting[0].done:
            delivery = waiting.popleft()
            self._client.ack(delivery.mid, delivery.qos)

    def _publish(self) -> None:
        while self._outgoing and len(self._inflight) < self._limit:
            message = self._outgoing.popleft()
            info = self._client.publish(message.topic, message.payload, qos=1, retain=message.retain)
            self._inflight[info.mid] = message.key

    # -- paho's callbacks, all on the network thread ----------------------------------------------------------------

    def _on_socket_open(self, _client: paho.Client, _userdata: Any, connection: Any) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client.unbuffer()

    def _on_connect(
        self,
        client: paho.Client,
        _userdata: Any,
        flags: paho.ConnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if code.is_failure:
            self._reason = f"the broker refuses: {code}; see mqtt.username and mqtt.password_file"
            return
        self._unacknowledged.clear()  # their numbers mean nothing over this connection; they come again
        self._limit = min(OUTGOING, getattr(properties, "ReceiveMaximum", OUTGOING))
        if self._five:
            # What a broker kept of a topic is no new sample; ask for it on a new subscription only.
            options = SubscribeOptions(qos=1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
            wanted: Any = [
                (f, options if not f.startswith("$share/") else SubscribeOptions(qos=1)) for f in self._filters
            ]
        else:
            wanted = [(f, 1) for f in self._filters]
        if self._obsolete and flags.session_present:
            client.unsubscribe(self._obsolete)
        if wanted:
            client.subscribe(wanted)
        client.publish(self._availability, b"online", qos=1, retain=True)
        log.info(
            "connected to %s:%d (MQTT %s, session %s)",
            self.settings.host,
            self.settings.port,
            self.settings.version,
            "resumed" if flags.session_present else "new",
        )
        self.connected.set()

    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: Any,
        flags: paho.DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self.connected.clear()
        if flags.is_disconnect_packet_from_server:
            self._reason = f"the broker says: {code}"

    def _on_message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        self.counts.received += 1
        properties = getattr(message.properties, "UserProperty", None)
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        delivery = Delivery(
            topic,
            bytes(message.payload),
            message.qos,
            message.mid,
            message.dup,
            message.retain,
            dict(properties) if properties else {},
            time.time(),
        )
        if message.qos:
            self._unacknowledged.append(delivery)
        if self._inbox.fill >= 1:
            if not message.qos:
                self.counts.dropped += 1
                if self.counts.dropped & (self.counts.dropped - 1) == 0:
                    log.warning("%d messages of QoS 0 dropped since the start: the inbox is full", self.counts.dropped)
                return
            self._full = True
        self._inbox.append(delivery)

    def _on_publish(
        self, client: paho.Client, _userdata: Any, mid: int, code: ReasonCode, _properties: Properties | None
    ) -> None:
        if mid == self._farewell:
            self._farewell = None
            client.disconnect()
            return
        if code.is_failure and str(code) not in self._refused:
            self._refused.add(str(code))
            log.error("the broker refuses to take a message: %s; check its access list for this client", code)
        key = self._inflight.pop(mid, None)
        if key is not None:
            self.counts.published += 1
            self._confirmed.append(key)

    def _on_subscribe(
        self,
        _client: paho.Client,
        _userdata: Any,
        _mid: int,
        codes: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        for wanted, code in zip(self._filters, codes, strict=False):
            if code.is_failure:
                log.error("the broker refuses the subscription to %s: %s; check its access list", wanted, code)


def secure(client: paho.Client, settings: Mqtt) -> None:
    """Give `client` the user, password and TLS of `settings`. Raises ConfigError where a file cannot be used."""
    if settings.username is not None:
        client.username_pw_set(settings.username, _password(settings))
    if settings.tls is not None:
        client.tls_set_context(_tls(settings.tls))


def _password(settings: Mqtt) -> str | None:
    if settings.password_file is None:
        return None
    try:
        lines = settings.password_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"mqtt.password_file: {settings.password_file} cannot be read ({reason}); give a file with the password"
        ) from None
    if not lines or not lines[0]:
        raise ConfigError(
            f"mqtt.password_file: {settings.password_file} is empty; write the password on its first line"
        )
    return lines[0]


def _tls(settings: Tls) -> ssl.SSLContext:
    for key in ("ca", "cert", "key"):
        file = getattr(settings, key)
        if file is not None and not file.is_file():
            raise ConfigError(f"mqtt.tls.{key}: {file} is no file; give a PEM file")
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"mqtt.tls: a file cannot be used ({why(error)}); give PEM files that belong together"
        ) from None
    return context


def why(error: Exception) -> str:
    """The reason of a connection that could not be made, for a sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
