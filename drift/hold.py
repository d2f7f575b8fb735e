"""One event, one alarm: after an alarm there is none for some records."""

from __future__ import annotations


class Hold:
    """Lets an alarm through, and none in the `records` after it.

    left: records for which there is still none; it is all that is remembered.
    """

    def __init__(self, records: int) -> None:
        self._records = records
        self.left = 0

    def holds_back(self, alarm: bool) -> bool:
        """Take a record. Returns whether it has an alarm that is not to be told."""
        self.left = max(self.left - 1, 0)
        if not alarm:
            return False
        if self.left:
            return True
        self.left = self._records
        return False
