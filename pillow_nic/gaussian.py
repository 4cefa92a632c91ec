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
_TOGETHER = 1 << 18  # samples that a CPU blurs at once: what is made of them stays near a core


class Blur(torch.autograd.Function):
    """Means of a Gaussian window at each place where it fits. Its gradient is the same of the gradient."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, size: int) -> Tensor:
        ctx.size = size
        return _blurred(planes, size, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _blurred(gradients[0], ctx.size, ctx.size - 1), None


def _blurred(planes: Tensor, size: int, margin: int) -> Tensor:
    """With a margin of zeros around each plane."""
    height, width = (side + 2 * margin for side in planes.shape[-2:])
    separate = planes.reshape(-1, *planes.shape[-2:])
    blurred = planes.new_empty(len(separate), height - size + 1, width - size + 1)
    together = max(1, _TOGETHER // (height * width)) if planes.device.type == "cpu" else len(separate)
    for first in range(0, len(separate), together):
        part = separate[first : first + together]
        blurred[first : first + together] = _products(F.pad(part, (margin,) * 4) if margin else part, size)
    return blurred.view(*planes.shape[:-2], *blurred.shape[1:])


def _products(planes: Tensor, size: int) -> Tensor:
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
