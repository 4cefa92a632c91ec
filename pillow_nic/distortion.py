"""How far a picture is from its original: the loss of each tune, PSNR and MS-SSIM.

MS-SSIM as in Wang et al., "Multiscale structural similarity", 2003: five scales of an 11×11 Gaussian window,
mean over R, G and B. Pictures of 160 pixels or less along a side have as many scales as fit, down to one with
a window as large as the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import workers
from .gaussian import WINDOW, Blur
from .visual import Light, PlainError, WeightedSum

MS_SSIM_SCALE = 1270.0
"""What 1 − MS-SSIM = 1 counts as, in 8-bit levels²: at this ratio of their λ, CompressAI's models for MSE and
for MS-SSIM have about the same rates, so that a rate point means the same for both."""


class Mixture(NamedTuple):
    """What is minimised: MSE in 8-bit levels², 1 − MS-SSIM, SSIMULACRA2's weighted sum, and the error of
    plain places in XYB times 255², each times its factor. A share of MSE is left to all, as the others hardly
    see a shift of colours."""

    mse: float
    ms_ssim: float = 0.0
    ssimulacra2: float = 0.0
    plain: float = 0.0


MIXTURES = {
    "psnr": Mixture(1.0),
    "ms-ssim": Mixture(0.1, 0.9 * MS_SSIM_SCALE),
    "visual": Mixture(0.1, 0.45 * MS_SSIM_SCALE, 2.0, 1.2),
}
"""What each tune's model is trained for."""
REFINED = MIXTURES | {"ms-ssim": MIXTURES["ms-ssim"]._replace(ssimulacra2=0.4)}
"""What a writer's refinement minimises. MS-SSIM alone is paid for with errors that it does not see: of files
of effort 3 (six validation crops at quality 0.5), at equal MS-SSIM 17.9 % of the bytes and at equal
SSIMULACRA2 3.2 % go without the share of its sum, 17.3 and 22.9 % with 0.4, 16.9 and 26.6 % with 0.8."""

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_C1, _C2 = 0.01**2, 0.03**2
_LEAST = 1e-4  # of a scale's similarity: a power of it has a gradient
_STRIP = 1 << 19  # samples of one colour that are compared at once

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Distortion:
    """What is minimised beside the rate, against an original (B, 3, H, W) in 0…1 that is looked at once."""

    def __init__(self, mixture: Mixture, x: Tensor) -> None:
        self.x, self.mixture = x, mixture
        self.similarity = Similarity(x) if self.mixture.ms_ssim else None
        light = Light.of(x) if self.mixture.ssimulacra2 or self.mixture.plain else None
        self.weighted_sum = WeightedSum(light) if light and self.mixture.ssimulacra2 else None
        self.plain_error = PlainError(light) if light and self.mixture.plain else None

    def __call__(self, x_hat: Tensor) -> Tensor:
        """(B,), in 8-bit levels²."""
        found = self.mixture.mse * (x_hat - self.x).square().mean((1, 2, 3)) * 255**2
        if self.similarity is not None:
            found = found + self.mixture.ms_ssim * (1 - self.similarity(x_hat))
        light = Light.of(x_hat) if self.weighted_sum or self.plain_error else None
        if light and self.weighted_sum:
            found = found + self.mixture.ssimulacra2 * self.weighted_sum(light)
        if light and self.plain_error:
            found = found + self.mixture.plain * 255**2 * self.plain_error(light)
        return found


class Similarity:
    """MS-SSIM with an original (B, 3, H, W) in 0…1."""

    def __init__(self, x: Tensor) -> None:
        self.scales = [_Scale(x)]
        for _ in range(scales(x.shape[2], x.shape[3]) - 1):
            self.scales.append(_Scale(_halved(self.scales[-1].x)))

    def __call__(self, x_hat: Tensor) -> Tensor:
        """(B,)."""
        *larger, last = self.scales
        found: list[Tensor] = []
        for scale in larger:
            found.append(scale.structure(x_hat).mean((2, 3)))
            x_hat = _halved(x_hat)
        return _joined([*found, last.similarity(x_hat).mean((2, 3))])


def scales(height: int, width: int) -> int:
    """How many scales fit a picture."""
    return sum(min(height, width) > (WINDOW - 1) << scale for scale in range(len(_WEIGHTS))) or 1


def _joined(by_scale: Sequence[Tensor]) -> Tensor:
    """The scales' similarities, (B, 3) each, as one, (B,)."""
    weights = _WEIGHTS[: len(by_scale)]
    shares = zip(by_scale, weights, strict=True)
    powers = [found.clamp_min(_LEAST) ** (weight * sum(_WEIGHTS) / sum(weights)) for found, weight in shares]
    return torch.stack(powers).prod(0).mean(1)


def _window(height: int, width: int) -> int:
    """Side of the window in a picture."""
    return min(WINDOW, *(side - 1 + side % 2 for side in (height, width)))


class _Scale:
    """An original at one scale, and what a window sees of it at each place."""

    def __init__(self, x: Tensor, size: int | None = None) -> None:
        self.x, self.size = x, size or _window(x.shape[2], x.shape[3])
        self.mean, squares = Blur.apply(torch.stack([x, x * x]), self.size)  # type: ignore[no-untyped-call]
        self.square = self.mean * self.mean
        self.variance = squares - self.square

    def structure(self, x_hat: Tensor) -> Tensor:
        """The part of SSIM that compares structure."""
        return self._compare(x_hat)[0]

    def similarity(self, x_hat: Tensor) -> Tensor:
        """SSIM."""
        structure, product, square = self._compare(x_hat)
        return (2 * product + _C1) / (self.square + square + _C1) * structure

    def _compare(self, x_hat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Structure, the product of both means, the square of the other's."""
        maps = torch.stack([x_hat, x_hat * x_hat, self.x * x_hat])
        mean, squares, products = Blur.apply(maps, self.size)  # type: ignore[no-untyped-call]
        product, square = self.mean * mean, mean * mean
        covariance, variances = products - product, self.variance + squares - square
        return (2 * covariance + _C2) / (variances + _C2), product, square


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(_padded(x), 2)


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
        scale = _Scale(a, size)
        return (scale.similarity if last else scale.structure)(b).sum((2, 3), dtype=torch.float64)

    def halved(t: Tensor) -> Tensor:
        t = _padded(t)
        strips = range(0, t.shape[2], rows)
        halves = workers.each(lambda i: F.avg_pool2d(_floats(t[:, :, i : i + rows]), 2), strips, threads)
        return torch.cat(halves, 2)

    writable = (np.require(pixels, requirements=["C", "W"]) for pixels in (before, after))  # or torch warns
    pair = [torch.from_numpy(pixels).permute(2, 0, 1)[None] for pixels in writable]
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
