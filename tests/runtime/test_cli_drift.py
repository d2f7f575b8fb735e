"""`trimtab drift score` on real files, through the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from trimtab.runtime.cli import cli
from trimtab.runtime.errors import TrimtabError

SMALL = ["--option", "columns=512", "--option", "cells=4", "--option", "segments=512"]


def write(file: Path, values: list[str], column: str = "value") -> Path:
    rows = [f"2014-04-{1 + i // 288:02d} {i % 288 // 12:02d}:{i % 12 * 5:02d}:00,{v}" for i, v in enumerate(values)]
    file.write_text("\n".join([f"timestamp,{column}", *rows]) + "\n", encoding="utf-8")
    return file


def score(recording: Path, out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["drift", "score", str(recording), "--out", str(out), *arguments])


def noise(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [f"{v:.4f}" for v in rng.standard_normal(n)]


@pytest.mark.parametrize("name", ["sprt", "adwin", "htm", "htm_sprt"])
def test_each_row_gets_a_score_that_depends_on_no_later_row(tmp_path: Path, name: str) -> None:
    values = noise(500)
    values[20] = ""
    values[400] = "50.0"
    extra = SMALL if name.startswith("htm") else []
    short = score(write(tmp_path / "short.csv", values[:450]), tmp_path / "a.csv", "--detector", name, *extra)
    long = score(write(tmp_path / "long.csv", values), tmp_path / "b.csv", "--detector", name, *extra)
    assert (short.exit_code, long.exit_code) == (0, 0), short.output + long.output
    first, second = (tmp_path / n for n in ("a.csv", "b.csv"))
    assert second.read_text().startswith(first.read_text())
    with second.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["timestamp", "value", "anomaly_score", "alarm"]
    assert [row["value"] for row in rows] == values
    assert rows[0]["timestamp"] == "2014-04-01 00:00:00"
    assert all(0.0 <= float(row["anomaly_score"]) <= 1.0 for row in rows)
    assert {row["alarm"] for row in rows} <= {"0", "1"}
    if name.startswith("htm"):
        assert (rows[400]["anomaly_score"], rows[400]["alarm"]) == ("1.0", "1")


def test_the_range_rule_can_be_left_out(tmp_path: Path) -> None:
    values = noise(300)
    values[200] = "50.0"
    file = write(tmp_path / "in.csv", values, "pressure")
    arguments = ("--detector", "htm", "--column", "pressure", "--no-range-rule", *SMALL)
    assert score(file, tmp_path / "out.csv", *arguments).exit_code == 0
    assert "1.0" not in [line.split(",")[2] for line in (tmp_path / "out.csv").read_text().splitlines()]


@pytest.mark.parametrize(
    ("text", "arguments", "sentence"),
    [
        ("timestamp,value\n1,2\n", ["--detector", "psychic"], "detector 'psychic' is unknown; choose"),
        (
            "timestamp,value\n1,2\n",
            ["--detector", "sprt", "--column", "x"],
            "has no column 'x'; it has timestamp, value",
        ),
        ("timestamp,value\n1,two\n", ["--detector", "sprt"], "line 2: 'two' is not a number"),
        ("timestamp,value\nnoon,2\n", ["--detector", "sprt"], "line 2: 'noon' is neither an ISO 8601 date"),
        ("timestamp,value\n", ["--detector", "sprt"], "has no rows to score"),
        ("timestamp,value\n1,2\n", ["--detector", "sprt", "--option", "warmup"], "--option warmup must be KEY=VALUE"),
        (
            "timestamp,value\n1,2\n",
            ["--detector", "sprt", "--option", "warmup=x"],
            "option warmup is 'x'; give a whole",
        ),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, arguments: list[str], sentence: str) -> None:
    file = tmp_path / "in.csv"
    file.write_text(text, encoding="utf-8")
    result = score(file, tmp_path / "out.csv", *arguments)
    assert isinstance(result.exception, TrimtabError)
    assert sentence in str(result.exception)
    assert not (tmp_path / "out.csv").exists()
