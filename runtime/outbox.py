"""What leaves the daemon, and what may be acknowledged once it has left.

Messages are numbered by the journal and confirmed by the broker. A turn's input messages are acknowledged when every
message up to the last of that turn is confirmed: all that was said because of them is then out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from trimtab.runtime.journal import MARKS, Journal, Turn
from trimtab.runtime.mqtt import Delivery, Link, Outgoing


class Outbox:
    """Couples the journal with the connection to the broker. For the loop thread only."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._link: Link | None = None
        left = [number for number, _ in journal.unconfirmed()]
        self._open = deque(left)
        """Numbers that are not confirmed, in order, and perhaps later ones that are."""
        self._confirmed: set[int] = set()
        """Of those, the confirmed ones."""
        self._last = left[-1] if left else 0
        self._pruned = left[0] - 1 if left else 0
        """Up to this number the journal has dropped its messages."""
        self._recent = deque(journal.marks())
        self._done = set(self._recent)
        """Marks of messages that are done with."""
        self._held: dict[bytes, list[Delivery]] = {}
        """Messages that are under way, by mark."""
        self._awaiting: deque[tuple[int, Sequence[bytes]]] = deque()
        """Marks to acknowledge when everything up to a number is confirmed."""

    def attach(self, link: Link) -> None:
        """Use this connection from now on; what was not confirmed goes out over it again, unchanged."""
        self._link = link
        link.send(
            [
                Outgoing(m.topic, m.payload, m.retain, number)
                for number, m in self.journal.unconfirmed()
                if number > self._confirmed_up_to()
            ]
        )

    @property
    def backlog(self) -> int:
        """Messages that the broker has not confirmed yet."""
        return len(self._open)

    def take(self, delivery: Delivery, mark: bytes, comparable: bool) -> bool:
        """Take charge of a message; a later `commit` with its mark says that it is done with.

        Returns False where it is one that is done with or under way already: then there is nothing to do but what
        is seen to here, its acknowledgement. Only a `comparable` message is looked up: one that the broker marks as
        sent again, or that has a number of its own. Any other may well equal an earlier one and still be new.
        """
        if comparable and mark not in self._held and mark in self._done:
            self._acknowledge([delivery])
            return False
        first = mark not in self._held
        self._held.setdefault(mark, []).append(delivery)
        return first or not comparable

    def commit(self, turn: Turn) -> None:
        """Write a turn, then publish its messages."""
        turn.confirmed = self._confirmed_up_to()
        numbers = self.journal.write(turn)
        self._pruned = turn.confirmed
        if numbers:
            self._last = numbers[-1]
            self._open.extend(numbers)
            if self._link is not None:
                messages = zip(numbers, turn.messages, strict=True)
                self._link.send([Outgoing(m.topic, m.payload, m.retain, number) for number, m in messages])
        if turn.marks:
            self._recent.extend(turn.marks)
            self._done.update(turn.marks)
            while len(self._recent) > MARKS:
                self._done.discard(self._recent.popleft())
            self._awaiting.append((self._last, turn.marks))
            self._release()

    def confirm(self, numbers: Sequence[int]) -> None:
        """The broker has these."""
        if self._open:  # what was sent twice, over two connections, is confirmed twice
            self._confirmed.update(number for number in numbers if number >= self._open[0])
        while self._open and self._open[0] in self._confirmed:
            self._confirmed.discard(self._open.popleft())
        self._release()

    @property
    def untidy(self) -> bool:
        """Whether the journal still holds messages that are confirmed."""
        return self._confirmed_up_to() > self._pruned

    def tidy(self) -> None:
        """Drop confirmed messages from the journal; `commit` does so too."""
        self.commit(Turn())

    def _confirmed_up_to(self) -> int:
        return self._open[0] - 1 if self._open else self._last

    def _release(self) -> None:
        confirmed = self._confirmed_up_to()
        while self._awaiting and self._awaiting[0][0] <= confirmed:
            _, marks = self._awaiting.popleft()
            self._acknowledge([d for mark in marks for d in self._held.pop(mark, ())])

    def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        if self._link is not None and deliveries:
            self._link.acknowledge(deliveries)
