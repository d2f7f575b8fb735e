"""Views of images against the colour model, the map and the blur computed elsewhere; their draws; and in a step."""

from __future__ import annotations

import colorsys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform
from torch import Tensor, nn

import trimtab.adapters
from trimtab.exporters import MethodChoice, export
from trimtab.exporters.steps import images
from trimtab.runtime.errors import ExportError

torch.set_num_threads(1)


def drawn(size: int = 12, count: int = 3) -> Tensor:
    x = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    x[0, :, :3] = 0.4  # greys
    x[1, 1] = x[1, 2]  # two channels are the least
    return x


NAMES = ("brightness", "contrast", "saturation", "hue", "gamma")


def changed(x: np.ndarray, what: str, size: float) -> np.ndarray:
    """One image `[3, H, W]`, as photographs are usually edited."""
    grey = np.tensordot([0.2989, 0.587, 0.114], x, 1)
    if what == "hue":
        rows = [colorsys.rgb_to_hsv(*pixel) for pixel in x.reshape(3, -1).T]
        turned = [colorsys.hsv_to_rgb((h + size) % 1.0, s, v) for h, s, v in rows]
        return np.array(turned).T.reshape(x.shape)
    if what == "gamma":
        return x**size
    other = {"brightness": 0.0, "contrast": grey.mean(), "saturation": grey}[what]
    return np.clip(size * x + (1 - size) * other, 0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_colours_change_one_after_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes, turns = rng.uniform([0.6, 0.7, 0.5, -0.06, 0.7], [1.4, 1.3, 1.5, 0.06, 1.3]), rng.permutation(5)
    x = drawn()
    wanted = x.double().numpy()
    for k in np.argsort(turns):
        wanted = np.stack([changed(image, NAMES[k], float(sizes[k])) for image in wanted])
    found = images.coloured(x, torch.from_numpy(sizes).float(), torch.from_numpy(turns).float())
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("degrees", "shift", "scale", "width"),
    [(0.0, (0, 0), 1.0, 0.001), (15.0, (1, -1), 0.9, 0.5), (-7.0, (0, 2), 1.1, 0.3)],
)
def test_moves_and_blurs(degrees: float, shift: tuple[int, int], scale: float, width: float) -> None:
    x = drawn(13)
    angle, middle = np.radians(degrees), (x.shape[2] - 1) / 2
    # From a place in the new image to one in the old, (row, column): axes that point down and right.
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    offset = middle - matrix @ (middle + images.RADIUS + np.array(shift))
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / width) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    size = x.shape[2]
    wanted = np.zeros(x.shape)
    for n, c in np.ndindex(*x.shape[:2]):
        wide = affine_transform(x[n, c].double().numpy(), matrix, offset, (size + 4, size + 4), order=1, mode="nearest")
        for i, j in np.ndindex(5, 5):
            wanted[n, c] += kernel[i, j] * wide[i : i + size, j : j + size]
    given = torch.tensor(degrees), torch.tensor(shift).float(), torch.tensor(scale)
    found = images.blurred(images.moved(x, *given), torch.tensor(width))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def test_draws_fill_their_ranges_and_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    moves: list[Tensor] = []

    def coloured(x: Tensor, sizes: Tensor, order: Tensor) -> Tensor:
        seen.append((sizes, order))
        return x

    def moved(x: Tensor, degrees: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        moves.append(torch.cat([degrees[None], shift, scale[None]]))
        return torch.nn.functional.pad(x, [2, 2, 2, 2], "replicate")

    monkeypatch.setattr(images, "coloured", coloured)
    monkeypatch.setattr(images, "moved", moved)
    x = torch.linspace(0.2, 0.8, 16).expand(1, 3, 4, 16)
    views = torch.cat([images.view(x, torch.tensor(n), 3) for n in range(600)])
    sizes, orders, moves_ = torch.stack([s for s, _ in seen]), torch.stack([o for _, o in seen]), torch.stack(moves)
    low, high = torch.tensor(images.RANGES)[:5].T
    share = (sizes - low) / (high - low)
    assert float(share.min()) >= 0
    assert float(share.max()) <= 1
    np.testing.assert_allclose(share.mean(0), 0.5, atol=0.05)
    np.testing.assert_allclose(share.std(0), 12**-0.5, atol=0.03)
    assert (orders.sort(1).values == torch.arange(5)).all()
    np.testing.assert_allclose(orders.mean(0), 2.0, atol=0.25)
    assert moves_[:, 0].abs().max() <= 15
    assert set(moves_[:, 2].tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}  # an eighth of 16 pixels, whole ones
    assert 0.9 <= float(moves_[:, 3].min()) <= float(moves_[:, 3].max()) <= 1.1
    mirrored = (views[:, 0, 0, 0] > views[:, 0, 0, -1]).float()
    assert float(mirrored.mean()) == pytest.approx(0.5, abs=0.07)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def test_a_step_averages_views_of_the_image_in_sensor_units(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Small().eval(), drawn(16, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        choice = MethodChoice("cotta", views="images")
        export(
            model,
            x[:2],
            [(x, None)],
            tmp_path / "b",
            name="m",
            classes=list("abcd"),
            mean=MEAN,
            std=STD,
            methods=[choice],
        )
    adapter = trimtab.adapters.load(tmp_path / "b", "cotta", confidence=1.0, augmentations=3.0, threads=1)
    y = adapter.step(x.numpy())
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))
    norm = model.norm.train()
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    with torch.no_grad():
        wanted = sum(model((images.view(x, torch.tensor(0), 3 * k) - mean) / std) for k in range(3)) / 3
    np.testing.assert_allclose(y, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("choice", "shape", "why"),
    [
        (MethodChoice("cotta", views="images"), (1, 16, 16), "no image of three colours"),
        (MethodChoice("cotta", views="sounds"), (3, 16, 16), "there are 'images' only"),
        (MethodChoice("tent", views="images"), (3, 16, 16), "tent looks at none"),
    ],
)
def test_what_has_no_such_views(choice: MethodChoice, shape: tuple[int, ...], why: str, tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    x = torch.rand(4, *shape)
    with pytest.raises(ExportError, match=why):
        export(model, x[:2], [(x, None)], tmp_path / "b", name="m", classes=["a", "b"], methods=[choice])
