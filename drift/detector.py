"""What a drift detector is: one scalar in, a finding out, all of its memory in its state."""

from __future__ import annotations

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
