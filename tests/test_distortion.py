"""PSNR and MS-SSIM: against another implementation, for pictures of any size, whole and in strips."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pictures import pixels, whole_photo
from pytorch_msssim import ms_ssim as reference
from torch import Tensor

from pillow_nic import distortion
from pillow_nic.distortion import Pixels


def noisy(picture: Pixels, strength: float = 9) -> Pixels:
    noise = np.random.default_rng(7).normal(0, strength, picture.shape)
    return np.clip(picture + noise, 0, 255).round().astype(np.uint8)


def tensor(picture: Pixels) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("shape", [(161, 200), (177, 163), (300, 431), (384, 512)])
def test_ms_ssim_is_that_of_pytorch_msssim(shape: tuple[int, int]) -> None:
    before = whole_photo()[: shape[0], : shape[1]]
    after = noisy(before)
    x, y = tensor(before), tensor(after)
    expected = reference(x, y, data_range=1.0).item()
    assert distortion.Similarity(x)(y).item() == pytest.approx(expected, abs=1e-6)
    assert distortion.similarity(before, after, 2) == pytest.approx(expected, abs=1e-6)


def test_gradient_of_ms_ssim_is_that_of_pytorch_msssim() -> None:
    before = whole_photo()[:176, :176]
    gradients = []
    for similarity in (
        lambda a, b: distortion.Similarity(a)(b),
        lambda a, b: reference(b, a, data_range=1.0),
    ):
        y = tensor(noisy(before)).requires_grad_(True)
        similarity(tensor(before), y).sum().backward()
        assert y.grad is not None
        gradients.append(y.grad)
    scale = gradients[1].abs().max().item()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4 * scale)


def test_strips_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pixels(size=(201, 187))
    after = noisy(before)
    whole = distortion.similarity(before, after, 1), distortion.psnr(before, after)
    monkeypatch.setattr(distortion, "_STRIP", 201 * 11)
    assert distortion.similarity(before, after, 2) == pytest.approx(whole[0], abs=1e-7)
    assert distortion.psnr(before, after) == whole[1]


@pytest.mark.parametrize(
    ("size", "scales"),
    [((160, 300), 4), ((41, 41), 3), ((11, 90), 1), ((10, 3), 1), ((1, 1), 1), ((2, 7), 1)],
)
def test_small_pictures_have_fewer_scales(size: tuple[int, int], scales: int) -> None:
    before = pixels(size=size)
    after = noisy(before, 30)
    assert distortion.scales(size[1], size[0]) == scales
    found = distortion.Similarity(tensor(before))(tensor(after)).item()
    assert 0 < found < 1
    assert distortion.similarity(before, after, 1) == pytest.approx(found, abs=1e-6)
    assert distortion.similarity(before, before, 1) == pytest.approx(1, abs=1e-5)


def test_losses() -> None:
    before = whole_photo()[:192, :192]
    x, y = tensor(before), tensor(noisy(before))
    mse = 255**2 * (x - y).square().mean().item()
    assert distortion.Distortion(distortion.MIXTURES["psnr"], x)(y).tolist() == pytest.approx([mse])
    expected = 0.9 * 1270 * (1 - reference(x, y, data_range=1.0).item()) + 0.1 * mse
    assert distortion.Distortion(distortion.MIXTURES["ms-ssim"], x)(y).tolist() == pytest.approx(
        [expected], rel=1e-3
    )


def test_psnr_is_over_what_can_be_seen() -> None:
    before = pixels(size=(40, 30))
    after = before.copy()
    alpha = np.full((30, 40), 255, np.uint8)
    assert distortion.psnr(before, after) == math.inf
    after[0] ^= 1
    assert distortion.psnr(before, after) == pytest.approx(10 * math.log10(255**2 * 30))
    alpha[0, 10:] = 0
    assert distortion.psnr(before, after, alpha) == pytest.approx(
        10 * math.log10(255**2 * (30 - 30 / 40) * 4)
    )
    alpha[0] = 0
    assert distortion.psnr(before, after, alpha) == math.inf


def test_decibels() -> None:
    assert distortion.decibels(0.99) == pytest.approx(20)
    assert distortion.decibels(1.0) == math.inf
