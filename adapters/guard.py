"""The guard: a candidate against the vector in use, on windows that it was not adapted on.

Where enough true labels came (late), they decide. Otherwise the label-free fit to the source does
(`trimtab.adapters.fit`: norm-input moments, features under the class Gaussians, sureness and spread of the outputs).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, stdtr  # not scipy.stats, which takes half a second to import

from trimtab.adapters.fit import finite_windows, measure
from trimtab.adapters.methods import Context, Windows

LABELLED = 16
"""True labels from which on they decide."""
ERROR = 0.05
"""Accepted chance that a candidate only seems better ..."""
CONFIRMED = 0.25
"""... and that of one whose method tested it already, on other windows."""
COLLAPSE = 0.5
"""A candidate whose predictions spread over less than this share of the classes that they did, is none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard found."""

    accepted: bool
    gain: float
    """By how much the candidate is better: nats of misfit, or accuracy, or share of the squared error."""
    scores: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    """One sentence where it was not accepted."""


def judge(
    context: Context,
    theta: NDArray[np.float32],
    candidate: NDArray[np.float32],
    held: Windows,
    margin: float,
    error: float = ERROR,
) -> Verdict:
    """Is `candidate [P]` better than `theta [P]` on the `held` windows?

    Args:
        margin: how much better it must be, as a share (of the misfit, which is a sum of logarithms; of the squared
            error; of accuracy).
        error: accepted chance that it is better only by chance; small where little else speaks for the candidate.
    """
    held = finite_windows(held)
    if len(held) == 0:
        return Verdict(False, 0.0, {}, "no finite window is held back to judge by")
    known = np.flatnonzero(np.isfinite(held.labels))
    if len(known) >= LABELLED and (context.task == "classification" or context.outputs == 1):
        return _by_labels(context, theta, candidate, held.take(known), margin, error)
    if not context.source.reference:
        # What an import without source data holds are guesses: nothing can be said to look like the source.
        return Verdict(False, 0.0, {}, "the bundle holds nothing of source data to judge by; only true labels could")
    fit = measure(context, np.stack([candidate, theta]), held)
    gain, chance = fit.certainty(0, 1)
    scores = {"gain": gain, "chance": chance, "held": float(len(held))}
    for name, part in fit.parts().items():
        scores[name], scores[f"{name}_now"] = float(part[0]), float(part[1])
    if context.task == "classification":
        share = np.maximum(fit.share.sum(axis=1) / len(held), 0.0)
        scores["classes"], scores["classes_now"] = (float(np.exp(entr(s).sum())) for s in share)
        if scores["classes"] < COLLAPSE * scores["classes_now"] and scores["classes"] < 2:
            return Verdict(False, gain, scores, "its predictions collapse to one class")
    if not np.isfinite(gain):
        return Verdict(gain > 0, gain, scores, "its outputs are not finite" if gain < 0 else "")
    # A share of the score: scores are logarithms.
    needed = -float(np.log(1.0 - min(margin, 0.99)))
    if gain < needed:
        return Verdict(False, gain, scores, f"it fits better by {gain:.3g} nats where {needed:.3g} are asked")
    if fit.runs < 3:
        return Verdict(False, gain, scores, "too few windows are held back to judge by")
    if chance > error:
        return Verdict(False, gain, scores, f"it fits better by chance with probability {chance:.2g}")
    return Verdict(True, gain, scores)


def _by_labels(
    context: Context,
    theta: NDArray[np.float32],
    candidate: NDArray[np.float32],
    held: Windows,
    margin: float,
    error: float,
) -> Verdict:
    n = len(held)
    slot = np.repeat(np.arange(2), n)
    inputs = {name: np.concatenate([x, x]) for name, x in held.inputs.items()}
    y = context.probe(inputs, np.stack([candidate, theta]), slot).y.astype(np.float64)
    if context.task == "classification":
        right = (y.argmax(axis=1) == np.tile(held.labels, 2)).reshape(2, n).astype(np.float64)
        better = right[0] - right[1]
        scores = {"accuracy": float(right[0].mean()), "accuracy_now": float(right[1].mean())}
        scale = 1.0
    else:
        squared = ((y[:, 0] - np.tile(held.labels, 2)) ** 2).reshape(2, n)
        better = squared[1] - squared[0]
        scores = {"squared_error": float(squared[0].mean()), "squared_error_now": float(squared[1].mean())}
        scale = max(float(squared[1].mean()), 1e-30)
    gain = float(better.mean()) / scale
    deviation = float(better.std(ddof=1)) / scale
    chance = float(stdtr(n - 1, -gain * np.sqrt(n) / deviation)) if deviation > 0 else float(gain <= 0)
    scores |= {"gain": gain, "chance": chance, "labelled": float(n)}
    if not np.isfinite(gain) or gain < margin or chance > error:
        return Verdict(False, gain, scores, "it is not better by the labels that came")
    return Verdict(True, gain, scores)
