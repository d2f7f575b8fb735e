"""Encoders: what is near shares bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.drift.encoders import ScalarEncoder, TimeOfDayEncoder

MONDAY = 4 * 86400.0  # 1970-01-05


def shared(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.intersect1d(a, b).size)


@given(st.floats(-1e300, 1e300), st.floats(1e-3, 1e6), st.floats(-1e6, 1e6))
@settings(max_examples=100, deadline=None)
def test_a_number_gives_nearly_its_count_of_bits(value: float, resolution: float, offset: float) -> None:
    bits = ScalarEncoder(resolution, offset).encode(value)
    assert 15 <= bits.size <= 21
    assert (np.diff(bits) > 0).all()
    assert bits[0] >= 0
    assert bits[-1] < 400
    assert bits.tolist() == ScalarEncoder(resolution, offset).encode(value).tolist()


def test_near_numbers_share_bits_in_proportion() -> None:
    encoder = ScalarEncoder(0.5, 10.0)
    base = encoder.encode(10.0)
    assert encoder.encode(10.2).tolist() == base.tolist()
    for buckets in range(0, 21, 3):
        overlap = np.mean([shared(encoder.encode(x), encoder.encode(x + 0.5 * buckets)) for x in np.arange(0, 50, 0.5)])
        assert overlap == pytest.approx(21 - buckets, abs=1.5)
    assert np.mean([shared(base, encoder.encode(100.0 + 20 * i)) for i in range(100)]) < 2


def test_the_clock_goes_round() -> None:
    encoder = TimeOfDayEncoder()
    assert encoder.size == 54, "as Numenta's date encoder with timeOfDay (21, 9.49)"
    noon = encoder.encode(MONDAY + 12 * 3600)
    assert noon.size == 21
    assert encoder.encode(MONDAY + 36 * 3600).tolist() == noon.tolist()
    assert shared(noon, encoder.encode(MONDAY + 15 * 3600)) == 21 - 6
    assert shared(noon, encoder.encode(MONDAY)) == 0
    late, early = encoder.encode(MONDAY - 60), encoder.encode(MONDAY + 60)
    assert shared(late, early) == 20


def test_settings_out_of_range_are_refused() -> None:
    for resolution in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="resolution must be above 0"):
            ScalarEncoder(resolution, 0.0)
    with pytest.raises(ValueError, match="active bits must be from 1 to 399"):
        ScalarEncoder(1.0, 0.0, active=400)
    with pytest.raises(ValueError, match="radius from 0 to 24 hours"):
        TimeOfDayEncoder(radius=25.0)
