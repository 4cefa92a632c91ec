"""Metadata: what a save keeps, what it refuses, and that Pillow reads it back as from its own formats."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from pillow_nic.container import MAX_CHUNK_BYTES
from pillow_nic.errors import BitstreamError
from pillow_nic.metadata import Metadata

# One entry: orientation 6.
TIFF = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
EVERYTHING = Metadata(icc_profile=b"icc", exif=TIFF, xmp=XMP, dpi=(72.0, 96.5), comment=b"hello")


def icc(colour_space: bytes) -> bytes:
    """The first bytes of a profile for a colour space."""
    return bytes(16) + colour_space + b"XYZ " + bytes(104)


# --------------------------------------------------------------------------------------------------- chunks


def test_chunks_literally() -> None:
    assert EVERYTHING.to_chunks() == {
        "iccp": b"icc",
        "exif": TIFF,
        "xmpp": XMP,
        "phys": bytes.fromhex("40190100 f4780100"),
        "text": b"hello",
    }
    assert Metadata().to_chunks() == {}


positive_dpi = st.integers(1, (1 << 32) - 1).map(lambda thousandths: thousandths / 1000)
some_bytes = st.none() | st.binary(min_size=1, max_size=100)


@settings(deadline=None)
@given(
    st.builds(
        Metadata,
        icc_profile=some_bytes,
        exif=some_bytes,
        xmp=some_bytes,
        dpi=st.none() | st.tuples(positive_dpi, positive_dpi),
        comment=some_bytes,
    )
)
def test_round_trip(metadata: Metadata) -> None:
    assert Metadata.from_chunks(metadata.to_chunks()) == metadata


@settings(deadline=None)
@given(st.floats(0.001, 4294967.295))
def test_dpi_to_a_thousandth(dpi: float) -> None:
    metadata = Metadata.from_save({}, {"dpi": (dpi, dpi)})
    again = Metadata.from_chunks(metadata.to_chunks()).dpi
    assert again is not None
    assert abs(again[0] - dpi) <= 0.000501


@pytest.mark.parametrize(
    "phys", [b"1234567", b"123456789", b"\0" * 8, b"\0\0\0\0\1\0\0\0", b"\1\0\0\0\0\0\0\0"]
)
def test_a_phys_chunk_that_says_nothing(phys: bytes) -> None:
    with pytest.raises(BitstreamError, match="chunk phys"):
        Metadata.from_chunks({"phys": phys})


def test_other_and_empty_chunks_are_not_looked_at() -> None:
    empty = dict.fromkeys(("iccp", "exif", "xmpp", "phys", "text"), b"")
    assert Metadata.from_chunks({"ALPH": b"alpha", **empty}) == Metadata()


# ----------------------------------------------------------------------------------------------------- info


def test_info_as_pillow_gives_it() -> None:
    assert EVERYTHING.to_info() == {
        "icc_profile": b"icc",
        "exif": b"Exif\0\0" + TIFF,
        "xmp": XMP,
        "dpi": (72.0, 96.5),
        "comment": b"hello",
    }
    assert Metadata().to_info() == {}


def test_getexif_reads_it() -> None:
    im = Image.new("RGB", (1, 1))
    im.info.update(EVERYTHING.to_info())
    assert dict(im.getexif()) == {0x0112: 6}


def test_info_from_a_nic_file_is_saved_again_as_it_was() -> None:
    assert Metadata.from_save(EVERYTHING.to_info(), {}) == EVERYTHING


def test_a_jpeg_hands_everything_over_and_takes_it_back() -> None:
    file = io.BytesIO()
    dpi = (72, 96)
    Image.new("RGB", (8, 8)).save(
        file, "JPEG", icc_profile=b"icc", exif=b"Exif\0\0" + TIFF, xmp=XMP, dpi=dpi, comment=b"hello"
    )
    with Image.open(file) as jpeg:
        metadata = Metadata.from_save(jpeg.info, {})
        assert metadata == Metadata(icc_profile=b"icc", exif=TIFF, xmp=XMP, dpi=(72, 96), comment=b"hello")
        for key, value in Metadata.from_chunks(metadata.to_chunks()).to_info().items():
            assert jpeg.info[key] == value


@pytest.mark.parametrize("suffix", ["PNG", "WEBP", "TIFF"])
def test_other_formats_hand_over_what_pillow_reads_of_them(suffix: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(
        file, suffix, icc_profile=icc(b"RGB "), exif=b"Exif\0\0" + TIFF, dpi=(72, 72)
    )
    with Image.open(file) as im:
        metadata = Metadata.from_save(im.info, {})
        assert metadata.icc_profile == icc(b"RGB ")
        assert metadata.exif == (TIFF if "exif" in im.info else None)
        assert metadata.dpi == (pytest.approx((72, 72), abs=0.02) if "dpi" in im.info else None)


# ---------------------------------------------------------------------------------------- which one is kept

NAMES = ["icc_profile", "exif", "xmp", "dpi", "comment"]
OTHER: dict[str, Any] = {"icc_profile": b"i", "exif": b"e", "xmp": b"x", "dpi": (1.0, 2.0), "comment": b"c"}


@pytest.mark.parametrize("name", NAMES)
def test_a_keyword_wins(name: str) -> None:
    metadata = Metadata.from_save(EVERYTHING.to_info(), {name: OTHER[name], "quality": 0.3})
    for other in NAMES:
        assert getattr(metadata, other) == (OTHER[name] if other == name else getattr(EVERYTHING, other))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nothing", [None, b""])
def test_an_explicit_nothing_drops_it(name: str, nothing: bytes | None) -> None:
    metadata = Metadata.from_save(EVERYTHING.to_info(), {name: nothing})
    for other in NAMES:
        assert getattr(metadata, other) == (None if other == name else getattr(EVERYTHING, other))


def test_nothing_from_nothing() -> None:
    assert Metadata.from_save({}, {}) == Metadata()


def test_text_keywords_may_be_str() -> None:
    metadata = Metadata.from_save({}, {"xmp": "<é/>", "comment": "é"})
    assert (metadata.xmp, metadata.comment) == ("<é/>".encode(), "é".encode())
    assert Metadata.from_save({"comment": "c"}, {"xmp": "", "comment": ""}) == Metadata()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer(kind: type) -> None:
    metadata = Metadata.from_save({}, {name: kind(b"abc") for name in NAMES if name != "dpi"})
    assert metadata == Metadata(b"abc", b"abc", b"abc", None, b"abc")
    assert type(metadata.icc_profile) is bytes


# ----------------------------------------------------------------------------------------------------- exif


def test_exif_mark_is_taken_off_however_often_it_is_there() -> None:
    for marks in range(3):
        assert Metadata.from_save({}, {"exif": b"Exif\0\0" * marks + TIFF}).exif == TIFF
    assert Metadata.from_save({}, {"exif": b"Exif\0\0"}).exif is None


def test_exif_object() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    stored = Metadata.from_save({}, {"exif": exif}).exif
    assert stored == exif.tobytes()[6:]
    again = Image.Exif()
    again.load(Metadata(exif=stored).to_info()["exif"])
    assert dict(again) == {0x0112: 8}


def test_an_empty_exif_object_is_no_exif() -> None:
    assert Metadata.from_save({"exif": TIFF}, {"exif": Image.new("L", (1, 1)).getexif()}).exif is None


def test_exif_with_nothing_but_gps() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    assert Metadata.from_save({}, {"exif": exif}).exif is not None


# ------------------------------------------------------------------------------------------------------ icc


@pytest.mark.parametrize(
    ("space", "kept"), [(b"RGB ", True), (b"GRAY", True), (b"CMYK", False), (b"Lab ", False)]
)
def test_the_profile_of_pixels_that_are_converted_stays_behind(space: bytes, kept: bool) -> None:
    assert Metadata.from_save({"icc_profile": icc(space)}, {}).icc_profile == (icc(space) if kept else None)
    assert Metadata.from_save({}, {"icc_profile": icc(space)}).icc_profile == icc(space)


# ------------------------------------------------------------------------------------------------------ dpi


@pytest.mark.parametrize(
    ("dpi", "read"),
    [
        ((72, 72), (72, 72)),
        (72, (72, 72)),
        (96.5, (96.5, 96.5)),
        ([300, 150], (300, 150)),
        ((IFDRational(72), IFDRational(145, 2)), (72, 72.5)),
        ((0, 0), None),
        ((0.001, 4294967.295), (0.001, 4294967.295)),
    ],
)
def test_dpi(dpi: Any, read: tuple[float, float] | None) -> None:
    assert Metadata.from_save({}, {"dpi": dpi}).dpi == read
    assert Metadata.from_save({"dpi": dpi}, {}).dpi == read


# ------------------------------------------------------------------------------------------ what is refused

BAD = [
    ("icc_profile", "sRGB", TypeError, "icc_profile must be bytes or None, not str"),
    ("icc_profile", 5, TypeError, "icc_profile must be bytes"),
    ("exif", "Exif", TypeError, "exif must be bytes, PIL.Image.Exif or None, not str"),
    ("exif", {0x0112: 6}, TypeError, "exif must be bytes, PIL.Image.Exif or None, not dict"),
    ("xmp", 5, TypeError, "xmp must be bytes, str or None, not int"),
    ("comment", ["a"], TypeError, "comment must be bytes, str or None, not list"),
    ("comment", "\ud800", ValueError, "surrogates"),
    ("dpi", "72", TypeError, "dpi must be a number, two numbers or None, not '72'"),
    ("dpi", (72,), TypeError, "dpi must be a number, two numbers or None"),
    ("dpi", (72, 72, 72), TypeError, "dpi must be a number, two numbers or None"),
    ("dpi", (None, None), TypeError, "dpi must be a number, two numbers or None"),
    ("dpi", (10**400, 72), TypeError, "dpi must be a number, two numbers or None"),
    ("dpi", (0, 72), ValueError, "dpi must lie between"),
    ("dpi", (-72, 72), ValueError, "dpi must lie between"),
    ("dpi", (float("nan"), 72), ValueError, "dpi must lie between"),
    ("dpi", (float("inf"), 72), ValueError, "dpi must lie between"),
    ("dpi", (4294968, 72), ValueError, "dpi must lie between"),
    ("dpi", (IFDRational(0, 0), 72), ValueError, "dpi must lie between"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_a_keyword_that_cannot_be_stored(name: str, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Metadata.from_save({}, {name: value})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value, *_ in BAD if value != "\ud800"])
def test_something_odd_in_info_is_left_out(name: str, value: Any) -> None:
    assert Metadata.from_save({name: value, 0: "keys need not be str"}, {}) == Metadata()


def test_what_is_too_long_is_refused_from_wherever_it_comes() -> None:
    fits, over = bytes(MAX_CHUNK_BYTES), bytes(MAX_CHUNK_BYTES + 1)
    for info, keywords in (({"xmp": over}, {}), ({}, {"xmp": over})):
        with pytest.raises(ValueError, match=r"metadata is too long .* 33554433 bytes for chunk xmpp"):
            Metadata.from_save(info, keywords)
    assert Metadata.from_save({"xmp": fits}, {"icc_profile": fits}).xmp is fits
    with pytest.raises(ValueError, match="1 bytes for chunk text"):
        Metadata.from_save({"xmp": fits}, {"icc_profile": fits, "comment": b"c"})
