"""What the networks are made of: slimmable convolutions, conditioning on the rate point, gain units and
residual blocks."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import winograd, workers
from .tiling import shares


class Conv2d(nn.Conv2d):
    """A convolution whose parameters are not set when it is made, as most come from a file: that would draw
    from the caller's random numbers. `start` does it, as torch does."""

    def reset_parameters(self) -> None:
        pass

    def start(self) -> None:
        super().reset_parameters()


class ConvTranspose2d(nn.ConvTranspose2d):
    """The same of a transposed convolution."""

    def reset_parameters(self) -> None:
        pass

    def start(self) -> None:
        super().reset_parameters()


Padding = tuple[int, int]
"""Rows and columns of zeros on either side."""
PICTURES = 16
"""As many as torch gives to oneDNN's convolutions, and not to a product of matrices, on one thread."""
LEAST_POSITIONS = 8
"""Positions of such a picture for which that is worth it."""
_HAS_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Features (B, h, w, C) times the weight (outputs, C), with the bias: (B, h, w, outputs).

    On a CPU float32 is multiplied by oneDNN, as a 1×1 convolution of 16 pictures or more. MKL, torch's usual
    library, leaves half of AVX-512 unused on AMD's processors: 48 GMAC/s of one core of an EPYC (Zen 5),
    where oneDNN makes 65 to 105."""
    if (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and _HAS_ONEDNN
        and not torch.is_autocast_enabled("cpu")
    ):
        positions = x.numel() // x.shape[-1]
        pictures = next((n for n in range(PICTURES, 4 * PICTURES) if positions % n == 0), positions)
        if LEAST_POSITIONS * pictures <= positions:
            seen = x.reshape(pictures, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
            y = F.conv2d(seen, weight[:, :, None, None], bias).permute(0, 2, 3, 1)
            return y.reshape(*x.shape[:-1], -1)
    return F.linear(x, weight, bias)


class SlimConv2d(Conv2d):
    """A convolution that uses the first input channels it is given and the first ``out`` outputs it is
    asked for, all of them or those of a narrow width.

    `start` draws its weights from a normal distribution of deviation ``std``, if there is one."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        std: float | None = None,
    ) -> None:
        self.std = std
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)
        self._filters: tuple[Tensor, tuple[int, int], Tensor] | None = None
        self._last: tuple[Any, Tensor, Tensor | None, tuple[Tensor, Tensor]] | None = None

    def start(self) -> None:
        if self.std is None:
            super().start()
        else:
            nn.init.normal_(self.weight, std=self.std)
            nn.init.zeros_(bias_of(self))

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x, None, None)

    def used(self) -> tuple[Tensor, Tensor]:
        """Weight and bias in the order of what comes out."""
        return self.weight, bias_of(self)

    def filters(self, channels: int, out: int | None) -> Tensor:
        """A part of the weights as `winograd.convolve` wants them; kept until they change."""
        held = self._filters
        if held is None or held[0] is not self.weight or held[1] != self._revision:
            held = self._filters = (self.weight, self._revision, winograd.filters(self.used()[0]))
        return held[2][:, :channels, :out]

    @property
    def _revision(self) -> tuple[int, int]:
        """Of weight and bias, of which those that were made in inference mode have none."""
        weight, bias = self.weight, bias_of(self)
        return (-1, -1) if weight.is_inference() else (weight._version, bias._version)

    def scaled(
        self,
        x: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        out: int | None = None,
        padding: Padding | None = None,
    ) -> Tensor:
        """conv(x)·scale + shift, with another padding if one is given. A scale for the whole batch (1, C) is
        folded into the weights, where these are fewer than what comes out."""
        if scale is None or shift is None:
            if self.kernel_size == (3, 3) and (padding or self.padding) == (1, 1) and winograd.suits(x):
                filters, bias = self.filters(x.shape[1], out), self.used()[1][:out]
                return winograd.convolve(x, filters, lambda sums, _: sums.add_(bias), len(bias))
            return self._product(x, *self._parts(x, out, None, None), padding)
        least = x.shape[1] * self.kernel_size[0] * self.kernel_size[1]
        if scale.shape[0] == 1 and least <= x.shape[0] * x.shape[2] * x.shape[3]:
            return self._product(x, *self._parts(x, out, scale, shift), padding)
        y = self._product(x, self._parts(x, out, None, None)[0], None, padding)
        scale, shift = scale[:, :out], shift[:, :out]
        shift = shift + scale * self.used()[1][:out]
        return torch.addcmul(shift[:, :, None, None].to(y.dtype), y, scale[:, :, None, None].to(y.dtype))

    def _parts(
        self, x: Tensor, out: int | None, scale: Tensor | None, shift: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Weight and bias for x in its type, scale and shift folded in; in inference mode the last ones are
        kept for the next strip."""
        key, held = (self._revision, x.shape[1], out, x.dtype), self._last
        if (
            held is not None
            and torch.is_inference_mode_enabled()
            and held[0] == key
            and held[1] is self.weight
            and held[2] is scale
        ):
            return held[3]
        weight, bias = self.used()
        weight, bias = weight[:out, : x.shape[1]], bias[:out]
        if scale is not None and shift is not None:
            factor = scale[0, :out]
            weight, bias = weight * factor[:, None, None, None], bias * factor + shift[0, :out]
        found = weight.to(x.dtype), bias.to(x.dtype)
        if torch.is_inference_mode_enabled():
            self._last = key, self.weight, scale, found
        return found

    def _product(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Padding | None = None
    ) -> Tensor:
        # A 1×1 convolution of channels-last features is one matrix product, without copies.
        if self.kernel_size == (1, 1):
            return linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, bias, self.stride, padding or self.padding)


class PaintingConv2d(SlimConv2d):
    """A convolution whose outputs are the patches of a picture; they come in the order of `to_patches`."""

    def used(self) -> tuple[Tensor, Tensor]:
        return patch_order(self.weight, 0), patch_order(bias_of(self), 0)

    def reduced(self, x: Tensor, factor: int, padding: Padding = (1, 1)) -> Tensor:
        """The means of factor × factor pixels of the patches."""
        if factor == 1:
            return self.scaled(x, None, None, None, padding)
        weight, bias = (pooled(part, factor).to(x.dtype) for part in self.used())
        return self._product(x, weight[:, : x.shape[1]], bias, padding)


class Reduction(Conv2d):
    """A 1×1 convolution to fewer channels, the first the most important: in a narrow part only these."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__(channels, rank, 1, bias=False)

    def forward(self, x: Tensor, out: int | None = None) -> Tensor:
        weight = self.weight[:out, : x.shape[1], 0, 0].to(x.dtype)
        return linear(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)

    def in_strips(self, x: Tensor, out: int) -> Tensor:
        """The same in inference mode, on the threads that `workers.each` has granted."""
        weight, (batch, channels, height, width) = self.weight[:out, :, 0, 0].T, x.shape
        x, y = x.permute(0, 2, 3, 1), x.new_empty(batch, height, width, out)

        def fill(strip: winograd.Strip) -> None:
            rows = slice(strip.top, strip.bottom)
            for seen, place in zip(x[strip.pictures, rows], y[strip.pictures, rows], strict=True):
                torch.mm(seen.reshape(-1, channels), weight, out=place.view(-1, out))

        workers.each_within(fill, winograd.strips(batch, height, width))
        return y.permute(0, 3, 1, 2)


ALL = slice(None)
"""All rows of a plane."""
Place = tuple[slice, slice]
"""Some rows and columns."""


def times(rows: slice, factor: int) -> slice:
    """The same rows where there are so many times as many; `ALL` or ones with both ends."""
    return rows if rows == ALL else slice(factor * rows.start, factor * rows.stop)


def cropped(x: Tensor, part: Place, reach: int) -> tuple[Tensor, Place]:
    """A part of features (B, C, h, w) with ``reach`` more on every side, as far as there are any, and where
    the part lies in that."""
    near, inner = [], []
    for side, length in zip(part, x.shape[2:], strict=True):
        start, stop, _ = side.indices(length)
        first, last = max(start - reach, 0), min(stop + reach, length)
        near.append(slice(first, last))
        inner.append(slice(start - first, stop - first))
    return x[:, :, near[0], near[1]], (inner[0], inner[1])


def same(x: Tensor) -> Tensor:
    return x


STRIP = 1024
"""Positions of a strip, at most about."""


def in_strips(action: Callable[[slice], Tensor], height: int, width: int) -> Tensor:
    """Rows of features (B, C, h, w) from ``action`` of some of ``height`` × ``width``, joined. In inference
    mode on strips of some rows, always the same, which the threads share that `workers.each` has granted."""
    strips = shares(height, -(-STRIP // width))
    if len(strips) == 1 or not torch.is_inference_mode_enabled():
        return action(ALL)
    joined: list[Tensor] = []
    lock = threading.Lock()

    def fill(strip: slice) -> None:
        part = action(strip)
        factor = part.shape[2] // (strip.stop - strip.start)
        with lock:
            if not joined:
                batch, channels, _, across = part.shape
                joined.append(part.new_empty(batch, factor * height, across, channels).permute(0, 3, 1, 2))
        joined[0][:, :, times(strip, factor)] = part

    workers.each_within(fill, strips)
    return joined[0]


def in_rows(conv: Callable[[Tensor, Padding], Tensor], plane: Tensor, rows: slice) -> Tensor:
    """Some rows of a 3×3 convolution of a plane (B, C, h, w), zeros around it. ``conv`` is given rows and the
    padding that makes as many rows of them, or two less."""
    start, stop, _ = rows.indices(plane.shape[2])
    whole = (start, stop) == (0, plane.shape[2])
    return conv(plane, (1, 1)) if whole else conv(widened(plane, rows), (0, 1))


def widened(plane: Tensor, rows: slice) -> Tensor:
    """Some rows of a plane (B, C, h, w) with one more on either side, of zeros where there is none."""
    start, stop, _ = rows.indices(plane.shape[2])
    above, below = max(start - 1, 0), min(stop + 1, plane.shape[2])
    missing = (above - start + 1, stop + 1 - below)
    return F.pad(plane[:, :, above:below], (0, 0, *missing)) if any(missing) else plane[:, :, above:below]


def bias_of(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def interpolate(table: Tensor, point: Tensor) -> Tensor:
    """Rows of ``table`` (n, …) linearly interpolated at ``point`` (B,): (B, …)."""
    low = point.floor().clamp(0, table.shape[0] - 2).long()
    part = (point - low).to(table.dtype).reshape(-1, *[1] * (table.dim() - 1))
    return torch.lerp(table[low], table[low + 1], part)


def to_patches(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) → (B, H/side, W/side, side²·C): row, column, channel, as channels-last memory has them."""
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch, height // side, side, width // side, side * channels)
    return rows.transpose(2, 3).reshape(batch, height // side, width // side, -1)


def from_patches(patches: Tensor, side: int) -> Tensor:
    """(B, h, w, side²·C) → (B, C, h·side, w·side), channels last."""
    batch, height, width, _ = patches.shape
    rows = patches.reshape(batch, height, width, side, -1).transpose(2, 3)
    return rows.reshape(batch, height * side, width * side, -1).permute(0, 3, 1, 2)


def patch_order(weight: Tensor, dim: int, channels: int = 3) -> Tensor:
    """Parameters of which one dimension is channel, row, column of a patch, in the order of `to_patches`."""
    shape = weight.shape
    split = weight.reshape(*shape[:dim], channels, -1, *shape[dim + 1 :])
    return split.transpose(dim, dim + 1).reshape(shape)


def pooled(weight: Tensor, factor: int) -> Tensor:
    """Parameters (side²·3, …) in the order of `to_patches`, as those of the means of factor × factor
    pixels."""
    if factor == 1:
        return weight
    side = math.isqrt(len(weight) // 3) // factor
    return weight.reshape(side, factor, side, factor, 3, *weight.shape[1:]).mean((1, 3)).flatten(0, 2)


class AtPoint(nn.Module):
    """Tables that are interpolated on the rate point."""

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[Tensor, int, tuple[Tensor, Tensor]] | None = None

    def at(self, point: Tensor, width: int, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Both tables at the point. In inference mode the last result is kept for the next picture: for a
        small one the interpolations took a tenth of the time."""
        last = self._last if torch.is_inference_mode_enabled() else None
        if last is not None and last[0] is point and last[1] == width:
            return last[2]
        found = interpolate(first, point), interpolate(second, point)
        if torch.is_inference_mode_enabled():
            self._last = (point, width, found)
        return found


class Conditioning(AtPoint):
    """Scale and shift per channel, interpolated on the rate point; starts as the identity.

    In a slimmable part each width has its own: the features of fewer channels have other statistics (as the
    batch normalisations of Yu et al., ICLR 2019)."""

    def __init__(self, rate_points: int, channels: int, widths: int = 1) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(widths, rate_points, channels))
        self.shift = nn.Parameter(torch.zeros(widths, rate_points, channels))

    def forward(self, point: Tensor, width: int = 0) -> tuple[Tensor, Tensor]:
        return self.at(point, width, self.scale[width], self.shift[width])


class GainUnit(AtPoint):
    """Gain and inverse gain per channel (m, m'), exponentially interpolated between rate points (AG-VAE)."""

    def __init__(self, rate_points: int, channels: int) -> None:
        super().__init__()
        self.log2_gain = nn.Parameter(torch.zeros(rate_points, channels))
        self.log2_inverse = nn.Parameter(torch.zeros(rate_points, channels))

    def forward(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """log₂ m and log₂ m', each (B, channels)."""
        return self.at(point, 0, self.log2_gain, self.log2_inverse)


class ResidualBlock(nn.Module):
    """x + conv1×1(act(conv3×3(x)·scale + shift)) with ``hidden`` channels between: 10·C·hidden MAC per
    position. With a ``rank`` the 3×3 convolution sees x through so many channels, and in inference mode x may
    be written over. A width has its share of the hidden channels and of the rank."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        rate_points: int,
        shares: Sequence[float] = (1.0,),
        rank: int | None = None,
    ) -> None:
        super().__init__()
        self.reduce = None if rank is None else Reduction(channels, rank)
        self.conv1 = SlimConv2d(rank or channels, hidden, 3, padding=1)
        self.conv2 = SlimConv2d(hidden, channels, 1, std=0.2 * hidden**-0.5)
        self.conditioning = Conditioning(rate_points, hidden, len(shares))
        self.shares = shares

    def forward(self, x: Tensor, point: Tensor, width: int = 0) -> Tensor:
        scale, shift = self.conditioning(point, width)
        hidden = round(self.shares[width] * self.conv1.out_channels)
        reduce, rank = self.reduce, 0
        if reduce is not None:
            rank = round(self.shares[width] * reduce.out_channels)
        if winograd.suits(x):
            seen = x if reduce is None else reduce.in_strips(x, rank)
            scale, shift = (t[:, None, :hidden] for t in (scale, shift + scale * bias_of(self.conv1)))
            weight, bias = self.conv2.weight[:, :hidden, 0, 0].T, bias_of(self.conv2)

            def rest(sums: Tensor, pictures: slice) -> Tensor:
                part = pictures if scale.shape[0] > 1 else ALL
                h = torch.addcmul(shift[part], sums, scale[part], out=sums)
                return winograd.product(F.leaky_relu(h, 0.1, inplace=True), weight, bias)

            filters = self.conv1.filters(seen.shape[1], hidden)
            return winograd.convolve(seen, filters, rest, len(bias), x, over=reduce is not None)

        def conv(part: Tensor, padding: Padding) -> Tensor:
            seen = part if reduce is None else reduce(part, rank)
            return self.conv1.scaled(seen, scale, shift, hidden, padding)

        def block(rows: slice) -> Tensor:
            y = self.conv2(F.leaky_relu(in_rows(conv, x, rows), 0.1, inplace=True))
            # In place where there is no gradient: that of a changed view is copied four times.
            return x[:, :, rows] + y if torch.is_grad_enabled() else y.add_(x[:, :, rows])

        return in_strips(block, *x.shape[2:])
