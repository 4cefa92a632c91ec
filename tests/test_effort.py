"""Rate–distortion optimised rounding: each choice is the cheaper one, and files get smaller."""

from __future__ import annotations

import numpy as np
import torch
from pictures import psnr, whole_photo

from pillow_nic import codec
from pillow_nic.entropy_model import RateDistortionRounding


def test_takes_the_cheaper_of_the_two_integers() -> None:
    # one table: 0 costs 1 bit, ±1 four, ±2 seven; an error of one step costs six bits in one channel, none
    # in the other
    costs = torch.tensor([[7.0, 4.0, 1.0, 4.0, 7.0]])
    v = (
        torch.tensor([0.4, 0.6, 0.74, 0.76, -0.6, -0.9, 1.6, 1.9, 2.4, 3.7])
        .reshape(1, 1, 1, -1)
        .repeat(1, 2, 1, 1)
    )
    indices = torch.zeros_like(v, dtype=torch.int64)
    weight = torch.tensor([6.0, 0.0]).reshape(1, 2, 1, 1)
    rounding = RateDistortionRounding(costs, indices, weight)
    rounded = rounding(v, slice(0, 2), torch.zeros_like(v))[0, :, 0].tolist()
    # 3 bits saved against 6·((v − inner)² − (v − nearest)²) = 6·(2·|v − inner| − 1): the threshold is 0.75
    assert rounded[0] == [0, 0, 0, 1, 0, -1, 1, 2, 2, 4]
    # without a weight every symbol within reach goes one step towards zero; 4 lies beyond the table of costs
    assert rounded[1] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 4]


def test_costs_are_those_of_the_tables() -> None:
    model = codec.weights.load(device=torch.device("cpu"))
    number = len(model.tables) // 2
    frequencies, lo = model.tables.table(number)
    cost = model.symbol_costs[number, model.symbol_costs.shape[1] // 2].item()
    assert np.isclose(cost, 16 - np.log2(frequencies[1 + lo]))


def test_smaller_files_at_little_loss() -> None:
    pixels = whole_photo()[:192, :256]
    plain, chosen = (codec.encode(pixels, quality=0.5, effort=effort) for effort in (0, 1))
    assert len(chosen) < len(plain)

    assert psnr(codec.decode(plain), pixels) - 1 < psnr(codec.decode(chosen), pixels)
    assert codec.encode(pixels, quality=0.5) == chosen
