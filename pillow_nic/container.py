"""Answers for the file layout: header, chunks and streams to bytes and back, limits, checksums (FORMAT.md).

    signature | header, CRC | metadata chunks | ALPH | "DATA" | layer 0: tile 0, tile 1, … | layer 1: … | …

Nothing here knows what a stream means. Every length and count is checked against its limit before anything of
that size is allocated, and every byte that is given back has passed its CRC-32. Standard library only.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias
from zlib import crc32

from .errors import BitstreamError, TruncatedError

SIGNATURE = b"\x89NIC\r\n\x1a\n"
MIME = "image/x-nic"
VERSION = 1
MODES = ("RGB", "RGBA", "L", "LA")

# In the order in which they are written. ALPH is the only critical chunk and the last one, so that a reader
# of metadata can stop before it.
METADATA_TAGS = ("iccp", "exif", "xmpp", "phys", "text")
ALPHA_TAG = "ALPH"
DATA_TAG = "DATA"

# FORMAT.md gives the reason for each limit.
MAX_SIDE = 1 << 20
MAX_PIXELS = 1 << 30
MAX_GROUPS = 32
MAX_TILES = 1 << 16
TILE_LOG2_RANGE = (6, 16)
MAX_MODEL_NAME = 32
MAX_CHUNKS = 64
MAX_CHUNK_BYTES = 1 << 25
MAX_CHUNKS_BYTES = 1 << 26

# No slash, no leading dot: readers look weights up by this name.
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# No more than this is asked of a file at once: CPython allocates what read() is asked for, not what is there.
_BLOCK = 1 << 16

Buffer: TypeAlias = bytes | bytearray | memoryview


class Readable(Protocol):
    """The part of a binary file that readers of its first bytes need."""

    def read(self, size: int, /) -> bytes: ...


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
    """The byte offset at which each layer ends, as far as whole layers were seen; not written anywhere."""

    @property
    def has_alpha(self) -> bool:
        return self.mode in ("RGBA", "LA")

    @property
    def layers(self) -> int:
        return len(self.layer_ends)

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
        return -(-self.width >> self.tile_log2), -(-self.height >> self.tile_log2)

    @property
    def tiles(self) -> int:
        columns, rows = self.tile_grid
        return columns * rows


@dataclass
class Container:
    """A whole file: ``chunks`` by tag, ``streams[layer][tile]``."""

    header: Header
    chunks: dict[str, bytes]
    streams: list[list[bytes]]


# ----------------------------------------------------------------------------------------- public functions


def dump(container: Container) -> bytes:
    """The file's bytes; ``ValueError`` for what the format cannot represent."""
    header, chunks, streams = container.header, container.chunks, container.streams
    for fault in _faults(container):
        raise ValueError(fault)
    head = _dump_header(header)
    pieces = [head]
    for tag in (*METADATA_TAGS, ALPHA_TAG):
        if tag in chunks:
            record = struct.pack("<4sI", tag.encode(), len(chunks[tag])) + chunks[tag]
            pieces += record, struct.pack("<I", crc32(record))
    pieces.append(DATA_TAG.encode())
    return b"".join([*pieces, *_dump_streams(head, streams)])


def parse_header(source: Buffer | Readable) -> Header:
    """The header, with the offsets at which the layers end for those that are there as a whole.

    The source may end anywhere behind the header; a file object is read to its end. The CRCs of the streams
    are left to :func:`parse`."""
    reader = _Reader(_reading(source))
    header, _ = _take_header(reader)
    return replace(header, layer_offsets=tuple(_whole_layers(reader, header)[0]))


def parse(data: Buffer, *, layers: int | None = None, partial: bool = False) -> Container:
    """The whole file, every CRC checked.

    ``layers=k`` reads the first k layers and does not look at what follows them; more than the header
    announces is a ``ValueError``. ``partial=True`` gives the whole layers of a cut file, at least one.
    """
    reader = _Reader(_from_memory(data))
    header, seed = _take_header(reader)
    wanted = header.layers if layers is None else layers
    if not 1 <= wanted <= header.layers:
        raise ValueError(f"layers must lie between 1 and {header.layers} for this file, not {layers}")
    chunks = _take_chunks(reader, header)
    streams: list[list[bytes]] = []
    try:
        for layer in range(wanted):
            streams.append([bytes(payload) for payload in _take_layer(reader, header, layer, seed)])
    except TruncatedError as error:
        if not (partial and streams):
            whole = f"truncated file, {len(streams)} of {header.layers} layers are whole"
            raise TruncatedError(f"{whole}: {error}", error.needed) from None
    return Container(header, chunks, streams)


def read_info(source: Buffer | Readable) -> tuple[Header, dict[str, bytes]]:
    """Header and metadata chunks; of a file object nothing behind them is read, not even the alpha plane."""
    reader = _Reader(_reading(source))
    header, _ = _take_header(reader)
    return header, _take_chunks(reader, header, metadata_only=True)


def truncate(data: Buffer, layers: int) -> bytes:
    """A file of the first ``layers`` layers, which decodes to what ``layers=`` decodes of this one.

    Chunks come along as they are, the streams are not decoded. ValueError for more layers than there are."""
    whole = parse(data, layers=layers)
    header, data = whole.header, memoryview(data).cast("B")
    head = _dump_header(replace(header, layer_ends=header.layer_ends[:layers]))
    reader = _Reader(_from_memory(data))
    _take_header(reader)
    start = reader.offset
    _take_chunks(reader, header)
    return b"".join([head, data[start : reader.offset], *_dump_streams(head, whole.streams)])


class LayerCounter:
    """Finds the whole layers of a file that is still growing; most calls look at its length only."""

    def __init__(self) -> None:
        self.ends: list[int] = []
        self._needed = 1

    def update(self, data: Buffer) -> int:
        """How many layers are whole in ``data``, which is what it was at the last call or more.

        ``ends``: the byte offsets at which they end. BitstreamError for what cannot become a NIC file; the
        CRCs of the streams are left to :func:`parse`."""
        if len(data) >= self._needed:
            reader = _Reader(_from_memory(data))
            try:
                header, _ = _take_header(reader)
            except TruncatedError as error:
                self._needed = error.needed
            else:
                self.ends, self._needed = _whole_layers(reader, header)
        return len(self.ends)


def verify(data: Buffer) -> None:
    """Checks structure and every CRC of the file; decodes nothing."""
    reader = _Reader(_from_memory(data))
    header, seed = _take_header(reader)
    _take_chunks(reader, header)
    for layer in range(header.layers):
        _take_layer(reader, header, layer, seed)


def _whole_layers(reader: _Reader, header: Header) -> tuple[list[int], int]:
    """From behind the header: where each whole layer ends, and how many bytes are needed to see more."""
    ends: list[int] = []
    try:
        _take_chunks(reader, header)
        for layer in range(header.layers):
            _take_layer(reader, header, layer)
            ends.append(reader.offset)
    except TruncatedError as error:
        return ends, error.needed
    return ends, sys.maxsize


# ----------------------------------------------------------------------------------------- rules and limits


def _header_faults(header: Header) -> Iterator[str]:
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
    if header.tiles > MAX_TILES:
        yield f"{header.tiles} tiles are more than {MAX_TILES}"
    if len(header.model) > MAX_MODEL_NAME or not _MODEL_NAME.fullmatch(header.model):
        yield f"model name {header.model!r} is not 1 to {MAX_MODEL_NAME} letters, digits, '.', '_' or '-'"
    if len(header.model_hash) != 4:
        yield f"model hash has {len(header.model_hash)} bytes, not 4"


def _faults(container: Container) -> Iterator[str]:
    """What is wrong with a container that is to be written."""
    header, chunks, streams = container.header, container.chunks, container.streams
    yield from _header_faults(header)
    for tag in chunks:
        if tag not in METADATA_TAGS and tag != ALPHA_TAG:
            yield f"unknown chunk {tag!r}"
    if (ALPHA_TAG in chunks) != header.has_alpha:
        yield f"mode {header.mode} {'needs an' if header.has_alpha else 'has no'} {ALPHA_TAG} chunk"
    room = MAX_CHUNKS_BYTES
    for tag, payload in chunks.items():
        limit = _alpha_limit(header) if tag == ALPHA_TAG else min(MAX_CHUNK_BYTES, room)
        if len(payload) > limit:
            yield f"chunk {tag}: {len(payload)} bytes are more than the limit of {limit}"
        if tag != ALPHA_TAG:
            room -= len(payload)
    if len(streams) != header.layers or any(len(row) != header.tiles for row in streams):
        yield f"streams do not fit {header.layers} layers of {header.tiles} tiles"
    for layer, row in enumerate(streams):
        for tile, payload in enumerate(row):
            if len(payload) > (limit := _stream_limit(header, tile)):
                yield f"{_stream_name(layer, tile)}: {len(payload)} bytes are more than the limit of {limit}"


def _alpha_limit(header: Header) -> int:
    """Twice the raw plane: room for any lossless coder's worst case."""
    return 2 * header.width * header.height + 4096


def _stream_limit(header: Header, tile: int) -> int:
    """8 bytes for each of 1024 channels at each latent position (16x16 pixels), if 32 bits can say it."""
    row, column = divmod(tile, header.tile_grid[0])
    width = min(header.tile_size, header.width - column * header.tile_size)
    height = min(header.tile_size, header.height - row * header.tile_size)
    positions = -(-width // 16) * -(-height // 16)
    return min(64 + 8 * 1024 * positions, (1 << 32) - 1)


def _stream_name(layer: int, tile: int) -> str:
    """As users count, from 1."""
    return f"stream of layer {layer + 1}, tile {tile + 1}"


def _stream_crc(seed: int, layer: int, tile: int, payload: Buffer) -> int:
    """Bound to the header and the place, so that streams swapped within or between files are found out."""
    return crc32(payload, crc32(struct.pack("<IBII", seed, layer, tile, len(payload))))


def _seed(head: bytes) -> int:
    """The header's CRC, its last four bytes."""
    return int.from_bytes(head[-4:], "little")


# -------------------------------------------------------------------------------------------------- writing


def _varint(value: int) -> bytes:
    """Unsigned LEB128: seven bits a byte, lowest first, the top bit set on all but the last."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _dump_header(header: Header) -> bytes:
    """Signature to CRC."""
    layer_mask = sum(1 << (end - 1) for end in header.layer_ends)
    body = b"".join(
        (
            SIGNATURE,
            struct.pack("<BB", VERSION, MODES.index(header.mode)),
            _varint(header.width),
            _varint(header.height),
            struct.pack("<HbB", header.rate_point, header.delta, header.width_index),
            _varint(layer_mask),
            struct.pack("<BB", header.tile_log2, len(header.model)),
            header.model.encode("ascii"),
            header.model_hash,
        )
    )
    return body + struct.pack("<I", crc32(body))


def _dump_streams(head: bytes, streams: list[list[bytes]]) -> Iterator[bytes]:
    seed = _seed(head)
    for layer, row in enumerate(streams):
        for tile, payload in enumerate(row):
            yield _varint(len(payload))
            yield struct.pack("<I", _stream_crc(seed, layer, tile, payload))
            yield payload


# -------------------------------------------------------------------------------------------------- reading


class _Reader:
    """Takes exact numbers of bytes and knows the offset, for the messages."""

    def __init__(self, read: Callable[[int], bytes | memoryview]) -> None:
        self._read = read
        self.offset = 0

    def take(self, size: int, what: str) -> bytes | memoryview:
        data = self._read(size)
        if len(data) < size:
            raise TruncatedError(
                f"{what}: the file ends at byte {self.offset + len(data)}, "
                f"{size - len(data)} bytes are missing from {size} at byte {self.offset}",
                needed=self.offset + size,
            )
        self.offset += size
        return data

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def varint(self, what: str) -> tuple[int, bytes]:
        """A number below 2**32 in the fewest bytes, and those bytes."""
        start, raw = self.offset, bytearray()
        while not raw or (raw[-1] & 0x80 and len(raw) < 5):
            raw += self.take(1, what)
        value = sum((byte & 0x7F) << (7 * i) for i, byte in enumerate(raw))
        if raw[-1] & 0x80 or value >= 1 << 32 or (len(raw) > 1 and raw[-1] == 0):
            raise BitstreamError(f"{what}: malformed number at byte {start}")
        return value, bytes(raw)


def _from_memory(data: Buffer) -> Callable[[int], memoryview]:
    """A ``read`` that gives slices, not copies."""
    view = memoryview(data).cast("B")
    position = 0

    def read(size: int) -> memoryview:
        nonlocal position
        piece = view[position : position + size]
        position += len(piece)
        return piece

    return read


def _reading(source: Buffer | Readable) -> Callable[[int], bytes | memoryview]:
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_memory(source)
    return _in_blocks(source.read)


def _in_blocks(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """A ``read`` that gives all it is asked for unless the file ends, growing block by block."""

    def read_all(size: int) -> bytes:
        out = bytearray()
        while len(out) < size and (piece := read(min(size - len(out), _BLOCK))):
            out += piece
        return bytes(out)

    return read_all


def _take_header(reader: _Reader) -> tuple[Header, int]:
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

    # Byte by byte, so that a short file that is something else is told from a short file of ours.
    for i in range(len(SIGNATURE)):
        if take(1) != SIGNATURE[i : i + 1]:
            raise BitstreamError(f"not a NIC file: the signature differs at byte {i}")
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
    for fault in _header_faults(header):
        raise BitstreamError(f"header, bytes 0 to {len(raw)}: {fault}")
    return header, crc


def _take_chunks(reader: _Reader, header: Header, *, metadata_only: bool = False) -> dict[str, bytes]:
    """The known chunks, up to and with the DATA tag, or only up to the tag that ends the metadata."""
    chunks: dict[str, bytes] = {}
    count, room = 0, MAX_CHUNKS_BYTES
    while (tag := _take_tag(reader)) not in (ALPHA_TAG, DATA_TAG):
        place = f"chunk {tag} at byte {reader.offset - 4}"
        if tag[0].isupper():
            raise BitstreamError(f"{place}: unknown critical chunk, a newer reader may know it")
        if tag in chunks:
            raise BitstreamError(f"{place}: a second chunk of this kind")
        count += 1
        if count > MAX_CHUNKS:
            raise BitstreamError(f"{place}: more than {MAX_CHUNKS} chunks")
        payload = _take_chunk(reader, tag, min(MAX_CHUNK_BYTES, room))
        room -= len(payload)
        if tag in METADATA_TAGS:
            chunks[tag] = bytes(payload)
    place = f"chunk {tag} at byte {reader.offset - 4}"
    if (tag == ALPHA_TAG) != header.has_alpha:
        needed = "must come before it" if header.has_alpha else "must not be there"
        raise BitstreamError(f"{place}: {ALPHA_TAG} {needed} in mode {header.mode}")
    if tag == ALPHA_TAG and not metadata_only:
        chunks[ALPHA_TAG] = bytes(_take_chunk(reader, tag, _alpha_limit(header)))
        if (tag := _take_tag(reader)) != DATA_TAG:
            raise BitstreamError(f"chunk {tag} at byte {reader.offset - 4}: {ALPHA_TAG} must be the last")
    return chunks


def _take_tag(reader: _Reader) -> str:
    raw = bytes(reader.take(4, "chunk tag"))
    if not raw.isalpha():
        raise BitstreamError(f"chunk tag at byte {reader.offset - 4}: {raw!r} is not four letters")
    return raw.decode("ascii")


def _take_chunk(reader: _Reader, tag: str, limit: int) -> bytes | memoryview:
    """What follows a tag: length, payload, CRC."""
    place = f"chunk {tag} at byte {reader.offset - 4}"
    length = reader.u32(place)
    if length > limit:
        raise BitstreamError(f"{place}: {length} bytes are more than the limit of {limit}")
    payload = reader.take(length, place)
    if reader.u32(place) != crc32(payload, crc32(struct.pack("<4sI", tag.encode(), length))):
        raise BitstreamError(f"{place}: CRC mismatch")
    return payload


def _take_layer(
    reader: _Reader, header: Header, layer: int, seed: int | None = None
) -> list[bytes | memoryview]:
    """The streams of one layer, tile by tile; their CRCs are checked if the header's is given."""
    streams = []
    for tile in range(header.tiles):
        place = f"{_stream_name(layer, tile)}, at byte {reader.offset}"
        length, _ = reader.varint(place)
        if length > (limit := _stream_limit(header, tile)):
            raise BitstreamError(f"{place}: {length} bytes are more than the limit of {limit}")
        crc = reader.u32(place)
        payload = reader.take(length, place)
        if seed is not None and crc != _stream_crc(seed, layer, tile, payload):
            raise BitstreamError(f"{place}: CRC mismatch")
        streams.append(payload)
    return streams
