"""Signals of the inputs: spectra against what their signals hold, units that do not matter, and changes that do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal as scipy_signal

from trimtab.drift.input_signals import SHORTEST, SIGNALS, figures, layout, octaves, unusual, usual

ROWS = 64


def windows(n: int, seed: int, channels: int = 3) -> NDArray[np.float32]:
    """`[n, channels, ROWS]`: each channel a slow wave of its own size and place, and noise."""
    rng = np.random.default_rng(seed)
    wave = np.sin(2 * np.pi * 3 * np.arange(ROWS) / ROWS + rng.uniform(0, 2 * np.pi, (n, channels, 1)))
    size = np.arange(1, channels + 1)[:, None]
    return np.asarray(size * (wave + 0.3 * rng.standard_normal((n, channels, ROWS)) + 2), np.float32)


def taken(name: str, known: list[NDArray[np.float32]], new: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    source = usual(figures(name, known), layout(name, [x.shape[1:] for x in known]))
    return unusual(figures(name, new), source)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=3), st.integers(0, 10**6))
def test_figures_are_as_the_layout_says(shapes: list[list[int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in SIGNALS:
        if name == "spectra" and not any(len(s) == 2 and s[1] >= SHORTEST for s in shapes):
            with pytest.raises(ValueError, match="rows or more"):
                layout(name, shapes)
            continue
        of = layout(name, shapes)
        found = figures(name, [rng.standard_normal((8, *shape)) for shape in shapes])
        assert found.shape == (8, of.channel.size) == (8, of.power.size)
        assert (found[:, of.power] >= 0).all()
        assert of.channel.max() < sum(shape[0] for shape in shapes)


def test_what_there_is_not_is_said() -> None:
    with pytest.raises(ValueError, match="'colour' is unknown; choose one of raw, spectra"):
        layout("colour", [[3, 16]])
    with pytest.raises(ValueError, match="raw takes a sensor's input, and there is none"):
        layout("raw", [])


@pytest.mark.parametrize("rows", [8, 9, 33, 64, 100, 150])
def test_octaves_add_up_to_the_variance(rows: int) -> None:
    x = np.random.default_rng(rows).standard_normal((4000, 2, rows))
    found = octaves(x)
    assert found.shape == (4000, 2, int(np.log2(rows / 2)))
    # The taper keeps a little less of the longest wave, which the mean's removal has touched.
    assert found.sum(axis=2).mean() == pytest.approx(x.var(axis=2).mean(), rel=0.03 + 1 / rows)


def test_octaves_are_scipys_periodogram() -> None:
    x = np.random.default_rng(0).standard_normal((5, 3, 64))
    _, power = scipy_signal.periodogram(x, window="hann", detrend="constant", axis=2)
    edges = [(17, 33), (9, 17), (5, 9), (3, 5), (1, 3)]
    expected = np.stack([power[..., low:high].sum(axis=2) / 64 for low, high in edges], axis=2)
    np.testing.assert_allclose(octaves(x), expected, rtol=1e-9)


@pytest.mark.parametrize(("cycles", "band"), [(25, 0), (12, 1), (6, 2), (1, 4)])
def test_a_wave_is_in_its_octave(cycles: int, band: int) -> None:
    x = np.sin(2 * np.pi * cycles * np.arange(64) / 64)[None, None]
    shares = octaves(x)[0, 0] / octaves(x).sum()
    assert shares.argmax() == band
    assert shares[band] > 0.99


@pytest.mark.parametrize("name", SIGNALS)
def test_about_one_on_the_source_and_more_beside_it(name: str) -> None:
    known, new = windows(500, 0), windows(300, 1)
    fresh = taken(name, [known], [new])
    assert np.median(fresh) == pytest.approx(1.0, abs=0.15)
    noisy, weak = new.copy(), new.copy()
    noisy[:, 1] += np.random.default_rng(2).normal(0, 2, noisy[:, 1].shape)
    weak[:, 2] *= 0.3
    moved = new + np.array([0, 1.0, 0], np.float32)[:, None]
    for changed in (noisy, weak):
        assert np.median(taken(name, [known], [changed])) > np.quantile(fresh, 0.99)
    seen = np.median(taken(name, [known], [moved])) > np.quantile(fresh, 0.99)
    assert seen == (name == "raw"), "a spectrum is without the mean"


def test_spectra_see_a_frequency_that_levels_do_not() -> None:
    known, new = windows(500, 0), windows(300, 1)
    rng = np.random.default_rng(3)
    wave = np.sin(2 * np.pi * 13 * np.arange(ROWS) / ROWS + rng.uniform(0, 6, (300, 3, 1)))
    faster = np.asarray(np.arange(1, 4)[:, None] * (wave + 0.3 * rng.standard_normal((300, 3, ROWS)) + 2), np.float32)
    assert np.median(taken("raw", [known], [faster])) == pytest.approx(np.median(taken("raw", [known], [new])), rel=0.1)
    assert taken("spectra", [known], [faster]).min() > 2 * taken("spectra", [known], [new]).max()


@settings(max_examples=20, deadline=None)
@given(st.floats(-6, 6), st.sampled_from(SIGNALS))
def test_units_do_not_matter(exponent: float, name: str) -> None:
    known, new = windows(100, 0), windows(20, 1)
    unit = np.float32(10**exponent)
    np.testing.assert_allclose(
        taken(name, [known * unit], [new * unit]), taken(name, [known], [new]), rtol=2e-3, atol=1e-4
    )


@pytest.mark.parametrize("name", SIGNALS)
def test_several_inputs_and_a_dead_channel(name: str) -> None:
    known, new = windows(200, 0), windows(50, 1)
    dead, other = np.full((200, 2, 16), 9.8, np.float32), np.full((50, 2, 16), 9.8, np.float32)
    quiet = taken(name, [known, dead], [new, other])
    assert np.isfinite(quiet).all()
    assert np.median(quiet) < 1.2
    other += np.random.default_rng(4).normal(0, 1, other.shape).astype(np.float32)
    assert taken(name, [known, dead], [new, other]).min() > quiet.max(), "it came to life"


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("shape", [(1, 16), (3, 64), (7, 150), (6, 33), (40, 128)])
def test_a_sample_is_the_same_to_the_last_bit_whatever_stands_beside_it(name: str, shape: tuple[int, int]) -> None:
    known, new = np.random.default_rng(6).standard_normal((2, 100, *shape)).astype(np.float32)
    together = taken(name, [known], [new])
    for size in (1, 2, 3, 5, 17):
        cut = [taken(name, [known], [new[i : i + size]]) for i in range(0, len(new), size)]
        np.testing.assert_array_equal(np.concatenate(cut), together)


@pytest.mark.parametrize("name", SIGNALS)
def test_bad_samples_spoil_only_themselves(name: str) -> None:
    known, new = windows(100, 0), windows(4, 1)
    expected = taken(name, [known], [new])
    bad = new.copy()
    bad[1, 0, 3], bad[2, 1, 5] = np.nan, np.inf
    found = taken(name, [known], [bad])
    assert not np.isfinite(found[[1, 2]]).any()
    np.testing.assert_array_equal(found[[0, 3]], expected[[0, 3]])
    with pytest.raises(ValueError, match="not finite"):
        taken(name, [bad], [new])
