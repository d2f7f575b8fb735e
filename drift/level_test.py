"""A test of a stream's level beside one of its sequence: the SPRT, calibrated by the first LEARNT values themselves.

Where values follow no sequence each of them surprises an HTM, and a shift of their mean shows in how much only late;
there a test of the values is what sees it. Where they do follow one, a test that takes values for independent alarms
at each turn of a cycle. How far they hang together, the first values tell: the SPRT with these as its reference
(`sprt`) is quick on noise, careful on a stream that wanders, and deaf to what is no greater than the stream's own
cycle, which is the HTM's to see.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.detector import Finding, State
from trimtab.drift.sprt import Sprt

LEARNT = 750
"""As many as an HTM needs to be sure of its resolution (`htm_score`)."""


class LevelTest:
    """See the module. every: values between false alarms. reference `[n]`: the signal without drift; None: learnt."""

    def __init__(self, *, every: float, reference: NDArray[np.float64] | None) -> None:
        self._every = every
        self._recording = None if reference is None else Sprt(every=every, reference=reference)
        self.reset()

    def reset(self) -> None:
        """Forget everything; with a recording, its values are the reference again."""
        self._first: list[float] = []
        self._sprt = self._recording
        if self._sprt is not None:
            self._sprt.reset()

    def update(self, value: float) -> Finding | None:
        """Take a finite value; None while the reference is learnt."""
        if self._sprt is not None:
            return self._sprt.update(value)
        self._first.append(value)
        self._make()
        return None

    def _make(self) -> None:
        if len(self._first) == LEARNT:
            reference = np.array(self._first)
            # What has never moved has no deviation to go by.
            if np.ptp(reference) > 0:
                self._sprt = Sprt(every=self._every, reference=reference)
            else:
                self._first = []

    def state(self) -> State:
        """All of the memory: the SPRT's, and the values that it is calibrated by."""
        return {"first": list(self._first), "sprt": None if self._sprt is None else self._sprt.state()}

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of other options."""
        given = state["sprt"] is not None and not state["first"]
        if given != (self._recording is not None):
            raise ValueError("this state is of a detector with another reference; reset the detector")
        self.reset()
        self._first = [float(v) for v in state["first"]]
        self._make()
        if self._sprt is not None:
            self._sprt.restore(state["sprt"])
