"""What a drift detector is: one scalar in, a finding out, all of its memory in its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

State = dict[str, Any]
"""JSON-able: numbers, strings, booleans, None, and lists and dicts of them. Floats survive json exactly."""


class Finding(NamedTuple):
    """What a detector says after one value."""

    alarm: bool
    statistic: float
    """The detector's test statistic after this value."""
    threshold: float
    """An alarm is raised when the statistic reaches it."""
    onset: int | None
    """Estimated number of values ago at which the change began (0: this value).

    None while there is no alarm, and from detectors that give no estimate.
    """

    @property
    def share(self) -> float:
        """The statistic as a share of its threshold: 1 is an alarm."""
        return self.statistic / self.threshold if self.threshold > 0 else float(self.alarm)


Stretch = tuple[list[float], list[tuple[int, Finding]]]
"""What a detector says of consecutive values: `Finding.share` after each; place among them, and finding, of alarms."""


@runtime_checkable
class Detector(Protocol):
    """A detector of change in a stream of scalars.

    A value that is NaN or infinite is skipped: it changes no state and raises no alarm.
    After an alarm the detector restarts by itself: it learns its baseline anew.
    """

    name: str

    def update(self, value: float) -> Finding:
        """Take one value."""
        ...

    def reset(self) -> None:
        """Forget everything."""
        ...

    def state(self) -> State:
        """All of the memory, for the journal."""
        ...

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another detector or version."""
        ...


@runtime_checkable
class Swift(Detector, Protocol):
    """A detector with a way of its own to take many values: faster than one by one, and the same to the bit."""

    def update_many(self, values: Sequence[float]) -> Stretch:
        """`update` of each of `values`, in order."""
        ...


def many(detector: Detector) -> Callable[[Sequence[float]], Stretch]:
    """How `detector` takes many values in order: its own way, or one by one."""

    def one_by_one(values: Sequence[float]) -> Stretch:
        findings = [detector.update(value) for value in values]
        return [f.share for f in findings], [(i, f) for i, f in enumerate(findings) if f.alarm]

    return detector.update_many if isinstance(detector, Swift) else one_by_one
