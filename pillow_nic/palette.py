"""Fewer colours for exact cells, where the errors weigh less than the bits that it saves.

Screens have few colours and a great many shades of them, from anti-aliased letters and scaled icons. With a
palette of 32 to 256 colours lossless WebP takes a third to two thirds of the bytes. No colour is far from
what it was, nor does a frequent one change: a colour that the palette has nothing near for stays as it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]

SIZES = (256, 128, 64, 32)
"""Of the palettes that are tried, from the first on until one costs more than the one before."""
FARTHEST = 48
"""How many levels a sample of a pixel may be off."""
MOST_COLOURS = 1 << 17
"""Of a picture that is worth a palette: more are a photograph's."""
ROUNDS = 3
SAMPLES = 1 << 16


class Palette(NamedTuple):
    """What is shown in place of some colours, both uint32 (n,), red << 16 | green << 8 | blue."""

    colours: Array
    shown: Array

    def over(self, pixels: Array) -> Array:
        """Pixels uint8 H×W×3 in these colours; others stay."""
        table = np.zeros(1 << 24, np.uint32)  # of which the system provides only what is written to
        table[self.colours] = self.shown + 1
        packed = pack(pixels)
        found = table[packed]
        return unpack(np.where(found, found - 1, packed))


def palettes(pixels: Array) -> list[Palette]:
    """Of the pixels uint8 (n, 3) of a picture, from many colours to few; none for one that has few anyway,
    or too many."""
    colours, counts = np.unique(pack(pixels), return_counts=True)
    if not SIZES[-1] < len(colours) <= MOST_COLOURS:
        return []
    return [_palette(colours, counts, size) for size in SIZES if size < len(colours)]


def _palette(colours: Array, counts: Array, size: int) -> Palette:
    own, weight = unpack(colours).astype(np.float32), counts.astype(np.float64)
    # Of a sample, because Pillow counts pixels. It could move the means, too, but would compare all pixels.
    sample = np.repeat(colours, np.ceil(counts * (SAMPLES / counts.sum())).astype(np.int64))
    median = Image.fromarray(unpack(sample[None])).quantize(size, Image.Quantize.MEDIANCUT)
    means = np.asarray(median.getpalette(), np.float32)[: 3 * size].reshape(-1, 3)
    for _ in range(ROUNDS):
        nearest = _nearest(own, means)
        total = np.bincount(nearest, weight, len(means))
        for channel in range(3):
            means[:, channel] = np.bincount(nearest, weight * own[:, channel], len(means)) / np.maximum(
                total, 1
            )
        means = means[total > 0]
    nearest = _nearest(own, means)
    # What has most of a mean's pixels is that mean: the ground of a page keeps its colour.
    order = np.argsort(counts, kind="stable")
    first = np.zeros(len(means), np.int64)
    first[nearest[order]] = order  # the last one stays: the most frequent
    frequent = 2 * weight[first] > np.bincount(nearest, weight, len(means))
    means = np.where(frequent[:, None], own[first], np.rint(means))
    shown = means[nearest]
    far = np.abs(shown - own).max(1) > FARTHEST
    return Palette(colours, np.where(far, colours, pack(shown.astype(np.uint8))))


def _nearest(colours: Array, means: Array) -> Array:
    """The number of the mean that is nearest to each colour."""
    squares = np.square(means).sum(1)
    parts = (colours[start : start + SAMPLES // 4] for start in range(0, len(colours), SAMPLES // 4))
    return np.concatenate([(squares - 2 * (part @ means.T)).argmin(1) for part in parts])


def pack(pixels: Array) -> Array:
    """uint8 (…, 3) → uint32 (…)."""
    packed = pixels[..., 0].astype(np.uint32)
    for channel in (1, 2):
        packed <<= 8
        packed |= pixels[..., channel]
    return packed


def unpack(colours: Array) -> Array:
    """uint32 (…) → uint8 (…, 3)."""
    return np.stack([(colours >> shift).astype(np.uint8) for shift in (16, 8, 0)], -1)
