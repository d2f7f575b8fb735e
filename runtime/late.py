"""Drift that no input shows: the errors of one stream, by labels that come late.

The signals of a window see its input alone: that they change is *virtual* drift, which may or may not cost accuracy.
That decisions turn wrong where they were right is *real* drift (Gama et al. 2014), and takes the truth to see. Each
late label says of one window whether its decision was right; a detector of rates watches that.
"""

from __future__ import annotations

from collections import deque

from trimtab.drift.detector import Detector, Finding, State

REMEMBERED = 4096
"""Decisions that a label may still come for; older ones are forgotten."""


class LateLabels:
    """The decisions of one stream that await their labels, and the detector of errors among those that had theirs.

    delay: windows after which a recording's labels are told, fewer than REMEMBERED.
    """

    def __init__(self, detector: Detector, delay: int = 0) -> None:
        self.detector = detector
        self._delay = delay
        self._decided: dict[int, int] = {}
        self._waiting: deque[tuple[int, int]] = deque()

    def decided(self, sequence: int, predicted: int) -> None:
        """A window was decided; `predicted` is the index of its class."""
        self._decided[sequence] = predicted
        if len(self._decided) > REMEMBERED:
            del self._decided[next(iter(self._decided))]

    def label(self, sequence: int, true: int) -> Finding | None:
        """The truth about a window; None where it is forgotten, or had one before."""
        predicted = self._decided.pop(sequence, None)
        return None if predicted is None else self.detector.update(float(predicted != true))

    def recorded(self, sequence: int, true: int | None) -> list[tuple[int, Finding]]:
        """Window `sequence` was decided, whose truth the recording has (None: has not).

        Returns window number and finding of each label that is due by now.
        """
        if true is not None:
            self._waiting.append((sequence, true))
        found: list[tuple[int, Finding]] = []
        while self._waiting and self._waiting[0][0] <= sequence - self._delay:
            number, label = self._waiting.popleft()
            if (finding := self.label(number, label)) is not None:
                found.append((number, finding))
        return found

    def reset(self) -> None:
        """The model decides by another vector from now on: of its errors nothing is known yet."""
        self.detector.reset()
        self._decided.clear()

    def state(self) -> State:
        """The detector's; what was decided before a restart is not known again."""
        return self.detector.state()

    def restore(self, state: State) -> None:
        """Continue from `state`. Raises ValueError where it is of another detector."""
        self.detector.restore(state)
