"""Corruptions of images in five severities, from one that is hardly seen to one that leaves little.

Images are `[n, channels, height, width]` from 0 to 1; what a corruption drives beyond is cut off, as by a sensor. The
kinds are those of Hendrycks and Dietterich ("Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019) that make sense on a few pixels, and two of sensors; the strengths are for images of 8 x 8.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float32]
SEVERITIES = (1, 2, 3, 4, 5)


def noise(images: Array, deviation: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Normal, on each pixel by itself."""
    return images + rng.normal(0, deviation, images.shape)


def blur(images: Array, width: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian, of `width` pixels."""
    return np.asarray(gaussian_filter(images.astype(np.float64), (0, 0, width, width), mode="nearest"))


def contrast(images: Array, factor: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Pixels move towards their image's mean."""
    mean = images.mean((1, 2, 3), keepdims=True, dtype=np.float64)
    return np.asarray(mean + factor * (images - mean))


def brightness(images: Array, offset: float, rng: np.random.Generator) -> NDArray[np.float64]:
    return images.astype(np.float64) + offset


def occlusion(images: Array, side: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A grey square of `side` pixels somewhere on each image."""
    size, (count, _, height, width) = int(side), images.shape
    top, left = (rng.integers(0, extent - size + 1, (count, 1)) for extent in (height, width))
    row, column = np.arange(height), np.arange(width)
    inside = ((row >= top) & (row < top + size))[:, :, None] & ((column >= left) & (column < left + size))[:, None, :]
    return np.where(inside[:, None], 0.5, images.astype(np.float64))


def quantisation(images: Array, levels: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Cut down to one of `levels` values, as a coarse converter does."""
    return np.minimum(np.floor(images.astype(np.float64) * levels), levels - 1) / levels


CORRUPTIONS: dict[str, tuple[Callable[[Array, float, np.random.Generator], NDArray[np.float64]], tuple[float, ...]]] = {
    "noise": (noise, (0.1, 0.2, 0.3, 0.45, 0.6)),
    "blur": (blur, (0.4, 0.5, 0.6, 0.7, 0.85)),
    "contrast": (contrast, (0.8, 0.7, 0.6, 0.5, 0.35)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "occlusion": (occlusion, (1, 2, 3, 4, 5)),
    "quantisation": (quantisation, (6, 5, 4, 3, 2)),
}
"""Each, and its strength in each severity."""


def corrupt(images: Array, kind: str, severity: int, rng: np.random.Generator) -> Array:
    """The images under a corruption. Raises KeyError on an unknown kind, IndexError on a severity above 5."""
    apply, strengths = CORRUPTIONS[kind]
    return np.clip(apply(images, strengths[severity - 1], rng), 0.0, 1.0).astype(np.float32)
