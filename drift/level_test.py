"""A test of a stream's level beside one of its sequence: the SPRT, calibrated by the first LEARNT values themselves.

Where values follow no sequence each of them surprises an HTM, and a shift of their mean shows in how much only late;
there a test of the values is what sees it. Where they do follow one, a test that takes values for independent alarms
at each turn of a cycle. How far they hang together, the first values tell: the SPRT with these as its reference
(`sprt`) is quick on noise, careful on a stream that wanders, and deaf to what is no greater than the stream's own
cycle, which is the HTM's to see.

Where they are of two kinds alone, such as errors, nothing but their rate can change, and the test is that of a rate
(`sprt_bernoulli`). A surprise there is the rarer of the two, which says no more than the rate does, in bursts that no
normal distribution knows: HtmSprt does not count it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.detector import Finding, State
from trimtab.drift.sprt import Sprt
from trimtab.drift.sprt_bernoulli import SprtBernoulli

LEARNT = 750
"""As many as an HTM needs to be sure of its resolution (`htm_score`)."""


class LevelTest:
    """See the module. every: values between false alarms. reference `[n]`: the signal without drift; None: learnt."""

    def __init__(self, *, every: float, reference: NDArray[np.float64] | None) -> None:
        self._every = every
        self._recorded = reference
        self.reset()

    def reset(self) -> None:
        """Forget everything; with a recording, its values are the reference again."""
        self._first: list[float] = []
        self._kinds: set[float] = set()
        self._test: Sprt | SprtBernoulli | None = None
        if self._recorded is not None:
            self._make(self._recorded)

    def explains(self, value: float) -> bool:
        """Whether a value is one of two kinds, and there have not been others where the reference was taken from."""
        return len(self._kinds) <= 2 and value in self._kinds

    def update(self, value: float) -> Finding | None:
        """Take a finite value; None while the reference is learnt."""
        if self._test is not None:
            return self._test.update(self._scaled(value))
        self._learn(value)
        return None

    def _learn(self, value: float) -> None:
        self._first.append(value)
        if len(self._kinds) <= 2:
            self._kinds.add(value)
        if len(self._first) == LEARNT:
            reference = np.array(self._first)
            # What has never moved has no deviation to go by.
            if np.ptp(reference) > 0:
                self._make(reference)
            else:
                self._first = []

    def _make(self, reference: NDArray[np.float64]) -> None:
        self._kinds = set(np.unique(reference)[:3].tolist())
        if len(self._kinds) == 2:
            self._test = SprtBernoulli(every=self._every)
            for value in reference.tolist():
                self._test.update(self._scaled(value))
        else:
            self._test = Sprt(every=self._every, reference=reference)

    def _scaled(self, value: float) -> float:
        """A value of a stream of two kinds as 0 or 1, others (which the test of the rate skips) below or above."""
        if len(self._kinds) != 2:
            return value
        low, high = sorted(self._kinds)
        return (value - low) / (high - low)

    def state(self) -> State:
        """All of the memory: the test's, and the values that it is calibrated by."""
        return {"first": list(self._first), "sprt": None if self._test is None else self._test.state()}

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of other options."""
        given = state["sprt"] is not None and not state["first"]
        if given != (self._recorded is not None):
            raise ValueError("this state is of a detector with another reference; reset the detector")
        self.reset()
        for value in state["first"]:
            self._learn(float(value))
        if self._test is not None:
            self._test.restore(state["sprt"])
