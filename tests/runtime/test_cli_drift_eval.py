"""`trimtab drift eval` and `trimtab drift calibrate`, through the command line."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from trimtab.runtime.cli import cli
from trimtab.runtime.errors import TrimtabError

FAST = ("--repeats", "2", "--length", "1000", "--margin", "200")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["drift", *map(str, arguments)])


def recording(folder: Path, n: int = 1000, shift: float = 8.0) -> Path:
    """Gaussian values, which rise by `shift` from row 600 on."""
    values = np.random.default_rng(0).standard_normal(n)
    values[600:] += shift
    file = folder / "pump.csv"
    file.write_text("pressure\n" + "".join(f"{v:.4f}\n" for v in values), encoding="utf-8")
    return file


def test_the_table_has_a_row_for_each_detector_and_stream() -> None:
    result = run(
        "eval", "--detector", "sprt", "--detector", "ddm", "--stream", "abrupt", "--stream", "error_rate", *FAST
    )
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "abrupt: 2 x 1000 values, 2 changes"
    assert " ".join(lines[1].split()) == "detector median mean missed false/10k run length 5/50/95 % F1 us"
    assert lines[2].split()[0] == "sprt"
    assert lines[2].split()[3:6] == ["0", "of", "2"]
    assert lines[3].split(maxsplit=1) == ["ddm", "left out: it takes values from 0 to 1"]
    assert [line.split()[0] for line in lines[7:9]] == ["sprt", "ddm"]


def test_streams_are_the_same_whichever_others_are_drawn() -> None:
    def scores(*more: str) -> dict[str, object]:
        result = run("eval", "--detector", "sprt", *more, "--stream", "recurring", *FAST, "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.output)
        assert found["settings"]["margin"] == 200
        (row,) = (s for s in found["scores"] if s["stream"] == "recurring" and s["detector"] == "sprt")
        return {key: value for key, value in row.items() if key != "microseconds"}

    first = scores()
    assert first["changes"] == 6
    assert scores("--stream", "stable", "--detector", "ewma") == first
    assert scores("--seed", "1") != first


@pytest.mark.parametrize("given", ["list", "file"])
def test_a_recording_with_known_changes(tmp_path: Path, given: str) -> None:
    changes: str | Path = "600"
    if given == "file":
        changes = tmp_path / "changes.txt"
        changes.write_text("600\n", encoding="utf-8")
    result = run(
        "eval", "--recording", recording(tmp_path), "--column", "pressure", "--changes", changes,
        "--detector", "sprt", "--every", "1e6", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (score,) = json.loads(result.output)["scores"]
    assert (score["stream"], score["values"], score["changes"], score["missed"]) == ("pump.csv", 1000, 1, 0)
    assert score["f1"] == 1.0


def test_a_recording_without_changes_counts_false_alarms(tmp_path: Path) -> None:
    file = recording(tmp_path)
    result = run("eval", "--recording", file, "--column", "pressure", "--changes", "", "--detector", "sprt", "--json")
    (score,) = json.loads(result.output)["scores"]
    assert (score["changes"], score["f1"], score["median_delay"]) == (0, None, None)
    assert score["false"] >= 1


def test_the_picture(tmp_path: Path) -> None:
    file = tmp_path / "eval.png"
    result = run("eval", "--detector", "sprt", "--stream", "abrupt", "--stream", "variance", *FAST, "--plot", file)
    assert result.exit_code == 0, result.output
    assert file.read_bytes().startswith(b"\x89PNG")
    assert f"drawn to {file}" in result.output


def test_without_matplotlib_the_picture_is_refused_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("eval", "--plot", tmp_path / "eval.png")
    assert str(result.exception).endswith("drawing needs matplotlib; pip install 'trimtab[replay]'")
    assert result.output == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--detector", "psychic"], "detector 'psychic' is unknown; choose"),
        (["--every", "1"], "give a number from 10 to 1e"),
        (
            ["--stream", "abrupt", "--reference", "900", "--detector", "sprt", *FAST],
            "within the 900 values that --reference takes",
        ),
        (["--stream", "stable", "--detector", "ewma", *FAST, "--plot", "x.png"], "x.png: no stream changes"),
    ],
)
def test_a_mistake_in_an_evaluation_is_one_sentence(arguments: list[str], sentence: str) -> None:
    result = run("eval", *arguments)
    assert isinstance(result.exception, TrimtabError)
    assert sentence in str(result.exception)


@pytest.mark.parametrize(
    ("changes", "column", "sentence"),
    [
        ("soon", "pressure", "--changes soon is neither row numbers nor a file of them"),
        ("600," * 100 + "700", "pressure", "changes must be rising places in a stream of 1000 values"),
        ("5000", "pressure", "changes must be rising places in a stream of 1000 values, counted from 0, not 5000"),
        ("600", "flow", "has no column 'flow'; it has pressure"),
    ],
)
def test_a_mistake_about_a_recording_is_one_sentence(tmp_path: Path, changes: str, column: str, sentence: str) -> None:
    result = run("eval", "--recording", recording(tmp_path), "--column", column, "--changes", changes)
    assert isinstance(result.exception, TrimtabError)
    assert sentence in str(result.exception)


def test_a_recording_needs_its_changes(tmp_path: Path) -> None:
    result = run("eval", "--recording", recording(tmp_path))
    assert result.exit_code == 2
    assert "--recording and --changes go together" in result.output


def test_a_reference_that_no_detector_would_use_is_refused() -> None:
    result = run("eval", "--reference", "100")
    assert result.exit_code == 2
    assert "--reference 100 is too short to calibrate by; give 200 or more, or 0" in result.output


def test_the_reference_calibrates_and_is_not_counted() -> None:
    result = run("eval", "--detector", "sprt", "--stream", "autocorrelated", "--length", "2000", "--json")
    plain = json.loads(result.output)["scores"][0]
    result = run(
        "eval", "--detector", "sprt", "--stream", "autocorrelated", "--length", "2000", "--json", "--reference", "500"
    )
    calibrated = json.loads(result.output)["scores"][0]
    assert (plain["values"], calibrated["values"]) == (20000, 15000)
    assert calibrated["false"] < plain["false"] / 4


def test_a_calibration_is_said_and_written_with_where_it_comes_from(tmp_path: Path) -> None:
    file, out = recording(tmp_path, shift=0), tmp_path / "sprt.json"
    result = run(
        "calibrate", file, "--column", "pressure", "--detector", "sprt", "--every", "2000", "--option", "shifts=[1]",
        "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["provenance"] == {
        "file": "pump.csv",
        "column": "pressure",
        "rows": 1000,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "trimtab": found["provenance"]["trimtab"],
    }
    assert (found["detector"], found["options"], found["every"]) == ("sprt", {"shifts": [1.0]}, 2000.0)
    assert (found["values"], found["held_back"], found["expected"]) == (1000, 500, 0.25)
    assert f"{found['threshold']:.6g}" in result.output
    assert f"{found['found']} in 500 held-back values; 0.25 were accepted" in result.output
    assert "too short to tell" in result.output


def test_a_calibration_that_does_not_hold_is_told(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(2000) + np.repeat([0, 0, 0, 0, 0, 4, 0, 4, 0, 4], 200)
    file = tmp_path / "pump.csv"
    file.write_text("value\n" + "".join(f"{v}\n" for v in values), encoding="utf-8")
    result = run("calibrate", file, "--detector", "ewma")
    assert result.exit_code == 0, result.output
    assert "warning        it alarms more often than asked" in result.output


def test_a_mistake_in_a_calibration_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "short.csv"
    file.write_text("value\n1\n2\n", encoding="utf-8")
    result = run("calibrate", file, "--detector", "sprt")
    assert isinstance(result.exception, TrimtabError)
    assert str(result.exception) == f"{file}, column value: 2 finite values are too few; 400 are needed for sprt"
