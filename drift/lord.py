"""LORD++: of the tests that are rejected, one after another without end, at most a share is false. On p-values.

Ramdas, Yang, Wainwright and Jordan 2017, "Online control of the false discovery rate with decaying memory", equation 3
with theorem 1 (after LORD, Javanmard and Montanari 2018): FDR at most `level`, for p-values that are uniform or larger
and independent where nothing has changed. The t-th is rejected at p <= a_t,

    a_t = gamma_t w + (level - w) gamma_(t - t1) + level sum_(j > 1) gamma_(t - tj),

tj the number of the j-th rejection and w the wealth to begin with. Each rejection earns level for the tests to come.
"""

from __future__ import annotations

from trimtab.drift.detector import State
from trimtab.drift.spending import DECAY, Spending, checked


class LordPlusPlus:
    """See the module.

    level: the accepted share. wealth: w, the part of it that is spent while nothing was rejected; half of it where
    None. decay: of gamma (trimtab.drift.spending). Raises ValueError where one is out of range.
    """

    name = "lord++"

    def __init__(self, level: float, *, wealth: float | None = None, decay: float = DECAY) -> None:
        self._level = checked(level)
        self._wealth = level / 2 if wealth is None else wealth
        if not 0 < self._wealth < level:
            raise ValueError(f"wealth must be between 0 and the level {level}, not {wealth}")
        self._spending = Spending(decay)
        self._options = {"level": level, "wealth": self._wealth, "decay": decay}
        self._tests = 0
        self._rejected: list[int] = []

    def allowance(self) -> float:
        """a_t of the next test."""
        t, share = self._tests + 1, self._spending.share
        first = (self._level - self._wealth) * share(t - self._rejected[0]) if self._rejected else 0.0
        later = self._level * sum(share(t - at) for at in self._rejected[1:])
        return share(t) * self._wealth + first + later

    def test(self, p_value: float) -> bool:
        """Whether the next p-value is rejected. One that is not a number counts as 1."""
        rejected = p_value <= self.allowance()
        self._tests += 1
        if rejected:
            self._rejected.append(self._tests)
        return rejected

    def state(self) -> State:
        """All of the memory."""
        return {
            "rule": self.name, "version": 2, "options": dict(self._options),
            "tests": self._tests, "rejected": list(self._rejected),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of another rule, version or options."""
        if state.get("rule") != self.name or state.get("version") != 2 or state["options"] != self._options:
            raise ValueError(f"this state is not of {self.name} with these options; start it anew")
        self._tests = int(state["tests"])
        self._rejected = [int(v) for v in state["rejected"]]
