"""The doctor: says what works, why not, how fast, and fails where nothing works."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from click.testing import CliRunner

from trimtab.runtime import doctor
from trimtab.runtime.cli import cli
from trimtab.runtime.doctor import BATCHES, examine, lines
from trimtab.runtime.errors import BundleError

QUICK = 0.002


def test_the_cpu_works_and_is_timed_with_one_thread_and_with_all() -> None:
    report = examine(patience=QUICK)
    assert report.usable
    cpu = next(p for p in report.providers if p.name == "cpu")
    assert cpu.works
    assert cpu.device == report.processor
    assert report.onnxruntime == onnxruntime.__version__
    assert report.python.startswith("3.")
    timed = [t for t in report.timings if t.provider == "cpu"]
    assert {t.batch for t in timed} == set(BATCHES)
    assert {t.threads for t in timed} == {1, report.cores}
    assert all(t.milliseconds > 0 for t in timed)
    text = "\n".join(lines(report))
    assert "cpu       works on" in text
    assert "batch 64" in text


def test_a_provider_that_is_missing_has_a_reason_and_a_mend() -> None:
    report = examine(patience=QUICK)
    for provider in report.providers:
        if not provider.works:
            assert provider.reason
            assert provider.mend is not None
            assert "trimtab[gpu]" in provider.mend or "onnxruntime-gpu" in provider.mend
            assert f"{provider.name:<9} does not work: {provider.reason}" in "\n".join(lines(report))


def test_a_bundles_graphs_are_timed(tiny: Any, tiny_served: Any) -> None:
    report = examine(tiny.bundle.path, patience=QUICK)
    assert {t.graph for t in report.timings} == {"serve", "observe", "banked"}
    assert report.model.startswith("tiny (")
    report = examine(tiny_served.bundle.path, patience=QUICK)
    assert {t.graph for t in report.timings} == {"serve", "banked"}


def test_a_folder_that_is_no_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        examine(tmp_path / "nothing")


def test_the_command_prints_text_or_json_and_ends_with_0(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    text = CliRunner().invoke(cli, ["doctor"])
    assert text.exit_code == 0
    assert "cpu       works on" in text.output
    told = CliRunner().invoke(cli, ["doctor", "--json", "--bundle", str(tiny.bundle.path)])
    assert told.exit_code == 0
    document = json.loads(told.output)
    assert document["usable"] is True
    assert {p["name"] for p in document["providers"]} == {"cpu", "cuda", "tensorrt"}
    assert document["timings"][0]["milliseconds"] > 0


def test_without_onnxruntime_the_command_says_what_to_install_and_ends_with_1(
    without_onnxruntime: None,
) -> None:
    told = CliRunner().invoke(cli, ["doctor"])
    assert told.exit_code == 1
    assert "onnxruntime is missing" in told.output
    assert "pip install 'trimtab[cpu]', or 'trimtab[gpu]'" in told.output
    assert json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)["usable"] is False


def test_two_distributions_of_one_module_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed side by side, as pip lets happen: a second distribution that says it brings the same module."""
    info = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
    (info / "RECORD").write_text("onnxruntime/__init__.py,,\n")
    (info / "top_level.txt").write_text("onnxruntime\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert metadata.version("onnxruntime-gpu") == "1.31.1"
    report = examine(patience=QUICK)
    assert set(report.distributions) >= {"onnxruntime", "onnxruntime-gpu"}
    assert "are both installed and overwrite each other's files" in " ".join(report.advice)
    assert any(line.startswith("MEND: onnxruntime and onnxruntime-gpu") for line in lines(report))


def test_the_processor_has_a_name() -> None:
    assert doctor._processor()


def test_step_graphs_are_timed_too(waves: Any) -> None:
    report = examine(waves.path, patience=0.001)
    timed = [t.graph for t in report.timings if (t.threads, t.batch) == (1, 1)]
    steps = ("tent", "tent+label_shift", "prior_correction", "feature_shift")
    assert timed == ["serve", "observe", "banked", *(f"step.{name}" for name in steps)]
    assert any("step.prior_correction" in line for line in lines(report))
