"""SSIMULACRA2's weighted sum against the metric itself, and what texture hides."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pictures import pixels
from PIL import Image, ImageFilter
from torch import Tensor

from pillow_nic.bench.metrics import METRICS
from pillow_nic.visual import Light, PlainError, WeightedSum, score

MARGIN = 100
"""Pixels of grey around both pictures: what a window sees beyond an edge differs between implementations."""


def jpeg(im: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    im.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def red(im: Image.Image) -> Image.Image:
    return Image.merge("RGB", [im.getchannel(0).point(lambda v: v + 12), im.getchannel(1), im.getchannel(2)])


def framed(im: Image.Image) -> np.ndarray:
    canvas = Image.new("RGB", (im.width + 2 * MARGIN, im.height + 2 * MARGIN), "grey")
    canvas.paste(im, (MARGIN, MARGIN))
    return np.asarray(canvas)


def tensor(picture: np.ndarray) -> Tensor:
    return torch.tensor(picture).permute(2, 0, 1)[None] / 255


LossOf = type[WeightedSum] | type[PlainError]


def against(loss_of: LossOf, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss of pictures with this original."""
    loss = loss_of(Light.of(x))
    return lambda y: loss(Light.of(y))


@pytest.mark.parametrize(
    "change",
    [
        *(lambda im, q=q: jpeg(im, q) for q in (15, 50, 92)),
        lambda im: im.filter(ImageFilter.GaussianBlur(1)),
        lambda im: im.quantize(32).convert("RGB"),
        red,
    ],
    ids=["jpeg 15", "jpeg 50", "jpeg 92", "blur", "32 colours", "red"],
)
def test_score_is_the_metric(change: Callable[[Image.Image], Image.Image]) -> None:
    im = Image.fromarray(pixels(size=(280, 200)))
    before, after = framed(im), framed(change(im))
    weighted_sum = against(WeightedSum, tensor(before))(tensor(after)).item()
    assert score(weighted_sum) == pytest.approx(METRICS["ssimulacra2"].score(before, after), abs=0.8)


def test_each_picture_of_a_batch_has_its_own() -> None:
    x = torch.cat([tensor(pixels(size=(80, 64))), tensor(pixels(size=(80, 64))).flip(3)])
    y = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    both = against(WeightedSum, x)(y)
    for k in range(2):
        alone = against(WeightedSum, x[k : k + 1])(y[k : k + 1])
        torch.testing.assert_close(alone, both[k : k + 1], rtol=1e-3, atol=0)
    torch.testing.assert_close(against(WeightedSum, x)(x), torch.zeros(2), atol=1e-2, rtol=0)
    assert score(0.0) == 100


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (16, 16), (33, 7)])
def test_any_size(size: tuple[int, int]) -> None:
    x = tensor(pixels(size=(size[1], size[0])))
    assert against(WeightedSum, x)(x).item() == pytest.approx(0, abs=1e-2)
    assert against(WeightedSum, x)(1 - x).item() > 1


@pytest.mark.parametrize("loss_of", [WeightedSum, PlainError])
def test_gradient(loss_of: LossOf) -> None:
    x = tensor(pixels(size=(56, 48))).double()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = (x + 0.03 * noise).clamp(0.02, 0.98).requires_grad_()
    loss = against(loss_of, x)
    (gradient,) = torch.autograd.grad(loss(y).sum(), y)
    near = 1e-4 * gradient.abs().max().item()
    for seed in range(5):
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(y + 1e-6 * direction) - loss(y - 1e-6 * direction)).item() / 2e-6
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-3, abs=near)


def test_texture_hides_an_error() -> None:
    """The same noise weighs less in a texture than in a plain place, and more the plainer it is."""
    generator = torch.Generator().manual_seed(3)
    texture, noise = (torch.randn(1, 3, 64, 64, generator=generator) for _ in range(2))
    found = []
    for contrast in (0.0, 0.02, 0.1):
        x = (0.5 + contrast * texture).clamp(0, 1)
        found.append(against(PlainError, x)((x + 0.01 * noise).clamp(0, 1)).item())
        assert against(PlainError, x)(x).item() == 0
    assert found[0] > 2 * found[1] > 4 * found[2] > 0


def test_a_change_of_hue_weighs_more_than_its_squares() -> None:
    """Red for green, a grain that no luminance shows."""
    x = torch.full((1, 3, 32, 32), 0.5)
    grey = x + 0.02
    hue = x + torch.tensor([0.02, -0.012, 0.0])[:, None, None]
    assert against(PlainError, x)(hue).item() > 0.3 * against(PlainError, x)(grey).item()
