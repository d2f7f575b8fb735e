"""How unusual an HTM's recent anomaly scores are by its own past ones (Ahmad, Lavin, Purdy and Agha 2017).

On noisy data a raw anomaly score is high every now and then; what tells an anomaly is that it is high more often than
it used to be. The mean of the last ten is held against the normal distribution of such means (score_baseline):

    likelihood = 1 - Q((mean of 10 - m) / d),   Q(x) = P(N(0, 1) > x).

The logarithmic scale ln(1.0000000001 - likelihood) / ln(1e-10) spreads 0.99999 and 0.9999999 apart (to 0.5 and 0.7).
Numenta keeps the last 8,640 scores, where the moments here fade with that span, which takes no memory.
"""

from __future__ import annotations

import math

from trimtab.drift.score_baseline import Usual

TINY = 1e-10


def tail(average: float, usual: Usual) -> float:
    """Q: the chance, from 0 to 1, of a mean of ten scores that is as high as `average`, where all is as usual."""
    return 0.5 * math.erfc((average - usual.mean) / usual.deviation / math.sqrt(2.0))


def log_scale(chance: float) -> float:
    """A tail's chance on the logarithmic scale, from 0 (1) to 1 (1e-10 or less)."""
    return min(max(math.log(chance + TINY) / math.log(TINY), 0.0), 1.0)
