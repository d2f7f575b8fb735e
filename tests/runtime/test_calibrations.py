"""Thresholds of a box's own: signals of a replay, calibrated at the desk, and read by a configuration."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from tests.runtime.conftest import Tiny
from trimtab.runtime.bundle import load_bundle
from trimtab.runtime.cli import cli
from trimtab.runtime.config import load_config
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.watch import new_monitor, references, watched_signals

SIGNALS = ["divergence", "entropy"]
EVERY = 5000


def trimtab(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def calibrated(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle, a file a signal, and `config.yaml`, which names them."""
    folder = tmp_path_factory.mktemp("calibrated")
    values = np.random.default_rng(5).normal(0, 2, (8 * 1200 + 8, 3)).astype(np.float32)
    np.savez(folder / "normal.npz", allow_pickle=False, x=values, time=1000 + np.arange(len(values)) / 16)
    trimtab("replay", folder / "normal.npz", "--bundle", tiny.bundle.path, "--signals", folder / "signals.csv")
    for signal in SIGNALS:
        trimtab("drift", "calibrate", folder / "signals.csv", "--column", signal, "--every", EVERY * len(SIGNALS),
                "--out", folder / f"{signal}.json")  # fmt: skip
    (folder / "bundle").symlink_to(tiny.bundle.path)
    write(folder, {})
    return folder


def write(folder: Path, drift: dict[str, Any]) -> Path:
    usual = {
        "signals": SIGNALS,
        "false_alarms": {"every": EVERY},
        "calibrations": [f"{signal}.json" for signal in SIGNALS],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"bundle": "bundle", "drift": {**usual, **drift}}))
    return folder / "config.yaml"


def thresholds(config: Path) -> dict[str, float]:
    """Of a new stream's detectors."""
    found = load_config(config)
    bundle = load_bundle(found.bundle)
    watched = watched_signals(bundle, found.drift)
    monitor = new_monitor(bundle, found.drift, watched, references(bundle, found.drift, watched))
    return {name: d.update(math.nan).threshold for name, d in monitor._detectors.items()}


def test_signals_of_a_replay_have_a_row_a_window(calibrated: Path) -> None:
    lines = (calibrated / "signals.csv").read_text().splitlines()
    assert lines[0] == "timestamp,stream,sequence,divergence,distance,entropy"
    assert len(lines) == 1 + 1200
    assert lines[-1].split(",")[2] == "1199"


def test_thresholds_are_the_files(calibrated: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = {s: json.loads((calibrated / f"{s}.json").read_text())["calibrations"][0]["threshold"] for s in SIGNALS}
    with caplog.at_level(logging.INFO):
        found = thresholds(calibrated / "config.yaml")
    assert found == pytest.approx(said)
    assert "entropy: threshold" in caplog.text
    assert "signals.csv (column entropy, sha256 " in caplog.text
    assert "is valid" in trimtab("config", "check", calibrated / "config.yaml")


def test_a_signal_without_a_file_keeps_the_bundles(calibrated: Path, tmp_path: Path) -> None:
    shutil.copytree(calibrated, tmp_path / "box", symlinks=True)
    whole = thresholds(calibrated / "config.yaml")
    bundles = thresholds(write(tmp_path / "box", {"calibrations": []}))
    mixed = thresholds(write(tmp_path / "box", {"calibrations": ["entropy.json"]}))
    assert mixed == {"divergence": bundles["divergence"], "entropy": whole["entropy"]}
    assert whole["entropy"] != bundles["entropy"]


def test_a_replay_takes_them(calibrated: Path) -> None:
    assert "windows" in trimtab("replay", calibrated / "normal.npz", "--config", calibrated / "config.yaml")


def _edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "entropy.json").read_text())
        change(content)
        (folder / "entropy.json").write_text(json.dumps(content))

    return edit


FOREIGN: list[tuple[Callable[[Path], Any], dict[str, Any], str]] = [
    (lambda f: (f / "entropy.json").unlink(), {}, r"cannot be read .*; give a file written by"),
    (lambda f: (f / "entropy.json").write_text("time,a"), {}, "is not JSON; give a file written by"),
    (lambda f: (f / "entropy.json").write_text("{}"), {}, "field required; give a file written by"),
    (lambda f: (f / "entropy.json").write_bytes(b"\xff\xfe"), {}, "is not JSON; give a file"),
    (
        lambda f: None,
        {"signals": ["divergence", "distance"]},
        "is of the column 'entropy', .*divergence, distance; drop",
    ),
    (lambda f: None, {"detector": "ks"}, "is of sprt where drift.detector is ks; calibrate again with --detector ks"),
    (lambda f: None, {"options": {"memory": 300}}, r"other options than drift.options \(memory 300\); calibrate again"),
    (
        lambda f: None,
        {"false_alarms": {"every": 2000}},
        "is for one false alarm in 10000 .* one in 4000; calibrate again",
    ),
    (lambda f: shutil.copy(f / "divergence.json", f / "entropy.json"), {}, "both of divergence; drop one"),
    (
        _edited(lambda c: c["calibrations"][0].update(threshold=1.0)),
        {},
        "another threshold than it says; calibrate again",
    ),
    (_edited(lambda c: c["recording"]["values"].extend([9.0] * 300)), {}, "another threshold .*; calibrate again"),
    (_edited(lambda c: c.update(format=2)), {}, "format: input should be 1; give a file"),
]


@pytest.mark.parametrize(("spoil", "drift", "said"), FOREIGN)
def test_a_foreign_file_gets_its_sentence(
    calibrated: Path, tmp_path: Path, spoil: Callable[[Path], Any], drift: dict[str, Any], said: str
) -> None:
    folder = tmp_path / "box"
    shutil.copytree(calibrated, folder, symlinks=True)
    spoil(folder)
    config = write(folder, drift)
    with pytest.raises(ConfigError, match=said) as caught:
        CliRunner().invoke(cli, ["config", "check", str(config)], catch_exceptions=False)
    text = str(caught.value)
    assert text.startswith(f"{config}: drift.calibrations.")
    assert "\n" not in text
