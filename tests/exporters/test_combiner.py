"""The network that combines HTM columns: it learns what a maximum cannot, and says of itself what holds elsewhere."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from benchmarks.columns import SENSORS, best, judged, plant
from trimtab.drift.combiner import Combiner, Recipe
from trimtab.exporters.combiner import runs, sliding, spaced, train
from trimtab.runtime.cli import cli
from trimtab.runtime.errors import TrimtabError

SIZES = {"columns": 256, "cells": 4, "segments": 2000}
OPTIONS = [argument for key, value in SIZES.items() for argument in ("--option", f"{key}={value}")]


def write(file: Path, records: int, seed: int) -> Path:
    values, labels = plant(records, seed)
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow([*SENSORS, "broken"])
        writer.writerows([*map(repr, row), int(mark)] for row, mark in zip(values.tolist(), labels, strict=True))
    return file


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["drift", *arguments])


def test_a_trained_network_tells_what_surprises_mean_together(tmp_path: Path) -> None:
    network = tmp_path / "combiner.onnx"
    recording = write(tmp_path / "train.csv", 7000, 0)
    columns = ["--column", ",".join(SENSORS)]
    result = run("train-combiner", str(recording), *columns, "--labels", "broken", "--every", "2000",
                 "--out", str(network), *OPTIONS)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "labelled anomalies; each part judged by the others" in result.output
    recipe = Combiner(network).recipe
    assert (recipe.columns, recipe.history, recipe.every, recipe.options) == (SENSORS, 10, 2000.0, SIZES)
    unseen = write(tmp_path / "test.csv", 5000, 1)
    for extra, name in (([], "plain.csv"), (["--combiner", str(network)], "trained.csv")):
        arguments = [*columns, "--detector", "htm", *(extra or OPTIONS), "--out", str(tmp_path / name)]
        result = run("score", str(unseen), *arguments)
        assert result.exit_code == 0, result.output
    labels = plant(5000, 1)[1]
    found = {}
    for name in ("plain.csv", "trained.csv"):
        with (tmp_path / name).open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        assert list(rows[0]) == ["timestamp", *SENSORS, "anomaly_score", "alarm"]
        found[name] = np.array([float(row["anomaly_score"]) for row in rows])
        assert ((found[name] >= 0) & (found[name] <= 1)).all()
    events = len(runs(labels))
    hits, false = judged(found["trained.csv"], recipe.threshold, labels, 20)
    assert events >= 5
    assert hits >= 0.8 * events
    assert false <= 6, "2.5 are accepted"
    # Single stumbles surprise as much as anomalies do: no threshold on the highest score comes near.
    assert best(found["plain.csv"], labels, 20, false) <= hits / 2


def test_the_file_gives_what_was_trained_and_training_is_repeatable(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores, labels = 0.3 * rng.random((4400, 2)), np.zeros(4400, bool)
    for at in range(800, 4400, 200):
        labels[at : at + 10] = True
        scores[at + 3 : at + 8] = 0.9
    settings = {"every": 1000.0, "history": 5, "hold": 50, "options": {}}
    trained, again = (train(scores, labels, ("a", "b"), **settings) for _ in range(2))  # type: ignore[arg-type]
    assert trained.model.SerializeToString() == again.model.SerializeToString()
    assert (trained.found, trained.anomalies) == (18, 18)
    assert trained.false <= 3 * trained.normal / 1000 + 3
    file = tmp_path / "c.onnx"
    file.write_bytes(trained.model.SerializeToString())
    network = Combiner(file)
    found = network(np.ascontiguousarray(sliding(scores, 5)))
    assert found.shape == (4400,)
    assert network.recipe == trained.recipe == Recipe(("a", "b"), 5, 1000.0, trained.recipe.threshold, 50, {})
    near = np.convolve(labels, np.ones(16), "full")[:4400] > 0
    assert found[labels].max() > 0.9
    assert np.quantile(found[~near], 0.99) < 0.1


def test_windows_hold_the_past_alone() -> None:
    scores = np.arange(8.0).reshape(4, 2)
    windows = sliding(scores, 3)
    assert windows.shape == (4, 3, 2)
    assert windows[0].tolist() == [[0, 0], [0, 0], [0, 1]]
    assert windows[3].tolist() == scores[1:].tolist()


def test_runs_and_alarms_are_counted_by_event() -> None:
    assert runs(np.array([1, 1, 0, 0, 1, 0, 1], bool)) == [(0, 2), (4, 5), (6, 7)]
    assert spaced(np.array([0, 1, 1, 1, 0, 1, 1], bool), 4) == [1, 5]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--column", "pressure,nothing"], "has no column 'nothing'"),
        (["--labels", "pressure"], "--column names pressure, which holds the labels"),
        (["--labels", SENSORS[2]], f"{SENSORS[2]} is '"),
        (["--every", "50"], "is 50 records between false alarms; give more than the 100 of one event"),
        (["--every", "nan"], "is nan records between false alarms; give more than"),
        (["--out", "nowhere/c.onnx"], "there is no folder nowhere"),
        (["--option", "columns=1"], "option columns is 1"),
        ([], "0 anomalies are labelled after the"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    recording = write(tmp_path / "r.csv", 1000, 0)
    usual = {"--column": ",".join(SENSORS[:2]), "--labels": "broken", "--out": str(tmp_path / "c.onnx")}
    usual |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    sizes = [] if "--option" in usual else OPTIONS
    result = run("train-combiner", str(recording), *[v for pair in usual.items() for v in pair], *sizes)
    assert isinstance(result.exception, TrimtabError), result.output
    assert sentence in str(result.exception)
    assert not (tmp_path / "c.onnx").exists()


def test_mistakes_are_told_before_any_record_is_read(tmp_path: Path) -> None:
    """A recording without rows of numbers would be the next to be told."""
    recording = tmp_path / "r.csv"
    recording.write_text("a,b,broken\nx,y,z\n")
    usual = ["--column", "a,b", "--labels", "broken"]
    for extra, said in (
        (["--every", "50", "--out", str(tmp_path / "c.onnx")], "give more than the 100"),
        (["--out", str(tmp_path / "no" / "c.onnx")], "there is no folder"),
        (["--out", str(recording)], "--out is the recording itself; name another file"),
    ):
        result = run("train-combiner", str(recording), *usual, *extra)
        assert result.exit_code != 0
        assert said in f"{result.output}{result.exception}"
    assert recording.read_text().startswith("a,b,broken")


def test_labels_that_scores_say_nothing_of_are_refused() -> None:
    rng = np.random.default_rng(1)
    labels = np.zeros(3000, bool)
    for at in range(800, 3000, 300):
        labels[at : at + 5] = True
    scores = 0.5 * rng.random((3000, 2))
    for at in range(240, 3000, 300):
        scores[at : at + 20] = 1.0  # every surprise is harmless
    settings = {"every": 1000.0, "history": 5, "hold": 50, "options": {}}
    with pytest.raises(TrimtabError, match="do not tell the labelled anomalies"):
        train(scores, labels, ("a", "b"), **settings)  # type: ignore[arg-type]


def test_an_anomaly_that_began_too_early_is_left_out_and_normal_records_must_lie_apart() -> None:
    labels = np.zeros(3000, bool)
    labels[740:800] = True
    for at in (820, 840, 860):
        labels[at : at + 10] = True
    settings = {"every": 1000.0, "history": 5, "hold": 50, "options": {}}
    with pytest.raises(TrimtabError, match="normal records in one stretch alone"):
        train(np.zeros((3000, 2)), labels, ("a", "b"), **settings)  # type: ignore[arg-type]
    labels[830:] = False
    with pytest.raises(TrimtabError, match="1 anomalies are labelled after the first 800 records"):
        train(np.zeros((3000, 2)), labels, ("a", "b"), **settings)  # type: ignore[arg-type]
