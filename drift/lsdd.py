"""Least-squares density difference: the integral of the squared difference of two densities.

The difference is fitted directly, as a sum of Gaussians around CENTRES quantiles of the reference, with weights
(H + RIDGE I)^-1 h; the distance is 2 w h - w H w (Sugiyama et al. 2013; as a change detector Bu, Alippi and Zhao
2016). Values are in deviations of the reference.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.windowed import To, detector, width

Array = NDArray[np.float64]

CENTRES, WIDTH, RIDGE = 20, 0.5, 0.1


def distance(reference: Array) -> To:
    scale = width(reference)
    middle = float(np.median(reference))
    centres = (np.quantile(reference, (np.arange(CENTRES) + 0.5) / CENTRES) - middle) / scale
    overlap = WIDTH * np.sqrt(np.pi) * np.exp(-((centres[:, None] - centres) ** 2) / (4 * WIDTH**2))
    solve = np.linalg.inv(overlap + RIDGE * np.eye(CENTRES))
    form = 2 * solve - solve @ overlap @ solve

    def features(values: Array) -> Array:
        apart = ((values - middle) / scale)[..., None] - centres
        apart *= apart
        apart *= -0.5 / WIDTH**2
        return np.asarray(np.exp(apart, out=apart).mean(axis=-2))

    expected = features(reference)

    def to(windows: Array) -> Array:
        h = features(windows) - expected
        return np.asarray(np.maximum(np.einsum("ci,ij,cj->c", h, form, h), 0.0))

    return to


lsdd = detector("lsdd", distance, free=False, power=1)
