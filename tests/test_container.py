"""The file layout: literal bytes, round trips, each cut and flipped bit of a small file, hostile lengths."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillow_nic import container as nic
from pillow_nic.binary import Reader, varint, whole
from pillow_nic.container import (
    Container,
    LayerCounter,
    dump,
    parse,
    parse_header,
    read_info,
    truncate,
    verify,
)
from pillow_nic.errors import BitstreamError, NicError, TruncatedError
from pillow_nic.header import MODES, SIGNATURE, Header, dump_header
from pillow_nic.streams import rows_of

# 1x1 RGB, one layer of one group, an empty stream: nothing can be smaller but for the model's name.
SMALLEST = bytes.fromhex(
    "894e49430d0a1a0a 01 00 01 01 0000 00 00 01 06 056e69632d31 00010203 26956eae"  # signature and header
    "44415441 00 faa0a05d"  # DATA, length 0, CRC
)

# 300x200 LA in 2x1 tiles, two layers, three chunks.
SMALL = Container(
    Header("LA", 300, 200, 32768, -4, 4, (2, 7), 8, "nic-1", b"\xde\xad\xbe\xef"),
    {"exif": b"MM\0*", "text": b"hello", "ALPH": b"\xff"},
    [[b"base left", b"base right"], [b"", bytes(130)]],
)
SMALL_BYTES = bytes.fromhex(
    "894e49430d0a1a0a 01 03 ac02 c801 0080 fc 04 42 08 056e69632d31 deadbeef c2414d59"
    "65786966 04000000 4d4d002a 0ae083c3"
    "74657874 05000000 68656c6c6f 08c92ec4"
    "414c5048 01000000 ff c3736e81"
    "44415441 09 0a 00 8201"
    "83785b9d 62617365206c656674"
    "41e1c610 62617365207269676874"
    "c351af96"
    "b00f71b1" + 130 * "00"
)


def layer_offsets(data: bytes) -> list[int]:
    """Where the layers end that are there."""
    counter = LayerCounter()
    whole = counter.update(data)
    return list(counter.ends[:whole])


def seal(head: bytes) -> bytes:
    """A header with the CRC that fits."""
    return head + struct.pack("<I", crc32(head))


def chunk(tag: bytes, payload: bytes) -> bytes:
    record = tag + struct.pack("<I", len(payload)) + payload
    return record + struct.pack("<I", crc32(record))


def head(
    *,
    version: int = 1,
    mode: int = 0,
    size: bytes = b"\x40\x40",
    layer_mask: bytes = b"\x01",
    tile_log2: int = 10,
    name: bytes = b"m",
    model_hash: bytes = b"hash",
) -> bytes:
    """A header by its bytes, so that it can say what ``dump`` refuses to."""
    return seal(
        SIGNATURE
        + bytes([version, mode])
        + size
        + bytes(4)
        + layer_mask
        + bytes([tile_log2, len(name)])
        + name
        + model_hash
    )


def stream(header_bytes: bytes, layer: int, tile: int, payload: bytes) -> bytes:
    """One stream by FORMAT.md's words, for payloads below 128 bytes."""
    place = header_bytes[-4:] + bytes([layer]) + struct.pack("<II", tile, len(payload))
    return bytes([len(payload)]) + struct.pack("<I", crc32(place + payload)) + payload


PLAIN = head() + b"DATA" + stream(head(), 0, 0, b"abc")
PLAIN_CHUNKS_AT = len(head())


def with_chunks(chunks: bytes) -> bytes:
    return PLAIN[:PLAIN_CHUNKS_AT] + chunks + PLAIN[PLAIN_CHUNKS_AT:]


# -------------------------------------------------------------------------------------------- literal bytes


def test_smallest_file() -> None:
    header = Header("RGB", 1, 1, 0, 0, 0, (1,), 6, "nic-1", b"\0\1\2\3")
    assert dump(Container(header, {}, [[b""]])) == SMALLEST
    assert parse(SMALLEST) == Container(header, {}, [[b""]])
    assert len(SMALLEST) == 41


def test_small_file() -> None:
    assert dump(SMALL) == SMALL_BYTES
    assert parse(SMALL_BYTES) == SMALL
    verify(SMALL_BYTES)


def test_crcs_are_what_the_specification_says() -> None:
    assert parse(PLAIN).streams == [[b"abc"]]
    assert SMALL_BYTES[30:34] == struct.pack("<I", crc32(SMALL_BYTES[:30]))


def test_overhead_of_a_small_picture() -> None:
    """64 pixels square, six layers of short streams: 36 bytes and 5 for each stream."""
    header = Header("RGB", 64, 64, 0, 0, 0, (2, 3, 4, 5, 6, 7), 10, "nic-1", bytes(4))
    streams = [[bytes(100)] for _ in range(6)]
    assert len(dump(Container(header, {}, streams))) - 600 == 36 + 6 * 5


def test_chunks_are_written_in_one_order() -> None:
    shuffled = replace(SMALL, chunks=dict(reversed(SMALL.chunks.items())))
    assert dump(shuffled) == SMALL_BYTES


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer(kind: type) -> None:
    data = kind(SMALL_BYTES)
    assert parse(data) == SMALL
    assert read_info(data)[0] == SMALL.header
    assert layer_offsets(data)[-1] == len(SMALL_BYTES)
    assert all(type(payload) is bytes for row in parse(data).streams for payload in row)


# ---------------------------------------------------------------------------------------------- round trips


@st.composite
def headers(draw: st.DrawFn) -> Header:
    tile_log2 = draw(st.integers(6, 11))
    # At most 3x3 tiles, so that examples stay small.
    side = st.integers(1, 3 << tile_log2)
    ends = draw(st.sets(st.integers(1, 32), min_size=1, max_size=8))
    return Header(
        mode=draw(st.sampled_from(MODES)),
        width=draw(side),
        height=draw(side),
        rate_point=draw(st.integers(0, 65535)),
        delta=draw(st.integers(-128, 127)),
        width_index=draw(st.integers(0, 255)),
        layer_ends=tuple(sorted(ends)),
        tile_log2=tile_log2,
        model=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True)),
        model_hash=draw(st.binary(min_size=4, max_size=4)),
    )


@st.composite
def containers(draw: st.DrawFn) -> Container:
    header = draw(headers())
    chunks = draw(st.dictionaries(st.sampled_from(nic.METADATA_TAGS), st.binary(max_size=200)))
    if header.has_alpha:
        chunks["ALPH"] = draw(st.binary(max_size=300))
    payload = st.binary(max_size=300)
    streams = [[draw(payload) for _ in range(header.tiles)] for _ in range(header.layers)]
    return Container(header, chunks, streams)


@settings(deadline=None, max_examples=60)
@given(containers())
def test_round_trip(container: Container) -> None:
    data = dump(container)
    assert parse(data) == container
    verify(data)
    metadata = {tag: value for tag, value in container.chunks.items() if tag != "ALPH"}
    assert read_info(data) == read_info(io.BytesIO(data)) == (container.header, metadata)
    ends = layer_offsets(data)
    assert len(ends) == container.header.layers
    assert ends[-1] == len(data)
    for k, end in enumerate(ends, start=1):
        assert parse(data[:end], layers=k).streams == container.streams[:k]


@settings(deadline=None, max_examples=200)
@given(st.integers(0, (1 << 32) - 1))
def test_numbers(value: int) -> None:
    raw = varint(value)
    assert len(raw) == max(1, -(-value.bit_length() // 7))
    assert Reader(io.BytesIO(raw + b"tail").read).varint("it") == (value, raw)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_behind_a_header(tail: bytes) -> None:
    """Nothing but a NicError comes out of arbitrary bytes."""
    for data in (tail, SIGNATURE + tail, head() + tail, head(mode=1) + tail, head() + b"DATA" + tail):
        for call in (
            parse,
            verify,
            read_info,
            layer_offsets,
            parse_header,
            lambda data: parse(data, partial=True),
        ):
            with suppress(BitstreamError):
                call(data)


# ------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("size", "tile_log2", "grid"),
    [
        ((1, 1), 6, (1, 1)),
        ((64, 64), 6, (1, 1)),
        ((65, 64), 6, (2, 1)),
        ((5000, 3000), 10, (5, 3)),
        ((1 << 20, 1), 8, (1 << 12, 1)),
    ],
)
def test_tile_grid(size: tuple[int, int], tile_log2: int, grid: tuple[int, int]) -> None:
    header = replace(SMALL.header, width=size[0], height=size[1], tile_log2=tile_log2)
    assert header.tile_grid == grid
    assert header.tiles == grid[0] * grid[1]
    assert header.tile_size == 1 << tile_log2


def test_layers_and_groups() -> None:
    header = replace(SMALL.header, layer_ends=(2, 3, 4, 5, 6, 7))
    assert (header.layers, header.groups) == (6, 7)


# ------------------------------------------------------------------------------------------ cuts and damage


def test_every_cut() -> None:
    base_end, end = layer_offsets(SMALL_BYTES)
    assert end == len(SMALL_BYTES)
    for length in range(end):
        cut = SMALL_BYTES[:length]
        for call in (parse, verify):
            with pytest.raises(TruncatedError, match=f"the file ends at byte {length}, "):
                call(cut)
        if length < base_end:
            for options in ({"partial": True}, {"layers": 1}):
                with pytest.raises(TruncatedError):
                    parse(cut, **options)
        else:
            assert layer_offsets(cut) == [base_end]
            for found in (parse(cut, partial=True), parse(cut, layers=1), parse(cut, layers=2, partial=True)):
                assert found == replace(SMALL, streams=SMALL.streams[:1])


def test_every_cut_of_a_file_object() -> None:
    metadata_end = SMALL_BYTES.index(b"ALPH") + 4
    for length in range(len(SMALL_BYTES)):
        file = io.BytesIO(SMALL_BYTES[:length])
        if length < metadata_end:
            with pytest.raises(TruncatedError):
                read_info(file)
        else:
            assert read_info(file) == (SMALL.header, {"exif": b"MM\0*", "text": b"hello"})
            assert file.tell() == metadata_end


def test_a_buffer_that_grows() -> None:
    at_data = SMALL_BYTES.index(b"DATA") + 4
    counts = [len(layer_offsets(SMALL_BYTES[:n])) for n in range(at_data, len(SMALL_BYTES) + 1)]
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2}


def flipped_bits(data: bytes) -> Iterator[tuple[int, bytes]]:
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(flipped)


@pytest.mark.parametrize("data", [SMALLEST, SMALL_BYTES, PLAIN], ids=["smallest", "small", "plain"])
def test_every_flipped_bit_is_found(data: bytes) -> None:
    """There are no harmless bytes: every bit of a file is covered."""
    for call in (parse, verify):
        unnoticed = []
        for bit, flipped in flipped_bits(data):
            with suppress(BitstreamError):
                call(flipped)
                unnoticed.append(divmod(bit, 8))
        assert unnoticed == []


def test_a_flipped_bit_never_gives_other_content_in_part() -> None:
    """``partial`` forgives a missing end, nothing else."""
    for _, flipped in flipped_bits(SMALL_BYTES):
        try:
            found = parse(flipped, partial=True)
        except BitstreamError:
            continue
        # A length that now points behind the end: what is before it is sound.
        assert found == replace(SMALL, streams=SMALL.streams[:1])


def test_damage_behind_the_layers_that_are_read_is_not_looked_at() -> None:
    base_end, _ = layer_offsets(SMALL_BYTES)
    assert parse(SMALL_BYTES[:base_end] + b"\xff" * 40, layers=1).streams == SMALL.streams[:1]


def test_swapped_streams_are_found() -> None:
    """Same header, same lengths, both CRCs sound in their own places: between tiles, between layers."""
    header = replace(SMALL.header, mode="RGB")
    data = dump(Container(header, {}, [[b"aaaa", b"bbbb"], [b"cccc", b"dddd"]]))
    start, size = data.index(b"DATA") + 4 + 4, 4 + 4
    records = [data[start + i * size :][:size] for i in range(4)]
    assert parse(data[:start] + b"".join(records)).streams[0] == [b"aaaa", b"bbbb"]
    for order, place in (
        ((1, 0, 2, 3), "layer 1, tile 1"),
        ((2, 1, 0, 3), "layer 1, tile 1"),
        ((0, 1, 3, 2), "layer 2, tile 1"),
        ((0, 2, 1, 3), "layer 1, tile 2"),
    ):
        with pytest.raises(BitstreamError, match=f"stream of {place}, at byte .*: CRC mismatch"):
            verify(data[:start] + b"".join(records[i] for i in order))


def test_streams_of_another_file_are_found() -> None:
    """Sound streams under a header that differs in the rate point only."""
    other = dump(replace(SMALL, header=replace(SMALL.header, rate_point=1)))
    at_chunks = SMALL_BYTES.index(b"exif")
    with pytest.raises(BitstreamError, match="stream of layer 1, tile 1"):
        parse(other[:at_chunks] + SMALL_BYTES[at_chunks:])


def test_trailing_bytes_are_no_part_of_the_file() -> None:
    for tail in (b"\0", b"<html>", SMALL_BYTES):
        assert parse(SMALL_BYTES + tail) == SMALL
        assert layer_offsets(SMALL_BYTES + tail)[-1] == len(SMALL_BYTES)
        verify(SMALL_BYTES + tail)


# --------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("layers", [-1, 0, 3, 1000])
def test_layers_that_the_file_does_not_announce(layers: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 2"):
        parse(SMALL_BYTES, layers=layers)


@pytest.mark.parametrize("layers", [1, 2])
def test_first_layers(layers: int) -> None:
    found = parse(SMALL_BYTES, layers=layers)
    assert found.header == SMALL.header
    assert found.streams == SMALL.streams[:layers]


# ---------------------------------------------------------------------------------------------- bad headers


@pytest.mark.parametrize(
    "data", [b"hello world, not a picture", b"\x89PNG\r\n\x1a\n", b"\x89NIC\n\x1a\n\0\0", b"P6", bytes(100)]
)
def test_not_a_nic_file(data: bytes) -> None:
    with pytest.raises(BitstreamError, match="not a NIC file") as caught:
        parse_header(data)
    assert not isinstance(caught.value, TruncatedError)


@pytest.mark.parametrize("length", range(34))
def test_a_short_header(length: int) -> None:
    with pytest.raises(TruncatedError, match="header: the file ends at byte"):
        parse_header(SMALL_BYTES[:length])


def test_a_newer_version_is_named_before_anything_else() -> None:
    with pytest.raises(BitstreamError, match="format version 2"):
        parse(SIGNATURE + b"\x02\xff")


HOSTILE_HEADERS = {
    "mode": (head(mode=4), "unknown mode"),
    "width 0": (head(size=b"\0\1"), "out of range"),
    "height 0": (head(size=b"\1\0"), "out of range"),
    "width": (head(size=b"\x81\x80\x40\1"), "out of range"),
    "height": (head(size=b"\1\x81\x80\x40", tile_log2=11), "out of range"),
    "32-bit sides": (head(size=b"\xff\xff\xff\xff\x0f" * 2, tile_log2=11), "out of range"),
    "pixels": (head(size=b"\x80\x80\x40\x81\x08", tile_log2=11), "more than 1073741824 pixels"),
    "number of 33 bits": (head(size=b"\xff\xff\xff\xff\x1f\1"), "malformed number"),
    "endless number": (head(size=b"\xff" * 20), "malformed number"),
    "number with a zero too many": (head(size=b"\x81\x00\1"), "malformed number"),
    "no layer": (head(layer_mask=b"\0"), "layer ends"),
    "tile size small": (head(tile_log2=5), "tile size"),
    "tile size large": (head(tile_log2=12), "tile size"),
    "tile size huge": (head(tile_log2=255), "tile size"),
    "tiles": (head(size=b"\x81\x80\x02\xff\xff\x01", tile_log2=8), "16512 tiles of 256 pixels are more than"),
    "streams": (
        head(size=b"\x80\x80\x02" * 2, tile_log2=8, layer_mask=b"\xff\3"),
        "9 layers of 16384 tiles are more than 131072 streams",
    ),
    "small tiles": (head(size=b"\x80\x05\x81\x03", tile_log2=7), "20 tiles of 128 pixels are more than 16"),
    "tiny tiles": (head(size=b"\x80\x02\x81\x02", tile_log2=6), "20 tiles of 64 pixels are more than 16"),
    "no name": (head(name=b""), "model name"),
    "long name": (head(name=b"m" * 33), "model name"),
    "name with a path": (head(name=b"../weights"), "model name"),
    "name with a zero": (head(name=b"nic\0"), "model name"),
    "name not ASCII": (head(name=b"ni\xe9"), "model name"),
    "CRC": (head()[:-1] + b"\0", "CRC mismatch"),
}


@pytest.mark.parametrize(("data", "fault"), HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS)
def test_hostile_headers(data: bytes, fault: str) -> None:
    for call in (parse, verify, read_info, layer_offsets, parse_header):
        with pytest.raises(BitstreamError, match=f"header.*{fault}"):
            call(data + b"DATA")


def test_the_largest_sizes_are_allowed() -> None:
    for width, height, tile_log2 in (
        (1 << 20, 1 << 10, 8),
        (1 << 15, 1 << 15, 8),
        (1 << 20, 1, 8),
        (512, 512, 7),
        (1024, 64, 6),
    ):
        header = replace(SMALL.header, width=width, height=height, tile_log2=tile_log2)
        assert parse_header(dump_header(header)) == header


def test_groups() -> None:
    header = replace(SMALL.header, layer_ends=tuple(range(1, 33)))
    assert parse_header(dump_header(header)) == header


# --------------------------------------------------------------------------------------------------- chunks


def test_an_unknown_ancillary_chunk_is_skipped() -> None:
    data = with_chunks(chunk(b"next", b"whatever") * 2 + chunk(b"text", b"hi") + chunk(b"nEXT", b""))
    assert parse(data).chunks == read_info(data)[1] == {"text": b"hi"}
    verify(data)


def test_the_crc_of_an_unknown_ancillary_chunk_counts() -> None:
    data = with_chunks(chunk(b"next", b"whatever"))
    with pytest.raises(BitstreamError, match=r"chunk next at byte \d+: CRC mismatch"):
        parse(data.replace(b"whatever", b"whenever"))


@pytest.mark.parametrize(
    ("chunks", "fault"),
    [
        (chunk(b"NEXT", b""), "chunk NEXT at byte 28: unknown critical chunk"),
        (chunk(b"Text", b""), "chunk Text at byte 28: unknown critical chunk"),
        (chunk(b"text", b"a") + chunk(b"text", b"b"), "chunk text at byte 41: a second chunk"),
        (chunk(b"t xt", b""), "chunk tag at byte 28: b't xt' is not four letters"),
        (chunk(b"te\xe9t", b""), "chunk tag at byte 28: .* is not four letters"),
        (chunk(b"ALPH", b""), "chunk ALPH at byte 28: .*must not be there in mode RGB"),
        (chunk(b"next", b"") * 65, "chunk next at byte 796: more than 64 chunks"),
    ],
)
def test_chunks_that_may_not_be(chunks: bytes, fault: str) -> None:
    for call in (parse, verify, read_info):
        with pytest.raises(BitstreamError, match=fault):
            call(with_chunks(chunks))


def test_64_chunks_are_allowed() -> None:
    verify(with_chunks(chunk(b"next", b"") * 64))


@pytest.mark.parametrize("mode", [1, 3])
def test_alpha_must_be_there_and_last(mode: int) -> None:
    start = head(mode=mode)
    end = b"DATA" + stream(start, 0, 0, b"")
    alpha = chunk(b"ALPH", b"a")
    assert parse(start + alpha + end).chunks == {"ALPH": b"a"}
    with pytest.raises(BitstreamError, match="chunk DATA at byte 28: ALPH must come before it"):
        parse(start + end)
    for extra in (alpha, chunk(b"text", b"late"), chunk(b"next", b"late")):
        with pytest.raises(BitstreamError, match="ALPH must be the last"):
            parse(start + alpha + extra + end)


def test_read_info_does_not_read_the_alpha_plane_or_the_streams() -> None:
    file = io.BytesIO(SMALL_BYTES)
    read_info(file)
    assert file.tell() == SMALL_BYTES.index(b"ALPH") + 4
    file = io.BytesIO(b"before" + PLAIN)
    file.seek(6)
    assert read_info(file) == (parse(PLAIN).header, {})
    assert file.tell() == 6 + PLAIN.index(b"DATA") + 4


def test_a_slow_file_is_read_to_its_end() -> None:
    class Drops(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            return super().read(min(size, 1))

    assert whole(Drops(SMALL_BYTES)) == SMALL_BYTES


@pytest.mark.parametrize(("gives", "error"), [(None, BlockingIOError), ("", TypeError), ("text", TypeError)])
def test_a_file_that_gives_no_bytes_is_no_short_file(gives: Any, error: type[Exception]) -> None:
    class Odd:
        def read(self, size: int, /) -> Any:
            return gives

    with pytest.raises(error):
        whole(Odd())
    with pytest.raises(error):
        read_info(Odd())
    with pytest.raises(error):
        LayerCounter().read(Odd(), bytearray(), 1)


def test_layer_offsets_of_every_prefix() -> None:
    ends = layer_offsets(SMALL_BYTES)
    lengths_end = SMALL_BYTES.index(b"DATA") + 4 + 5
    for length in range(34, len(SMALL_BYTES) + 1):
        header = parse_header(SMALL_BYTES[:length])
        if length < lengths_end:
            assert header.layer_offsets == ()
            assert length < header.needed <= lengths_end
        else:
            assert (list(header.layer_offsets), header.needed) == (ends, 0)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_counting_layers_while_the_file_grows(block: int) -> None:
    counter = LayerCounter()
    for length in range(0, len(SMALL_BYTES) + block, block):
        data = SMALL_BYTES[:length]
        assert counter.update(data) == len(layer_offsets(data))
    assert list(counter.ends) == layer_offsets(SMALL_BYTES)
    with pytest.raises(BitstreamError, match="not a NIC file"):
        LayerCounter().update(b"GIF89a")


# ------------------------------------------------------------------------------------------------- truncate


@settings(deadline=None, max_examples=60)
@given(containers(), st.data())
def test_truncate(container: Container, data: st.DataObject) -> None:
    layers = data.draw(st.integers(1, container.header.layers))
    whole = dump(container)
    header = replace(container.header, layer_ends=container.header.layer_ends[:layers])
    expected = Container(header, container.chunks, container.streams[:layers])
    assert truncate(whole, layers) == dump(expected)
    assert truncate(whole[: layer_offsets(whole)[layers - 1]], layers) == dump(expected)


def test_truncate_keeps_what_it_does_not_know_and_refuses_what_is_not_there() -> None:
    unknown = struct.pack("<4sI", b"next", 3) + b"new"
    at = PLAIN.index(b"DATA")
    data = PLAIN[:at] + unknown + struct.pack("<I", crc32(unknown)) + PLAIN[at:]
    assert truncate(data, 1) == data
    for layers in (0, -1, 3):
        with pytest.raises(ValueError, match="layers must be a whole number from 1 to 2"):
            truncate(SMALL_BYTES, layers)
    with pytest.raises(TruncatedError):
        truncate(SMALL_BYTES[:-1], 2)
    with pytest.raises(BitstreamError, match="CRC"):
        truncate(SMALL_BYTES[:-1] + b"?", 2)


# ------------------------------------------------------------------------------------------ hostile lengths


class Watched(io.BytesIO):
    """A file that notes the most that was asked of it at once."""

    largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0
        self.largest = max(self.largest, size)
        return super().read(size)


def varint_stream_length(length: int) -> bytes:
    return head() + b"DATA" + varint(length) + bytes(8)


HUGE = seal(SIGNATURE + b"\1\1\x80\x80\x02\x80\x80\x02" + bytes(4) + b"\xff\xff\xff\xff\x0f\x0b\1mhash")
HOSTILE_LENGTHS = {
    "a chunk over the limit": with_chunks(b"text" + struct.pack("<I", (1 << 25) + 1)),
    "a chunk of 4 GB": with_chunks(b"next" + b"\xff" * 4),
    "a chunk at the limit, cut": with_chunks(b"text" + struct.pack("<I", 1 << 25)),
    "alpha over the limit": head(mode=1) + b"ALPH" + struct.pack("<I", 2 * 64 * 64 + 4097),
    "alpha at the limit, cut": head(mode=1) + b"ALPH" + struct.pack("<I", 2 * 64 * 64 + 4096) + bytes(9),
    "alpha of 32768x32768, cut": HUGE + b"ALPH" + struct.pack("<I", (1 << 31) + 4096) + bytes(100),
    "a stream over the limit": varint_stream_length(64 + 8192 * 16 + 1),
    "a stream of 4 GB": varint_stream_length((1 << 32) - 1),
    "a stream at the limit, cut": varint_stream_length(64 + 8192 * 16),
    "8 layers of 16384 tiles, no streams": (
        head(size=b"\x80\x80\x02" * 2, tile_log2=8, layer_mask=b"\xff\1") + b"DATA"
    ),
}


@pytest.mark.parametrize("data", HOSTILE_LENGTHS.values(), ids=HOSTILE_LENGTHS)
def test_a_hostile_length_never_allocates(data: bytes) -> None:
    def info_of_a_file(data: bytes) -> None:
        file = Watched(data)
        try:
            read_info(file)
        finally:
            assert file.largest <= 1 << 16

    for call in (
        parse,
        verify,
        lambda data: parse(data, partial=True),
        info_of_a_file,
        layer_offsets,
        parse_header,
    ):
        message = "limit"
        tracemalloc.start()
        try:
            call(data)
        except BitstreamError as error:
            message = str(error)
        else:
            # These do not look at streams, or take their end for the end of what has arrived so far.
            assert call in (info_of_a_file, layer_offsets, parse_header)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert "limit" in message or "the file ends" in message
        assert peak < 400_000


def test_a_chunk_of_many_blocks_comes_whole() -> None:
    payload = bytes(range(256)) * 1000
    assert read_info(Watched(with_chunks(chunk(b"iccp", payload))))[1] == {"iccp": payload}


def test_all_chunks_together() -> None:
    full = chunk(b"next", bytes(1 << 25))
    with pytest.raises(BitstreamError, match=r"chunk text at byte \d+: 1 bytes are more than the limit of 0"):
        parse(with_chunks(full * 2 + chunk(b"text", b"x")))


def test_the_limit_of_a_stream_is_that_of_its_tile() -> None:
    """A tile of 1x1 pixels in the corner may hold one latent position, the one beside it 16x16."""
    header = replace(SMALL.header, mode="RGB", width=257, height=257, tile_log2=8, layer_ends=(1,))
    limits = rows_of(header, {})[1].limits()
    assert limits == [64 + 8192 * n for n in (256, 16, 16, 1)]
    wide = replace(header, width=1 << 15, height=1 << 15, tile_log2=11)
    assert rows_of(wide, {})[1].limits()[0] == 64 + (8192 << 14)
    fits = [[bytes(64 + 8192) if tile == 3 else b"" for tile in range(4)]]
    assert parse(dump(Container(header, {}, fits))).streams == fits
    over = [[bytes(64 + 8193) if tile == 3 else b"" for tile in range(4)]]
    with pytest.raises(ValueError, match="layer 1, tile 4: 8257 bytes are more than the limit of 8256"):
        dump(Container(header, {}, over))


# ------------------------------------------------------------------------------- what dump refuses to write


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"mode": "CMYK"}, "unknown mode 'CMYK'"),
        ({"width": 0}, "size 0x200"),
        ({"height": -1}, "size 300x-1"),
        ({"width": (1 << 20) + 1}, "each side"),
        ({"width": 1 << 20, "height": 1025}, "pixels"),
        ({"rate_point": 65536}, "rate point"),
        ({"rate_point": -1}, "rate point"),
        ({"delta": 128}, "delta"),
        ({"delta": -129}, "delta"),
        ({"width_index": 256}, "width index"),
        ({"layer_ends": ()}, "layer ends"),
        ({"layer_ends": (0, 2)}, "layer ends"),
        ({"layer_ends": (2, 2)}, "layer ends"),
        ({"layer_ends": (3, 2)}, "layer ends"),
        ({"layer_ends": (2, 33)}, "33 channel groups"),
        ({"tile_log2": 5}, "tile size"),
        ({"tile_log2": 12}, "tile size"),
        ({"width": 300, "height": 300, "tile_log2": 6}, "25 tiles of 64 pixels are more than 16"),
        ({"model": ""}, "model name"),
        ({"model": "m" * 33}, "model name"),
        ({"model": "é"}, "model name"),
        ({"model": "a/b"}, "model name"),
        ({"model": "nic\n"}, "model name"),
        ({"model_hash": b"abc"}, "model hash"),
        ({"layer_ends": (7,)}, "streams do not fit"),
        ({"width": 600}, "streams do not fit"),
        ({"mode": "RGB"}, "mode RGB has no ALPH chunk"),
    ],
)
def test_a_header_that_cannot_be_written(change: dict[str, object], fault: str) -> None:
    header = replace(SMALL.header, **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=fault):
        dump(replace(SMALL, header=header))


@pytest.mark.parametrize(
    ("chunks", "fault"),
    [
        ({}, "mode LA needs an ALPH chunk"),
        ({"ALPH": b"", "icc ": b""}, "unknown chunk 'icc '"),
        ({"ALPH": b"", "NEXT": b""}, "unknown chunk 'NEXT'"),
        ({"ALPH": b"", "DATA": b""}, "unknown chunk 'DATA'"),
        ({"ALPH": bytes(2 * 300 * 200 + 4097)}, "chunk ALPH: 124097 bytes"),
        ({"ALPH": b"", "exif": bytes((1 << 25) + 1)}, "chunk exif: 33554433 bytes"),
        ({"ALPH": b"", "exif": bytes(1 << 25), "xmpp": bytes(1 << 25), "text": b"x"}, "chunk text: 1 bytes"),
    ],
)
def test_chunks_that_cannot_be_written(chunks: dict[str, bytes], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        dump(replace(SMALL, chunks=chunks))


# -------------------------------------------------------------------------------------- the package's house


def test_exception_tree() -> None:
    assert issubclass(TruncatedError, BitstreamError)
    assert issubclass(BitstreamError, NicError)
    assert issubclass(BitstreamError, OSError)
    assert str(BitstreamError("chunk text at byte 28: CRC mismatch")) == "chunk text at byte 28: CRC mismatch"


def test_neither_torch_nor_numpy_is_imported() -> None:
    code = (
        "import sys, pillow_nic.errors, pillow_nic.container, pillow_nic.metadata;"
        "found = {'torch', 'numpy'} & set(sys.modules); assert not found, found"
    )
    root = Path(nic.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
