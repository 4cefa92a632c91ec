"""Losses in XYB, the colours of JPEG XL: SSIMULACRA2's, and the error where no texture hides it.

Of SSIMULACRA2 (Sneyers, Cloudinary, 2022; version 2.1) it is the weighted sum that decides the score.

In five scales, each half of the one before in linear light, it compares the planes of XYB by a map of
dissimilar structure, and of edges that were added and that were lost. Of a map the mean counts, and the
4-norm, which its worst places decide."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

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


class Light:
    """A picture as the losses see it: in linear light (B, 3, H, W), and in planes of XYB."""

    def __init__(self, linear: Tensor) -> None:
        self.linear = linear

    @classmethod
    def of(cls, x: Tensor) -> Light:
        """That of sRGB in 0…1."""
        return cls(_Curve.apply(x.contiguous(), _linear))  # type: ignore[no-untyped-call]

    @cached_property
    def xyb(self) -> list[Tensor]:
        """Three planes (B, H, W), moved and scaled to be positive."""
        matrix = self.linear.new_tensor(_ABSORBANCE)
        mixed = matrix @ self.linear.flatten(2) + _BIAS
        root = _Curve.apply(mixed, _cube_root)  # type: ignore[no-untyped-call]
        long, medium, short = (root - _BIAS ** (1 / 3)).view_as(self.linear).unbind(1)
        y = (long + medium) / 2
        return [(long - medium) * 7 + 0.42, y + 0.01, short - y + 0.55]

    def halved(self) -> Light:
        return Light(F.avg_pool2d(self.linear, 2, ceil_mode=True))


class PlainError:
    """The squared error in XYB of pictures with an original, weighed by how plain its surroundings are:
    texture hides an error, as in Butteraugli (Alakuijala et al., Google, 2016)."""

    def __init__(self, original: Light) -> None:
        self.planes = original.xyb
        seen = torch.stack(self.planes[:2], 1)
        mean, squares = _blurred(seen, seen.square())
        variance = (squares - mean.square()).clamp_min(0).sum(1)
        self.weights = _TEXTURE / (_TEXTURE + variance)

    def __call__(self, other: Light) -> Tensor:
        """(B,)."""
        x, y, b = ((plane - own).square() for plane, own in zip(other.xyb, self.planes, strict=True))
        return (self.weights * (x + y + _BLUE * b)).mean((1, 2))


class WeightedSum:
    """SSIMULACRA2's weighted sum with an original: 0 for the same picture, about 1 at a score of 83, 2.5 at
    70, 6 at 50."""

    def __init__(self, original: Light) -> None:
        self.scales = [
            _Scale(light, weights) for light, weights in zip(_halvings(original), _WEIGHTS, strict=True)
        ]

    def __call__(self, other: Light) -> Tensor:
        """(B,)."""
        pairs = zip(self.scales, _halvings(other), strict=True)
        return _FACTOR * torch.stack([scale.compare(light) for scale, light in pairs]).sum(0)


def score(weighted_sum: float) -> float:
    """SSIMULACRA2 of a picture with this weighted sum, at most 100."""
    s = weighted_sum
    s = 2.326765642916932 * s - 0.020884521182843837 * s**2 + 6.248496625763138e-05 * s**3
    return 100 - 10 * max(s, 0) ** 0.6276336467831387


def _halvings(light: Light) -> list[Light]:
    """The picture, and its halves."""
    found = [light]
    for _ in _WEIGHTS[1:]:
        found.append(found[-1].halved())
    return found


class _Curve(torch.autograd.Function):
    """A function of each element, which gives its slope, too: powers cost more than all that is done with
    them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        y, slope = function(x)
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.saved_tensors[0], None


def _linear(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of values of sRGB, cut to 0…1, those in linear light."""
    inside = x.clamp(0, 1)
    base = (inside + 0.055) / 1.055
    power, dark = base**2.4, inside <= 0.04045
    slope = torch.where(dark, 1 / 12.92, 2.4 / 1.055 * power / base) * (inside == x)
    return torch.where(dark, inside / 12.92, power), slope


def _cube_root(x: Tensor) -> tuple[Tensor, Tensor]:
    positive = x.clamp_min(1e-6)
    root = positive ** (1 / 3)
    return root, root / positive / 3


class _Scale:
    """An original's planes at one scale, and what a window sees of them at each place."""

    def __init__(self, original: Light, weights: _Weights) -> None:
        self.colours = tuple(weights)
        self.planes = planes = self._seen(original)
        # (map, 1, colour) for each norm
        self.weights = [planes.new_tensor(norm).T[:, None] for norm in zip(*weights.values(), strict=True)]
        self.mean, squares = _blurred(planes, planes.square())
        self.variance = squares - self.mean.square()
        self.edges = 1 + (planes - self.mean).abs()

    def _seen(self, light: Light) -> Tensor:
        return torch.stack([light.xyb[colour] for colour in self.colours], 1)

    def compare(self, other: Light) -> Tensor:
        """(B,)."""
        planes = self._seen(other)
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
