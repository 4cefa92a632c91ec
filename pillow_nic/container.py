"""Answers for the file layout: chunks and streams to bytes and back, limits, checksums (FORMAT.md).

    signature | header, CRC | metadata chunks | CELL | ALPH | "DATA" | lengths | exact cells | layer 1: tile
    1, tile 2, … | layer 2: …

Nothing here knows what a stream means. Every length and count is checked against its limit before anything of
that size is allocated, and every byte that is given back has passed its CRC-32. Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from zlib import crc32

from .binary import Buffer, Readable, Reader, from_memory, read_block, reading, varint
from .errors import BitstreamError, TruncatedError
from .header import Header, dump_header, header_faults, take_header
from .streams import CELLS_BYTES, CELLS_TAG, Place, Row, cells_fault, is_lossless, rows_of, stream_crc

# In the order in which they are written. CELL and ALPH are the only critical chunks and the last ones, ALPH
# behind the other, so that a reader of metadata can stop before it.
METADATA_TAGS = ("iccp", "exif", "xmpp", "phys", "text")
ALPHA_TAG = "ALPH"
DATA_TAG = "DATA"

# How much is read at once until the lengths of the streams are known, and so at most in vain.
LAYER_BLOCK = 1 << 12
CRC_BYTES = 4

# FORMAT.md gives the reason for each limit.
MAX_CHUNKS = 64
MAX_CHUNK_BYTES = 1 << 25
MAX_CHUNKS_BYTES = 1 << 26


@dataclass
class Container:
    """A whole file: ``chunks`` by tag, ``streams[layer][tile]``; with a CELL chunk the exact cells of each
    exact tile."""

    header: Header
    chunks: dict[str, bytes]
    streams: list[list[bytes]]
    exact: list[bytes] = field(default_factory=list)


# ----------------------------------------------------------------------------------------- public functions


def dump(container: Container) -> bytes:
    """The file's bytes; ``ValueError`` for what the format cannot represent."""
    header, chunks, streams = container.header, container.chunks, container.streams
    for fault in _faults(container):
        raise ValueError(fault)
    head = dump_header(header)
    pieces = [head]
    for tag in (*METADATA_TAGS, CELLS_TAG, ALPHA_TAG):
        if tag in chunks:
            record = struct.pack("<4sI", tag.encode(), len(chunks[tag])) + chunks[tag]
            pieces += record, struct.pack("<I", crc32(record))
    pieces.append(DATA_TAG.encode())
    return b"".join([*pieces, *_dump_streams(head, rows_of(header, chunks), [container.exact, *streams])])


def parse_header(data: Buffer) -> Header:
    """The header, with the offsets at which the layers end, if the data reaches as far as the streams'
    lengths, and else with how many bytes are needed to look again. The CRCs of the streams are left to
    :func:`parse`."""
    reader = Reader(from_memory(data))
    header, _ = take_header(reader)
    try:
        chunks = _take_chunks(reader, header)
        header = replace(header, lossless=is_lossless(chunks))
        return replace(header, layer_offsets=_layer_ends(reader, header, chunks))
    except TruncatedError as error:
        return replace(header, needed=error.needed)


def parse(data: Buffer, *, layers: int | None = None, partial: bool = False) -> Container:
    """The whole file, every CRC checked.

    ``layers=k`` reads the first k layers and does not look at what follows them; more than the header
    announces is a ``ValueError``. ``partial=True`` gives the whole layers of a cut file, at least one.
    """
    reader = Reader(from_memory(data))
    header, seed = take_header(reader)
    wanted = header.wanted(layers)
    chunks = _take_chunks(reader, header)
    rows = rows_of(header, chunks)
    taken: list[list[bytes]] = []
    try:
        lengths = _take_lengths(reader, rows)
        for row in rows[: wanted + 1]:
            streams = _take_row(reader, row, lengths[len(taken)], seed)
            taken.append([bytes(payload) for payload in streams])
    except TruncatedError as error:
        if not (partial and len(taken) > 1):
            whole = f"truncated file, {max(len(taken) - 1, 0)} of {header.layers} layers are whole"
            raise TruncatedError(f"{whole}: {error}", error.needed) from None
    return Container(header, chunks, taken[1:], taken[0])


def read_info(source: Buffer | Readable) -> tuple[Header, dict[str, bytes]]:
    """Header and metadata chunks; of a file object nothing behind them is read, not even the alpha plane."""
    reader = Reader(reading(source))
    header, _ = take_header(reader)
    chunks = _take_chunks(reader, header, metadata_only=True)
    return replace(header, lossless=is_lossless(chunks)), chunks


def check_reaches(data: Buffer) -> None:
    """TruncatedError if the data ends within the header or the metadata. No checksum but the header's is
    computed: ImageFile.Parser opens a growing file anew with every block, until it can be opened."""
    reader = Reader(from_memory(data))
    take_header(reader)
    room = MAX_CHUNKS_BYTES
    for _ in range(MAX_CHUNKS):
        tag = _take_tag(reader)
        if tag[0].isupper():
            return
        length = reader.u32(tag)
        if length > min(MAX_CHUNK_BYTES, room):  # which is refused as soon as it is read
            return
        room -= length
        reader.take(length + CRC_BYTES, f"chunk {tag}")


def truncate(data: Buffer, layers: int) -> bytes:
    """A file of the first ``layers`` layers, which decodes to what ``layers=`` decodes of this one.

    Chunks come along as they are, the streams are not decoded. ValueError for more layers than there are."""
    whole = parse(data, layers=layers)
    header, data = whole.header, memoryview(data).cast("B")
    head = dump_header(replace(header, layer_ends=header.layer_ends[:layers]))
    reader = Reader(from_memory(data))
    take_header(reader)
    start = reader.offset
    _take_chunks(reader, header)
    streams = _dump_streams(head, rows_of(header, whole.chunks), [whole.exact, *whole.streams])
    return b"".join([head, data[start : reader.offset], *streams])


class LayerCounter:
    """Finds the whole layers of a file that is still growing; it reads up to the streams' lengths once."""

    def __init__(self) -> None:
        self.ends: tuple[int, ...] = ()
        """The byte offsets at which the layers end, once they are known."""
        self._needed = 1

    def update(self, data: Buffer) -> int:
        """How many layers are whole in ``data``, which is what it was at the last call or more.
        BitstreamError for what cannot become a NIC file; the CRCs of the streams are left to
        :func:`parse`."""
        if not self.ends and len(data) >= self._needed:
            reader = Reader(from_memory(data))
            try:
                header, _ = take_header(reader)
                self.ends = _layer_ends(reader, header, _take_chunks(reader, header))
            except TruncatedError as error:
                self._needed = error.needed
        return sum(end <= len(data) for end in self.ends)

    def read(self, file: Readable, data: bytearray, layers: int) -> int:
        """Reads on at the end of ``data`` until it holds so many whole layers, or to the end of the file;
        returns how many it holds."""
        while (whole := self.update(data)) < layers:
            missing = self.ends[layers - 1] - len(data) if self.ends else LAYER_BLOCK
            if not (block := read_block(file, missing)):
                break
            data += block
        return whole


def verify(data: Buffer) -> None:
    """Checks structure and every CRC of the file; decodes nothing."""
    reader = Reader(from_memory(data))
    header, seed = take_header(reader)
    rows = rows_of(header, _take_chunks(reader, header))
    for row, lengths in zip(rows, _take_lengths(reader, rows), strict=True):
        _take_row(reader, row, lengths, seed)


def _layer_ends(reader: Reader, header: Header, chunks: dict[str, bytes]) -> tuple[int, ...]:
    """From behind the chunks: where each layer ends."""
    rows = rows_of(header, chunks)
    sizes = [sum(lengths) + CRC_BYTES * len(lengths) for lengths in _take_lengths(reader, rows)]
    return tuple(accumulate(sizes, initial=reader.offset))[2:]  # the exact cells are part of layer 1


# ----------------------------------------------------------------------------------------- rules and limits


def _faults(container: Container) -> Iterator[str]:
    """What is wrong with a container that is to be written."""
    header, chunks, streams = container.header, container.chunks, container.streams
    yield from header_faults(header)
    for tag in chunks:
        if tag not in (*METADATA_TAGS, CELLS_TAG, ALPHA_TAG):
            yield f"unknown chunk {tag!r}"
    if fault := cells_fault(header, chunks.get(CELLS_TAG)):
        yield fault
    if (ALPHA_TAG in chunks) != header.has_alpha:
        yield f"mode {header.mode} {'needs an' if header.has_alpha else 'has no'} {ALPHA_TAG} chunk"
    room = MAX_CHUNKS_BYTES
    for tag, payload in chunks.items():
        limit = _alpha_limit(header) if tag == ALPHA_TAG else min(MAX_CHUNK_BYTES, room)
        if len(payload) > limit:
            yield f"chunk {tag}: {len(payload)} bytes are more than the limit of {limit}"
        if tag in METADATA_TAGS:
            room -= len(payload)
    rows = rows_of(header, chunks)
    if len(streams) != header.layers or any(len(row) != header.tiles for row in streams):
        yield f"streams do not fit {header.layers} layers of {header.tiles} tiles"
    if len(container.exact) != rows[0].tiles:
        yield f"{len(container.exact)} streams of exact cells do not fit {rows[0].tiles} exact tiles"
    for row, payloads in zip(rows, [container.exact, *streams], strict=False):
        for tile, (payload, limit) in enumerate(zip(payloads, row.limits(), strict=False)):
            if len(payload) > limit:
                yield f"{row.name(tile)}: {len(payload)} bytes are more than the limit of {limit}"


def _alpha_limit(header: Header) -> int:
    """Twice the raw plane: room for any lossless coder's worst case."""
    return 2 * header.width * header.height + 4096


def _seed(head: bytes) -> int:
    """The header's CRC, its last four bytes."""
    return int.from_bytes(head[-4:], "little")


# -------------------------------------------------------------------------------------------------- writing


def _dump_streams(head: bytes, rows: list[Row], streams: list[list[bytes]]) -> Iterator[bytes]:
    """All lengths, then for each stream its CRC and payload."""
    seed = _seed(head)
    for payloads in streams:
        for payload in payloads:
            yield varint(len(payload))
    for row, payloads in zip(rows, streams, strict=False):  # fewer, of a file that is cut down
        for tile, payload in enumerate(payloads):
            yield struct.pack("<I", stream_crc(seed, row.layer, tile, payload))
            yield payload


# -------------------------------------------------------------------------------------------------- reading


def _take_chunks(reader: Reader, header: Header, *, metadata_only: bool = False) -> dict[str, bytes]:
    """The known chunks, up to and with the DATA tag, or only up to the tag that ends the metadata."""
    chunks: dict[str, bytes] = {}
    count, room = 0, MAX_CHUNKS_BYTES
    while (tag := _take_tag(reader)) not in (CELLS_TAG, ALPHA_TAG, DATA_TAG):
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
    if tag == CELLS_TAG:
        chunks[CELLS_TAG] = bytes(_take_chunk(reader, tag, CELLS_BYTES))
    if fault := cells_fault(header, chunks.get(CELLS_TAG)):
        raise BitstreamError(fault)
    if tag == CELLS_TAG:
        tag = _take_tag(reader)
    place = f"chunk {tag} at byte {reader.offset - 4}"
    if tag not in (ALPHA_TAG, DATA_TAG):
        raise BitstreamError(f"{place}: {CELLS_TAG} must be the last but {ALPHA_TAG}")
    if (tag == ALPHA_TAG) != header.has_alpha:
        needed = "must come before it" if header.has_alpha else "must not be there"
        raise BitstreamError(f"{place}: {ALPHA_TAG} {needed} in mode {header.mode}")
    if tag == ALPHA_TAG and not metadata_only:
        chunks[ALPHA_TAG] = bytes(_take_chunk(reader, tag, _alpha_limit(header)))
        if (tag := _take_tag(reader)) != DATA_TAG:
            raise BitstreamError(f"chunk {tag} at byte {reader.offset - 4}: {ALPHA_TAG} must be the last")
    return chunks


def _take_tag(reader: Reader) -> str:
    raw = bytes(reader.take(4, "chunk tag"))
    if not raw.isalpha():
        raise BitstreamError(f"chunk tag at byte {reader.offset - 4}: {raw!r} is not four letters")
    return raw.decode("ascii")


def _take_chunk(reader: Reader, tag: str, limit: int) -> bytes | memoryview:
    """What follows a tag: length, payload, CRC."""
    place = f"chunk {tag} at byte {reader.offset - 4}"
    length = reader.u32(place)
    if length > limit:
        raise BitstreamError(f"{place}: {length} bytes are more than the limit of {limit}")
    payload = reader.take(length, place)
    if reader.u32(place) != crc32(payload, crc32(struct.pack("<4sI", tag.encode(), length))):
        raise BitstreamError(f"{place}: CRC mismatch")
    return payload


def _take_lengths(reader: Reader, rows: list[Row]) -> list[list[int]]:
    """The lengths of the streams' payloads, by row and tile, each within its limit."""
    lengths: list[list[int]] = []
    missing = sum(row.tiles for row in rows)
    for row in rows:
        lengths.append([])
        for tile, limit in enumerate(row.limits()):
            place = Place(row, tile, reader.offset, "length of the ")
            missing -= 1
            try:
                length, _ = reader.varint(place)
            except TruncatedError as error:  # at least a byte for each that is to come
                error.needed += missing
                raise
            if length > limit:
                raise BitstreamError(f"{place}: {length} bytes are more than the limit of {limit}")
            lengths[-1].append(length)
    return lengths


def _take_row(reader: Reader, row: Row, lengths: list[int], seed: int) -> list[bytes | memoryview]:
    """The streams of one row, tile by tile, their CRCs checked."""
    streams = []
    for tile, length in enumerate(lengths):
        place = Place(row, tile, reader.offset)
        crc = reader.u32(place)
        payload = reader.take(length, place)
        if crc != stream_crc(seed, row.layer, tile, payload):
            raise BitstreamError(f"{place}: CRC mismatch")
        streams.append(payload)
    return streams
