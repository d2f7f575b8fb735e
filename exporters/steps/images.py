"""Other views of images, as the authors of CoTTA take them (Wang et al. 2022) and after them those of PETAL, RMT and
RoTTA: the augmentations of Cohen and Giryes ("KATANA: Simple Post-Training Robustness Using Test Time Augmentations",
2021), on colours from 0 to 1.

In turn: brightness (factor 0.6 to 1.4), contrast (0.7 to 1.3), saturation (0.5 to 1.5), hue (-0.06 to 0.06 turns) and
gamma (0.7 to 1.3) in a random order; a rotation (-15 to 15 degrees), a shift (to an eighth of the image, by whole
pixels) and a scale (0.9 to 1.1), with the border's values beyond the image; a Gaussian blur of 5 x 5 pixels (0.001 to
0.5 wide); a reflection in half of the views; noise of deviation 0.005. All is drawn evenly and once for all images of a
batch, but for the noise. What leaves 0 to 1 is cut off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.exporters.steps.chance import normal, uniform

RANGES = ((0.6, 1.4), (0.7, 1.3), (0.5, 1.5), (-0.06, 0.06), (0.7, 1.3), (-15.0, 15.0), (0.9, 1.1), (0.001, 0.5))
"""Of brightness, contrast, saturation, hue, gamma; angle in degrees, scale, width of the blur."""
SHIFT = 1.0 / 8.0
"""Of the image's sides, at most: theirs is a sixteenth of an image that has been padded to twice its size."""
NOISE = 0.005
GREY = (0.2989, 0.587, 0.114)
RADIUS = 2
"""Of the blur, in pixels."""


def view(x: Tensor, count: Tensor, purpose: int | Tensor) -> Tensor:
    """Another view of `x [N, 3, H, W]`. `count`, `purpose`: see `chance.normal`; this purpose and the next are used."""
    drawn = uniform(16, count, 2 * purpose + 1000)  # as `normal` would take them
    ranges = torch.tensor(RANGES)
    places, sizes = drawn[:5], ranges[:, 0] + (ranges[:, 1] - ranges[:, 0]) * drawn[5:13]
    order = (places[None, :] < places[:, None]).to(x.dtype).sum(1)
    x = coloured(x.clamp(0.0, 1.0), sizes[:5], order)
    most = SHIFT * torch.tensor(x.shape[2:4], dtype=x.dtype)
    x = moved(x, sizes[5], torch.round((2.0 * drawn[13:15] - 1.0) * most), sizes[6])
    x = blurred(x, sizes[7])
    x = torch.where(drawn[15] < 0.5, x.flip(3), x)
    noise = normal(x.numel(), count, purpose + 1).reshape(x.shape)
    return (x + NOISE * noise).clamp(0.0, 1.0)


def coloured(x: Tensor, sizes: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation, hue and gamma of those `sizes [5]`, one after another: `order [5]` says when
    each comes, from 0 on. Every turn does all of them, those that it is not the turn of by nothing."""
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])
    for turn in range(5):
        own = order == turn
        brightness, contrast, saturation, hue, gamma = torch.where(own, sizes, neutral).unbind(0)
        grey = GREY[0] * x[:, :1] + GREY[1] * x[:, 1:2] + GREY[2] * x[:, 2:]
        towards = torch.where(own[1], grey.mean((1, 2, 3), keepdim=True), torch.where(own[2], grey, 0.0))
        kept = brightness * contrast * saturation
        x = (kept * x + (1.0 - kept) * towards).clamp(0.0, 1.0)
        x = torch.where(own[3], turned(x, hue), x)
        x = torch.where(own[4], x.clamp(min=1e-8) ** gamma, x)
    return x


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Colours `[N, 3, H, W]` of another hue, by HSV (Smith 1978): of value v, chroma c and hue h in sixths of a turn, a
    channel has v - c clamp(min(k, 4 - k), 0, 1) with k = (5, 3, 1) + h modulo 6."""
    red, green, blue = x.unbind(1)
    value, least = x.amax(1), x.amin(1)
    chroma = value - least
    some = torch.where(chroma > 0, chroma, 1.0)
    sixths = torch.where(
        value == red,
        (green - blue) / some,
        torch.where(value == green, 2.0 + (blue - red) / some, 4.0 + (red - green) / some),
    )
    whole = (sixths / 6.0 + turns)[:, None] + torch.tensor([5.0, 3.0, 1.0]).reshape(1, 3, 1, 1) / 6.0
    k = 6.0 * (whole - torch.floor(whole))
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0)


def moved(x: Tensor, degrees: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x [N, C, H, W]` turned around its middle, made `scale` times as large and shifted by `shift` (down, right)
    pixels, RADIUS more on each side, linear between pixels: what is at p comes from R(-degrees) (p - shift) / scale."""
    height, width = x.shape[2:]
    angle = degrees * (torch.pi / 180.0)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    down = (torch.arange(height + 2 * RADIUS) - RADIUS - (height - 1) / 2)[:, None] - shift[0]
    right = (torch.arange(width + 2 * RADIUS) - RADIUS - (width - 1) / 2)[None, :] - shift[1]
    row = (cos * down - sin * right + (height - 1) / 2).clamp(0.0, height - 1.0)
    column = (sin * down + cos * right + (width - 1) / 2).clamp(0.0, width - 1.0)
    top, left = torch.floor(row), torch.floor(column)
    below, beside = row - top, column - left
    flat = x.flatten(2)
    total = torch.zeros_like(x[:1, :1, :1, :1])
    for r, share_r in ((top, 1.0 - below), ((top + 1.0).clamp(max=height - 1.0), below)):
        for c, share_c in ((left, 1.0 - beside), ((left + 1.0).clamp(max=width - 1.0), beside)):
            place = (r * width + c).to(torch.int64).reshape(-1)
            total = total + flat.index_select(2, place).reshape(*x.shape[:2], *row.shape) * (share_r * share_c)
    return total


def blurred(x: Tensor, width: Tensor) -> Tensor:
    """`x [N, C, H + 2 RADIUS, W + 2 RADIUS]` under a Gaussian of that width, `[N, C, H, W]`."""
    apart = torch.arange(-RADIUS, RADIUS + 1).to(x.dtype) / width
    kernel = torch.exp(-0.5 * apart * apart)
    kernel = kernel / kernel.sum()
    for axis in (2, 3):
        size = x.shape[axis] - 2 * RADIUS
        x = sum(kernel[i] * x.narrow(axis, i, size) for i in range(2 * RADIUS + 1))  # type: ignore[assignment]
    return x
