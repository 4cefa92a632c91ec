"""How far a picture is from its original: the loss of each tune, PSNR and MS-SSIM.

MS-SSIM as in Wang et al., "Multiscale structural similarity", 2003: five scales of an 11×11 Gaussian window,
mean over R, G and B. Pictures of 160 pixels or less along a side have as many scales as fit, down to one with
a window as large as the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import workers

MS_SSIM_SCALE = 1270.0
"""What 1 − MS-SSIM = 1 counts as, in 8-bit levels²: at this ratio of their λ, CompressAI's models for MSE and
for MS-SSIM have about the same rates, so that a rate point means the same for both."""
MSE_SHARE = 0.1
"""What is left of the MSE beside MS-SSIM, which hardly sees a shift of colours."""

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_LEAST = 1e-4  # of a scale's similarity: a power of it has a gradient
_STRIP = 1 << 19  # samples of one colour that are compared at once

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def loss(tune: str, x: Tensor, x_hat: Tensor) -> Tensor:
    """What a tune minimises beside the rate, (B,) in 8-bit levels², for pictures (B, 3, H, W) in 0…1."""
    mse = (x_hat - x).square().mean((1, 2, 3)) * 255**2
    if tune == "psnr":
        return mse
    return (1 - MSE_SHARE) * MS_SSIM_SCALE * (1 - ms_ssim(x, x_hat)) + MSE_SHARE * mse


def ms_ssim(x: Tensor, x_hat: Tensor) -> Tensor:
    """MS-SSIM of each picture, (B,)."""
    found: list[Tensor] = []
    for left in reversed(range(scales(x.shape[2], x.shape[3]))):
        if found:
            x, x_hat = (F.avg_pool2d(_padded(t), 2) for t in (x, x_hat))
        found.append(_compare(x, x_hat, _window(x.shape[2], x.shape[3]))[left > 0].mean((2, 3)))
    return _joined(found)


def scales(height: int, width: int) -> int:
    """How many scales fit a picture."""
    return sum(min(height, width) > (_WINDOW - 1) << scale for scale in range(len(_WEIGHTS))) or 1


def _joined(by_scale: Sequence[Tensor]) -> Tensor:
    """The scales' similarities, (B, 3) each, as one, (B,)."""
    weights = _WEIGHTS[: len(by_scale)]
    shares = zip(by_scale, weights, strict=True)
    powers = [found.clamp_min(_LEAST) ** (weight * sum(_WEIGHTS) / sum(weights)) for found, weight in shares]
    return torch.stack(powers).prod(0).mean(1)


def _window(height: int, width: int) -> int:
    """Side of the window in a picture."""
    return min(_WINDOW, *(side - 1 + side % 2 for side in (height, width)))


def _compare(x: Tensor, x_hat: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """SSIM, and its part that compares structure, at each place of a window of that size."""
    distance = torch.arange(size, dtype=x.dtype, device=x.device) - size // 2
    window = torch.exp(-(distance**2) / (2 * _SIGMA**2))
    window = window / window.sum()

    maps = torch.cat([x, x_hat, x * x + x_hat * x_hat, x * x_hat]).flatten(0, 1)[:, None]
    maps = F.conv2d(F.conv2d(maps, window[None, None, :, None]), window[None, None, None])
    a, b, squares, products = maps.reshape(-1, x.shape[1], *maps.shape[2:]).chunk(4)
    ab, both = a * b, a * a + b * b
    structure = (2 * (products - ab) + _C2) / (squares - both + _C2)
    return (2 * ab + _C1) / (both + _C1) * structure, structure


def _padded(x: Tensor) -> Tensor:
    """Even sides, to be halved; an odd one begins with a zero, as in other implementations."""
    return F.pad(x, (x.shape[3] % 2, 0, x.shape[2] % 2, 0))


# -------------------------------------------------------------------------------- whole pictures, any size


def psnr(before: Pixels, after: Pixels, alpha: Pixels | None = None) -> float:
    """In dB over the colours H×W×3 of all pixels that are not wholly transparent."""
    total, count = 0, 0
    for start in range(0, len(before), rows := max(1, _STRIP // before.shape[1])):
        strip = slice(start, start + rows)
        error = np.square(before[strip].astype(np.int32) - after[strip])
        if alpha is not None:
            error = error[alpha[strip] > 0]
        total, count = total + int(error.sum(dtype=np.int64)), count + error.size
    return 10 * math.log10(255**2 * count / total) if total else math.inf


def similarity(before: Pixels, after: Pixels, threads: int) -> float:
    """MS-SSIM of colours H×W×3."""
    rows = max(2, _STRIP // before.shape[1] // 2 * 2)

    def compare(start: int) -> Tensor:
        a, b = (_floats(t[:, :, start : start + rows + size - 1]) for t in pair)
        return _compare(a, b, size)[not last].sum((2, 3), dtype=torch.float64)

    def halved(t: Tensor) -> Tensor:
        t = _padded(t)
        strips = range(0, t.shape[2], rows)
        halves = workers.each(lambda i: F.avg_pool2d(_floats(t[:, :, i : i + rows]), 2), strips, threads)
        return torch.cat(halves, 2)

    pair = [torch.from_numpy(np.ascontiguousarray(p)).permute(2, 0, 1)[None] for p in (before, after)]
    found: list[Tensor] = []
    for left in reversed(range(scales(*before.shape[:2]))):
        if found:
            pair = [halved(t) for t in pair]
        last, size = not left, _window(*pair[0].shape[2:])
        height, width = (side - size + 1 for side in pair[0].shape[2:])
        found.append(
            torch.stack(workers.each(compare, range(0, height, rows), threads)).sum(0) / (height * width)
        )
    return float(_joined(found))


def _floats(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x


def decibels(similarity: float) -> float:
    return -10 * math.log10(1 - similarity) if similarity < 1 else math.inf
