"""HTM on a stream of vectors: one column of hierarchical temporal memory a dimension, and one score from theirs.

Each dimension has regions, a baseline and a range rule of its own (`htm.HtmAnomaly`), and gives a score from 0 to 1 a
record: the anomaly likelihood on its logarithmic scale. They are put together in one of two ways:

- *Without labels:* the highest score is that of the record, and it alarms where a dimension's has a chance of
  1 / (`every` D) (Bonferroni, `combine.apart`: valid however dimensions hang together).
- *With labels:* a small network (`combiner`), trained on labelled anomalies, turns the scores of the newest
  `history` records into the chance that this one is anomalous. It learns which dimensions matter, which of them are
  often surprised without harm, and what surprises mean together.

A column sees one dimension: what breaks between dimensions shows where a dimension's own sequence breaks, too.
After an alarm there is none for `hold` records: one event, one alarm. A value that is missing scores 0 in its
dimension, and is not learnt there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trimtab.drift.anomaly_likelihood import log_scale
from trimtab.drift.combine import apart
from trimtab.drift.combiner import Combiner
from trimtab.drift.detector import State
from trimtab.drift.hold import Hold
from trimtab.drift.htm import HtmAnomaly

HOLD = 100


class HtmColumns:
    """Anomaly scores of (time, values) records, from 0 to 1; see the module. After each, `scores` holds the columns'.

    dimensions: D. every: about how many records lie between false alarms. hold: records after an alarm without
    another. combiner: the network instead of the highest score, with its own threshold. columns, cells, segments,
    regions: the size of a dimension's HTM. seed: of what is random in it, for the first of them.
    """

    def __init__(
        self,
        dimensions: int,
        *,
        every: float = 1e4,
        range_rule: bool = True,
        hold: int = HOLD,
        combiner: Combiner | None = None,
        columns: int = 2048,
        cells: int = 32,
        segments: int = 32768,
        regions: int = 1,
        seed: int = 0,
    ) -> None:
        if dimensions < 1:
            raise ValueError(f"there must be one dimension or more, not {dimensions}")
        self._columns = [
            HtmAnomaly(
                range_rule=range_rule,
                hold=0,
                columns=columns,
                cells=cells,
                segments=segments,
                regions=regions,
                seed=seed + d * regions,
            )
            for d in range(dimensions)
        ]
        self._combiner = combiner
        self.alarm_at = log_scale(1.0 / apart(every, dimensions)) if combiner is None else combiner.recipe.threshold
        self._hold = Hold(hold)
        self.scores = [0.0] * dimensions
        history = 1 if combiner is None else combiner.recipe.history
        self._newest = np.zeros((1, history, dimensions), np.float32)

    def update(self, time: float | None, values: Sequence[float]) -> float:
        """Take a record: `time` in seconds since 1970 of the local clock (None: unknown), and D values."""
        self.scores = [column.update(time, value) for column, value in zip(self._columns, values, strict=True)]
        if self._combiner is None:
            score = max(self.scores)
        else:
            self._newest[0, :-1] = self._newest[0, 1:]
            self._newest[0, -1] = self.scores
            score = float(self._combiner(self._newest)[0])
        return 0.0 if self._hold.holds_back(score >= self.alarm_at) else score

    def state(self) -> State:
        """All of the memory."""
        return {
            "recipe": self._recipe(),
            "columns": [column.state() for column in self._columns],
            "newest": self._newest[0].tolist(),
            "held": self._hold.left,
        }

    def restore(self, state: State) -> None:
        """Continue exactly from `state`. Raises ValueError where it is of other dimensions, options or combiner."""
        if state["recipe"] != self._recipe() or len(state["columns"]) != len(self._columns):
            raise ValueError("this state is of other dimensions or another combiner; reset the detector")
        for column, kept in zip(self._columns, state["columns"], strict=True):
            column.restore(kept)
        self._newest[0] = state["newest"]
        self._hold.left = int(state["held"])

    def _recipe(self) -> str | None:
        return None if self._combiner is None else self._combiner.recipe.text()
