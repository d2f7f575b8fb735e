"""Calibration by a recording, and its check on the second half."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trimtab.drift.calibration import between, calibrate
from trimtab.drift.catalogue import build
from trimtab.drift.streams import draw


def test_the_threshold_is_that_of_a_detector_made_from_the_recording() -> None:
    values, _ = draw("stable", 2000, 0)
    found = calibrate("sprt", np.append(values, [math.nan, math.inf]), every=1000, options={"shifts": [1.0]})
    detector = build("sprt", every=1000, options={"shifts": [1.0]}, reference=values)
    assert found.threshold == detector.update(values[0]).threshold
    assert (found.values, found.held_back, found.expected) == (2000, 1000, 1.0)
    assert found.inflation == pytest.approx(1, abs=0.2)


def test_a_drift_in_the_second_half_shows_as_false_alarms() -> None:
    values, _ = draw("stable", 2000, 0)
    steps = np.repeat([0, 0, 0, 0, 0, 0, 3, -3, 3, -3], 200)
    found = calibrate("ewma", values + steps, every=10000)
    assert found.found >= 3
    assert found.run_length[1] is not None
    assert found.run_length[1] < 10000


def test_the_interval_is_garwoods() -> None:
    # Exact 95 % limits of a Poisson count of 0 and 10 (Garwood 1936, table): 0 to 3.69, 4.80 to 18.39.
    least, most = between(0, 1000)
    assert (least, most) == (pytest.approx(1000 / 3.69, rel=0.002), None)
    least, most = between(10, 1000)
    assert least == pytest.approx(1000 / 18.39, rel=0.001)
    assert most == pytest.approx(1000 / 4.795, rel=0.001)


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("sprt", np.arange(199.0), "199 finite values are too few; 200 are needed for sprt"),
        ("ks", np.arange(599.0), "599 finite values are too few; 600 are needed for ks"),
        ("sprt", np.ones(1000), "the first half's values are all the same"),
        ("ddm", np.arange(1000.0), "ddm takes numbers from 0 to 1 alone"),
        (
            "cusum_variance",
            np.arange(1000.0) % 2,
            "takes numbers of more than two kinds; for a rate use sprt_bernoulli",
        ),
        ("sprt_poisson", -np.arange(1000.0), "sprt_poisson takes numbers from 0 up alone"),
    ],
)
def test_what_cannot_calibrate_is_told(name: str, values: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        calibrate(name, values, every=1000)
