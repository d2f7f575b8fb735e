"""A command to a running daemon, over its broker, and the daemon's answer."""

from __future__ import annotations

import json
import math
import queue
import time
import uuid
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from trimtab.runtime.config import Config
from trimtab.runtime.errors import NoAnswerError
from trimtab.runtime.visit import Visit

NAMES = ("pause", "resume", "reset", "rollback", "pin", "unpin", "adapt", "reload")


def ask(config: Config, name: str, stream: str | None, version: int | None, timeout: float) -> str | None:
    """Have the daemon of `config` carry out command `name` (one of NAMES), and wait for its answer.

    `stream`: None for all. `version`: for `pin`; None for the one in use. `timeout`: seconds for the broker to let us
    in, and then for the answer. Returns None where it was done, and the daemon's sentence where it was refused. Raises
    ConfigError where the broker cannot be used, NoAnswerError where the daemon is away (the command is then not sent)
    or does not answer.
    """
    number = uuid.uuid4().hex
    facts = {"id": number, "stream": stream, "version": version}
    payload = json.dumps({key: value for key, value in facts.items() if value is not None})
    available, result = f"{config.prefix}/available", f"{config.prefix}/result/{name}"
    inbox: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    with Visit(config.mqtt, timeout) as visit:
        # One after the other: what the broker keeps of `available` comes before it agrees to the second.
        visit.subscribe(available, lambda *message: inbox.put(message))
        visit.subscribe(result, lambda *message: inbox.put(message))
        while not inbox.empty():
            if inbox.get() == (available, b"offline"):
                raise NoAnswerError(
                    f"node {config.node} is offline, so that nothing was sent; start `trimtab run` there"
                )
        end = time.monotonic() + timeout
        visit.client.publish(f"{config.prefix}/set/{name}", payload, qos=1, properties=_perishable(config, timeout))
        while (left := end - time.monotonic()) > 0:
            try:
                topic, answer = inbox.get(timeout=left)
            except queue.Empty:
                break
            facts = _object(answer)
            if topic == result and facts.get("id") == number:
                return None if facts.get("ok") is True else str(facts.get("error", "it does not say why"))
    raise NoAnswerError(
        f"node {config.node} gave no answer on {result} within {timeout:g} s; see that `trimtab run` is up there and "
        "that this user may read that topic (the command may still be carried out)"
    )


def _perishable(config: Config, timeout: float) -> Properties | None:
    """A command that nobody waits for any more is not to be delivered any more; MQTT 3.1.1 knows no such thing."""
    if config.mqtt.version != "5":
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = max(1, math.ceil(timeout))
    return properties


def _object(payload: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(payload)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}
