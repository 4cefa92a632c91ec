"""Answers for the first bytes of a file: header, limits, checksum (FORMAT.md). Standard library only."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from zlib import crc32

from .binary import Reader, varint
from .errors import BitstreamError
from .options import whole_number

SIGNATURE = b"\x89NIC\r\n\x1a\n"
VERSION = 1
MODES = ("RGB", "RGBA", "L", "LA")

# FORMAT.md gives the reason for each limit.
MAX_SIDE = 1 << 20
MAX_PIXELS = 1 << 30
MAX_GROUPS = 32
MAX_TILES = 1 << 14
MAX_STREAMS = 1 << 17
TILE_LOG2_RANGE = (6, 11)
SMALL_TILE_LOG2, MAX_SMALL_TILES = 7, 16
MAX_MODEL_NAME = 32

NO_MODEL = "none"
"""In place of a model's name in a file whose cells are all exact: nothing of it was made by a network."""

# No slash, no leading dot: readers look weights up by this name.
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Header:
    """What the first bytes of a file say.

    ``layer_ends`` holds cumulative group counts: ``(2, 3, 7)`` is three layers of 2, 1 and 4 groups.
    ``delta`` is the quantiser step's exponent in 1/8 octaves, ``width_index`` the encoder's network width.
    """

    mode: str
    width: int
    height: int
    rate_point: int
    delta: int
    width_index: int
    layer_ends: tuple[int, ...]
    tile_log2: int
    model: str
    model_hash: bytes
    layer_offsets: tuple[int, ...] = field(default=(), compare=False)
    """The byte offset at which each layer ends, once that is known; not written anywhere."""
    lossless: bool = field(default=False, compare=False)
    """Whether the file holds every pixel as its writer was given it: what its CELL chunk says."""
    needed: int = field(default=0, compare=False)
    """How many bytes of the file to have before looking for them again; 0 when they are known."""

    @property
    def has_alpha(self) -> bool:
        return self.mode in ("RGBA", "LA")

    @property
    def layers(self) -> int:
        return len(self.layer_ends)

    def wanted(self, layers: int | None) -> int:
        """How many layers ``layers`` asks for: None for all; ValueError for more than there are."""
        return self.layers if layers is None else whole_number("layers", layers, 1, self.layers)

    @property
    def groups(self) -> int:
        """The number of channel groups coded."""
        return self.layer_ends[-1]

    @property
    def tile_size(self) -> int:
        """The side of a tile in pixels; tiles of the last column and row may be smaller."""
        return 1 << self.tile_log2

    @property
    def tile_grid(self) -> tuple[int, int]:
        """Columns and rows of tiles."""
        return grid(self, self.tile_log2)

    @property
    def tiles(self) -> int:
        columns, rows = self.tile_grid
        return columns * rows


def grid(header: Header, tile_log2: int) -> tuple[int, int]:
    """Columns and rows of tiles of 2^tile_log2 pixels square."""
    return -(-header.width >> tile_log2), -(-header.height >> tile_log2)


def region_inside(region: tuple[int, int, int, int] | None, header: Header) -> tuple[int, int, int, int]:
    """The region, or the whole picture for None; ValueError if it is empty or not all inside of the
    picture."""
    left, top, right, bottom = region or (0, 0, header.width, header.height)
    if not (0 <= left < right <= header.width and 0 <= top < bottom <= header.height):
        size = f"{header.width}x{header.height}"
        raise ValueError(f"region {region} is empty or not inside {size} pixels")
    return left, top, right, bottom


def header_faults(header: Header) -> Iterator[str]:
    """What is wrong with a header, most basic first; the limits are here for writer and reader alike."""
    if header.mode not in MODES:
        yield f"unknown mode {header.mode!r}"
    if not (1 <= header.width <= MAX_SIDE and 1 <= header.height <= MAX_SIDE):
        yield f"size {header.width}x{header.height} is out of range: each side 1 to {MAX_SIDE} pixels"
    if header.width * header.height > MAX_PIXELS:
        yield f"size {header.width}x{header.height} is more than {MAX_PIXELS} pixels"
    if not 0 <= header.rate_point < 1 << 16:
        yield f"rate point {header.rate_point} is not 0 to 65535"
    if not -128 <= header.delta < 128:
        yield f"delta {header.delta} is not -128 to 127"
    if not 0 <= header.width_index < 256:
        yield f"width index {header.width_index} is not 0 to 255"
    ends = header.layer_ends
    if not ends or any(b <= a for a, b in zip((0, *ends), ends, strict=False)):
        yield f"layer ends {ends} do not rise from at least 1"
    if header.groups > MAX_GROUPS:
        yield f"{header.groups} channel groups are more than {MAX_GROUPS}"
    if not TILE_LOG2_RANGE[0] <= header.tile_log2 <= TILE_LOG2_RANGE[1]:
        yield f"tile size 2**{header.tile_log2} is not 2**{TILE_LOG2_RANGE[0]} to 2**{TILE_LOG2_RANGE[1]}"
    most = MAX_TILES if header.tile_log2 > SMALL_TILE_LOG2 else MAX_SMALL_TILES
    if header.tiles > most:
        yield f"{header.tiles} tiles of {header.tile_size} pixels are more than {most}"
    if header.tiles * header.layers > MAX_STREAMS:
        yield f"{header.layers} layers of {header.tiles} tiles are more than {MAX_STREAMS} streams"
    if len(header.model) > MAX_MODEL_NAME or not _MODEL_NAME.fullmatch(header.model):
        yield f"model name {header.model!r} is not 1 to {MAX_MODEL_NAME} letters, digits, '.', '_' or '-'"
    if header.model == NO_MODEL and ends != (1,):
        yield f"layer ends {ends} of a file without a model are not (1,)"
    if len(header.model_hash) != 4:
        yield f"model hash has {len(header.model_hash)} bytes, not 4"


def dump_header(header: Header) -> bytes:
    """Signature to CRC."""
    layer_mask = sum(1 << (end - 1) for end in header.layer_ends)
    body = b"".join(
        (
            SIGNATURE,
            struct.pack("<BB", VERSION, MODES.index(header.mode)),
            varint(header.width),
            varint(header.height),
            struct.pack("<HbB", header.rate_point, header.delta, header.width_index),
            varint(layer_mask),
            struct.pack("<BB", header.tile_log2, len(header.model)),
            header.model.encode("ascii"),
            header.model_hash,
        )
    )
    return body + struct.pack("<I", crc32(body))


def take_header(reader: Reader) -> tuple[Header, int]:
    """The header and its CRC, the seed of the streams' CRCs."""
    raw = bytearray()

    def take(size: int) -> bytes:
        piece = bytes(reader.take(size, "header"))
        raw.extend(piece)
        return piece

    def number() -> int:
        value, piece = reader.varint("header")
        raw.extend(piece)
        return value

    reader.expect(SIGNATURE, "not a NIC file: the signature differs", "header")
    raw.extend(SIGNATURE)
    version, mode = take(2)
    if version != VERSION:
        raise BitstreamError(f"header: format version {version} at byte 8, this reader knows {VERSION}")
    width, height = number(), number()
    rate_point, delta, width_index = struct.unpack("<HbB", take(4))
    layer_mask = number()
    tile_log2, name_length = take(2)
    name, model_hash = take(name_length), take(4)
    # The CRC before the limits: damage is then reported as damage and not as a strange size.
    crc = reader.u32("header")
    if crc != crc32(raw):
        raise BitstreamError(f"header: CRC mismatch over bytes 0 to {len(raw)}")
    header = Header(
        mode=MODES[mode] if mode < len(MODES) else str(mode),
        width=width,
        height=height,
        rate_point=rate_point,
        delta=delta,
        width_index=width_index,
        layer_ends=tuple(g + 1 for g in range(layer_mask.bit_length()) if layer_mask >> g & 1),
        tile_log2=tile_log2,
        model=name.decode("ascii", "replace"),
        model_hash=model_hash,
    )
    for fault in header_faults(header):
        raise BitstreamError(f"header, bytes 0 to {len(raw)}: {fault}")
    return header, crc
