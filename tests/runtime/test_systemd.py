from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from trimtab.runtime.systemd import Notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_over_its_socket(abstract: bool, tmp_path: Path) -> None:
    name = f"@trimtab-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(name.replace("@", "\0"))
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())})
        assert notifier.watchdog_every == 1.5
        notifier.ready()
        notifier.reloading()
        notifier.status("two\nlines")
        notifier.watchdog()
        notifier.stopping()
        said = [ear.recv(4096).decode() for _ in range(5)]
        assert (said[0], said[2:]) == ("READY=1", ["STATUS=two lines", "WATCHDOG=1", "STOPPING=1"])
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", said[1])


def test_the_watchdog_of_another_process_is_none_of_ours(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "n"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
        assert Notifier(environment).watchdog_every is None


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        notifier = Notifier(environment)
        notifier.ready()
        notifier.status("x")
        assert notifier.watchdog_every is None
        notifier.close()
