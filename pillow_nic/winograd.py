"""3×3 convolutions with a quarter of the multiplications: Winograd's minimal filtering F(4×4, 3×3).

A tile of 4×4 outputs is seen as the 6×6 values of a product of polynomials at the points 0, 1, −1, ½, −2 and
∞, in both directions; for each of the 36 values a convolution is one product of matrices, (tiles, channels) ×
(channels, outputs). Source: Lavin & Gray, CVPR 2016; these points round 2.5 times as much as a direct sum
(2e-5 of sums of deviation 1; Barabasz et al., 2020, on their choice).

Per position on one core with AVX-512, the other one busy: 1.7 µs instead of 2.2 at 128 channels, 3.1 instead
of 5.3 at 192; half of it are the transforms. Strips of some rows of tiles stay near a core, and are what the
threads share: always the same strips, so that the number of threads changes nothing."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import workers
from .tiling import shares

SIDE = 4
"""Outputs of a tile along a side."""
SEEN = SIDE + 2
TILES = 64
"""Tiles of a strip: 1.2 MB before the products and as much after them at 128 channels, beside 2.4 MB of
filters."""
LEAST = 8
"""Tiles for which the filters are worth fetching."""

INPUT = (
    (2, -3, -4, 3, 2, 0),
    (0, -2, 1, 5, 2, 0),
    (0, -2, 5, -1, -2, 0),
    (0, 2, 1, -2, -1, 0),
    (0, 1, -2, -1, 2, 0),
    (0, 2, -3, -4, 3, 2),
)
FILTER = (
    (1 / 2, 0, 0),
    (1 / 6, 1 / 6, 1 / 6),
    (1 / 6, -1 / 6, 1 / 6),
    (16 / 15, 8 / 15, 4 / 15),
    (1 / 30, -1 / 15, 2 / 15),
    (0, 0, 1 / 2),
)
OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 1 / 2, -2, 0),
    (0, 1, 1, 1 / 4, 4, 0),
    (0, 1, -1, 1 / 8, -8, 1),
)


_INPUT = torch.tensor(INPUT, dtype=torch.float32, device="cpu")
_FILTER, _OUTPUT = (
    torch.kron(matrix, matrix)
    for matrix in (torch.tensor(rows, dtype=torch.float32, device="cpu") for rows in (FILTER, OUTPUT))
)
_held = threading.local()


class Strip(NamedTuple):
    """Rows from ``top`` to ``bottom``, those of whole tiles, of some pictures of a batch."""

    pictures: slice
    top: int
    bottom: int


def suits(x: Tensor) -> bool:
    """Whether features (B, C, h, w) are convolved here: float32 on a CPU, in inference mode, enough of them
    and not so thin that tiles are mostly empty."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or not torch.is_inference_mode_enabled():
        return False
    batch, _, height, width = x.shape
    tiles = batch * -(-height // SIDE) * -(-width // SIDE)
    return tiles >= LEAST and 3 * batch * height * width >= 2 * tiles * SIDE**2


def filters(weight: Tensor) -> Tensor:
    """Weights (outputs, channels, 3, 3) as `convolve` wants them: (36, channels, outputs)."""
    taps = weight.permute(3, 2, 1, 0).reshape(9, -1)
    return (_FILTER @ taps).reshape(SEEN**2, weight.shape[1], weight.shape[0])


def strips(batch: int, height: int, width: int) -> list[Strip]:
    """Features of that size in strips of about `TILES` tiles."""
    down, across = -(-height // SIDE), -(-width // SIDE)
    together = max(1, TILES // (down * across))
    return [
        Strip(slice(first, min(first + together, batch)), SIDE * rows.start, min(SIDE * rows.stop, height))
        for first in range(0, batch, together)
        for rows in shares(down, max(1, TILES // across))
    ]


def convolve(
    x: Tensor,
    transformed: Tensor,
    then: Callable[[Tensor, slice], Tensor],
    outputs: int,
    added: Tensor | None = None,
    over: bool = False,
) -> Tensor:
    """``then`` of the convolution of x (B, C, h, w), channels last, zeros around it: (B, outputs, h, w),
    with ``added`` of that shape to it, which is written ``over`` if that is asked for, on the threads that
    `workers.each` has granted.

    ``then`` is given the sums of some positions of some pictures, (positions of a tile, pictures, tiles,
    channels), which it may write over, and which pictures of the batch."""
    x = x.permute(0, 2, 3, 1)
    batch, height, width, _ = x.shape
    added = None if added is None else added.permute(0, 2, 3, 1)
    out = added if added is not None and over else x.new_empty(batch, height, width, outputs)

    def compute(strip: Strip) -> None:
        pictures, rows = strip.pictures, slice(strip.top, strip.bottom)
        sums = products(transform(x[pictures], strip.top, strip.bottom), transformed)
        sums = sums.view(SIDE**2, pictures.stop - pictures.start, -1, sums.shape[2])
        place = out[pictures, rows]
        part, place = _alike(in_tiles(then(sums, pictures), *place.shape[:3]), place)
        if added is None:
            place.copy_(part)
        elif over:
            place.add_(part)
        else:
            torch.add(added[pictures, rows].reshape(place.shape), part, out=place)

    workers.each_within(compute, strips(batch, height, width))
    return out.permute(0, 3, 1, 2)


def products(values: Tensor, transformed: Tensor) -> Tensor:
    """Values of tiles (36, tiles, C) → their sums (16, tiles, K), in memory that the next call writes
    over."""
    shape = (values.shape[1], transformed.shape[2])
    out = torch.bmm(values, transformed, out=_scratch("windows", SEEN**2, *shape))
    sums = _scratch("values", SIDE**2, *shape)
    torch.mm(_OUTPUT, out.view(SEEN**2, -1), out=sums.view(SIDE**2, -1))
    return sums


def product(sums: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Sums (…, K), which `products` gave, times the weight (K, outputs) and with the bias, in memory that the
    next call writes over."""
    shape = (*sums.shape[:-1], weight.shape[1])
    out = _scratch("windows", math.prod(shape[:-1]), shape[-1])
    return torch.addmm(bias, sums.view(-1, sums.shape[-1]), weight, out=out).view(shape)


def in_tiles(sums: Tensor, batch: int, height: int, width: int) -> Tensor:
    """(16, …, K), columns before rows → a view (B, tiles down, 4, tiles across, 4, K)."""
    down, across = -(-height // SIDE), -(-width // SIDE)
    return sums.view(SIDE, SIDE, batch, down, across, -1).permute(2, 3, 1, 4, 0, 5)


def _alike(tiles: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Tiles and the place (B, h, w, K) for them in one shape: without a copy if they fill it."""
    batch, height, width, channels = place.shape
    if height % SIDE or width % SIDE:
        return tiles.reshape(batch, SIDE * tiles.shape[1], -1, channels)[:, :height, :width], place
    return tiles, place.view(tiles.shape)


def transform(x: Tensor, top: int, bottom: int) -> Tensor:
    """The tiles of some rows of features (B, h, w, C), zeros around them, each as 36 values: (36, tiles, C),
    in memory that the next call writes over."""
    batch, height, width, channels = x.shape
    down, across = -(-(bottom - top) // SIDE), -(-width // SIDE)
    # Down: six rows of features are one matrix; those above and below the features are left out of it.
    columns = SIDE * across + 2
    rows = _scratch("rows", batch * down, SEEN, columns, channels)
    rows[:, :, 0] = 0
    rows[:, :, width + 1 :] = 0
    rows = rows.view(batch * down, SEEN, columns * channels)
    for number, part in enumerate(rows[:, :, channels : (width + 1) * channels]):
        first = top + SIDE * (number % down) - 1
        seen = slice(max(first, 0), min(first + SEEN, height))
        source = x[number // down, seen].reshape(-1, width * channels)
        torch.mm(_INPUT[:, seen.start - first : seen.stop - first], source, out=part)
    # Across: windows of six columns, one every four.
    size, row = (SEEN, SEEN, batch * down, across, channels), columns * channels
    windows = _scratch("windows", *size)
    windows.copy_(rows.as_strided(size, (channels, row, SEEN * row, SIDE * channels, 1)))
    values = torch.mm(_INPUT, windows.view(SEEN, -1), out=_scratch("values", SEEN, windows.numel() // SEEN))
    return values.view(SEEN**2, batch * down * across, channels)


def _scratch(name: str, *shape: int) -> Tensor:
    """Memory of the calling thread's own, which the next strip finds in its cache."""
    size, held = math.prod(shape), _held.__dict__.get(name)
    if held is None or held.numel() < size:
        held = _held.__dict__[name] = torch.empty(size, dtype=torch.float32, device="cpu")
    return held[:size].view(shape)
