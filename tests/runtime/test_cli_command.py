"""`trimtab command`, to a real daemon over a real broker, and what `trimtab versions` then says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from trimtab.runtime.cli import cli
from trimtab.runtime.commands import NAMES, ask
from trimtab.runtime.config import load_config
from trimtab.runtime.embedded_broker import free_port
from trimtab.runtime.errors import ConfigError, NoAnswerError
from trimtab.runtime.payloads import encode

pytestmark = pytest.mark.broker
Start = Callable[..., Any]
PATIENCE = ["--timeout", "20"]


def written(config: dict[str, Any], folder: Path, **mqtt: Any) -> Path:
    path = folder / "other.yaml"
    path.write_text(yaml.safe_dump({**config, "mqtt": {**config["mqtt"], **mqtt}}))
    return path


def test_the_daemon_does_it_or_says_why_not(
    daemon: Start, client: Start, config: dict[str, Any], broker: Any, tmp_path: Path
) -> None:
    node = config["node"]
    stream = f"{node}/s"
    ear = client(broker, f"trimtab/{node}/#")
    process = daemon(config).started()
    assert ear.next(f"trimtab/{node}/available") == "online"
    rows = np.random.default_rng(0).normal(0, 2, (16, 3)).astype(np.float32)
    ear.publish(stream, encode(rows, "json", time=1000.0, sequence=0))
    assert ear.next(f"trimtab/{node}/decision/{stream}")["sequence"] == 0

    def run(*words: str, file: Path = process.file) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli, ["command", words[0], str(file), *words[1:], *PATIENCE])
        return result.exit_code, result.stdout, result.stderr

    for name in NAMES:
        if name == "rollback":
            assert run(name) == (
                1,
                "",
                f"trimtab: {node}: {name}: {stream} is at version 0, which has none before it\n",
            )
        else:
            assert run(name) == (0, f"{node}: {name}: done\n", "")
    assert run("pin", "--stream", stream, "--version", "0") == (0, f"{node}: pin {stream}: done\n", "")
    refused = f"trimtab: {node}: pin {stream}: there is no version 7; kept are 0\n"
    assert run("pin", "--stream", stream, "--version", "7") == (1, "", refused)
    older = written(config, tmp_path, version="3.1.1")
    status, _, error = run("pause", "--stream", "nobody", file=older)
    assert (status, error) == (1, f"trimtab: {node}: pause nobody: no stream 'nobody'; there are '{stream}'\n")

    audit = ["versions", str(process.file)]
    while_it_runs = CliRunner().invoke(cli, audit).output
    # `pin` took version 0 into use anew, and ended what `adapt` had begun.
    assert re.match(rf"{stream}: stable, version 0 since \S+Z, pinned\n", while_it_runs)
    process.kill()
    assert CliRunner().invoke(cli, audit).output == while_it_runs

    assert ear.next(f"trimtab/{node}/available") == "offline"
    with pytest.raises(NoAnswerError, match="is offline, so that nothing was sent; start `trimtab run` there"):
        ask(load_config(process.file), "pause", None, None, 20.0)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_no_answer_is_one_sentence_and_the_command_does_not_wait_for_ever(
    version: Literal["5", "3.1.1"], client: Start, config: dict[str, Any], broker: Any, tmp_path: Path
) -> None:
    node = config["node"]
    ear = client(broker, f"trimtab/{node}/set/#")
    file = written(config, tmp_path, version=version)
    with pytest.raises(NoAnswerError, match=f"node {re.escape(node)} gave no answer on .*/result/pin within 0.2 s; "):
        ask(load_config(file), "pin", "a", 3, 0.2)
    ear.wait(len)
    (sent,) = ear.messages
    facts = json.loads(sent.payload)
    assert len(facts.pop("id")) == 32
    assert (sent.topic, facts) == (f"trimtab/{node}/set/pin", {"stream": "a", "version": 3})
    assert not sent.retain
    assert getattr(sent.properties, "MessageExpiryInterval", None) == (1 if version == "5" else None)


def test_an_answer_to_another_is_not_ours(client: Start, config: dict[str, Any], broker: Any, tmp_path: Path) -> None:
    node = config["node"]
    for payload in (b"\xff", b"[]", b'{"id": "another", "ok": true}', b"{}"):
        client(broker).publish(f"trimtab/{node}/result/pause", payload, retain=True)
        with pytest.raises(NoAnswerError):
            ask(load_config(written(config, tmp_path)), "pause", None, None, 0.1)


def test_no_broker_is_one_sentence(config: dict[str, Any], tmp_path: Path) -> None:
    port = free_port()
    file = written(config, tmp_path, port=port)
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(cli, ["command", "pause", str(file)], catch_exceptions=False)
    assert str(caught.value) == (
        f"{file}: mqtt.host: no broker answers at 127.0.0.1:{port} (Connection refused); start it, or mend the key"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pause", "--version", "3"], "--version goes with pin, not with pause"),
        (["reload", "--stream", "s"], "--stream does not go with reload"),
        (["explode"], "'explode' is not one of"),
    ],
)
def test_a_wrong_use_ends_with_status_2(
    words: list[str], sentence: str, config: dict[str, Any], tmp_path: Path
) -> None:
    result = CliRunner().invoke(cli, ["command", words[0], str(written(config, tmp_path)), *words[1:]])
    assert result.exit_code == 2
    assert sentence in result.output
