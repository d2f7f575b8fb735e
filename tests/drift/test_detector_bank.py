"""A bank of detectors agrees with each of them alone, whatever comes, and goes on exactly from its state."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.drift.catalogue import build
from trimtab.drift.detector_bank import DetectorBank
from trimtab.drift.sprt import Sprt
from trimtab.drift.standardised import Standardised

Array = NDArray[np.float64]
BANKED = ("sprt", "ewma", "glr", "shiryaev_roberts", "cusum_variance", "e_detector")


def detectors(name: str) -> list[Sprt | Standardised]:
    """Two without a recording, and four with one of their own."""
    rng = np.random.default_rng(0)
    kernel = [1.0, 0.7, 0.4]
    references = [None, *(np.convolve(rng.standard_normal(500), kernel, "valid") * (i + 1) for i in range(4)), None]
    return [build(name, every=50, options={"memory": 300}, reference=r) for r in references]  # type: ignore[misc]


def streams(seed: int) -> Array:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((1200, 6)) * np.arange(1, 7)
    values[700:, 3] += 10
    values[rng.random(values.shape) < 0.02] = np.nan
    values[rng.random(values.shape) < 0.01] = np.inf
    values[rng.random(values.shape) < 0.003] = 1e100
    return values


@pytest.mark.parametrize("name", BANKED)
def test_each_stream_is_its_detector(name: str) -> None:
    alone = detectors(name)
    bank = DetectorBank(alone)
    alarms = 0
    for row in streams(1):
        found = bank.update(row)
        for i, detector in enumerate(alone):
            finding = detector.update(row[i])
            assert found.alarm[i] == finding.alarm
            assert found.onset[i] == (-1 if finding.onset is None else finding.onset)
            if finding.alarm and name != "sprt":
                assert found.statistic[i] == pytest.approx(finding.statistic)
                assert found.threshold[i] == pytest.approx(finding.threshold)
        alarms += int(found.alarm.sum())
    assert alarms > 10


@pytest.mark.parametrize("name", BANKED)
def test_it_goes_on_exactly_from_its_state(name: str) -> None:
    values = streams(2)
    first, second = DetectorBank(detectors(name)), DetectorBank(detectors(name))
    for row in values[:300]:
        first.update(row)
    file = io.BytesIO()
    np.savez(file, **first.state())  # type: ignore[arg-type]
    file.seek(0)
    second.restore(dict(np.load(file, allow_pickle=False)))
    for row in values[300:600]:
        for one, other in zip(first.update(row), second.update(row), strict=True):
            np.testing.assert_array_equal(one, other)


def test_chosen_streams_are_reset() -> None:
    values = streams(3)
    bank, fresh = DetectorBank(detectors("glr")), DetectorBank(detectors("glr"))
    for row in values[:200]:
        bank.update(row)
    bank.reset([1, 4])
    for row in values[200:400]:
        for one, other in zip(bank.update(row), fresh.update(row), strict=True):
            np.testing.assert_array_equal(one[[1, 4]], other[[1, 4]])


def test_what_cannot_be_a_bank_is_told() -> None:
    ewma, glr = build("ewma", every=100), build("glr", every=100)
    assert isinstance(ewma, Standardised)
    for wrong, sentence in (
        ([], "at least one detector"),
        ([ewma, glr], "one kind, with the same options"),
        ([ewma, build("ewma", every=100, options={"weight": 0.2})], "one kind, with the same options"),
        ([ewma, build("ewma", every=100, options={"warmup": 10})], "one kind, with the same options"),
        ([build("bocpd", every=100)], "bocpd detectors do not go side by side"),
        ([build("adwin", every=100)], "adwin detectors do not go side by side"),
    ):
        with pytest.raises(ValueError, match=sentence):
            DetectorBank(wrong)  # type: ignore[arg-type]
    bank = DetectorBank([ewma] * 3)
    with pytest.raises(ValueError, match="the bank has 3 streams, and values have shape"):
        bank.update([1.0, 2.0])
    with pytest.raises(ValueError, match="reset the bank"):
        bank.restore(DetectorBank([ewma] * 4).state())
