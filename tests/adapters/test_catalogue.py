from __future__ import annotations

from typing import Any

import pytest

from trimtab.adapters import catalogue


def test_builds_every_method_with_its_defaults() -> None:
    assert [catalogue.build(name).name for name in catalogue.names()] == catalogue.names()


def test_options_reach_the_method() -> None:
    assert catalogue.build("norm_statistics", {"prior": 12}) == catalogue.build("norm_statistics", {"prior": 12.0})
    assert catalogue.options("bias_vector") == {"prior": 64.0, "caution": 4.0, "span": 256}


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("tent", {}, "no adaptation method 'tent'"),
        ("bias_vector", {"speed": 1}, "no option 'speed'"),
        ("bias_vector", {"prior": "much"}, "give a number"),
        ("bias_vector", {"prior": True}, "give a number"),
        ("bias_vector", {"prior": -1}, "0 or more"),
        ("bias_vector", {"prior": float("nan")}, "0 or more"),
        ("bias_vector", {"span": 0}, "at least 1"),
        ("bias_vector", {"caution": -1}, "0 or more"),
        ("norm_statistics", {"passes": 1.5}, "give a whole number"),
        ("norm_statistics", {"passes": 0}, "at least 1"),
        ("norm_statistics", {"caution": -1}, "0 or more"),
        ("input_calibration", {"error": 0}, "between 0 and 0.5"),
        ("input_calibration", {"error": 2}, "between 0 and 0.5"),
    ],
)
def test_wrong_options_get_one_sentence(name: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        catalogue.build(name, given)
    assert "\n" not in str(caught.value)
