"""Maximum mean discrepancy: how far apart the mean features of two windows are, in the space of a Gaussian kernel.

The mean of k within each window, less twice that between them (Gretton et al. 2012, equation 5, biased). The width of
the kernel is the median distance within the reference, where that is not 0.

exp(-x^2 / 2) is the mean of cos(w x) over w of N(0, 1), and so that sum is the mean, over w, of the squared modulus
of the difference of both windows' mean exp(i w x) (Bochner; Rahimi and Recht 2007 draw w at random). Here w is a grid
of FREQUENCIES, STEP apart, which gives the kernel to 1e-5 within REACH of the reference's median; values beyond are
pulled in to there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.drift.windowed import To, detector, width

Array = NDArray[np.float64]

FREQUENCIES, STEP = 16, 0.3
REACH = 8.0
"""In widths of the kernel."""

GRID = STEP * np.arange(1, FREQUENCIES + 1)
WEIGHTS = 2 * STEP * np.exp(-0.5 * GRID**2) / np.sqrt(2 * np.pi)


def distance(reference: Array) -> To:
    apart = np.abs(reference[:, None] - reference)
    unit = max(float(np.median(apart)), 1e-3 * width(reference))
    middle = float(np.median(reference))

    def features(values: Array) -> NDArray[np.complex128]:
        near = np.clip((values - middle) * (STEP / unit), -STEP * REACH, STEP * REACH)
        base = np.exp(1j * near)[..., None]
        # Powers instead of so many sines.
        return np.asarray(np.cumprod(np.broadcast_to(base, (*near.shape, FREQUENCIES)), axis=-1).mean(axis=-2))

    expected = features(reference)

    def to(windows: Array) -> Array:
        difference = features(windows) - expected
        return np.asarray((difference.real**2 + difference.imag**2) @ WEIGHTS)

    return to


mmd = detector("mmd", distance, free=False, power=1)
