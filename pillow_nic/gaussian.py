"""Means of a Gaussian window, of which structural similarity is made."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
"""Side of the window."""
_SIGMA = 1.5
_BLOCK = 32  # places along a line whose means one row of a matrix product gives


class Blur(torch.autograd.Function):
    """Means of a Gaussian window at each place where it fits. Its gradient is the same of the gradient."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, size: int) -> Tensor:
        ctx.size = size
        return _blurred(planes, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _blurred(F.pad(gradients[0], (ctx.size - 1,) * 4), ctx.size), None


def _blurred(planes: Tensor, size: int) -> Tensor:
    """By products with a band of the window's weights, which take a twentieth of a convolution's time: along
    all rows of all planes as one line, then down them as one column, without what lies across their ends."""
    height, width = planes.shape[-2:]
    rows = planes.numel() // width
    distance = torch.arange(size, dtype=planes.dtype, device=planes.device) - size // 2
    window = torch.exp(-(distance**2) / (2 * _SIGMA**2))
    band = F.pad((window / window.sum()).expand(_BLOCK, -1), (0, _BLOCK))
    band = band.flatten()[: _BLOCK * (_BLOCK + size - 1)].reshape(_BLOCK, -1)  # each row one further right

    def blocks(line: Tensor) -> Tensor:
        line = F.pad(line, (0,) * (2 * line.dim() - 1) + (-len(line) % _BLOCK + size - 1,))
        return line.unfold(0, _BLOCK + size - 1, _BLOCK)

    line = (blocks(planes.reshape(-1)) @ band.T).flatten()[: rows * width]
    column = (band @ blocks(line.view(rows, width)).transpose(1, 2)).flatten(0, 1)[:rows]
    return column.view(planes.shape)[..., : height - size + 1, : width - size + 1]
