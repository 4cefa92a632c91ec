"""Exact cells: squares of 4×4 pixels that are stored lossless and win over what the networks paint.

The picture is cut into exact tiles of its own, larger than those of the latent because lossless coding gains
from a wide view. The stream of one holds a mask, a bit for each cell, and a lossless WebP picture of the
whole tile, black where it is not exact. Cells are small so that a photograph can end anywhere in a page: what
is left of its last cells is at most three pixels wide, too few for stains to be seen in."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from . import colour, webp
from .errors import BitstreamError
from .header import NO_MODEL, Header
from .streams import CELLS_TAG
from .tiling import Tile, Window, tiles

CELL = 4
TILE_LOG2 = 12
"""A cut costs a screenshot 1 to 7 % at 1024 pixels and up to 3 % at 2048; at 4096 hardly one has a cut."""
EFFORT = {"quality": 100, "method": 4}
"""Of WebP: 1.1 % fewer bytes on screenshots than its default and 0.2 s per megapixel; method 6 another 2.5 %,
but 2 to 7 s."""

INCOMPLETE = "cells are missing from a file that has no model to paint them"


class Patch(NamedTuple):
    """Exact pixels at a place of a decoded picture: their rows and columns there, their values (h, w,
    colours), and how much each counts over what was painted (h, w, 1), 0 to 255, None for wholly."""

    rows: slice
    columns: slice
    pixels: np.ndarray
    weight: np.ndarray | None

    def over(self, painted: np.ndarray) -> np.ndarray:
        """The pixels as they are to be shown in place of the painted ones."""
        if self.weight is None:
            return self.pixels
        weight = self.weight.astype(np.uint16)
        return ((self.pixels * weight + painted * (255 - weight) + 127) // 255).astype(np.uint8)


def chunk(lossless: bool) -> bytes:
    """The payload of CELL; ``lossless``: nothing of what was given is lost, nor colours under alpha 0."""
    return bytes((lossless, TILE_LOG2))


def encode(pixels: np.ndarray, cells: np.ndarray | None, **effort: int) -> list[bytes]:
    """Pixels uint8 H×W×3 and which cells are exact, bool (⌈H/4⌉, ⌈W/4⌉), None for all → the stream of each
    exact tile. ``effort``: WebP's, by default the highest that is worth its time."""
    return [
        _encode_tile(pixels, cells, tile, effort or EFFORT)
        for tile in tiles(pixels.shape[0], pixels.shape[1], 1 << TILE_LOG2)
    ]


def decode(
    header: Header, chunks: dict[str, bytes], streams: Sequence[bytes], region: Window, factor: int = 1
) -> Iterator[Patch]:
    """What of a file's exact cells lies in a region, at 1/factor of the size (a divisor of 16); the region in
    pixels of the reduced picture, and the patches' places in it. BitstreamError names the stream."""
    if CELLS_TAG not in chunks:
        return
    for number, tile in enumerate(tiles(header.height, header.width, 1 << chunks[CELLS_TAG][1])):
        small = Window(*(range(span.start // factor, -(-span.stop // factor)) for span in tile))
        seen = Window(
            *(range(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(small, region, strict=True))
        )
        if not all(seen):
            continue
        try:
            found = _decode_tile(header, streams[number], tile)
        except BitstreamError as error:
            raise BitstreamError(f"exact cells, tile {number + 1}: {error}") from error
        if found is not None:
            own, place = (_slices(seen, whole) for whole in (small, region))
            pixels, weight = _reduced(*found, factor)
            yield Patch(*place, pixels[own].copy(), None if weight is None else weight[own])


def share(header: Header, chunks: dict[str, bytes], streams: Sequence[bytes]) -> float:
    """Of the picture's pixels, those in exact cells."""
    if CELLS_TAG not in chunks:
        return 0.0
    count = 0
    for stream, tile in zip(
        streams, tiles(header.height, header.width, 1 << chunks[CELLS_TAG][1]), strict=True
    ):
        height, width = (span.stop - span.start for span in tile)
        if stream:
            cells = _mask_of(stream, height, width)
            count += height * width if cells is None else int(_enlarged(cells)[:height, :width].sum())
    return count / (header.width * header.height)


def _slices(part: Window, whole: Window) -> tuple[slice, slice]:
    rows, columns = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(part, whole, strict=True))
    return rows, columns


def _reduced(
    pixels: np.ndarray, cells: np.ndarray | None, factor: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels and weights of a tile at 1/factor of its size: means of the exact pixels, and their share."""
    height, width, colours = pixels.shape
    if cells is None:
        return colour.reduce_plane(pixels.squeeze(2) if colours == 1 else pixels, factor).reshape(
            -(-height // factor), -(-width // factor), colours
        ), None
    weight = np.where(_enlarged(cells)[:height, :width, None], np.uint8(255), np.uint8(0))
    if factor == 1:
        return pixels, weight
    means = colour.reduce_plane(np.concatenate((pixels, weight), 2), factor)  # of LA and RGBA: alpha weighs
    return means[..., :-1], means[..., -1:]


def _enlarged(cells: np.ndarray) -> np.ndarray:
    return cells.repeat(CELL, 0).repeat(CELL, 1)


def _encode_tile(pixels: np.ndarray, cells: np.ndarray | None, tile: Tile, effort: dict[str, int]) -> bytes:
    own, mask = pixels[tile.own], b""
    if cells is not None:
        part = cells[tuple(slice(span.start // CELL, -(-span.stop // CELL)) for span in tile)]
        if not part.any():
            return b""
        if not part.all():
            own = np.where(_enlarged(part)[: own.shape[0], : own.shape[1], None], own, np.uint8(0))
            changes = part.copy()
            changes[1:] ^= part[:-1]
            mask = zlib.compress(np.packbits(changes, axis=1).tobytes(), 9)
    return len(mask).to_bytes(4, "little") + mask + webp.encode(np.ascontiguousarray(own), **effort)


def _decode_tile(header: Header, stream: bytes, tile: Tile) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Pixels (h, w, colours) and which cells count, None for all; None if nothing is exact."""
    height, width = (span.stop - span.start for span in tile)
    length = int.from_bytes(stream[:4], "little")
    if header.model == NO_MODEL and (not stream or length):
        raise BitstreamError("cells are missing, and the file has no model to paint them")
    if not stream:
        return None
    cells = _mask_of(stream, height, width)
    pixels = webp.decode(stream[4 + length :], width, height, "pixels")
    return pixels if header.mode.startswith("RGB") else pixels[..., :1], cells


def _mask_of(stream: bytes, height: int, width: int) -> np.ndarray | None:
    """Which cells of a tile are exact, bool (⌈h/4⌉, ⌈w/4⌉), None for all."""
    length = int.from_bytes(stream[:4], "little")
    if len(stream) < 4 + length:
        raise BitstreamError("the mask ends early")
    return _decode_mask(stream[4 : 4 + length], -(-height // CELL), -(-width // CELL)) if length else None


def _decode_mask(data: bytes, rows: int, columns: int) -> np.ndarray:
    stream, size = zlib.decompressobj(), rows * -(-columns // 8)
    try:
        mask = stream.decompress(data, size + 1)  # one more, so that a longer one is seen and never unpacked
    except zlib.error as error:
        raise BitstreamError(f"mask: {error}") from error
    if len(mask) != size or not stream.eof or stream.unused_data:
        raise BitstreamError("the mask is not of the tile's size")
    changes = np.unpackbits(np.frombuffer(mask, np.uint8).reshape(rows, -1), axis=1)
    if changes[:, columns:].any():
        raise BitstreamError("the mask has bits beside the tile")
    return np.bitwise_xor.accumulate(changes[:, :columns], axis=0).astype(bool)
