"""Winograd's convolutions: what torch's give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pillow_nic import winograd, workers
from pillow_nic.blocks import Conv2d, ResidualBlock, SlimConv2d


def noise(*shape: int, seed: int = 1) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else drawn


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    def then(sums: Tensor, pictures: slice) -> Tensor:
        return sums + bias

    return winograd.convolve(x, winograd.filters(weight), then, len(bias))


# batch, channels, outputs, height, width
SHAPES = [
    (1, 24, 16, 32, 32),
    (1, 5, 7, 33, 18),
    (3, 8, 8, 7, 9),
    (2, 3, 4, 4, 70),
    (1, 4, 4, 90, 3),
    (1, 2, 3, 1, 1),
    (5, 16, 8, 40, 60),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_convolution_is_that_of_torch(shape: tuple[int, ...]) -> None:
    batch, channels, outputs, height, width = shape
    x, weight = noise(batch, channels, height, width), noise(outputs, channels, 3, 3, seed=2)
    bias = noise(outputs, seed=3)
    with torch.inference_mode():
        found = convolved(x, weight, bias)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last) or found.shape[1] == 1
    deviation = 3 * channels**0.5
    assert (found - expected).abs().max() < 5e-5 * deviation


@pytest.mark.parametrize("shape", SHAPES)
def test_strips_cover_all_rows_once_and_end_with_whole_tiles(shape: tuple[int, ...]) -> None:
    batch, _, _, height, width = shape
    count = np.zeros((batch, height), int)
    for strip in winograd.strips(batch, height, width):
        count[strip.pictures, strip.top : strip.bottom] += 1
        assert strip.top % winograd.SIDE == 0
        assert strip.bottom % winograd.SIDE == 0 or strip.bottom == height
        tiles = -(-(strip.bottom - strip.top) // winograd.SIDE) * -(-width // winograd.SIDE)
        tiles *= strip.pictures.stop - strip.pictures.start
        assert tiles <= max(winograd.TILES, -(-width // winograd.SIDE))
    assert (count == 1).all()


def test_threads_change_nothing() -> None:
    x, weight, bias = noise(2, 16, 70, 90), noise(24, 16, 3, 3, seed=2), noise(24, seed=3)
    one, *others = (
        workers.each(lambda _: convolved(x, weight, bias), [0], threads)[0] for threads in (1, 2, 3, 7)
    )
    for other in others:
        torch.testing.assert_close(other, one, rtol=0, atol=0)


def test_only_what_it_suits_is_convolved_so() -> None:
    x = noise(1, 4, 16, 16)
    assert not winograd.suits(x)  # gradients may be asked for
    with torch.inference_mode():
        assert winograd.suits(x)
        assert winograd.suits(noise(1, 4, 15, 14))
        assert not winograd.suits(x.bfloat16())
        assert not winograd.suits(x.to("meta"))
        assert not winograd.suits(noise(1, 4, 8, 8))  # few tiles
        assert not winograd.suits(noise(1, 4, 2, 500))  # half empty ones


@pytest.mark.parametrize("points", [[0.7], [0.7, 1.0, 0.2]])
@pytest.mark.parametrize("rank", [None, 4])
def test_blocks_are_the_same_with_and_without(rank: int | None, points: list[float]) -> None:
    block = ResidualBlock(8, 12, 2, rank=rank).to(memory_format=torch.channels_last)
    torch.manual_seed(4)
    for conv in block.modules():
        if isinstance(conv, Conv2d):
            conv.start()
    torch.nn.init.normal_(block.conditioning.scale)
    torch.nn.init.normal_(block.conditioning.shift)
    x, point = noise(len(points), 8, 17, 50), torch.tensor(points)
    with torch.no_grad():
        expected = block(x, point)
    assert block.conv1._filters is None
    with torch.inference_mode():
        found = block(x, point)
    assert block.conv1._filters is not None
    assert (found.data_ptr() == x.data_ptr()) == (rank is not None)  # written over
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_filters_follow_the_weights() -> None:
    conv, x = SlimConv2d(4, 4, 3, padding=1), noise(1, 4, 16, 16)
    conv.start()
    for factor in (1.0, 3.0):
        with torch.no_grad():
            conv.weight.mul_(factor)
            expected = conv(x)
        with torch.inference_mode():
            torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-4)
    conv.load_state_dict({k: -v for k, v in conv.state_dict().items()}, assign=True)
    with torch.inference_mode():
        torch.testing.assert_close(conv(x), -expected, rtol=0, atol=1e-4)
