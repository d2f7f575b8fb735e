"""Combination keeps the rates it promises, by their definitions and by simulation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from trimtab.drift.combine import ELond, LordPlusPlus, apart, average, bonferroni, e_to_p, share


def test_the_mean_of_e_values_is_one_however_they_hang_together() -> None:
    z = np.random.default_rng(0).standard_normal(100_000)
    # The same value bet on in three ways.
    e_values = np.exp(np.outer(z, [0.5, 1.0, -1.0]) - np.array([0.125, 0.5, 0.5]))
    found = average(e_values)
    assert isinstance(found, np.ndarray)
    assert found.shape == (100_000,)
    assert found.mean() == pytest.approx(1.0, abs=0.02)
    assert (found >= 20).mean() <= 1 / 20
    assert average([0.0, 4.0]) == 2.0
    assert average([0.0, 4.0], weights=[1, 3]) == 3.0
    assert average([math.inf, 1.0]) == math.inf


@pytest.mark.parametrize("wrong", [[-1.0], [math.nan], []])
def test_what_is_no_e_value_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="e-values must be"):
        average(wrong)


@pytest.mark.parametrize("wrong", [[0.0, 0.0], [-1.0, 2.0], [math.nan, 1.0]])
def test_wrong_weights_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be"):
        average([1.0, 1.0], wrong)


def test_e_values_as_p_values() -> None:
    assert e_to_p(20.0) == 0.05
    assert e_to_p(0.5) == e_to_p(0.0) == 1.0


def test_bonferroni() -> None:
    assert bonferroni([0.01, 0.02, math.nan, 0.5, 0.0125], 0.05).tolist() == [True, False, False, False, False]
    assert bonferroni([0.01, 0.02, 0.5, 0.0125], 0.05).tolist() == [True, False, False, True]
    assert bonferroni([], 0.05).tolist() == []
    assert apart(1000, 5) == 5000


def test_shares_add_up_to_one() -> None:
    assert sum(map(share, range(1, 20001))) == pytest.approx(1 - 20000**-0.6 / 0.6 * share(1), abs=1e-4)


def test_lord_by_hand() -> None:
    rule = LordPlusPlus(0.1)
    assert rule.allowance() == pytest.approx(0.05 * share(1))
    assert rule.test(0.0)
    assert rule.allowance() == pytest.approx(0.05 * share(2) + 0.05 * share(1))
    assert not rule.test(1.0)
    assert rule.test(0.0)
    assert rule.allowance() == pytest.approx(0.05 * share(4) + 0.05 * share(3) + 0.1 * share(1))


def test_e_lond_by_hand() -> None:
    rule = ELond(0.1)
    assert rule.allowance() == pytest.approx(0.1 * share(1))
    assert not rule.test(0.999 / (0.1 * share(1)))
    assert rule.test(1.001 / (0.1 * share(2)))
    assert rule.allowance() == pytest.approx(0.2 * share(3))


@pytest.mark.parametrize("kind", [LordPlusPlus, ELond])
def test_the_false_discovery_rate_is_kept(kind: type[LordPlusPlus] | type[ELond]) -> None:
    rng = np.random.default_rng(1)
    shares, found = [], 0
    for _ in range(100):
        rule = kind(0.1)
        true = rng.random(300) < 0.2
        z = rng.standard_normal(300) + 4.0 * true
        evidence = np.exp(4 * z - 8) if kind is ELond else np.array([0.5 * math.erfc(v / math.sqrt(2)) for v in z])
        rejected = np.array([rule.test(float(v)) for v in evidence])
        shares.append((rejected & ~true).sum() / max(rejected.sum(), 1))
        found += int((rejected & true).sum())
    assert np.mean(shares) <= 0.1
    assert found > 1000, "of some 6,000"


@pytest.mark.parametrize("kind", [LordPlusPlus, ELond])
def test_they_go_on_exactly_from_their_state(kind: type[LordPlusPlus] | type[ELond]) -> None:
    rng = np.random.default_rng(2)
    evidence = (rng.exponential(20, 100) if kind is ELond else rng.random(100) ** 4).tolist()
    one, other = kind(0.2), kind(0.2)
    for value in evidence[:50]:
        one.test(value)
    other.restore(json.loads(json.dumps(one.state())))
    assert [one.test(v) for v in evidence[50:]] == [other.test(v) for v in evidence[50:]]
    with pytest.raises(ValueError, match="start it anew"):
        one.restore({"rule": "another", "version": 1})


@pytest.mark.parametrize("kind", [LordPlusPlus, ELond])
def test_what_is_not_a_number_is_not_rejected(kind: type[LordPlusPlus] | type[ELond]) -> None:
    assert not kind(0.5).test(math.nan)
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="level must be"):
            kind(level)
