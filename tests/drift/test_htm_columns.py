"""HTM columns: the rule without labels, the network with them, states, causality, and files that are none."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from trimtab.drift.combiner import INPUT, KEY, OUTPUT, Combiner, Recipe
from trimtab.drift.htm import HtmAnomaly
from trimtab.drift.htm_columns import HtmColumns
from trimtab.drift.scoring import columns_scorer

SMALL: dict[str, Any] = {"columns": 256, "cells": 4, "segments": 1000}


def combiner(file: Path, columns: tuple[str, ...] = ("a", "b"), threshold: float = 0.6, history: int = 3) -> Path:
    """One that takes the mean of all scores that it looks at."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", [INPUT], ["flat"]),
            helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("Cast", ["mean"], [OUTPUT], to=TensorProto.DOUBLE),
        ],
        "mean",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", history, len(columns)])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.DOUBLE, ["N"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    recipe = Recipe(columns, history, 1000.0, threshold, 20, SMALL)
    helper.set_model_props(model, {KEY: recipe.text()})
    onnx.save(model, str(file))
    return file


def records(n: int, seed: int = 0) -> list[list[float]]:
    """Two cycles with a little noise; the second breaks at 900 and at 1050."""
    rng = np.random.default_rng(seed)
    t = np.arange(n)[:, None]
    values = np.sin(2 * np.pi * t / np.array([24, 40])) + 0.02 * rng.standard_normal((n, 2))
    for at in (900, 1050):
        values[at : at + 30, 1] = rng.uniform(-1, 1, len(values[at : at + 30]))
    return values.tolist()  # type: ignore[no-any-return]


def test_without_labels_the_most_surprised_dimension_decides() -> None:
    together = HtmColumns(2, every=1000, hold=0, **SMALL)
    apart = [HtmAnomaly(every=2000, hold=0, seed=d, **SMALL) for d in (0, 1)]
    assert together.alarm_at == apart[0].alarm_at, "each dimension has half of the rate"
    for record in records(600):
        score = together.update(None, record)
        assert together.scores == [one.update(None, v) for one, v in zip(apart, record, strict=True)]
        assert score == max(together.scores)


def test_one_event_one_alarm() -> None:
    detector = HtmColumns(2, every=1000, range_rule=False, **SMALL)
    scores = [detector.update(None, record) for record in records(1100)]
    alarms = [i for i, score in enumerate(scores) if score >= detector.alarm_at]
    assert any(900 <= i < 940 for i in alarms)
    assert any(1050 <= i < 1090 for i in alarms)
    assert all(b - a >= 100 for a, b in itertools.pairwise(alarms))


def test_the_network_sees_the_newest_scores(tmp_path: Path) -> None:
    network = Combiner(combiner(tmp_path / "c.onnx", threshold=1.0))
    detector = HtmColumns(2, hold=0, combiner=network, **SMALL)
    seen = [[0.0, 0.0], [0.0, 0.0]]
    for record in records(930):
        score = detector.update(None, record)
        seen.append(detector.scores)
        assert score == pytest.approx(np.mean(seen[-3:]), abs=1e-6)


@pytest.mark.parametrize("trained", [False, True])
def test_it_goes_on_exactly_from_its_state(tmp_path: Path, trained: bool) -> None:
    network = Combiner(combiner(tmp_path / "c.onnx", threshold=0.2)) if trained else None
    first, second = (HtmColumns(2, hold=20, combiner=network, **SMALL) for _ in range(2))
    rows = records(1100)
    for record in rows[:910]:
        first.update(None, record)
    text = json.dumps(first.state(), allow_nan=False)
    second.restore(json.loads(text))
    assert json.dumps(second.state()) == text
    assert [first.update(None, r) for r in rows[910:]] == [second.update(None, r) for r in rows[910:]]
    others = [HtmColumns(1, **SMALL), HtmColumns(2, **{**SMALL, "columns": 128})]
    others.append(HtmColumns(2, combiner=Combiner(combiner(tmp_path / "d.onnx", threshold=0.9)), **SMALL))
    for other in others:
        with pytest.raises(ValueError, match="reset the detector"):
            other.restore(json.loads(text))


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([math.nan, math.inf, 1.0, -1.0]), st.floats(-2, 2)), min_size=5, max_size=20))
def test_what_is_missing_in_one_dimension_is_not_learnt_there_alone(extra: list[tuple[float, float]]) -> None:
    detector, lone = HtmColumns(2, hold=0, **SMALL), HtmAnomaly(hold=0, **SMALL)
    for a, b in [*map(tuple, records(160)), *extra]:
        score = detector.update(None, [a, b])
        assert 0 <= score <= 1
        if math.isfinite(a):
            assert detector.scores[0] == lone.update(None, a)
        else:
            assert detector.scores[0] == 0.0


def test_a_record_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        HtmColumns(2, **SMALL).update(None, [1.0])
    with pytest.raises(ValueError, match="one dimension or more"):
        HtmColumns(0)


def test_a_combiner_brings_its_settings_and_knows_its_columns(tmp_path: Path) -> None:
    file = combiner(tmp_path / "c.onnx")
    score = columns_scorer("htm", ["a", "b"], combiner=file)
    assert [score(None, [v, 1.0]) for v in (1.0, 1.0, 2.0, 9.0)] == [(0.0, False)] * 3 + [(pytest.approx(1 / 6), False)]
    for columns, settings_, sentence in (
        (["b", "a"], {}, "was trained for the columns a,b, in this order, not b,a"),
        (["a", "b"], {"every": 100.0}, "leave its settings as they are"),
        (["a", "b"], {"range_rule": False}, "leave its settings as they are"),
    ):
        with pytest.raises(ValueError, match=sentence):
            columns_scorer("htm", columns, combiner=file, **settings_)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="detector sprt takes one column"):
        columns_scorer("sprt", ["a", "b"])


def test_what_is_no_combiner_is_refused_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "c.onnx"
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        Combiner(file)
    file.write_bytes(b"not ONNX")
    with pytest.raises(ValueError, match="is not an ONNX file"):
        Combiner(file)
    model = onnx.load(str(combiner(file)))
    del model.metadata_props[:]
    onnx.save(model, str(file))
    with pytest.raises(ValueError, match="is not a combiner"):
        Combiner(file)
    for recipe in (
        Recipe(("a", "b"), 3, 1000.0, 2.0, 20, {}).text(),
        Recipe(("a", "b"), 3, 1000.0, 0.5, 20, {}).text().replace('"version": 1', '"version": 2'),
        "[]",
    ):
        helper.set_model_props(model, {KEY: recipe})
        onnx.save(model, str(file))
        with pytest.raises(ValueError, match="is not a combiner of this version"):
            Combiner(file)
    helper.set_model_props(model, {KEY: Recipe(("a",), 3, 1000.0, 0.5, 20, {}).text()})
    onnx.save(model, str(file))
    with pytest.raises(ValueError, match="not what its own metadata say"):
        Combiner(file)
