"""Online control of the false discovery rate: by hand, by simulation of what each rule asks for, and from a state."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import lfilter

from trimtab.drift.discoveries import Discoveries
from trimtab.drift.e_lond import ELond
from trimtab.drift.lord import LordPlusPlus
from trimtab.drift.monitor import Alarm
from trimtab.drift.spending import DECAY, Spending

share = Spending(DECAY).share


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
    assert rule.allowance(1) == pytest.approx(0.1 * share(1))
    assert not rule.test(0.999 / (0.1 * share(1)))
    assert rule.test(1.001 / (0.1 * share(2)))
    assert rule.allowance(3) == pytest.approx(0.2 * share(3))


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
    for other in (kind(0.1), kind(0.2, decay=2.0)):
        with pytest.raises(ValueError, match="start it anew"):
            other.restore(one.state())
    with pytest.raises(ValueError, match="start it anew"):
        one.restore({"rule": "another", "version": 2})


@pytest.mark.parametrize("kind", [LordPlusPlus, ELond])
def test_what_is_not_a_number_is_not_rejected(kind: type[LordPlusPlus] | type[ELond]) -> None:
    assert not kind(0.5).test(math.nan)
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="level must be"):
            kind(level)


@pytest.mark.parametrize("kind", [LordPlusPlus, ELond])
@pytest.mark.parametrize("decay", [1.0, math.nan, 11.0])
def test_a_wrong_decay_is_refused(kind: type[LordPlusPlus] | type[ELond], decay: float) -> None:
    with pytest.raises(ValueError, match="decay must be"):
        kind(0.1, decay=decay)


@pytest.mark.parametrize("wealth", [0.0, 0.1, math.nan])
def test_a_wrong_wealth_is_refused(wealth: float) -> None:
    with pytest.raises(ValueError, match="wealth must be"):
        LordPlusPlus(0.1, wealth=wealth)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.01, 0.5), st.floats(1.05, 4.0), st.lists(st.booleans(), min_size=1, max_size=60), st.floats(0.05, 0.95)
)
def test_lord_spends_no_more_than_it_may(level: float, decay: float, rejected: list[bool], part: float) -> None:
    """Theorem 1's condition: the levels so far are at most `level` times the rejections, or once, at any moment."""
    rule = LordPlusPlus(level, wealth=part * level, decay=decay)
    spent = 0.0
    for i, reject in enumerate(rejected):
        allowed = rule.allowance()
        assert 0 < allowed < level * (i + 1)
        spent += allowed
        rule.test(0.0 if reject else 1.0)
        assert spent <= level * max(sum(rejected[: i + 1]), 1) * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 0.5), st.floats(1.05, 4.0), st.lists(st.booleans(), min_size=1, max_size=60))
def test_e_lond_grows_by_rejections_alone(level: float, decay: float, rejected: list[bool]) -> None:
    rule = ELond(level, decay=decay)
    for i, reject in enumerate(rejected):
        allowed = level * Spending(decay).share(i + 1) * (sum(rejected[:i]) + 1)
        assert rule.allowance(i + 1) == pytest.approx(allowed, rel=1e-12)
        assert rule.test(1.001 / allowed if reject else 0.999 / allowed) == reject


def test_a_test_of_e_lond_may_take_its_time() -> None:
    rule = ELond(0.1)
    first, second = rule.begin(), rule.begin()
    assert rule.decide(second, 1e9)
    assert rule.allowance(first) == pytest.approx(0.2 * share(1))
    for _ in range(40):
        assert rule.test(1e9)
    assert rule.allowance(first) == 0.1, "and no more"
    with pytest.raises(ValueError, match="no test 43 has begun"):
        rule.decide(43, 1.0)


def test_e_lond_keeps_its_rate_however_tests_hang_together() -> None:
    """Nothing changes in any test, so that one rejection is all: by the same noise in all tests, or by opposites."""
    rng = np.random.default_rng(3)
    level, runs, wrong = 0.25, 4000, 0
    sign = np.where(np.arange(40) % 3 == 0, -1.0, 1.0)
    for z in rng.standard_normal(runs):
        rule = ELond(level)
        wrong += any([rule.test(e) for e in np.exp(2.0 * sign * z - 2.0)])
    assert wrong / runs <= level + 3 * math.sqrt(level / runs)
    # The worst there is: all of the mean in one test of those that share it out, each just enough.
    allowed = np.array([level * share(t) for t in range(1, 400)])
    worst = 0
    for u in rng.random(runs):
        rule = ELond(level)
        one = int(np.searchsorted(np.cumsum(allowed), u))
        worst += any([rule.test(1.0000001 / a if t == one else 0.0) for t, a in enumerate(allowed[: one + 1])])
    assert level - 0.03 - 4 * math.sqrt(level / runs) <= worst / runs <= level + 4 * math.sqrt(level / runs)


def noise(kind: str, n: int, streams: int, seed: int) -> NDArray[np.float64]:
    """`[n, streams]` of unit variance: of each stream's own, the same in all, or each value 0.7 times the last."""
    rng = np.random.default_rng(seed)
    if kind == "same":
        return np.repeat(rng.standard_normal((n, 1)), streams, 1)
    if kind == "own":
        return rng.standard_normal((n, streams))
    return np.asarray(lfilter([1.0], [1.0, -0.7], 0.51**0.5 * rng.standard_normal((n + 50, streams)), axis=0)[50:])


@pytest.mark.parametrize("kind", ["own", "same", "autocorrelated"])
def test_alarms_of_streams_are_false_as_rarely_as_asked(kind: str) -> None:
    """Two of eight streams drift in one of two signals."""
    reference = noise(kind, 5000, 1, 99)[:, 0]
    known = dict.fromkeys("ab", reference)
    shares, delays = [], []
    for seed in range(10):
        watch = Discoveries(["a", "b"], level=0.2, period=200, references=known)
        values, other = noise(kind, 400, 8, seed), noise(kind, 400, 8, 1000 + seed)
        values[250:, :2] += 2.0
        false = 0
        true: dict[int, int] = {}
        for n in range(400):
            for s in range(8):
                if watch.update(str(s), {"a": values[n, s], "b": other[n, s]}) is not None:
                    if s < 2 and n >= 250:
                        true.setdefault(s, n - 250)
                    else:
                        false += 1
        shares.append(false / max(false + len(true), 1))
        delays += list(true.values())
    assert np.mean(shares) <= 0.2
    assert len(delays) >= 16, "of 20"
    assert np.median(delays) < (60 if kind == "autocorrelated" else 20)


def test_an_alarm_says_what_raised_it_and_rests() -> None:
    rng = np.random.default_rng(7)
    watch = Discoveries(["a", "b"], level=0.1, period=300, refractory=100)
    values = rng.standard_normal((500, 2))
    values[200:, 1] += 3.0
    found = [watch.update("s", {"a": a, "b": b}) for a, b in values.tolist()]
    (at,) = [n for n, alarm in enumerate(found) if alarm is not None]
    alarm = found[at]
    assert alarm is not None
    assert 200 < at < 215
    assert (alarm.signal, alarm.detector) == ("b", "discoveries")
    assert alarm.statistic >= alarm.threshold
    assert alarm.onset is not None
    assert abs(at - alarm.onset - 200) <= 5
    assert alarm.evidence["b"] >= 1 > alarm.evidence["a"]
    with pytest.raises(KeyError):
        watch.update("s", {"c": 1.0})


def test_pressure_rises_to_an_alarm_and_a_reset_begins_anew() -> None:
    rng = np.random.default_rng(8)
    reference = {"a": rng.standard_normal(2000)}
    watch = Discoveries(["a"], level=0.1, period=300, references=reference)
    assert watch.pressure("s") == 0.0
    seen = []
    while watch.update("s", {"a": float(rng.standard_normal()) + 1.5}) is None:
        seen.append(watch.pressure("s"))
    assert 0.5 < max(seen) < 1.0
    for _ in range(3):  # the reference's baseline holds again: the same drift is found again, and soon
        watch.reset("s")
        assert watch.pressure("s") == 0.0
        found = [watch.update("s", {"a": float(rng.standard_normal()) + 1.5}) for _ in range(40)]
        assert any(found)


def test_streams_go_on_exactly_from_their_states() -> None:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((600, 3, 2))
    values[300:, 1] += 2.0
    values[100, 0, 0] = math.nan

    def watch() -> Discoveries:
        return Discoveries(["a", "b"], level=0.1, period=150, refractory=40, warmup=32)

    def run(found: Discoveries, rows: NDArray[np.float64]) -> list[Alarm | None]:
        return [found.update(str(s), {"a": float(a), "b": float(b)}) for row in rows for s, (a, b) in enumerate(row)]

    one, other = watch(), watch()
    run(one, values[:302])
    for stream in ("2", "0", "1"):
        other.restore(stream, json.loads(json.dumps(one.state(stream))))
    rest = run(one, values[302:])
    assert run(other, values[302:]) == rest
    assert any(rest)
    assert [one.state(s) for s in "012"] == [other.state(s) for s in "012"]
    for wrong in (Discoveries(["a"], level=0.1, period=150), Discoveries(["a", "b"], level=0.2, period=150)):
        with pytest.raises(ValueError, match=r"start.* anew"):
            wrong.restore("0", one.state("0"))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"signals": []}, "one signal"), ({"signals": ["a", "a"]}, "each once"), ({"period": 0}, "period must"),
     ({"refractory": -1}, "refractory 0 or more"),
     ({"level": 1.0}, "level must"), ({"warmup": 1}, "warmup")],
)  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Discoveries(**{"signals": ["a"], "level": 0.1, **options})  # type: ignore[arg-type]
