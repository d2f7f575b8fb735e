"""An MQTT broker for the demo and for trying things out: nothing to install beside Python packages.

It is PyPI's `iotcore` (Rust's rumqttd in a child process). benchmarks/brokers.py compares it with `amqtt`, which has no
MQTT 5, loses what was not acknowledged when a client comes back, and brings thirteen more packages. In production, run
Mosquitto: deploy/ has its configuration.
"""

from __future__ import annotations

import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from trimtab.runtime.errors import ConfigError

CONFIG = """\
id = 0
[router]
id = 0
max_connections = 64
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[{section}.1]
name = "loopback"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[{section}.1.connections]
connection_timeout_ms = 10000
max_payload_size = 16777216
max_inflight_count = 512
dynamic_filters = false
"""
ATTEMPTS = 5


@contextmanager
def embedded_broker(version: Literal["5", "3.1.1"] = "5") -> Iterator[int]:
    """Run a broker for one protocol version on a free loopback port, which is given; stop it at the end.

    It keeps nothing on disk, and ends with this process, however that ends. Raises ConfigError, one sentence, where
    `iotcore` is missing or the broker does not start.
    """
    try:
        from iotcore import Broker
    except ImportError:
        raise ConfigError("the embedded broker needs iotcore; pip install 'trimtab[demo]'") from None
    failure: Exception | None = None
    with tempfile.TemporaryDirectory(prefix="trimtab-broker-") as folder:
        file = Path(folder) / "broker.toml"
        for _ in range(ATTEMPTS):
            port = free_port()
            file.write_text(CONFIG.format(section="v5" if version == "5" else "v4", port=port), encoding="utf-8")
            broker = Broker(config_path=str(file))
            try:
                # The child inherits the mask: Ctrl-C then ends us, and we end it when everything else has left it.
                old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                try:
                    broker.start()
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, old)
            except (OSError, RuntimeError) as error:  # another process was quicker to take the port
                failure = error
                continue
            try:
                yield port
            finally:
                broker.stop()
            return
    raise ConfigError(f"the embedded broker does not start ({failure}); use another one with `trimtab run`")


def free_port() -> int:
    """A loopback TCP port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
