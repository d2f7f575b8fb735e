from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.adapters.versions import Versions

SOURCE = np.array([1.0, -2.5, 1e-30], np.float32)


def row(value: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.full(3, value, np.float32)


def test_begins_at_the_source() -> None:
    versions = Versions(SOURCE)
    assert versions.current.number == 0
    assert versions.current.parent is None
    assert versions.candidates() == []


def test_add_recall_rollback_reset() -> None:
    versions = Versions(SOURCE)
    one = versions.add(row(1), "norm_statistics", {"gain": 0.5}, 10.0)
    two = versions.add(row(2), "bias_vector", {}, 20.0)
    assert (one.parent, two.parent) == (0, 1)
    assert [v.number for v in versions.candidates()] == [1, 0]
    assert versions.rollback(30.0).number == 1
    assert versions.since == 30.0
    assert versions.reset(40.0).number == 0
    with pytest.raises(ValueError, match="none before it"):
        versions.rollback(50.0)
    assert versions.recall(2, 60.0) is two


def test_a_vector_that_is_known_is_recalled_and_not_numbered_anew() -> None:
    versions = Versions(SOURCE)
    versions.add(row(1), "a", {}, 0.0)
    assert versions.add(SOURCE.copy(), "b", {}, 0.0).number == 0
    assert len(versions) == 2


def test_theta_is_copied_and_cannot_be_written() -> None:
    theta = row(1)
    versions = Versions(SOURCE)
    version = versions.add(theta, "a", {}, 0.0)
    theta[:] = 9
    assert version.theta[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        version.theta[0] = 2


@pytest.mark.parametrize("theta", [np.zeros(2, np.float32), np.array([0, np.nan, 0], np.float32)])
def test_refuses_what_is_no_vector(theta: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    with pytest.raises(ValueError, match="3 finite values"):
        Versions(SOURCE).add(theta, "a", {}, 0.0)


def test_pinned_means_pinned() -> None:
    versions = Versions(SOURCE)
    versions.add(row(1), "a", {}, 0.0)
    versions.pin(0)
    assert versions.current.number == 0
    for change in (lambda: versions.add(row(2), "a", {}, 0.0), lambda: versions.recall(1, 0.0)):
        with pytest.raises(ValueError, match="pinned"):
            change()
    versions.unpin()
    assert versions.recall(1, 0.0).number == 1


def test_unknown_version() -> None:
    with pytest.raises(ValueError, match="no version 7; kept are 0"):
        Versions(SOURCE).recall(7, 0.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 30), st.just("pin"), st.just("unpin"), st.just("reset")), max_size=60))
def test_history_is_bounded_and_survives_a_restart(steps: list[int | str]) -> None:
    versions = Versions(SOURCE, keep=5)
    for time, step in enumerate(steps):
        try:
            if isinstance(step, int):
                versions.add(row(step), "m", {"gain": step / 3}, float(time))
            elif step == "pin":
                versions.pin()
            elif step == "unpin":
                versions.unpin()
            else:
                versions.reset(float(time))
        except ValueError:
            assert versions.pinned is not None
        assert len(versions) <= 5
        assert versions.get(0).theta.tobytes() == SOURCE.tobytes()
        if versions.pinned is not None:
            assert versions.current.number == versions.pinned
    state = json.loads(json.dumps(versions.state()))
    again = Versions(SOURCE, keep=5)
    again.restore(state, versions.to_rows())
    assert again.to_rows() == versions.to_rows()
    assert again.state() == versions.state()
    assert again.current.theta.tobytes() == versions.current.theta.tobytes()


def test_never_gives_a_number_twice() -> None:
    versions = Versions(SOURCE, keep=4)
    numbers = [versions.add(row(i), "m", {}, 0.0).number for i in range(1, 20)]
    assert numbers == list(range(1, 20))


def test_rows_of_another_bundle_are_refused() -> None:
    other = Versions(row(5))
    with pytest.raises(ValueError, match="another bundle"):
        Versions(SOURCE).restore(other.state(), other.to_rows())
    longer = Versions(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="another bundle"):
        Versions(SOURCE).restore(longer.state(), longer.to_rows())
