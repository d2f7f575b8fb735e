"""The connection to the broker, against a peer that misbehaves as no real broker can be made to."""

from __future__ import annotations

import queue
import socket
from collections.abc import Callable, Iterator

import pytest

from trimtab.runtime.config import Mqtt
from trimtab.runtime.mqtt import ROOM, Delivery, Inbox, Link

CONNACK = b"\x20\x02\x00\x00"
SENSE = b"\x30\x04\x00\x01s7"
"""A PUBLISH of `7` on the topic `s`."""
NO_SENSE = b"\x30\x01\x00"
"""One that is too short to hold the length of its topic."""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        found.settimeout(10)
        yield found


def failing() -> None:
    raise RuntimeError("a fault of ours")


@pytest.mark.parametrize(("packet", "wake"), [(NO_SENSE, lambda: None), (SENSE, failing)], ids=["theirs", "ours"])
def test_a_fault_costs_the_connection_and_not_the_thread(
    packet: bytes, wake: Callable[[], None], listener: socket.socket
) -> None:
    settings = Mqtt(host="127.0.0.1", port=listener.getsockname()[1], version="3.1.1", reconnect_max=0.01)
    post: queue.SimpleQueue[object] = queue.SimpleQueue()
    inbox = Inbox(8, wake)
    link = Link(settings, "test", "available", ["s"], [], inbox, post.put)
    link.start()
    for _ in range(3):
        peer, _address = listener.accept()
        if len(inbox):
            inbox.take()  # it wakes only where there was nothing
        with peer:
            peer.settimeout(10)
            assert peer.recv(4096)
            peer.sendall(CONNACK + packet)
            while peer.recv(4096):
                pass
    link.close(5.0)


def delivery(size: int) -> Delivery:
    return Delivery("s", b"x" * size, 1, 1, False, False, {}, 0.0)


def test_an_inbox_is_full_by_number_or_by_size() -> None:
    inbox = Inbox(4, lambda: None)
    for count in range(1, 5):
        inbox.append(delivery(1))
        assert inbox.fill == count / 4
    for _ in range(4):
        inbox.take()
    assert inbox.fill == 0
    large = delivery(ROOM // 2)
    inbox.append(large)
    assert inbox.fill == 0.5
    inbox.append(large)
    assert inbox.fill == 1
    inbox.take()
    inbox.take()
    assert inbox.fill == 0
