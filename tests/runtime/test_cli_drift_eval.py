"""`trimtab drift eval` and `trimtab drift calibrate`, through the command line."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
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
    assert lines[3].split(maxsplit=1) == ["ddm", "left out: it takes numbers from 0 to 1 alone"]
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
    result = run("eval", "--reference", "60")
    assert result.exit_code == 2
    assert "--reference 60 is too short to calibrate by; give 100 or more, or 0" in result.output


def test_the_reference_calibrates_and_is_not_counted() -> None:
    result = run("eval", "--detector", "sprt", "--stream", "autocorrelated", "--length", "2000", "--json")
    plain = json.loads(result.output)["scores"][0]
    result = run(
        "eval", "--detector", "sprt", "--stream", "autocorrelated", "--length", "2000", "--json", "--reference", "500"
    )
    calibrated = json.loads(result.output)["scores"][0]
    assert (plain["values"], calibrated["values"]) == (20000, 15000)
    assert calibrated["false"] < plain["false"] / 4


def test_options_are_for_all_that_have_them_or_for_one(tmp_path: Path) -> None:
    def delays(*arguments: str) -> dict[str, float]:
        result = run(
            "eval", "--detector", "sprt", "--detector", "ewma", "--stream", "abrupt", *FAST, *arguments, "--json"
        )
        assert result.exit_code == 0, result.output
        return {row["detector"]: row["median_delay"] for row in json.loads(result.output)["scores"]}

    usual = delays()
    lighter = delays("--option", "ewma.weight=0.01")
    assert lighter["sprt"] == usual["sprt"]
    assert lighter["ewma"] > usual["ewma"]
    assert delays("--option", "weight=0.01") == lighter
    assert delays("--option", "ewma.weight=0.01", "--option", "weight=0.5") == lighter


def test_a_season_is_no_drift() -> None:
    def false(*arguments: str) -> int:
        stream = ("--detector", "sprt", "--stream", "seasonal", "--repeats", "2", "--json")
        result = run("eval", *stream, *arguments)
        assert result.exit_code == 0, result.output
        (row,) = json.loads(result.output)["scores"]
        assert "--reference" not in arguments or row["missed"] == 0
        return int(row["false"])

    assert false() > 20
    assert false("--season", "288") <= 2
    assert false("--season", "auto", "--reference", "1200") <= 2


def wild(folder: Path) -> dict[str, Path]:
    """Small files in the formats of the real ones."""
    rng = np.random.default_rng(0)
    nab = folder / "nab"
    (nab / "labels").mkdir(parents=True)
    (nab / "data" / "pumps").mkdir(parents=True)
    values = rng.standard_normal(1000) + np.repeat([0, 9], [600, 400])
    rows = [f"2014-04-01 {i // 60:02d}:{i % 60:02d}:00,{v:.3f}" for i, v in enumerate(values)]
    (nab / "data" / "pumps" / "a.csv").write_text("\n".join(["timestamp,value", *rows]) + "\n", encoding="utf-8")
    windows = {"pumps/a.csv": [["2014-04-01 10:00:00.000000", "2014-04-01 11:00:00.000000"]], "pumps/b.csv": []}
    (nab / "labels" / "combined_windows.json").write_text(json.dumps(windows), encoding="utf-8")
    tcpd = folder / "tcpd"
    (tcpd / "datasets" / "nile").mkdir(parents=True)
    series = [
        {"label": "V1", "type": "float", "raw": [*rng.standard_normal(200), None, *(9 + rng.standard_normal(99))]}
    ]
    content = {"name": "nile", "n_obs": 300, "n_dim": 1, "series": series}
    (tcpd / "datasets" / "nile" / "nile.json").write_text(json.dumps(content), encoding="utf-8")
    marks = {"nile": {"6": [], "7": [200], "8": [202, 250], "9": [201]}, "elsewhere": {"6": [3]}}
    (tcpd / "annotations.json").write_text(json.dumps(marks), encoding="utf-8")
    gas = folder / "gas.npz"
    batch = np.repeat([1, 2], [400, 400])
    np.savez(gas, X=rng.standard_normal((800, 16)) + 9 * batch[:, None], batch=batch)
    return {"nab": nab, "tcpd": tcpd, "gas": gas}


def test_real_series_are_read_with_their_changes(tmp_path: Path) -> None:
    files = wild(tmp_path)
    paths = [*map(str, files.values()), "water_flow"]
    result = run(
        "eval", "--detector", "sprt", "--every", "10000", "--margin", "60", "--json",
        *(part for path in paths for part in ("--corpus", path)),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = {row["stream"]: row for row in json.loads(result.output)["scores"]}
    found = {kind: (row["streams"], row["values"], row["changes"], row["missed"]) for kind, row in rows.items()}
    assert found.pop("water_flow")[:3] == (1, 1268, 4)
    assert found == {
        "pumps": (1, 1000, 1, 0),
        "turing": (1, 300, 1, 0),
        "distance": (1, 600, 1, 0),
        "features": (2, 1200, 2, 0),
    }


def test_series_that_change_within_the_reference_are_left_out(tmp_path: Path) -> None:
    files = wild(tmp_path)
    other = files["nab"] / "data" / "pumps" / "b.csv"
    other.write_text((files["nab"] / "data" / "pumps" / "a.csv").read_text(encoding="utf-8"), encoding="utf-8")
    arguments = ("eval", "--corpus", str(files["nab"]), "--detector", "sprt", "--reference")
    result = run(*arguments, "700")
    assert result.output.startswith("pumps: 1 x 300 values, 0 changes; 1 left out, which change within the reference")
    assert run(*arguments, "500").output.startswith("pumps: 2 x 500 values, 1 changes\n")


def test_what_is_no_corpus_is_one_sentence(tmp_path: Path) -> None:
    files = wild(tmp_path)
    (files["tcpd"] / "datasets" / "nile" / "nile.json").write_text("{}", encoding="utf-8")
    (files["nab"] / "labels" / "combined_windows.json").write_text('{"pumps/a.csv": [["noon", ""]]}', encoding="utf-8")
    files["gas"].write_bytes(b"PK")
    for path, sentence in [
        (tmp_path, "is not water_flow, a folder with labels/combined_windows.json (NAB) or annotations.json (TCPD)"),
        (files["tcpd"], "are not as the Turing Change Point Dataset has them"),
        (files["nab"], "a window of pumps/a.csv begins at no row"),
        (files["gas"], "is not an .npz file of X and batch"),
    ]:
        result = run("eval", "--corpus", path, "--detector", "sprt")
        assert isinstance(result.exception, TrimtabError)
        assert sentence in str(result.exception)


def calibrated(folder: Path, *arguments: str) -> Path:
    out = folder / "calibration.json"
    result = run("calibrate", recording(folder, shift=0), "--column", "pressure", "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    return out


def test_a_calibration_is_said_and_written_with_where_it_comes_from(tmp_path: Path) -> None:
    file, out = recording(tmp_path, shift=0), tmp_path / "both.json"
    result = run(
        "calibrate", file, "--column", "pressure", "--detector", "sprt", "--detector", "ks", "--every", "2000",
        "--every", "500", "--option", "shifts=[1]", "--option", "ks.clock=5", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text(encoding="utf-8"))
    kept = found["recording"]
    assert (kept["file"], kept["column"], len(kept["values"])) == ("pump.csv", "pressure", 1000)
    assert kept["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    first, *others = found["calibrations"]
    assert [(c["detector"], c["every"]) for c in others] == [("sprt", 500.0), ("ks", 2000.0), ("ks", 500.0)]
    assert others[-1]["options"] == {"clock": 5}
    assert (first["detector"], first["options"], first["every"]) == ("sprt", {"shifts": [1.0]}, 2000.0)
    assert (first["values"], first["held_back"], first["expected"]) == (1000, 500, 0.25)
    assert f"{first['threshold']:.6g}" in result.output
    assert f"{first['found']} in 500 held-back values; 0.25 were accepted" in result.output
    assert "too short to tell" in result.output


def test_a_calibration_is_read_back_by_eval_and_score(tmp_path: Path) -> None:
    """Values of the recording's kind, but that their level is 5: drift to a calibrated detector, usual to another."""
    out = calibrated(tmp_path, "--detector", "sprt", "--detector", "ewma", "--every", "1000", "--every", "5000")
    other = tmp_path / "other.csv"
    values = 5 + np.random.default_rng(1).standard_normal(300)
    other.write_text("value\n" + "".join(f"{v}\n" for v in values), encoding="utf-8")
    result = run("eval", "--recording", other, "--changes", "0", "--calibration", out, "--json")
    assert result.exit_code == 0, result.output
    rows = {row["detector"]: row for row in json.loads(result.output)["scores"]}
    assert list(rows) == ["sprt 1000", "sprt 5000", "ewma 1000", "ewma 5000"]
    assert all(row["missed"] == 0 for row in rows.values())
    assert rows["ewma 5000"]["median_delay"] <= 5
    result = run(
        "score", other, "--detector", "sprt", "--every", "5000", "--calibration", out, "--out", tmp_path / "scores.csv"
    )
    assert result.exit_code == 0, result.output
    rows_of = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert any(line.endswith(",1") for line in rows_of[1:10])
    plain = run("score", other, "--detector", "sprt", "--out", tmp_path / "scores.csv")
    assert "300 rows scored, 0 alarms" in plain.output


def test_a_calibration_may_find_a_season(tmp_path: Path) -> None:
    values = 5 * np.sin(2 * np.pi * np.arange(1200) / 48) + np.random.default_rng(2).standard_normal(1200)
    file = tmp_path / "daily.csv"
    file.write_text("value\n" + "".join(f"{v}\n" for v in values), encoding="utf-8")
    out = tmp_path / "daily.json"
    result = run("calibrate", file, "--detector", "ewma", "--every", "1000", "--season", "auto", "--out", out)
    assert result.exit_code == 0, result.output
    (found,) = json.loads(out.read_text(encoding="utf-8"))["calibrations"]
    assert found["options"] == {"season": [48.0]}
    assert found["inflation"] < 1.5
    result = run("score", file, "--detector", "ewma", "--calibration", out, "--out", tmp_path / "scores.csv")
    assert "1200 rows scored, 0 alarms" in result.output


@pytest.mark.parametrize(
    ("change", "arguments", "sentence"),
    [
        (lambda _: "no", ["--detector", "sprt"], "is not JSON; give a file written by `trimtab drift calibrate --out`"),
        (lambda t: t.replace('"format": 1', '"format": 2'), ["--detector", "sprt"], "format: input should be 1"),
        (
            lambda t: t.replace('"threshold"', '"limit"'),
            ["--detector", "sprt"],
            "calibrations.0.threshold: field required",
        ),
        (lambda t: t, ["--detector", "glr"], "holds no calibration of glr; it holds sprt"),
        (
            lambda t: t,
            ["--detector", "sprt"],
            "calibrations of sprt for one false alarm in 1000, 5000; choose by --every",
        ),
        (
            lambda t: t.replace('"threshold": ', '"threshold": 1'),
            ["--detector", "sprt", "--every", "1000"],
            "sprt now comes to another threshold than it says; calibrate again",
        ),
        (
            lambda t: t.replace('"options": {}', '"options": {"colour": 1}'),
            ["--detector", "sprt", "--every", "1000"],
            "detector sprt has no option 'colour'",
        ),
    ],
)
def test_a_calibration_that_is_none_is_one_sentence(
    tmp_path: Path, change: Callable[[str], str], arguments: list[str], sentence: str
) -> None:
    out = calibrated(tmp_path, "--every", "1000", "--every", "5000")
    out.write_text(change(out.read_text(encoding="utf-8")), encoding="utf-8")
    file = tmp_path / "pump.csv"
    given = ("--column", "pressure", "--calibration", out, "--out", tmp_path / "scores.csv")
    result = run("score", file, *arguments, *given)
    assert isinstance(result.exception, TrimtabError)
    assert sentence in str(result.exception)


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
    assert str(result.exception) == f"{file}, column value: 2 finite values are too few; 200 are needed for sprt"


def test_a_recording_is_not_written_over(tmp_path: Path) -> None:
    file = recording(tmp_path)
    before = file.read_bytes()
    (tmp_path / "link.csv").symlink_to(file)
    for out in (file, tmp_path / "link.csv"):
        result = run("calibrate", file, "--column", "pressure", "--out", out)
        assert result.exit_code == 2
        assert "--out is the recording itself; name another file" in result.output
    result = run("calibrate", file, "--column", "pressure", "--out", tmp_path / "no" / "c.json")
    assert isinstance(result.exception, TrimtabError)
    assert "there is no folder" in str(result.exception)
    assert file.read_bytes() == before
