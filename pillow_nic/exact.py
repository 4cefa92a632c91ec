"""Exact cells: squares of 4×4 pixels that are stored lossless and win over what the networks paint.

The picture is cut into exact tiles of its own, larger than those of the latent because lossless coding gains
from a wide view. The stream of one holds a mask, a bit for each cell, and a lossless WebP picture of the
whole tile, black where it is not exact. Cells are small so that a photograph can end anywhere in a page: what
is left of its last cells is at most three pixels wide, too few for stains to be seen in."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from . import colour, webp
from .errors import BitstreamError
from .header import NO_MODEL, Header
from .palette import Palette
from .streams import CELLS_TAG
from .tiling import Plane, Tile, Window, tiles

CELL = 4
TILE_LOG2, LARGE_LOG2 = 12, 11
"""Of ordinary pictures, and of large ones. A cut costs a screenshot 1 to 7 % at 1024 pixels and up to 3 % at
2048; at 4096 hardly one has a cut, but WebP then takes 0.4 GB."""
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


def tile_log2(height: int, width: int) -> int:
    """Of the sides of exact tiles that a picture of this size is cut into."""
    return LARGE_LOG2 if height * width > colour.LARGE else TILE_LOG2


def exact_tiles(height: int, width: int) -> list[Tile]:
    """The exact tiles that a picture of this size is cut into."""
    return list(tiles(height, width, 1 << tile_log2(height, width)))


def chunk(lossless: bool, log2: int = TILE_LOG2) -> bytes:
    """The payload of CELL; ``lossless``: nothing of what was given is lost, nor colours under alpha 0."""
    return bytes((lossless, log2))


Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""An action of every item, as of `map`."""


def encode(
    pixels: Plane,
    cells: np.ndarray | None,
    palettes: Sequence[Palette | None] | None = None,
    each: Each = map,
    **effort: int,
) -> list[bytes]:
    """Pixels uint8 H×W×3 and which cells are exact, bool (⌈H/4⌉, ⌈W/4⌉), None for all → the stream of each
    exact tile. ``palettes``: the colours of each that are shown. ``effort``: WebP's, by default the highest
    that is worth its time."""

    def encode_tile(numbered: tuple[int, Tile]) -> bytes:
        number, tile = numbered
        return _encode_tile(pixels, cells, tile, palettes[number] if palettes else None, effort or EFFORT)

    return list(each(encode_tile, enumerate(exact_tiles(*pixels.shape[:2]))))


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
        with _naming(number):
            found = _decode_tile(header, streams[number], tile)
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


def to_be_painted(
    header: Header, chunks: dict[str, bytes], streams: Sequence[bytes], side: int
) -> np.ndarray:
    """Which squares of the picture, of ``side`` pixels, are not exact throughout: bool (⌈H/side⌉, ⌈W/side⌉).
    BitstreamError names the stream."""
    shown = np.ones((-(-header.height // side), -(-header.width // side)), bool)
    if CELLS_TAG not in chunks:
        return shown
    for number, tile in enumerate(tiles(header.height, header.width, 1 << chunks[CELLS_TAG][1])):
        if not (stream := streams[number]):
            continue
        height, width = (span.stop - span.start for span in tile)
        with _naming(number):
            cells = _mask_of(stream, height, width)
        place = tuple(slice(span.start // side, -(-span.stop // side)) for span in tile)
        if cells is None:
            shown[place] = False
        else:
            step = side // CELL
            pad = [(0, -length % step) for length in cells.shape]
            squares = np.pad(~cells, pad).reshape(-(-height // side), step, -1, step)
            shown[place] = squares.any((1, 3))
    return shown


@contextmanager
def _naming(number: int) -> Iterator[None]:
    """Errors of a stream say which it is."""
    try:
        yield
    except BitstreamError as error:
        raise BitstreamError(f"exact cells, tile {number + 1}: {error}") from error


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


def _encode_tile(
    pixels: Plane, cells: np.ndarray | None, tile: Tile, palette: Palette | None, effort: dict[str, int]
) -> bytes:
    own, mask = pixels[tile.own], b""
    if palette is not None:
        own = palette.over(own)
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
