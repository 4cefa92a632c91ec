"""Answers for bytes and numbers: exactly so many bytes, from memory or a file, or a TruncatedError. Standard
library only."""

from __future__ import annotations

import errno
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Protocol, TypeAlias

from .errors import BitstreamError, TruncatedError

# No more than this is asked of a file at once: CPython allocates what read() is asked for, not what is there.
_BLOCK = 1 << 16

Buffer: TypeAlias = bytes | bytearray | memoryview


class Readable(Protocol):
    """The part of a binary file that readers need."""

    def read(self, size: int, /) -> bytes: ...


# What a user may give for a file's bytes: the bytes, a path, or a binary file, read from where it stands.
Source: TypeAlias = Buffer | str | PathLike[str] | Readable


class Reader:
    """Takes exact numbers of bytes and knows the offset, for the messages. ``what`` is for them, too: only
    there is it made a text."""

    def __init__(self, read: Callable[[int], bytes | memoryview]) -> None:
        self._read = read
        self.offset = 0

    def take(self, size: int, what: object) -> bytes | memoryview:
        data = self._read(size)
        self._check(data, size, what)
        return data

    def _check(self, data: bytes | memoryview, size: int, what: object) -> None:
        """That so many bytes came, which are behind the reader then."""
        if len(data) < size:
            raise TruncatedError(
                f"{what}: the file ends at byte {self.offset + len(data)}, "
                f"{size - len(data)} bytes are missing from {size} at byte {self.offset}",
                needed=self.offset + size,
            )
        self.offset += size

    def expect(self, expected: bytes, otherwise: str, what: object) -> None:
        """BitstreamError, ``otherwise``, for other bytes, also if the file ends before all of them."""
        data = bytes(self._read(len(expected)))
        for i, (one, other) in enumerate(zip(data, expected, strict=False)):
            if one != other:
                raise BitstreamError(f"{otherwise} at byte {self.offset + i}")
        self._check(data, len(expected), what)

    def u32(self, what: object) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def varint(self, what: object) -> tuple[int, bytes]:
        """A number below 2**32 in the fewest bytes, and those bytes."""
        start, raw = self.offset, bytearray(self.take(1, what))
        if raw[0] < 0x80:  # of most, and of those that a hostile file has many of
            return raw[0], bytes(raw)
        while raw[-1] & 0x80 and len(raw) < 5:
            raw += self.take(1, what)
        value = sum((byte & 0x7F) << (7 * i) for i, byte in enumerate(raw))
        if raw[-1] & 0x80 or value >= 1 << 32 or raw[-1] == 0:
            raise BitstreamError(f"{what}: malformed number at byte {start}")
        return value, bytes(raw)


def from_memory(data: Buffer) -> Callable[[int], memoryview]:
    """A ``read`` that gives slices, not copies."""
    view = _bytes(data)
    position = 0

    def read(size: int) -> memoryview:
        nonlocal position
        piece = view[position : position + size]
        position += len(piece)
        return piece

    return read


def reading(source: Buffer | Readable) -> Callable[[int], bytes | memoryview]:
    return _in_blocks(source) if hasattr(source, "read") else from_memory(source)


def whole(source: Source) -> Buffer:
    """All bytes of a source. TypeError for what is none."""
    if isinstance(source, str | PathLike):
        return Path(source).read_bytes()
    if hasattr(source, "read"):
        return b"".join(iter(lambda: read_block(source, _BLOCK), b""))
    return _bytes(source)


def _bytes(source: Buffer) -> memoryview:
    try:
        view = memoryview(source)
    except TypeError:
        given = type(source).__name__
        raise TypeError(f"a .nic file is given as bytes, path or binary file, not as {given}") from None
    return view.cast("B")


def read_block(file: Readable, size: int) -> Buffer:
    """What a file gives at once, ``size`` bytes at most, none at its end. TypeError for a file that is not
    binary, BlockingIOError for one that has nothing yet and does not wait."""
    try:
        block: object = file.read(size)
    except UnicodeDecodeError:
        block = ""
    if block is None:
        raise BlockingIOError(errno.EAGAIN, "the file has no bytes yet, and does not wait for them")
    if not isinstance(block, Buffer):
        given = type(block).__name__
        raise TypeError(f"the file must be binary, opened with 'rb': it gives {given}, not bytes")
    return block


def _in_blocks(file: Readable) -> Callable[[int], bytes]:
    """A ``read`` that gives all it is asked for unless the file ends, growing block by block."""

    def read_all(size: int) -> bytes:
        out = bytearray()
        while len(out) < size and (piece := read_block(file, min(size - len(out), _BLOCK))):
            out += piece
        return bytes(out)

    return read_all


def varint(value: int) -> bytes:
    """Unsigned LEB128: seven bits a byte, lowest first, the top bit set on all but the last."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
