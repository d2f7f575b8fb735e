"""What `deploy/` offers works as it stands: the broker's configuration, the access list, the certificates."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from trimtab.runtime.cli import cli
from trimtab.runtime.config import load_config
from trimtab.runtime.payloads import encode

DEPLOY = Path(__file__).parents[2] / "deploy"
Start = Callable[..., Any]
USERS = {"box-1": "box", "operator": "op", "sensors": "sense", "box-2": "other"}


def certificates(folder: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.fail("these tests make certificates; install openssl: apt-get install openssl", pytrace=False)
    command = [str(DEPLOY / "certificates.sh"), str(folder), "localhost", "127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "ca.crt"


@pytest.fixture
def secured(tmp_path: Path, own_broker: Start) -> Any:
    """Mosquitto with deploy/mosquitto.conf and deploy/mosquitto.acl, on a free port and in a folder of its own."""
    folder = tmp_path / "etc"
    ca = certificates(folder)
    shutil.copy(DEPLOY / "mosquitto.acl", folder / "acl")
    passwords = folder / "passwords"
    passwords.touch()
    lines = (DEPLOY / "mosquitto.conf").read_text().replace("/etc/mosquitto/trimtab", str(folder)).splitlines()
    own = ("listener", "persistence", "max_inflight_messages", "set_tcp_nodelay")  # the fixture has them
    kept = [line for line in lines if not line.startswith(own)]

    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.fail("these tests talk to a real broker; install it: apt-get install mosquitto", pytrace=False)
    for user, password in USERS.items():
        subprocess.run([tool, "-b", str(passwords), user, password], check=True, capture_output=True)
    return own_broker("\n".join(kept), ca=ca)


@pytest.mark.broker
def test_tls_passwords_and_the_access_list(
    secured: Any, daemon: Start, client: Start, tiny_bundle: Any, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("box\n")
    config = {
        "bundle": str(tiny_bundle.path),
        "node": "box-1",
        "mqtt": {
            "host": "localhost",
            "port": secured.port,
            "username": "box-1",
            "password_file": "password",
            "tls": {"ca": str(secured.ca)},
            "reconnect_max": 0.2,
        },
        "streams": [{"topic": "sensors/+/imu"}],
    }
    operator = client(secured, "trimtab/#", login=("operator", "op"))
    stranger = client(secured, "trimtab/box-1/decision/#", "sensors/#", login=("box-2", "other"))
    sensors = client(secured, login=("sensors", "sense"))
    process = daemon(config).started()
    assert operator.next("trimtab/box-1/available") == "online"
    rows = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    sensors.publish("sensors/a/imu", encode(rows, "json", time=1.0, sequence=0))
    assert operator.next("trimtab/box-1/decision/sensors/a/imu")["sequence"] == 0
    # Not from everyone: a box hears nothing of another's, and gives it no commands.
    stranger.publish("trimtab/box-1/set/pause", b"")
    operator.publish("trimtab/box-1/set/resume", b"")
    assert operator.next("trimtab/box-1/result/resume")["ok"]
    result = CliRunner().invoke(cli, ["command", "unpin", str(process.file)])  # with the box's own user
    assert (result.exit_code, result.output) == (0, "box-1: unpin: done\n")
    assert [m.topic for m in operator.messages if "pause" in m.topic] == []
    assert stranger.messages == []
    process.kill()

    (tmp_path / "password").write_text("wrong\n")
    process = daemon(config).started()
    process.logged("the broker refuses: Not authorized; see mqtt.username and mqtt.password_file")
    process.kill()

    other = certificates(tmp_path / "other")
    config["mqtt"]["tls"] = {"ca": str(other)}  # type: ignore[index]
    process = daemon(config).started()
    process.logged("its certificate is not accepted")


def test_the_example_configuration_is_valid() -> None:
    config = load_config(DEPLOY / "config.yaml")
    assert config.mqtt.tls is not None
    assert config.prefix == "trimtab/box-1"


def test_the_unit_notifies_and_leaves_the_drain_its_time() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True, delimiters="=")
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "trimtab.service")
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert float(service["WatchdogSec"]) > 0
    assert service["ProtectSystem"] == "strict"
    assert float(service["TimeoutStopSec"]) > load_config(DEPLOY / "config.yaml").drain
