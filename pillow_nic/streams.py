"""Answers for the streams of a file: in what order they stand, how long each may be, what its CRC covers, and
what the CELL chunk says about them (FORMAT.md). Standard library only."""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from .binary import Buffer
from .header import MAX_TILES, NO_MODEL, Header, grid

CELLS_TAG = "CELL"
CELLS_BYTES = 2
EXACT_LOG2_RANGE = (6, 12)
EXACT = 255
"""In place of a layer, in the CRC of the exact cells' streams."""


class Row(NamedTuple):
    """Streams that stand together, one for each tile of a grid: a layer's, or the exact cells of all exact
    tiles."""

    header: Header
    layer: int  # from 0; EXACT for the exact cells
    tile_log2: int
    tiles: int

    def name(self, tile: int) -> str:
        """As users count, from 1."""
        what = "exact cells" if self.layer == EXACT else f"stream of layer {self.layer + 1}"
        return f"{what}, tile {tile + 1}"

    def limits(self) -> list[int]:
        """Of each tile's payload: 8 bytes for each of 1024 channels at each latent position (16x16 pixels),
        less than 2**28; of exact cells 4 bytes for each pixel, more than any lossless coder's worst case."""
        if not self.tiles:
            return []
        side = 1 << self.tile_log2
        columns, rows = grid(self.header, self.tile_log2)
        last = self.header.width - (columns - 1) * side, self.header.height - (rows - 1) * side

        def row(height: int) -> list[int]:
            return [self._limit(side, height)] * (columns - 1) + [self._limit(last[0], height)]

        return row(side) * (rows - 1) + row(last[1])

    def _limit(self, width: int, height: int) -> int:
        if self.layer == EXACT:
            return 4096 + 4 * width * height
        if self.header.model == NO_MODEL:
            return 0
        return 64 + 8 * 1024 * -(-width // 16) * -(-height // 16)


class Place(NamedTuple):
    """A stream or its length, for messages."""

    row: Row
    tile: int
    offset: int
    before: str = ""

    def __str__(self) -> str:
        return f"{self.before}{self.row.name(self.tile)}, at byte {self.offset}"


def rows_of(header: Header, chunks: dict[str, bytes]) -> list[Row]:
    """In the order of the file. Without a CELL chunk the first has no tiles."""
    exact_log2 = chunks[CELLS_TAG][1] if CELLS_TAG in chunks else 0
    columns, rows = grid(header, exact_log2) if exact_log2 else (0, 0)
    layers = [Row(header, layer, header.tile_log2, header.tiles) for layer in range(header.layers)]
    return [Row(header, EXACT, exact_log2, columns * rows), *layers]


def is_lossless(chunks: dict[str, bytes]) -> bool:
    """Whether a file says that it holds the very pixels that its writer was given."""
    return CELLS_TAG in chunks and chunks[CELLS_TAG][0] == 1


def cells_fault(header: Header, payload: Buffer | None) -> str | None:
    """What is wrong with a file's CELL chunk, or that there is none."""
    if payload is None:
        return f"model {NO_MODEL!r} needs a {CELLS_TAG} chunk" if header.model == NO_MODEL else None
    if len(payload) != 2 or payload[0] > 1 or not EXACT_LOG2_RANGE[0] <= payload[1] <= EXACT_LOG2_RANGE[1]:
        return f"chunk {CELLS_TAG}: {bytes(payload[:8]).hex()} does not say which cells are exact"
    columns, rows = grid(header, payload[1])
    if columns * rows > MAX_TILES:
        return f"chunk {CELLS_TAG}: {columns * rows} exact tiles are more than {MAX_TILES}"
    return None


def stream_crc(seed: int, layer: int, tile: int, payload: Buffer) -> int:
    """Bound to the header and the place, so that streams swapped within or between files are found out."""
    return crc32(payload, crc32(struct.pack("<IBII", seed, layer, tile, len(payload))))
