"""`trimtab export`: what it takes, what it says, and what it says of mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from trimtab.exporters import MethodChoice
from trimtab.exporters.target import load_target, read_data
from trimtab.runtime.bundle import Window, load_bundle
from trimtab.runtime.cli import cli
from trimtab.runtime.errors import ExportError

MODULE = """
import numpy as np
import torch
from torch import nn
from trimtab.exporters import ExportSpec

layers = [nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)]
net = nn.Sequential(*layers)


def spec():
    x = np.random.default_rng(0).standard_normal((20, 3, 20)).astype(np.float32)
    return ExportSpec(net, x[:1], [(x, np.arange(20) % 2)], "from spec", classes=["off", "on"])


def picky(argument):
    return net


def broken():
    raise TypeError("from within")


number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "desk_model.py").write_text(MODULE)
    x = np.random.default_rng(1).standard_normal((70, 3, 20))
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(70) % 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "desk_model", raising=False)
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["export", *arguments, "--out", "out"])


def test_a_spec_says_everything(folder: Path) -> None:
    done = run("desk_model:spec")
    assert done.exception is None
    lines = done.output.splitlines()
    assert lines[0] == "out: from spec, 1 norms, 28 parameters, 4 features, 2 outputs"
    assert lines[1].split() == ["graph", "output", "batch", "1", "batch", "7", "batch", "64"]
    assert len(lines) == 2 + 1 + 3 + 1 + 3
    assert load_bundle(folder / "out").manifest.provenance["source_samples"] == 20


def test_a_module_with_data_and_options(folder: Path) -> None:
    options = (
        "--data data.npz --classes off,on --window 20,5,25 --signs 0,2 --order 1,0,2 --channels u,v,w --mean 1,2,3"
    )
    done = run("desk_model:net", *options.split(), "--name", "watch")
    assert done.exception is None
    manifest = load_bundle(folder / "out").manifest
    (entry,) = manifest.inputs
    assert (manifest.name, manifest.classes, manifest.window) == (
        "watch",
        ["off", "on"],
        Window(rows=20, hop=5, rate=25.0),
    )
    assert (entry.channels, entry.mean, entry.std) == (["u", "v", "w"], [1.0, 2.0, 3.0], [])
    assert entry.calibration is not None
    assert (entry.calibration.signs, entry.calibration.orders, entry.calibration.gain) == ([0, 2], [[1, 0, 2]], True)
    assert (manifest.provenance["source_samples"], manifest.provenance["source_labels"]) == (70, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("desk_model:net", "--data is needed"),
        ("desk_model:net --data data.npz", "so --classes A,B,... is needed"),
        ("desk_model:net --data data.npz --classes a,b --targets c,d", "give either classes"),
        ("desk_model:net --data nope.npz --classes a,b", "nope.npz: not found"),
        ("desk_model:number", "is of type int"),
        ("desk_model:picky", "cannot be called without arguments"),
        ("desk_model:nope", "has no 'nope'"),
        ("no_such_module:x", "there is no module 'no_such_module'"),
        ("desk_model", "MODULE:ATTRIBUTE"),
        ("desk_model:net --data data.npz --classes a,b --window 20", "ROWS,HOP"),
    ],
)
def test_mistakes(folder: Path, arguments: str, message: str) -> None:
    done = run(*arguments.split())
    assert isinstance(done.exception, ExportError)
    assert message in str(done.exception)
    assert not (folder / "out").exists()


def test_what_the_model_itself_raises_is_passed_on(folder: Path) -> None:
    with pytest.raises(TypeError, match="from within"):
        load_target("desk_model:broken")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 2)), "y": np.zeros(2)}, "differ in their number of samples"),
        ({"y": np.zeros(2)}, "holds no input"),
        ({"x": np.array([{}])}, "not an .npz file of plain arrays"),
    ],
)
def test_data_files(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ExportError, match=message):
        read_data(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_text("text")
    np.save(tmp_path / "c.npz.npy", np.zeros(3))
    for name in ("b.npz", "c.npz.npy"):
        with pytest.raises(ExportError, match=r"not an \.npz file"):
            read_data(tmp_path / name)


def test_the_exporter_says_nothing_of_its_own(folder: Path) -> None:
    """torch.onnx.export warns and prints of what the user cannot change."""
    code = "from trimtab.runtime.cli import main; main()"
    command = [sys.executable, "-c", code, "export", "desk_model:spec", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("out: from spec")


def test_methods_are_compiled_and_listed(folder: Path) -> None:
    done = run("desk_model:spec", "--methods", "tent,eata")
    assert done.exception is None, done.output
    assert "step.tent" in done.output
    [tent, eata] = load_bundle(folder / "out").manifest.methods
    assert (tent.name, tent.optimiser, eata.optimiser) == ("tent", "adam", "sgd")
    assert [p.name for p in tent.parameters] == ["norm.1.weight", "norm.1.bias"]
    assert eata.hyper["margin"].default == 0.4
    listed = CliRunner().invoke(cli, ["methods", "--bundle", "out"])
    assert "norm.1.weight, norm.1.bias" in listed.output
    described = CliRunner().invoke(cli, ["methods", "eata", "--json"])
    assert json.loads(described.output)["eata"]["needs"] == ["fisher"]
    alone = CliRunner().invoke(cli, ["methods", "note"]).output
    assert "streams  one at a time, since how often it learns depends on the stream" in alone
    assert "choose one of tent" in CliRunner().invoke(cli, ["methods", "nope"]).output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["nope"]}, "there is no method 'nope'; there are tent, "),
        ({"methods": ["tent", "tent"]}, "'tent' is there twice"),
        ({"methods": ["tent"], "classes": [], "targets": ["a", "b"]}, "a regression has none"),
        ({"methods": [MethodChoice("tent", changes=["9"])]}, "no module named '9'"),
        ({"methods": [MethodChoice("tent", optimiser="adamw")]}, "does not fit; give adam, sgd, nesterov, muon"),
        ({"methods": [MethodChoice("tent", name="../up")]}, "small letters"),
    ],
)
def test_methods_that_cannot_be(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=re.escape(message)):
        replace(load_target("desk_model:spec"), **options).export(folder / "out")
    assert not (folder / "out").exists()
