"""What samples look like, inside the model, that are like those it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

VARIANCE_FLOOR = 1e-5
"""As in `trimtab.drift.signals`, which wrote the source's whitening."""
RARE = 0.95
"""Share of the source's samples that lie nearer than a strange one."""


def departure(moments: NDArray[np.floating[Any]], centre: Array, whiten: NDArray[np.floating[Any]]) -> Array:
    """How far norm-input moments lie from the source's, all together: the square per dimension, about 1 on the source.

    `moments [N, 2, M]`, `centre [2M]`, `whiten [R, 2M]`; gives `[N]`, mean (W (u - centre))^2 of u = (mean, ln(variance
    + VARIANCE_FLOOR)): the square of `trimtab.drift.signals.departure`.
    """
    vectors = moments.astype(np.float64)
    vectors[:, 1] = np.log(vectors[:, 1] + VARIANCE_FLOOR)
    white = (vectors.reshape(len(vectors), -1) - centre) @ whiten.T
    return np.asarray((white**2).mean(axis=1))


@dataclass(frozen=True, eq=False)
class Home:
    """The source's samples, as the bundle describes them."""

    centre: Array
    """[2M], and below: see `departure`."""
    whiten: NDArray[np.float32]
    """[R, 2M]"""
    limit: float
    """Departure beyond which a sample is strange."""
    prior: Array
    """[K] the classes' shares."""
    entropy: float
    """Mean entropy of the model as exported, nats."""

    @classmethod
    def of(cls, source: Mapping[str, NDArray[Any]]) -> Home | None:
        """From the arrays of `source.npz`; None where they say too little of norm-input moments, or of a regression."""
        if not {"moments_centre", "moments_whitening", "reference.departure", "reference.entropy"} <= set(source):
            return None
        away = source["reference.departure"]
        limit = float(np.quantile(away[np.isfinite(away)], RARE))
        prior = source["class_prior"] / source["class_prior"].sum()
        return cls(
            source["moments_centre"],
            source["moments_whitening"],
            limit,
            prior,
            float(np.nanmean(source["reference.entropy"])),
        )

    def strange(self, moments: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """`[N]` of samples of norm-input `moments [N, 2, M]`: 1 strange, 0 not, -1 where moments are not finite."""
        with np.errstate(all="ignore"):
            away = np.sqrt(departure(moments, self.centre, self.whiten))
        return np.where(np.isfinite(away), away > self.limit, -1).astype(np.int64)
