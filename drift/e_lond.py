"""e-LOND: of the tests that are rejected, one after another without end, at most a share is false. On e-values.

Xu and Ramdas 2024, "Online multiple testing with e-values", theorem 1: FDR at most `level` however the e-values hang
together. The t-th is rejected at e >= 1 / a_t, a_t = level gamma_t (rejections before + 1).

A test may take its time, and others begin meanwhile. It gets its number, and with it gamma_t, when it begins
(`begin`), and the rejections up to the moment of its decision count (`decide`). The proof is the same: where a test is
rejected, 1 / (all rejections) is at most 1 / (rejections before + 1) <= level gamma_t e, and the mean of that over
all tests without a change is at most level sum gamma_t. It asks that e has a mean of at most 1 at the moment of
decision, given what is known when the test begins, as an e-process has at any moment that does not look ahead.
"""

from __future__ import annotations

from trimtab.drift.detector import State
from trimtab.drift.spending import DECAY, Spending, checked


class ELond:
    """See the module. level: the accepted share; decay: of gamma (trimtab.drift.spending).

    Raises ValueError where one is out of range.
    """

    name = "e-lond"

    def __init__(self, level: float, *, decay: float = DECAY) -> None:
        self._level = checked(level)
        self._spending = Spending(decay)
        self._options = {"level": level, "decay": decay}
        self._tests = 0
        self._rejections = 0

    def begin(self) -> int:
        """Begin a test; its number."""
        self._tests += 1
        return self._tests

    def allowance(self, number: int) -> float:
        """a_t of the test of this number, were it decided now.

        Never more than `level`, which those that overlap could come to, where evidence would be none.
        """
        return min(self._level * self._spending.share(number) * (self._rejections + 1), self._level)

    def decide(self, number: int, e_value: float) -> bool:
        """Whether this test is rejected: it is over then. An e-value that is not a number counts as 0.

        Raises ValueError where no test of this number has begun.
        """
        if not 1 <= number <= self._tests:
            raise ValueError(f"no test {number} has begun; there are {self._tests}")
        rejected = e_value >= 1 / self.allowance(number)
        self._rejections += rejected
        return rejected

    def test(self, e_value: float) -> bool:
        """Whether the next e-value is rejected, of a test that begins and ends with it."""
        return self.decide(self.begin(), e_value)

    def state(self) -> State:
        """All of the memory."""
        return {
            "rule": self.name, "version": 2, "options": dict(self._options),
            "tests": self._tests, "rejections": self._rejections,
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another rule, version or options."""
        self._tests = self._rejections = 0
        self.join(state)

    def join(self, state: State) -> None:
        """Continue from this or from `state`, whichever is the later one. Raises ValueError as `restore` does."""
        if state.get("rule") != self.name or state.get("version") != 2 or state["options"] != self._options:
            raise ValueError(f"this state is not of {self.name} with these options; start it anew")
        self._tests = max(self._tests, int(state["tests"]))
        self._rejections = max(self._rejections, int(state["rejections"]))
