"""Answers for what travels beside the pixels: ICC, EXIF, XMP, dpi, comment, and which of them a save keeps.

The policy. A keyword of ``save`` wins; an explicit ``None`` or ``b""`` drops the item; without the keyword
the item comes from ``im.info``, so that a photo keeps its profile and its orientation as a ``.nic``. A
keyword that cannot be used raises; something odd in ``im.info`` came from somebody else's file and is left
out instead. EXIF is passed on as it is, its orientation tag too: pixels are never turned.
"""

from __future__ import annotations

import math
import numbers
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image

from .container import MAX_CHUNK_BYTES, MAX_CHUNKS_BYTES
from .errors import BitstreamError

T = TypeVar("T")

# Inside JPEG this marks the segment as EXIF; here the chunk's tag does that.
_EXIF_MARK = b"Exif\0\0"
_MAX_DPI = ((1 << 32) - 1) / 1000
# Bytes 16 to 20 of an ICC profile. Pixels are stored as RGB or grey whatever they were, so a profile for
# anything else (that of a CMYK photo) would only give wrong colours.
_FOREIGN_ICC = (b"CMYK", b"Lab ", b"YCbr", b"HSV ", b"CMY ", b"XYZ ")


@dataclass(frozen=True)
class Metadata:
    """What a file says about its picture; ``exif`` is without Pillow's leading ``Exif\\0\\0``."""

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None

    @classmethod
    def from_save(cls, im_info: Mapping[Any, Any], encoderinfo: Mapping[str, Any]) -> Metadata:
        """What a save keeps; ``TypeError`` or ``ValueError`` for keywords that cannot be stored."""

        def choose(name: str, read: Callable[[str, Any], T | None]) -> T | None:
            if name in encoderinfo:
                return read(name, encoderinfo[name])
            try:
                return read(name, im_info.get(name))
            except (TypeError, ValueError):
                return None

        icc_profile = choose("icc_profile", _read_bytes)
        if "icc_profile" not in encoderinfo and icc_profile and icc_profile[16:20] in _FOREIGN_ICC:
            icc_profile = None
        metadata = cls(
            icc_profile=icc_profile,
            exif=choose("exif", _read_exif),
            xmp=choose("xmp", _read_text),
            dpi=choose("dpi", _read_dpi),
            comment=choose("comment", _read_text),
        )
        # Never left out in silence, wherever it comes from: nobody would look for what is missing.
        room = MAX_CHUNKS_BYTES
        for tag, payload in metadata.to_chunks().items():
            if len(payload) > min(MAX_CHUNK_BYTES, room):
                raise ValueError(
                    f"metadata is too long for a NIC file: {len(payload)} bytes for chunk {tag}, "
                    f"at most {MAX_CHUNK_BYTES} each and {MAX_CHUNKS_BYTES} together can be stored"
                )
            room -= len(payload)
        return metadata

    def to_chunks(self) -> dict[str, bytes]:
        """The container's chunks; dpi to 1/1000."""
        dpi = self.dpi and struct.pack("<II", *(round(value * 1000) for value in self.dpi))
        values = {
            "iccp": self.icc_profile,
            "exif": self.exif,
            "xmpp": self.xmp,
            "phys": dpi,
            "text": self.comment,
        }
        return {tag: value for tag, value in values.items() if value}

    @classmethod
    def from_chunks(cls, chunks: Mapping[str, bytes]) -> Metadata:
        """The inverse of :meth:`to_chunks`; other chunks are not looked at."""
        dpi = None
        if phys := chunks.get("phys"):
            if len(phys) != 8 or 0 in (values := struct.unpack("<II", phys)):
                raise BitstreamError(f"chunk phys: not two resolutions above 0 but {phys[:16]!r}")
            dpi = (values[0] / 1000, values[1] / 1000)
        return cls(
            icc_profile=chunks.get("iccp") or None,
            exif=chunks.get("exif") or None,
            xmp=chunks.get("xmpp") or None,
            dpi=dpi,
            comment=chunks.get("text") or None,
        )

    def to_info(self) -> dict[str, Any]:
        """The entries for ``im.info``, as Pillow's own plugins make them."""
        info = {
            "icc_profile": self.icc_profile,
            "exif": self.exif and _EXIF_MARK + self.exif,
            "xmp": self.xmp,
            "dpi": self.dpi,
            "comment": self.comment,
        }
        return {key: value for key, value in info.items() if value}


def _read_bytes(name: str, value: Any) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{name} must be bytes or None, not {type(value).__name__}")
    return bytes(value) or None


def _read_text(name: str, value: Any) -> bytes | None:
    if isinstance(value, str):
        return value.encode("utf-8") or None
    if value is not None and not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{name} must be bytes, str or None, not {type(value).__name__}")
    return _read_bytes(name, value)


def _read_exif(name: str, value: Any) -> bytes | None:
    if isinstance(value, Image.Exif):
        # getexif() of a picture without EXIF gives an empty object, which should not become an empty record.
        data = value.tobytes()
        value = data if data != Image.Exif().tobytes() else None
    elif value is not None and not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{name} must be bytes, PIL.Image.Exif or None, not {type(value).__name__}")
    data = _read_bytes(name, value) or b""
    while data.startswith(_EXIF_MARK):
        data = data.removeprefix(_EXIF_MARK)
    return data or None


def _read_dpi(name: str, value: Any) -> tuple[float, float] | None:
    if value is None or value == b"":
        return None
    try:
        if isinstance(value, str | bytes):  # "72" would pass as (7, 2)
            raise TypeError
        x, y = (float(part) for part in ((value, value) if isinstance(value, numbers.Real) else value))
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name} must be a number, two numbers or None, not {value!r}") from error
    if x == y == 0:
        return None  # how Pillow's JPEG plugin says "not known"
    if not all(math.isfinite(part) and 0.001 <= part <= _MAX_DPI for part in (x, y)):
        raise ValueError(f"{name} must lie between 0.001 and {_MAX_DPI:.0f}, not {value!r}")
    return x, y
