"""Losses in XYB, the colours of JPEG XL: SSIMULACRA2's, and the error where no texture hides it.

Of SSIMULACRA2 (Sneyers, Cloudinary, 2022; version 2.1) it is the weighted sum that decides the score.

In five scales, each half of the one before in linear light, it compares the planes of XYB by a map of
dissimilar structure, and of edges that were added and that were lost. Of a map the mean counts, and the
4-norm, which its worst places decide."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .gaussian import WINDOW, Blur

_C2 = 0.0009
_ABSORBANCE = (0.30, 0.622, 0.078), (0.23, 0.692, 0.078), (0.24342268924547819, 0.20476744424496821, 0.5518)
_BIAS = 0.0037930732552754493
_FACTOR = 0.9562382616834844
_TEXTURE = 0.015**2
"""Variance of X and Y around a place, about four 8-bit levels, that halves the weight of an error there."""
_BLUE = 0.1  # the share of an error in B
_LEAST = 1e-4  # of a 4-norm: below, it counts less, so that its gradient is bounded

_Weights = dict[int, tuple[tuple[float, ...], tuple[float, ...]]]
# By scale and colour (X, Y, B): the weights of the means and of the 4-norms of the three maps. The sixth
# scale and all weights that are below 0.01 in the reference are left out: together they count less than 0.02.
_WEIGHTS: tuple[_Weights, ...] = (
    {1: ((0.0, 0.0, 0.0), (7.46689, 0.0, 17.4458))},
    {0: ((0.0, 0.0, 0.0), (1.10417, 0.0, 0.0)), 1: ((0.0, 0.0, 0.0), (6.68368, 0.0, 1.02789))},
    {0: ((0.0, 0.0, 0.0), (1.84225, 11.4412, 0.0)), 1: ((225.205, 0.0, 0.0), (19.2132, 0.0, 0.0))},
    {
        0: ((0.0, 0.0, 0.0), (1.87876, 10.9491, 0.0)),
        1: ((176.393, 0.0, 0.0), (24.433, 0.285208, 0.0)),
        2: ((0.0, 0.0, 0.0), (8.82698, 23.1924, 0.0)),
    },
    {
        0: ((0.0, 0.967794, 0.0), (0.0, 0.998177, 0.0)),
        1: ((0.0, 0.0, 0.0), (34.7791, 44.8356, 0.0)),
        2: ((95.108, 0.986398, 0.983438), (0.0, 171.267, 0.980786)),
    },
)


class PlainError:
    """The squared error in XYB of pictures with an original (B, 3, H, W) in 0…1, weighed by how plain its
    surroundings are: texture hides an error, as in Butteraugli (Alakuijala et al., Google, 2016)."""

    def __init__(self, x: Tensor) -> None:
        self.planes = _xyb(_linear(x), (0, 1, 2))
        seen = self.planes[:, :2]
        mean, squares = _blurred(seen, seen.square())
        variance = (squares - mean.square()).clamp_min(0).sum(1, keepdim=True)
        self.weights = _TEXTURE / (_TEXTURE + variance) * x.new_tensor((1.0, 1.0, _BLUE))[:, None, None]

    def __call__(self, x_hat: Tensor) -> Tensor:
        """(B,)."""
        error = _xyb(_linear(x_hat), (0, 1, 2)) - self.planes
        return (self.weights * error.square()).sum(1).mean((1, 2))


class WeightedSum:
    """SSIMULACRA2's weighted sum with an original (B, 3, H, W) in 0…1: 0 for the same picture, about 1 at a
    score of 83, 2.5 at 70, 6 at 50."""

    def __init__(self, x: Tensor) -> None:
        self.scales = [
            _Scale(linear, weights) for linear, weights in zip(_halvings(x), _WEIGHTS, strict=True)
        ]

    def __call__(self, x_hat: Tensor) -> Tensor:
        """(B,)."""
        pairs = zip(self.scales, _halvings(x_hat), strict=True)
        return _FACTOR * torch.stack([scale.compare(linear) for scale, linear in pairs]).sum(0)


def score(weighted_sum: float) -> float:
    """SSIMULACRA2 of a picture with this weighted sum, at most 100."""
    s = weighted_sum
    s = 2.326765642916932 * s - 0.020884521182843837 * s**2 + 6.248496625763138e-05 * s**3
    return 100 - 10 * max(s, 0) ** 0.6276336467831387


def _halvings(x: Tensor) -> list[Tensor]:
    """The picture in linear light, and its halves."""
    found = [_linear(x)]
    for _ in _WEIGHTS[1:]:
        found.append(F.avg_pool2d(found[-1], 2, ceil_mode=True))
    return found


def _linear(x: Tensor) -> Tensor:
    """A picture in linear light, contiguous."""
    x = x.contiguous().clamp(0, 1)
    return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def _xyb(linear: Tensor, colours: tuple[int, ...]) -> Tensor:
    """Some planes of XYB, moved and scaled to be positive, (B, colours, H, W)."""
    matrix = linear.new_tensor(_ABSORBANCE)[:, :, None, None]
    mixed = F.conv2d(linear, matrix, linear.new_full((3,), _BIAS))
    long, medium, short = (mixed.clamp_min(1e-6) ** (1 / 3) - _BIAS ** (1 / 3)).unbind(1)
    y = (long + medium) / 2
    planes = (long - medium) * 7 + 0.42, y + 0.01, short - y + 0.55
    return torch.stack([planes[colour] for colour in colours], 1)


class _Scale:
    """An original's planes at one scale, and what a window sees of them at each place."""

    def __init__(self, linear: Tensor, weights: _Weights) -> None:
        self.colours = tuple(weights)
        self.planes = planes = _xyb(linear, self.colours)
        # (map, 1, colour) for each norm
        self.weights = [planes.new_tensor(norm).T[:, None] for norm in zip(*weights.values(), strict=True)]
        self.mean, squares = _blurred(planes, planes.square())
        self.variance = squares - self.mean.square()
        self.edges = 1 + (planes - self.mean).abs()

    def compare(self, linear: Tensor) -> Tensor:
        """(B,)."""
        planes = _xyb(linear, self.colours)
        mean, squares, products = _blurred(planes, planes.square(), planes * self.planes)
        covariance, variances = products - mean * self.mean, self.variance + squares - mean.square()
        structure = (1 - (mean - self.mean).square()) * (2 * covariance + _C2) / (variances + _C2)
        change = (1 + (planes - mean).abs()) / self.edges - 1
        maps = torch.stack([(1 - structure).clamp_min(0), change.clamp_min(0), (-change).clamp_min(0)])
        norms = maps.mean((3, 4)), (maps.square().square().mean((3, 4)) + _LEAST**4) ** 0.25 - _LEAST
        means, fourths = (
            (weights * norm).sum((0, 2)) for weights, norm in zip(self.weights, norms, strict=True)
        )
        return means + fourths


def _blurred(*planes: Tensor) -> Tensor:
    """Means of a Gaussian window around each place, of pictures whose edges are repeated."""
    padded = F.pad(torch.cat(planes), (WINDOW // 2,) * 4, mode="replicate")
    blurred: Tensor = Blur.apply(padded, WINDOW)  # type: ignore[no-untyped-call]
    return blurred.reshape(len(planes), *planes[0].shape)
