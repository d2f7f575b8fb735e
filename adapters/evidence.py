"""Which of two models is right more often, without a label: a method's outputs against those of the model as exported.

Where both predict the same class neither is better, so only the samples on which they differ count. Two kinds of
evidence speak of those:

- *persistence*: recorded streams repeat a class for a while. How much oftener neighbours are of one class than chance
  has it, mean [c_n = c_(n-1)] - sum_c share_c^2, is lowered by every error that is not its neighbour's, and is 0 where
  one class is predicted for all.
- *sureness*: the mean difference of the two models' confidence on the samples on which they differ (after Guillory et
  al. 2021, "Predicting with Confidence on Unseen Distributions"). Methods that minimise entropy become surer whether
  they are right or not. But where both models predict the same class they are equally right: so the method's log-odds
  are divided by a temperature, at least 1, with which it is no surer there than the source model. And neither the
  mutual information of sample and class, H(mean p) - mean H(p), nor the number of classes predicted may be less than
  the source model's: whoever predicts one class for all is sure of it, too. Sureness says nothing of a method that only
  rewrites the outputs: such a method is as sure as its own arithmetic makes it.

In a stream that is persistent the first decides, in one that is not the second, and nothing while that is not sure. It
is the stream's own, as the source model sees it (a method may make the samples of a batch agree), and remembered for
longer. Neighbours are alike also where a drift makes a model predict few classes for a while, so that they are compared
with samples not far from them.

Chosen by measurement: in blocks of 512 samples of recurring drifts, sureness goes with the true gain in shuffled order
(correlation 0.6 to 0.9 for methods that learn), but not in recorded order; there, persistence does (0.9 to 0.95).

A mean counts as more than chance by Student's t over runs of neighbouring samples, since neighbours are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, expit, softmax, stdtr

Array = NDArray[np.float64]

RUN = 32
"""Samples in a run."""
RUNS = 16
"""Runs remembered: the newest."""
LEAST = 4
"""Full runs from which on something can be said."""
APART = 2 * RUN
"""Samples so far apart are no neighbours."""
PERSISTENT = 0.05
"""By how much more neighbours must be of one class than samples that far APART; a stream is not persistent where it is
surely less than twice that."""
SURE = 0.05
"""Accepted chance of being wrong about that."""
LASTING = 128
"""Runs that say whether a stream is persistent: whether it is shuffled does not change from one hour to the next."""
LARGEST = 30.0
"""Log-odds beyond this are alike."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the remembered samples say of the method against the source model."""

    kind: str
    """"persistence" or "sureness"."""
    gain: float
    """Mean over all samples; about the difference in accuracy."""
    recent: float
    """The same of the newest quarter."""
    chance: float
    """That there is no gain, one-sided; 1 - chance: that there is no loss."""
    spread: float
    """By how much the mutual information of sample and class is greater than the source model's, nats."""
    classes: float
    """Classes effectively predicted: exp of the entropy of their histogram ..."""
    classes_static: float
    """... and by the source model."""
    entropy_static: float
    """Mean entropy of the source model's outputs, nats."""


class Evidence:
    """The newest RUN * RUNS samples of a stream, as both models see them. `outputs`: K."""

    def __init__(self, outputs: int) -> None:
        size = RUN * RUNS
        self._seen = 0
        self._predicted = np.zeros((2, size), np.int64)  # by the method, and by the source model
        self._odds = np.zeros((2, size))  # log-odds of the predicted class
        self._entropy = np.zeros((2, size))
        self._same = np.zeros((2, size))  # 1 where the class is that of the sample before
        self._share = np.zeros((2, RUNS, outputs))  # sums of the probabilities in each run
        self._last = np.full(2, -1)
        # Of the stream, not of the method: this is never cleared.
        self._compared = 0
        self._nearness = np.zeros(LASTING)

    def add(self, y: NDArray[np.float32], static: NDArray[np.float32]) -> None:
        """Logits `[N, K]` of the method and of the source model for the next N samples; all finite."""
        logits = np.stack([y, static]).astype(np.float64)
        p = softmax(logits, axis=2)
        predicted = p.argmax(axis=2)
        top = p.max(axis=2)
        rest = np.maximum(p.sum(axis=2) - top, 1e-300)
        odds = np.clip(np.log(top) - np.log(rest), -LARGEST, LARGEST)
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
            self._odds[:, place] = odds[:, new]
            self._entropy[:, place] = entropy[:, new]
            self._same[:, place] = predicted[:, new] == before[:, new]
            self._share[:, run] += p[:, new].sum(axis=1)
            self._seen += count
            taken += count
            if self._seen % RUN == 0 and self._seen >= APART + RUN:
                self._compare()
        self._last = predicted[:, -1].copy()

    def clear(self) -> None:
        """Forget all samples, but not whether the stream is persistent."""
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
        outputs = self._share.shape[2]
        histogram = np.stack([np.bincount(row, minlength=outputs) for row in predicted]) / len(at)
        by_run = np.stack(
            [[np.bincount(run, minlength=outputs) / RUN for run in row.reshape(count, RUN)] for row in predicted]
        )
        # Each run's part in the excess of equal neighbours, whose second term is quadratic in the shares.
        chance_equal = (histogram**2).sum(axis=1)
        excess = same - 2.0 * np.einsum("mrk,mk->mr", by_run, histogram) + chance_equal[:, None]
        mean_p = self._share[:, runs].sum(axis=1) / len(at)
        entropy = self._entropy[:, at].mean(axis=1)
        information = entr(mean_p).sum(axis=1) - entropy
        if persistent:
            kind, values = "persistence", excess[0] - excess[1]
        else:
            kind, values = "sureness", self._sureness(at).reshape(count, RUN).mean(axis=1)
        classes = np.exp(entr(histogram).sum(axis=1))
        return Finding(
            kind,
            float(values.mean()),
            float(values[-max(1, count // 4) :].mean()),
            _chance(values),
            float(information[0] - information[1]),
            float(classes[0]),
            float(classes[1]),
            float(entropy[1]),
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """All that is remembered."""
        return {
            "seen": np.array(self._seen),
            "predicted": self._predicted.copy(),
            "odds": self._odds.copy(),
            "entropy": self._entropy.copy(),
            "same": self._same.copy(),
            "share": self._share.copy(),
            "last": self._last.copy(),
            "compared": np.array(self._compared),
            "nearness": self._nearness.copy(),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`. Raises ValueError where it is of another model."""
        own = self.state()
        for name, value in own.items():
            if name not in state or state[name].shape != value.shape:
                raise ValueError("the state of the guard is of another bundle")
        self._seen, self._compared = int(state["seen"]), int(state["compared"])
        self._nearness = state["nearness"].copy()
        self._predicted, self._last = state["predicted"].copy(), state["last"].copy()
        self._odds, self._entropy = state["odds"].copy(), state["entropy"].copy()
        self._same, self._share = state["same"].copy(), state["share"].copy()

    def _compare(self) -> None:
        """A run is full: how much more alike are its neighbours than samples far apart?"""
        size = RUN * RUNS
        now = np.arange(self._seen - RUN, self._seen)
        predicted = self._predicted[1]
        alike = predicted[now % size] == predicted[(now - APART) % size]
        self._nearness[self._compared % LASTING] = self._same[1, now % size].mean() - alike.mean()
        self._compared += 1

    def _persistent(self) -> bool | None:
        """Whether the stream repeats a class for a while, as the source model sees it; None while that is not sure."""
        count = min(self._compared, LASTING)
        if count < LEAST:
            return None
        values = self._nearness[:count]
        if _chance(values - PERSISTENT) <= SURE:
            return True
        return False if _chance(2.0 * PERSISTENT - values) <= SURE else None

    def _sureness(self, at: NDArray[np.int64]) -> Array:
        """[n] difference of confidence where the models differ, else 0."""
        odds, apart = self._odds[:, at], self._predicted[0, at] != self._predicted[1, at]
        temperature = _temperature(odds[0, ~apart], float(expit(odds[1, ~apart]).mean())) if not apart.all() else 1.0
        return np.where(apart, expit(odds[0] / temperature) - expit(odds[1]), 0.0)


def _temperature(odds: Array, confidence: float) -> float:
    """At least 1, with which the mean confidence at log-odds `odds [n]` is at most `confidence`; by bisection."""
    low, high = 0.0, 8.0  # logarithms
    if expit(odds).mean() <= confidence:
        return 1.0
    for _ in range(24):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if expit(odds * np.exp(-middle)).mean() > confidence else (low, middle)
    return float(np.exp(high))


def _chance(values: Array) -> float:
    """That the mean of `values [runs]` is not above 0, by Student's t."""
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    mean = float(values.mean())
    if error == 0.0:
        return 0.0 if mean > 0 else 1.0 if mean < 0 else 0.5
    return float(stdtr(len(values) - 1, -mean / error))
