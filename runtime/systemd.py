"""The service manager's side of the daemon: sd_notify(3) over its datagram socket, without a library."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger("trimtab.systemd")


class Notifier:
    """Tells systemd how the daemon is; does nothing where systemd did not start it.

    Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` of `environment`.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._socket: socket.socket | None = None
        self.watchdog_every: float | None = None
        """Seconds between two pings: half of what systemd allows; None where it watches nobody."""
        address = environment.get("NOTIFY_SOCKET", "")
        if address.startswith("@"):  # the abstract namespace
            address = "\0" + address[1:]
        if address:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                connection.connect(address)
            except OSError as error:
                connection.close()
                log.warning("NOTIFY_SOCKET %s cannot be reached (%s); going on without", address, error)
            else:
                self._socket = connection
        limit = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if self._socket is not None and mine and limit.isdecimal() and int(limit) > 0:
            self.watchdog_every = int(limit) / 2e6

    def ready(self) -> None:
        """Start-up, or a reload, is over."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; systemd wants to know when, to tell it from others."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Shut-down begins."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """The main loop turns."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line that `systemctl status` shows."""
        self._send(f"STATUS={' '.join(text.split())}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(message.encode())
        except OSError as error:
            log.warning("systemd could not be told %s (%s)", message.split("\n", 1)[0], error)
