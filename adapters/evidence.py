"""Which of two models is right more often, without a label: a method's outputs against those of the model as exported.

Recorded streams repeat a class for a while, others come mixed. Each kind has its own evidence:

- *persistence*, of a stream that repeats classes: how much oftener neighbours are of one class than chance has it,
  mean [c_n = c_(n-1)] - sum_c share_c^2, is lowered by every error that is not its neighbour's, and is 0 where one
  class is predicted for all. It is as great where a model takes one class for another. So a method must also be right
  as often as the source model where the class is *known* from a sample's neighbours: both models have the same there,
  or samples look like the source's, so that its model can be gone by.
- *shares*, of any other: a model that gives the classes the shares q where they have the shares p is wrong at least as
  often as the total variation between them, 1/2 sum_c |q_c - p_c|. The stream's own p are known from when its samples
  last looked like the source's, by their norm-input moments (`trimtab.adapters.home`): there the source model can be
  gone by, whatever classes there are. They hold where classes come about as often in a drift as before it. Where they
  did not from one time at home to the next, and before there were two,
- *prior*: p are the source's. Whether they are the stream's is not known, so that more is asked (see
  `trimtab.adapters.protection`).

Which kind a stream is of is decided as the source model sees it (a method may make the samples of a batch agree), and
remembered for longer. Neighbours are alike also where a drift makes a model predict few classes for a while, so that
they are compared with samples not far from them.

Confidence says too little: methods that minimise entropy become surer whether they are right or not, and a source model
is often surest where it is wrong, one class for all.

A mean counts as more than chance by Student's t over runs of neighbouring samples, since neighbours are alike; where
classes repeat for longer than a run, runs are alike too, and count as fewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, softmax, stdtr

Array = NDArray[np.float64]

RUN = 32
"""Samples in a run."""
RUNS = 16
"""Runs remembered: the newest."""
LEAST = 4
"""Full runs from which on something can be said."""
AROUND = RUN // 4
"""Neighbours on either side that vote for a sample's class."""
APART = 2 * RUN
"""Samples so far apart are no neighbours."""
PERSISTENT = 0.05
"""By how much more neighbours must be of one class than samples that far APART; a stream is not persistent where it is
surely less than twice that."""
SURE = 0.05
"""Accepted chance of being wrong about that."""
LASTING = 128
"""Runs that say whether a stream is persistent: whether it is shuffled does not change from one hour to the next."""
AT_HOME = 0.25
"""Samples look like the source's where less than this share of them is strange (of the source's, 0.05 are)."""

NEAR = 0.1
"""... and where not this much more is than there ever was: a mild drift."""
STEADY = 0.2
"""Total variation up to which shares are the same."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the remembered samples say of the method against the source model."""

    kind: str
    """"persistence", "shares" or "prior"."""
    gain: float
    """Mean over all samples; about the difference in accuracy, or the least that it must be."""
    recent: float
    """The same of the newest quarter."""
    known: float
    """By how much oftener the method is right where the class is known from neighbours; 0 in streams that do not
    repeat classes."""
    chance: float
    """That there is no gain, one-sided; 1 - chance: that there is no loss."""
    spread: float
    """By how much the mutual information of sample and class is greater than the source model's, nats."""
    classes: float
    """Classes effectively predicted: exp of the entropy of their histogram ..."""
    classes_static: float
    """... and by the source model."""
    entropy: float
    """Mean entropy of the method's outputs, nats."""
    strange: float
    """Share of the samples that do not look like the source's; 0 where nothing is known."""
    off: float
    """Total variation between the classes' shares as the method predicts them and those gone by."""


class Evidence:
    """The newest RUN * RUNS samples of a stream, as both models see them. `prior [K]`: the source's class shares."""

    def __init__(self, prior: Array) -> None:
        size, outputs = RUN * RUNS, len(prior)
        self._prior = prior
        self._seen = 0
        self._predicted = np.zeros((2, size), np.int64)  # by the method, and by the source model
        self._entropy = np.zeros((2, size))
        self._same = np.zeros((2, size))  # 1 where the class is that of the sample before
        self._share = np.zeros((2, RUNS, outputs))  # sums of the probabilities in each run
        self._strange = np.zeros(size, np.int64)
        self._last = np.full(2, -1)
        # Of the stream, not of the method: this is never cleared.
        self._compared = 0
        self._nearness = np.zeros(LASTING)
        self._usual = np.zeros((2, outputs))  # the classes' shares at home, now and the time before; 0: not known
        self._least = np.array(1.0)  # the least share of strange samples so far
        self._left = np.array(False)  # whether it was away since

    def add(self, y: NDArray[np.float32], static: NDArray[np.float32], strange: NDArray[np.int64]) -> None:
        """Logits `[N, K]` of the method and of the source model for the next N samples; all finite. `strange [N]`:
        whether they look unlike the source's, -1 where that is not known."""
        p = softmax(np.stack([y, static]).astype(np.float64), axis=2)
        predicted = p.argmax(axis=2)
        entropy = entr(p).sum(axis=2)
        before = np.concatenate([self._last[:, None], predicted[:, :-1]], axis=1)
        taken = 0
        while taken < len(y):  # up to the end of a run at a time
            at = self._seen % (RUN * RUNS)
            run = at // RUN
            count = min(RUN - at % RUN, len(y) - taken)
            new, place = slice(taken, taken + count), slice(at, at + count)
            if at % RUN == 0:
                self._share[:, run] = 0.0
            self._predicted[:, place] = predicted[:, new]
            self._entropy[:, place] = entropy[:, new]
            self._same[:, place] = predicted[:, new] == before[:, new]
            self._strange[place] = strange[new]
            self._share[:, run] += p[:, new].sum(axis=1)
            self._seen += count
            taken += count
            if self._seen % RUN == 0 and self._seen >= APART + RUN:
                self._compare()
            if self._seen % RUN == 0 and self._seen >= RUN * RUNS // 2:
                self._look()
        self._last = predicted[:, -1].copy()

    def clear(self) -> None:
        """Forget all samples, but not what is known of the stream."""
        self._seen = 0

    def finding(self) -> Finding | None:
        """What is known by now; None while it is too little."""
        newest = self._seen // RUN
        count = min(newest, RUNS - 1 if self._seen % RUN else RUNS)
        persistent = self._persistent()
        if count < LEAST or persistent is None:
            return None
        runs = np.arange(newest - count, newest) % RUNS  # full ones, oldest first
        at = (runs[:, None] * RUN + np.arange(RUN)).reshape(-1)
        predicted, same = self._predicted[:, at], self._same[:, at].reshape(2, count, RUN).mean(axis=2)
        outputs = len(self._prior)
        histogram = np.stack([np.bincount(row, minlength=outputs) for row in predicted]) / len(at)
        by_run = np.stack(
            [[np.bincount(run, minlength=outputs) / RUN for run in row.reshape(count, RUN)] for row in predicted]
        )
        mean_p = self._share[:, runs].sum(axis=1) / len(at)
        entropy = self._entropy[:, at].mean(axis=1)
        information = entr(mean_p).sum(axis=1) - entropy
        steady = bool(self._usual.any(axis=1).all()) and _apart(*self._usual) <= STEADY
        usual = self._usual[0] if steady else self._prior
        away = histogram - usual
        strange = self._strange[at]
        known, alike = 0.0, 0.0
        if persistent:
            kind = "persistence"
            # Each run's part in the excess of equal neighbours, whose second term is quadratic in the shares.
            chance_equal = (histogram**2).sum(axis=1)
            excess = same - 2.0 * np.einsum("mrk,mk->mr", by_run, histogram) + chance_equal[:, None]
            values = excess[0] - excess[1]
            known = _known(predicted, bool((strange >= 0).any()) and _share_of(strange) < AT_HOME)
            alike = _alike(values)
        else:
            kind = "shares" if steady else "prior"
            # Each run's part in the total variations.
            off = 0.5 * np.einsum("mrk,mk->mr", by_run - usual, np.sign(away))
            values = off[1] - off[0]
        classes = np.exp(entr(histogram).sum(axis=1))
        return Finding(
            kind,
            float(values.mean()),
            float(values[-max(1, count // 4) :].mean()),
            known,
            _chance(values, alike),
            float(information[0] - information[1]),
            float(classes[0]),
            float(classes[1]),
            float(entropy[0]),
            _share_of(strange),
            _apart(histogram[0], usual),
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """All that is remembered."""
        return {
            "seen": np.array(self._seen),
            "predicted": self._predicted.copy(),
            "entropy": self._entropy.copy(),
            "same": self._same.copy(),
            "share": self._share.copy(),
            "strange": self._strange.copy(),
            "last": self._last.copy(),
            "compared": np.array(self._compared),
            "nearness": self._nearness.copy(),
            "usual": self._usual.copy(),
            "least": self._least.copy(),
            "left": self._left.copy(),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`. Raises ValueError where it is of another model or damaged; nothing is changed then."""
        for name, value in self.state().items():
            if name not in state or state[name].shape != value.shape or state[name].dtype != value.dtype:
                raise ValueError("the state of the guard is of another bundle, or of another version")
            if not np.isfinite(state[name]).all():
                raise ValueError(f"the state of the guard holds NaN or infinity in {name}")
        outputs = len(self._prior)
        if state["predicted"].min() < 0 or max(state["predicted"].max(), state["last"].max()) >= outputs:
            raise ValueError(f"the state of the guard holds a class that is not among 0 to {outputs - 1}")
        if min(state["seen"], state["compared"]) < 0:
            raise ValueError("the state of the guard holds a negative number of samples")
        self._seen, self._compared = int(state["seen"]), int(state["compared"])
        self._nearness, self._usual = state["nearness"].copy(), state["usual"].copy()
        self._least, self._left = state["least"].copy(), state["left"].copy()
        self._predicted, self._last = state["predicted"].copy(), state["last"].copy()
        self._entropy, self._strange = state["entropy"].copy(), state["strange"].copy()
        self._same, self._share = state["same"].copy(), state["share"].copy()

    def _compare(self) -> None:
        """A run is full: how much more alike are its neighbours than samples far apart?"""
        size = RUN * RUNS
        now = np.arange(self._seen - RUN, self._seen)
        predicted = self._predicted[1]
        alike = predicted[now % size] == predicted[(now - APART) % size]
        self._nearness[self._compared % LASTING] = self._same[1, now % size].mean() - alike.mean()
        self._compared += 1

    def _look(self) -> None:
        """A run is full: if the samples look like the source's, remember how often classes come."""
        count = min(self._seen, RUN * RUNS)
        newest = np.arange(self._seen - LEAST * RUN, self._seen) % (RUN * RUNS)
        known = self._strange[:count]
        if (known < 0).all():
            return
        # The newest apart, lest the first samples of a drift be taken in.
        share, of_newest = _share_of(known), _share_of(self._strange[newest])
        self._least = np.minimum(self._least, share)
        self._left |= share >= AT_HOME
        if max(share, of_newest) >= AT_HOME or share > self._least + NEAR:
            return
        if self._left:
            self._usual[1] = self._usual[0]
            self._left = np.array(False)
        self._usual[0] = np.bincount(self._predicted[1, :count], minlength=len(self._prior)) / count

    def _persistent(self) -> bool | None:
        """Whether the stream repeats a class for a while, as the source model sees it; None while that is not sure."""
        count = min(self._compared, LASTING)
        if count < LEAST:
            return None
        values = self._nearness[:count]
        if _chance(values - PERSISTENT) <= SURE:
            return True
        return False if _chance(2.0 * PERSISTENT - values) <= SURE else None


def _share_of(strange: NDArray[np.int64]) -> float:
    """Share of strange samples among those known; 0 where none is."""
    known = strange[strange >= 0]
    return float(known.mean()) if len(known) else 0.0


def _known(predicted: NDArray[np.int64], at_home: bool) -> float:
    """By how much oftener the method than the source model is of the class that most neighbours have: by both models,
    or, at home, by the source model. `predicted [2, n]`: by both, of neighbouring samples."""
    present, codes = np.unique(predicted, return_inverse=True)
    each = np.eye(len(present), dtype=np.int64)[codes.reshape(predicted.shape)]
    sums = np.pad(each.cumsum(axis=1), ((0, 0), (1, 0), (0, 0)))
    size = predicted.shape[1]
    place = np.arange(size)
    around = sums[:, np.minimum(place + AROUND + 1, size)] - sums[:, np.maximum(place - AROUND, 0)] - each
    most = around == around.max(axis=2, keepdims=True)
    agreed = (most[1].sum(axis=1) == 1) & (at_home | (most[0] == most[1]).all(axis=1))
    right = (predicted == present[most[1].argmax(axis=1)]) & agreed
    return float(right[0].mean() - right[1].mean())


def _alike(values: Array) -> float:
    """Correlation of neighbours among `values [runs]`, 0 where it is negative."""
    away = values - values.mean()
    total = float((away**2).sum())
    return max(0.0, float((away[1:] * away[:-1]).sum()) / total) if total else 0.0


def _apart(one: Array, other: Array) -> float:
    """Total variation between shares `[K]`."""
    return float(0.5 * np.abs(one - other).sum())


def _chance(values: Array, alike: float = 0.0) -> float:
    """That the mean of `values [runs]` is not above 0, by Student's t. Where neighbours are `alike` (correlated) the
    number of values counts as smaller by (1 - alike) / (1 + alike) (Bayley, Hammersley 1946)."""
    count = max(2.0, len(values) * (1.0 - alike) / (1.0 + alike))
    error = float(values.std(ddof=1)) / np.sqrt(count)
    mean = float(values.mean())
    if error == 0.0:
        return 0.0 if mean > 0 else 1.0 if mean < 0 else 0.5
    return float(stdtr(count - 1.0, -mean / error))
