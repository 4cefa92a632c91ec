"""Damaged files with right checksums, made of sound ones: what fuzz.py and soak.py feed to the codec.

    bytes    flips, cuts, repeats; checksums as they come
    header   other fields
    chunks   doubled, moved, renamed, cut, of other files, unknown ones
    streams  spliced, swapped, doubled, of other files, random
    exact    masks and pictures of exact cells
    symbols  extremes, escapes, spikes and permutations of what the streams hold, coded anew

Every mutation but those of bytes ends with all CRCs right, so that the damage reaches what is behind them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
import torch

from pillow_nic import container, decoding, tile_coding, weights
from pillow_nic.container import Container
from pillow_nic.entropy_tables import MAX_SYMBOL
from pillow_nic.header import MODES, NO_MODEL, Header, dump_header
from pillow_nic.streams import CELLS_TAG, EXACT, Row, rows_of
from pillow_nic.tile_coding import TileSymbols

Rng = np.random.Generator
Array = np.ndarray[Any, Any]

TAGS = ("iccp", "exif", "xmpp", "phys", "text", "ALPH", "DATA", "next", "NEXT", "zzzz")
MOST_POSITIONS = 1024
"""Of a file whose symbols are changed."""


@lru_cache(256)
def _sound(data: bytes) -> Container:
    """A file taken apart; not to be changed."""
    return container.parse(data)


def mutate(files: list[bytes], rng: Rng, levels: Sequence[str] = ()) -> tuple[str, bytes]:
    """One of the files changed on one of the levels, by default of all, and its name."""
    levels = levels or tuple(LEVELS)
    name = levels[rng.integers(len(levels))]
    return name, LEVELS[name](files[rng.integers(len(files))], files, rng)


def sealed(
    header: Header, chunks: list[tuple[str, bytes]], streams: list[list[bytes]], exact: list[bytes]
) -> bytes:
    """A file as `container.dump` makes it, with whatever chunks, in whatever order, and streams; only the
    lengths and CRCs are right."""
    head = dump_header(header)
    records = []
    for tag, payload in chunks:
        record = struct.pack("<4sI", tag.encode(), len(payload)) + payload
        records.append(record + struct.pack("<I", crc32(record)))
    rows = [Row(header, EXACT, 0, len(exact)), *rows_of(header, {})[1:]]
    return b"".join([head, *records, b"DATA", *container._dump_streams(head, rows, [exact, *streams])])


def change_bytes(data: bytes, files: list[bytes], rng: Rng) -> bytes:
    out = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(len(out)))
        what = rng.integers(5)
        if what == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif what == 1:
            out[at : at + 4] = struct.pack("<I", int(rng.integers(1 << 32)))
        elif what == 2:
            del out[at : at + int(rng.integers(1, 20))]
        elif what == 3:
            out[at:at] = out[at : at + int(rng.integers(1, 200))]
        else:
            other = files[rng.integers(len(files))]
            start = int(rng.integers(len(other)))
            out[at:] = other[start:]
        out = out or bytearray(1)
    return bytes(out)


def change_header(data: bytes, files: list[bytes], rng: Rng) -> bytes:
    file = _sound(data)
    header = file.header
    for _ in range(rng.integers(1, 4)):
        header = _other_field(header, rng)
    tiles = header.tiles if header.tile_log2 < 32 else 1
    streams = [layer[:tiles] + [b""] * min(tiles - len(layer), 2000) for layer in file.streams]
    streams = streams[: header.layers] + [streams[-1]] * min(header.layers - len(streams), 8)
    chunks = list(file.chunks.items())
    if header.has_alpha and "ALPH" not in file.chunks and rng.random() < 0.8:
        chunks.append(("ALPH", b"\0\x80"))
    return sealed(header, chunks, streams, file.exact)


def _other_field(header: Header, rng: Rng) -> Header:
    what = rng.integers(9)
    if what == 0:
        return replace(header, rate_point=int(rng.choice([0, 1, 65535, rng.integers(1 << 16)])))
    if what == 1:
        return replace(header, delta=int(rng.choice([-128, 127, rng.integers(-128, 128)])))
    if what == 2:
        return replace(header, width_index=int(rng.choice([255, rng.integers(8)])))
    if what == 3:
        return replace(header, width=int(rng.integers(1, 300)), height=int(rng.integers(1, 300)))
    if what == 4:
        thin, long = int(rng.integers(1, 20)), int(2 ** rng.uniform(0, 21))
        sides = (thin, long) if rng.random() < 0.5 else (long, thin)
        return replace(header, width=sides[0], height=sides[1])
    if what == 5:
        most = int(rng.choice([7, 8, 9, 32, 33]))
        count = int(rng.integers(1, most + 1))
        ends = np.sort(rng.choice(most, count, replace=False)) + 1
        return replace(header, layer_ends=tuple(int(end) for end in ends))
    if what == 6:
        return replace(header, tile_log2=int(rng.choice([0, 5, 6, 7, 8, 9, 10, 11, 12, 16, 31])))
    if what == 7:
        return replace(header, mode=MODES[rng.integers(len(MODES))])
    names = ("nic-2", "nic-2-visual", "nic-3", "../x", "nic\n1", "m" * 40)
    return replace(header, model=str(rng.choice(names)))


def change_chunks(data: bytes, files: list[bytes], rng: Rng) -> bytes:
    file = _sound(data)
    chunks = list(file.chunks.items())
    for _ in range(rng.integers(1, 4)):
        what = rng.integers(6)
        if what == 0 or not chunks:
            size = int(rng.choice([0, 1, 8, 9, rng.integers(3000)]))
            chunks.append((str(rng.choice(TAGS)), rng.bytes(size)))
            continue
        at = int(rng.integers(len(chunks)))
        tag, payload = chunks[at]
        if what == 1:
            chunks.insert(int(rng.integers(len(chunks) + 1)), (tag, payload))
        elif what == 2:
            chunks[at] = str(rng.choice(TAGS)), payload
        elif what == 3:
            chunks[at] = tag, change_bytes(payload or b"\0", [data], rng)
        elif what == 4:
            others = _sound(files[rng.integers(len(files))]).chunks
            chunks[at] = tag, others.get(tag, payload)
        else:
            chunks.append(chunks.pop(at))
    header = file.header
    if rng.random() < 0.2:
        header = replace(header, mode=MODES[rng.integers(len(MODES))])
    if rng.random() < 0.5:  # where it is allowed
        chunks.sort(key=lambda chunk: chunk[0] == "ALPH")
    return sealed(header, chunks, file.streams, file.exact)


def change_streams(data: bytes, files: list[bytes], rng: Rng) -> bytes:
    file = _sound(data)
    streams = [list(layer) for layer in file.streams]
    for _ in range(rng.integers(1, 4)):
        layer = streams[rng.integers(len(streams))]
        tile = int(rng.integers(len(layer)))
        what = rng.integers(7)
        if what == 0:
            layer[tile] = rng.bytes(int(rng.integers(400)))
        elif what == 1:
            layer[tile] = change_bytes(layer[tile] or b"\0", files, rng)
        elif what == 2:  # splice
            other = _any_stream(files, rng)
            cut, start = (int(rng.integers(len(part) + 1)) for part in (layer[tile], other))
            layer[tile] = layer[tile][:cut] + other[start:]
        elif what == 3:
            layer[tile] = _any_stream(files, rng)
        elif what == 4:  # swap
            row = streams[rng.integers(len(streams))]
            at = int(rng.integers(len(row)))
            layer[tile], row[at] = row[at], layer[tile]
        elif what == 5:
            layer[tile] = layer[tile] * int(rng.integers(0, 5))
        else:
            layer[tile] = layer[tile][: int(rng.integers(len(layer[tile]) + 1))].rstrip(b"\0")
    return sealed(file.header, list(file.chunks.items()), streams, file.exact)


def change_exact(data: bytes, files: list[bytes], rng: Rng) -> bytes:
    """Exact cells with another mask, another WebP picture, damage in either, or other tiles."""
    file = _sound(data)
    if not file.exact:
        return change_streams(data, files, rng)
    exact = [_other_cells(stream, files, rng) for stream in file.exact]
    chunks = dict(file.chunks)
    if rng.random() < 0.2:
        chunks[CELLS_TAG] = bytes((int(rng.integers(3)), int(rng.integers(4, 14))))
    return sealed(file.header, list(chunks.items()), file.streams, exact)


def _other_cells(stream: bytes, files: list[bytes], rng: Rng) -> bytes:
    length = int.from_bytes(stream[:4], "little")
    mask, picture = stream[4 : 4 + length], stream[4 + length :]
    what = rng.integers(6)
    if what == 0 and mask:
        mask = change_bytes(mask, files, rng)
    elif what == 1:
        mask = zlib.compress(rng.bytes(int(rng.integers(1 << 12))))
    elif what == 2 and picture:
        picture = change_bytes(picture, files, rng)
    elif what == 3 and len(picture) > 25:  # VP8L's header says another size, behind it the same bits
        picture = picture[:21] + rng.bytes(4) + picture[25:]
    elif what == 4:
        return change_bytes(stream or b"\0", files, rng)
    return len(mask).to_bytes(4, "little") + mask + picture if stream else stream


def _any_stream(files: list[bytes], rng: Rng) -> bytes:
    streams = _sound(files[rng.integers(len(files))]).streams
    layer = streams[rng.integers(len(streams))]
    return layer[rng.integers(len(layer))]


def change_symbols(data: bytes, files: list[bytes], rng: Rng) -> bytes:
    """Other symbols, or another rate point or Δ for the same ones; a file that a writer could have made."""
    file = _sound(data)
    header = file.header
    if header.width * header.height > MOST_POSITIONS * 256 or header.model == NO_MODEL:
        return change_streams(data, files, rng)
    if rng.random() < 0.3:
        header = replace(header, rate_point=int(rng.integers(1 << 16)), delta=int(rng.integers(-60, 60)))
    model = weights.load(header.model, torch.device("cpu"))
    if header.groups > len(model.config.groups):
        return change_streams(data, files, rng)
    tiles = []
    for number, (rows, columns) in enumerate(place for _, place in decoding.places(header)):
        size = rows.stop - rows.start, columns.stop - columns.start
        streams = [layer[number] for layer in file.streams]
        z, symbols, indices = tile_coding.read_symbols(model, streams, file.header, number, size)
        z = _other_symbols(z, rng) if rng.random() < 0.5 else z
        indices = model.integer_net.table_indices(z, header.rate_point, header.delta, len(symbols))
        indices = indices[:, : size[0], : size[1]]
        symbols = _other_symbols(symbols, rng) if rng.random() < 0.7 else symbols
        tiles.append(TileSymbols(z, np.where(model.tables.sizes[indices] > 0, symbols, 0), indices))
    streams = tile_coding.write_layers(model, tiles, header)
    return container.dump(Container(header, file.chunks, streams, file.exact))


def _other_symbols(symbols: Array, rng: Rng) -> Array:
    out = symbols.copy()
    what = rng.integers(7)
    if what == 0:  # escapes everywhere
        out[...] = rng.choice([-1, 1], out.shape) * int(2 ** rng.uniform(3, 20))
    elif what == 1:
        out[...] = int(rng.choice([-MAX_SYMBOL, MAX_SYMBOL, rng.integers(-40, 40)]))
    elif what == 2:  # spikes
        for _ in range(rng.integers(1, 9)):
            at = tuple(int(rng.integers(side)) for side in out.shape)
            out[at] = int(rng.choice([-1, 1])) * int(2 ** rng.uniform(0, 20))
    elif what == 3:
        out = rng.permuted(out.ravel()).reshape(out.shape).astype(np.int32)
    elif what == 4:
        out = -out
    elif what == 5:
        out = rng.integers(-8, 9, out.shape).astype(np.int32)
    else:
        out *= int(rng.integers(2, 100))
    return np.clip(out, -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)


LEVELS: dict[str, Callable[[bytes, list[bytes], Rng], bytes]] = {
    "bytes": change_bytes,
    "header": change_header,
    "chunks": change_chunks,
    "streams": change_streams,
    "exact": change_exact,
    "symbols": change_symbols,
}
