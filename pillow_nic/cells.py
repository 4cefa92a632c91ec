"""What is measured of a picture's cells, 16×16 pixels each, and of its small cells, 4×4: whether they look
like text, a screen or a drawing, what they weigh in lossless coding, and what painting gets wrong in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from . import exact
from .network import PATCH
from .tiling import Plane

Array = np.ndarray[Any, Any]

# The quick test. On 48 photographs at most 0.46 % of the cells are sharp (Kodak's 24th), on 13 screenshots at
# least 3.1 %. Drawings without sharp cells, such as pale text, large squares or one colour, have equal
# samples where there is anything: 0.72 of them and more, where 48 photographs have at most 0.39.
FLAT = 0.6  # of a cell's samples equal to their left neighbours, and of those to the upper ones
CONTRAST = 64
FEW_COLOURS = 16
LEAST_SHARP = 0.006
LEAST_CELLS = 3
LEAST_EQUAL = 0.6
"""Of the samples of cells that are not plain, equal to their left neighbours or to their upper ones."""
DITHERED = 4
"""Colours, at most, of a picture or a cell that is a drawing whatever equals what, such as black and white
dots."""

SMOOTH = 12
"""Levels from pixel to pixel, at most, of a cell that is smooth,"""
SHADES = 6
"""and its colours, at least."""
CANDIDATE = 0.4
"""Samples equal to their left neighbours, or to their upper ones, of a cell that may be exact, or of one
beside it."""
SMALL = PATCH // exact.CELL
GROWTH = 2 * SMALL
"""How many small cells the exact parts grow by, where those are of one colour."""
GIVEN_BACK = 6
"""How many small cells deep a photograph's border is painted after all."""
OWN_COLOURS = 0.8
"""Of the pixels of a small cell that have changed: with so many colours it is a photograph's."""
OWN_COLOUR_BITS = 8.0
"""What such a pixel is worth."""
STRIP = 16 * PATCH
"""Rows that are looked at together: few enough for a processor's cache."""


def has_graphics(colours: Plane) -> bool:
    """The quick test of pixels uint8 H×W×3."""
    sharp, count, varied, equal = 0, 0, 0, 0.0
    sample: set[int] = set()
    for strip in _strips(colours):
        if len(sample) <= DITHERED:
            few = strip[:: STRIP // 8, :: max(1, strip.shape[1] // 64)]
            sample.update(_packed(few).flat)
        left = _equal_left(strip)
        either = np.maximum(left, _equal_above(strip))
        varied += int((either < 1).sum())
        equal += float(either[either < 1].sum())
        flat = left >= FLAT
        count += flat.size
        if flat.any():
            own = _cells(strip)[flat]
            contrast = (own.max((1, 2)) - own.min((1, 2))).max(1)
            own = own[contrast >= CONTRAST]
            own = own[(own[:, 1:] == own[:, :-1]).mean((1, 2, 3)) >= FLAT]
            sharp += int((_distinct(own) <= FEW_COLOURS).sum())
    return (
        sharp >= max(LEAST_CELLS, LEAST_SHARP * count)
        or equal >= LEAST_EQUAL * varied
        or len(sample) <= DITHERED
    )


class Candidates(NamedTuple):
    """Of each cell, (⌈H/16⌉, ⌈W/16⌉): whether it may be exact; what it weighs in lossless coding, the pixels
    that equal neither their left nor their upper neighbour, by the logarithm of its colours; how many colours
    it has; and whether it is smooth, so that steps between fewer colours would be seen. Of each small cell,
    how many such pixels."""

    may: Array
    weight: Array
    colours: Array
    smooth: Array
    changed: Array


def candidates(colours: Plane) -> Candidates:
    """What of pixels uint8 H×W×3 may be exact."""
    flat, weight, counts, smooth, small = [], [], [], [], []
    for strip in _strips(colours):
        same = np.zeros(strip.shape[:2], bool)
        same[:, 1:] = (strip[:, 1:] == strip[:, :-1]).all(2)
        same[1:] |= (strip[1:] == strip[:-1]).all(2)
        few = _by_small_cell((~same).view(np.uint8))
        small.append(few)
        changed = few.reshape(len(few) // SMALL, SMALL, -1, SMALL).sum((1, 3))
        own = _cells(strip)
        distinct = _distinct(own.reshape(-1, PATCH, PATCH, 3)).reshape(changed.shape)
        equal = np.maximum(_equal_left(strip), _equal_above(strip))
        flat.append((equal >= CANDIDATE) | (distinct <= DITHERED))
        smooth.append((distinct >= SHADES) & (_steepest(own) <= SMOOTH))
        weight.append(changed * np.log2(2.0 * distinct) + 1)
        counts.append(distinct)
    near = np.pad(np.concatenate(flat), 1)
    near = near[:-2] | near[1:-1] | near[2:]
    may = near[:, :-2] | near[:, 1:-1] | near[:, 2:]
    return Candidates(
        may, np.concatenate(weight), np.concatenate(counts), np.concatenate(smooth), np.concatenate(small)
    )


def distortion(colours: Plane, painted: Array) -> tuple[Array, Array, Array]:
    """The squared error of painted pixels, mean over the colours: of each cell the sum, and of a quarter of
    it along its left, right, upper and lower side four times that (4, rows, columns); the sums of the small
    cells."""
    squares, sides, small = [], [], []
    for strip, other in zip(_strips(colours), _strips(painted), strict=True):
        error = _cells(other).astype(np.int16) - _cells(strip)
        square = np.square(error, dtype=np.int32).sum(4) / 3
        quarter = PATCH // 4
        down, across = square.sum(2), square.sum(3)
        squares.append(down.sum(2))
        ends = (down[..., :quarter], down[..., -quarter:], across[..., :quarter], across[..., -quarter:])
        sides.append(4 * np.stack([end.sum(2) for end in ends]))
        parts = square.reshape(*square.shape[:2], SMALL, exact.CELL, SMALL, exact.CELL).sum((3, 5))
        small.append(parts.swapaxes(1, 2).reshape(len(parts) * SMALL, -1).astype(np.float32))
    return np.concatenate(squares), np.concatenate(sides, 1), np.concatenate(small)


def grown(colours: Plane, cells: Array) -> Array:
    """The small cells, bool (⌈H/4⌉, ⌈W/4⌉), that are exact where these larger ones are: theirs, and those
    of one colour near by, which cost nothing and where errors would be seen."""
    height, width = colours.shape[:2]
    own = divided(cells)
    plain = np.concatenate([_plain(strip) for strip in _strips(colours)])
    for _ in range(GROWTH):
        near = own.copy()
        for side in range(4):
            near |= neighbour(own, side)
        own |= near & plain
    return own[: -(-height // exact.CELL), : -(-width // exact.CELL)]


def given_back(colours: Plane, small: Array, changed: Array, lost: Array) -> Array:
    """The small cells that stay exact: without those of a photograph along a border, such as its first rows
    in a page. There nearly every pixel that has ``changed`` has a colour of its own, and ``lost``, what
    painting takes for each small cell in bits, is less than these are worth."""
    kept = small.copy()
    dear = (OWN_COLOUR_BITS * changed > lost)[: small.shape[0], : small.shape[1]]
    photo = np.zeros_like(small)
    for top, strip in zip(range(0, len(small), STRIP // exact.CELL), _strips(colours), strict=True):
        rows = slice(top, min(top + STRIP // exact.CELL, len(small)))
        asked = np.argwhere(small[rows] & dear[rows])
        if len(asked):
            own = strip.reshape(len(strip) // exact.CELL, exact.CELL, -1, exact.CELL, 3)[
                asked[:, 0], :, asked[:, 1]
            ]
            few = changed[rows][tuple(asked.T)]
            photo[rows][tuple(asked.T)] = (few >= exact.CELL) & (_distinct(own) - 1 >= OWN_COLOURS * few)
    for _ in range(GIVEN_BACK):
        painted = ~kept
        near = np.zeros_like(kept)
        for side in range(4):
            near |= neighbour(painted, side)
        kept &= ~(near & photo)
    return kept


def divided(cells: Array) -> Array:
    """What each cell has, for its small ones."""
    return cells.repeat(SMALL, 0).repeat(SMALL, 1)


def _plain(strip: Array) -> Array:
    """Whether the small cells of a strip are each of one colour."""
    height, width, colours = strip.shape
    own = strip.reshape(height // exact.CELL, exact.CELL, width // exact.CELL, exact.CELL * colours)
    first = np.tile(own[:, :1, :, :colours], exact.CELL)
    return (own == first).all((1, 3))


def neighbour(cells: Array, side: int) -> Array:
    """What each cell's left, right, upper or lower neighbour (0 to 3) has; 0 outside."""
    moved = np.zeros_like(cells)
    match side:
        case 0:
            moved[:, 1:] = cells[:, :-1]
        case 1:
            moved[:, :-1] = cells[:, 1:]
        case 2:
            moved[1:] = cells[:-1]
        case _:
            moved[:-1] = cells[1:]
    return moved


def _strips(colours: Plane) -> Iterator[Array]:
    """Rows of whole cells, edges repeated."""
    for top in range(0, colours.shape[0], STRIP):
        strip = colours[top : top + STRIP, :]
        pad = [(0, -length % PATCH) for length in strip.shape[:2]]
        whole = np.pad(strip, [*pad, (0, 0)], mode="edge") if any(map(sum, pad)) else strip
        yield np.ascontiguousarray(whole)


def _cells(strip: Array) -> Array:
    """(rows, columns, 16, 16, colours)."""
    height, width, colours = strip.shape
    return strip.reshape(height // PATCH, PATCH, width // PATCH, PATCH, colours).swapaxes(1, 2)


def _by_small_cell(marked: Array) -> Array:
    """How many pixels of each small cell of a strip are marked by 1."""
    height, width = marked.shape
    own = marked.reshape(height // exact.CELL, exact.CELL, width // exact.CELL, exact.CELL)
    return own.sum((1, 3), dtype=np.uint8)


def _equal_left(strip: Array) -> Array:
    """The share of samples in each cell that equal their left neighbours."""
    height, width, colours = strip.shape
    flat = strip.reshape(height, width * colours)
    equal = np.ones(flat.shape, bool)
    np.equal(flat[:, colours:], flat[:, :-colours], out=equal[:, colours:])
    return _share(equal, PATCH * colours)


def _equal_above(strip: Array) -> Array:
    """The share of samples in each cell that equal their upper neighbours, those of the first row counted."""
    height, width, colours = strip.shape
    flat = strip.reshape(height, width * colours)
    equal = np.ones(flat.shape, bool)
    np.equal(flat[1:], flat[:-1], out=equal[1:])
    return _share(equal, PATCH * colours)


def _share(marked: Array, across: int) -> Array:
    """The share of samples that are marked in each cell, which is so many of them across."""
    down = marked.view(np.uint8).reshape(-1, PATCH, marked.shape[1]).sum(1, dtype=np.uint8)
    return down.reshape(len(down), -1, across).sum(2, dtype=np.uint16) / (PATCH * across)


def _steepest(cells: Array) -> Array:
    """The largest step from pixel to pixel in each cell (rows, columns, 16, 16, colours)."""
    left, right, upper, lower = cells[:, :, :, :-1], cells[:, :, :, 1:], cells[:, :, :-1], cells[:, :, 1:]
    pairs = (left, right), (upper, lower)
    across, down = ((np.maximum(*pair) - np.minimum(*pair)).max((2, 3, 4)) for pair in pairs)
    steepest: Array = np.maximum(across, down)
    return steepest


def _packed(pixels: Array) -> Array:
    """Each pixel's colours as one number."""
    wide = pixels.astype(np.uint32)
    packed: Array = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return packed


def _distinct(cells: Array) -> Array:
    """How many colours each square (n, side, side, 3) has."""
    packed = _packed(cells).reshape(len(cells), cells.shape[1] * cells.shape[2])
    packed.sort(1)
    return 1 + (packed[:, 1:] != packed[:, :-1]).sum(1)
