"""Exact cells: squares of 4×4 pixels that are stored lossless and win over what the networks paint.

The picture is cut into exact tiles of its own, larger than those of the latent because lossless coding gains
from a wide view. The stream of one holds a mask, a bit for each cell, and a lossless WebP picture of the
whole tile, black where it is not exact. A photograph can end anywhere in a page: in *edge cells* that
picture's alpha says which pixels are exact."""

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

STRIP = 64 * CELL
"""Rows that are looked at together."""

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
    edges: bool = False,
    **effort: int,
) -> list[bytes]:
    """Pixels uint8 H×W×3 and which cells are exact, bool (⌈H/4⌉, ⌈W/4⌉), None for all → the stream of each
    exact tile. ``palettes``: the colours of each that are shown. ``edges``: with all pixels that
    :func:`shown` finds. ``effort``: WebP's, by default the highest that is worth its time."""

    def encode_tile(numbered: tuple[int, Tile]) -> bytes:
        number, tile = numbered
        palette = palettes[number] if palettes else None
        if cells is None:
            return _encode_tile(pixels[tile.own], None, palette, effort or EFFORT)
        exact = shown(pixels, cells, tile.own) if edges else _pixels_of(cells, tile.own)
        return _encode_tile(pixels[tile.own], exact, palette, effort or EFFORT)

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
    """Of the picture's pixels, those in cells that are exact throughout."""
    if CELLS_TAG not in chunks:
        return 0.0
    count = 0
    for stream, tile in zip(
        streams, tiles(header.height, header.width, 1 << chunks[CELLS_TAG][1]), strict=True
    ):
        height, width = (span.stop - span.start for span in tile)
        if stream:
            mask = _mask_of(stream, height, width)
            whole = None if mask is None else _enlarged(mask.exact & ~mask.edges)[:height, :width]
            count += height * width if whole is None else int(whole.sum())
    return count / (header.width * header.height)


def to_be_painted(
    header: Header, chunks: dict[str, bytes], streams: Sequence[bytes], side: int
) -> np.ndarray:
    """Which squares of the picture, of ``side`` pixels, are not exact throughout: bool (⌈H/side⌉, ⌈W/side⌉).
    BitstreamError names the stream."""
    wanted = np.ones((-(-header.height // side), -(-header.width // side)), bool)
    if CELLS_TAG not in chunks:
        return wanted
    for number, tile in enumerate(tiles(header.height, header.width, 1 << chunks[CELLS_TAG][1])):
        if not (stream := streams[number]):
            continue
        height, width = (span.stop - span.start for span in tile)
        with _naming(number):
            mask = _mask_of(stream, height, width)
        place = tuple(slice(span.start // side, -(-span.stop // side)) for span in tile)
        if mask is None:
            wanted[place] = False
        else:
            step = side // CELL
            pad = [(0, -length % step) for length in mask.exact.shape]
            squares = np.pad(~mask.exact | mask.edges, pad).reshape(-(-height // side), step, -1, step)
            wanted[place] = squares.any((1, 3))
    return wanted


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
    pixels: np.ndarray, exact: np.ndarray | None, factor: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels and weights of a tile at 1/factor of its size: means of the exact pixels, and their share."""
    height, width, colours = pixels.shape
    if exact is None:
        return colour.reduce_plane(pixels.squeeze(2) if colours == 1 else pixels, factor).reshape(
            -(-height // factor), -(-width // factor), colours
        ), None
    weight = np.where(exact[..., None], np.uint8(255), np.uint8(0))
    if factor == 1:
        return pixels, weight
    means = colour.reduce_plane(np.concatenate((pixels, weight), 2), factor)  # of LA and RGBA: alpha weighs
    return means[..., :-1], means[..., -1:]


def _enlarged(cells: np.ndarray) -> np.ndarray:
    return cells.repeat(CELL, 0).repeat(CELL, 1)


def _pixels_of(cells: np.ndarray, place: tuple[slice, slice]) -> np.ndarray:
    """The pixels of cells at a place that begins with a cell."""
    rows, columns = place
    part = cells[tuple(slice(side.start // CELL, -(-side.stop // CELL)) for side in place)]
    return _enlarged(part)[: rows.stop - rows.start, : columns.stop - columns.start]


def shown(pixels: Plane, cells: np.ndarray, place: tuple[slice, slice]) -> np.ndarray:
    """Which pixels of a place that begins with a cell are exact, bool: those of the cells, and what of their
    neighbours goes on in the same colour. So a page is exact up to the very edge of a photograph in it."""
    rows, columns = place
    (_, bottom, _), (_, right, _) = (
        side.indices(whole) for side, whole in zip(place, pixels.shape, strict=False)
    )
    left, end = max(columns.start - CELL, 0), min(right + CELL, pixels.shape[1])
    found = []
    for start in range(rows.start, bottom, STRIP):
        stop = min(start + STRIP, bottom)
        outer = slice(max(start - CELL, 0), min(stop + CELL, pixels.shape[0])), slice(left, end)
        inside = (
            slice(start - outer[0].start, stop - outer[0].start),
            slice(columns.start - left, right - left),
        )
        found.append(_continued(pixels, _pixels_of(cells, outer), outer)[inside])
    return np.concatenate(found)


def _continued(pixels: Plane, exact: np.ndarray, place: tuple[slice, slice]) -> np.ndarray:
    """Exact pixels, and up to three more in each direction that equal them; in a cell at least four, or they
    are equal by chance."""
    if exact.all() or not exact.any():
        return exact
    values = pixels[place]
    across = (values[:, 1:] == values[:, :-1]).all(2)
    down = (values[1:] == values[:-1]).all(2)
    found = exact
    for _ in range(CELL - 1):
        before, found = found, found.copy()
        found[:, 1:] |= before[:, :-1] & across
        found[:, :-1] |= before[:, 1:] & across
        found[1:] |= before[:-1] & down
        found[:-1] |= before[1:] & down
    enough = _by_cell(found).sum((1, 3)) >= CELL
    return exact | found & _enlarged(enough)[: exact.shape[0], : exact.shape[1]]


def _by_cell(mask: np.ndarray) -> np.ndarray:
    """(rows, 4, columns, 4), the last ones' edges repeated."""
    padded = np.pad(mask, [(0, -length % CELL) for length in mask.shape], mode="edge")
    return padded.reshape(padded.shape[0] // CELL, CELL, -1, CELL)


def _encode_tile(
    own: np.ndarray, exact: np.ndarray | None, palette: Palette | None, effort: dict[str, int]
) -> bytes:
    """The stream of a tile, from its pixels and which of them are exact, None for all."""
    mask = b""
    if palette is not None:
        own = palette.over(own)
    if exact is not None and not exact.any():
        return b""
    if exact is not None and not exact.all():
        own = np.where(exact[..., None], own, np.uint8(0))
        cells = _by_cell(exact)
        some, edges = np.any(cells, (1, 3)), np.any(cells, (1, 3)) & ~np.all(cells, (1, 3))
        mask = _packed(some)
        if edges.any():
            mask += _packed(edges)
            own = np.dstack((own, np.where(exact, np.uint8(255), np.uint8(0))))
        mask = zlib.compress(mask, 9)
    return len(mask).to_bytes(4, "little") + mask + webp.encode(np.ascontiguousarray(own), **effort)


def _packed(plane: np.ndarray) -> bytes:
    changes = plane.copy()
    changes[1:] ^= plane[:-1]
    return np.packbits(changes, axis=1).tobytes()


def _decode_tile(header: Header, stream: bytes, tile: Tile) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Pixels (h, w, colours) and which of them count (h, w), None for all; None if nothing is exact."""
    height, width = (span.stop - span.start for span in tile)
    length = int.from_bytes(stream[:4], "little")
    if header.model == NO_MODEL and (not stream or length):
        raise BitstreamError("cells are missing, and the file has no model to paint them")
    if not stream:
        return None
    mask = _mask_of(stream, height, width)
    picture = webp.decode(stream[4 + length :], width, height, "pixels")
    pixels = picture[..., : 3 if header.mode.startswith("RGB") else 1]
    if mask is None:
        return pixels, None
    exact, edges = (_enlarged(cells)[:height, :width] for cells in mask)
    alpha = picture[..., 3]
    if not np.isin(alpha[edges], (0, 255)).all():
        raise BitstreamError("pixels of an edge cell are neither exact nor painted")
    return pixels, exact & (~edges | (alpha == 255))


class Mask(NamedTuple):
    """Which cells of a tile are exact, wholly or in part, and which of them are edge cells: bool (⌈h/4⌉,
    ⌈w/4⌉)."""

    exact: np.ndarray
    edges: np.ndarray


def _mask_of(stream: bytes, height: int, width: int) -> Mask | None:
    """None if all cells are exact."""
    length = int.from_bytes(stream[:4], "little")
    if len(stream) < 4 + length:
        raise BitstreamError("the mask ends early")
    return _decode_mask(stream[4 : 4 + length], -(-height // CELL), -(-width // CELL)) if length else None


def _decode_mask(data: bytes, rows: int, columns: int) -> Mask:
    stream, size = zlib.decompressobj(), rows * -(-columns // 8)
    try:
        planes = stream.decompress(data, 2 * size + 1)  # one more, so that a longer one is never unpacked
    except zlib.error as error:
        raise BitstreamError(f"mask: {error}") from error
    if len(planes) not in (size, 2 * size) or not stream.eof or stream.unused_data:
        raise BitstreamError("the mask is not of the tile's size")
    changes = np.unpackbits(np.frombuffer(planes, np.uint8).reshape(-1, rows, size // rows), axis=2)
    if changes[..., columns:].any():
        raise BitstreamError("the mask has bits beside the tile")
    exact, *edges = np.bitwise_xor.accumulate(changes[..., :columns], axis=1).astype(bool)
    mask = Mask(exact, edges[0] if edges else np.zeros_like(exact))
    if (mask.edges & ~exact).any():
        raise BitstreamError("the mask has edge cells that are not exact")
    return mask
