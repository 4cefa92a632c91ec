"""Modes, planes, and the lossless alpha plane."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pictures import PHOTO
from PIL import Image, features

from pillow_nic import colour
from pillow_nic.errors import BitstreamError

planes = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))


@pytest.mark.parametrize(
    ("mode", "plain", "transparent"),
    [
        ("1", "L", "LA"),
        ("L", "L", "LA"),
        ("LA", "LA", "LA"),
        ("La", "LA", "LA"),
        ("P", "RGB", "RGBA"),
        ("PA", "RGBA", "RGBA"),
        ("RGB", "RGB", "RGBA"),
        ("RGBA", "RGBA", "RGBA"),
        ("RGBa", "RGBA", "RGBA"),
        ("RGBX", "RGB", "RGB"),
        ("CMYK", "RGB", "RGB"),
        ("YCbCr", "RGB", "RGB"),
        ("LAB", "RGB", "RGB"),
        ("HSV", "RGB", "RGB"),
    ],
)
def test_storage_mode(mode: str, plain: str, transparent: str) -> None:
    assert colour.storage_mode(mode, False) == plain
    assert colour.storage_mode(mode, True) == transparent
    assert colour.to_storage(Image.new(mode, (3, 2))).mode == plain


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "I;16B", "I;16L", "I;16N"])
def test_more_than_8_bits_is_refused(mode: str) -> None:
    with pytest.raises(OSError, match=f"cannot write mode {mode} as NIC: convert it to 8 bits first"):
        colour.to_storage(Image.new(mode, (3, 2)))


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(OSError, match="cannot write mode BGR;15 as NIC"):
        colour.storage_mode("BGR;15", False)


def test_stored_modes_are_not_copied() -> None:
    for mode in ("RGB", "RGBA", "L", "LA"):
        im = Image.new(mode, (3, 2))
        assert colour.to_storage(im) is im


def test_transparent_colour_becomes_alpha() -> None:
    im = Image.new("L", (2, 1), 7)
    im.putpixel((1, 0), 9)
    im.info["transparency"] = 9
    assert np.asarray(colour.to_storage(im)).tolist() == [[[7, 255], [9, 0]]]

    im = Image.new("RGB", (2, 1), (1, 2, 3))
    im.putpixel((1, 0), (4, 5, 6))
    im.info["transparency"] = (4, 5, 6)
    assert np.asarray(colour.to_storage(im)).tolist() == [[[1, 2, 3, 255], [4, 5, 6, 0]]]

    im = Image.new("1", (2, 1), 0)
    im.putpixel((1, 0), 1)
    im.info["transparency"] = 255
    assert np.asarray(colour.to_storage(im)).tolist() == [[[0, 255], [255, 0]]]


def test_palette_transparency_becomes_alpha() -> None:
    im = Image.new("P", (2, 1), 0)
    im.putpixel((1, 0), 1)
    im.putpalette([10, 20, 30, 40, 50, 60])
    assert np.asarray(colour.to_storage(im)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    im.info["transparency"] = b"\x80\xff"
    assert np.asarray(colour.to_storage(im)).tolist() == [[[10, 20, 30, 128], [40, 50, 60, 255]]]


def test_cmyk_and_ycbcr_as_pillow_converts() -> None:
    with Image.open(PHOTO) as photo:
        for mode in ("CMYK", "YCbCr", "HSV"):
            im = photo.convert(mode)
            assert np.array_equal(np.asarray(colour.to_storage(im)), np.asarray(im.convert("RGB")))


@given(
    st.sampled_from(("L", "LA", "RGB", "RGBA")),
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9)),
)
def test_split_loses_nothing(mode: str, values: np.ndarray) -> None:
    channels = len(mode)
    array = np.resize(values, (*values.shape[:2], channels))
    array = array[..., 0] if channels == 1 else array
    rgb, alpha = colour.split_alpha(array)
    assert rgb.shape == (*array.shape[:2], 3)
    assert (alpha is not None) == mode.endswith("A")
    planes = [rgb] if mode.startswith("RGB") else [rgb[..., :1]]
    planes += [] if alpha is None else [alpha[..., None]]
    assert np.array_equal(np.concatenate(planes, 2).reshape(array.shape), array)
    assert (rgb == rgb[..., :1]).all() or mode.startswith("RGB")


@pytest.mark.parametrize("shape", [(4,), (4, 4, 1), (4, 4, 5), (1, 4, 4, 3)])
def test_split_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        colour.split_alpha(np.zeros(shape, np.uint8))


def test_split_refuses_other_types() -> None:
    with pytest.raises(ValueError, match="uint8"):
        colour.split_alpha(np.zeros((4, 4, 3), np.float32))


@given(planes)
def test_alpha_is_lossless(alpha: np.ndarray) -> None:
    height, width = alpha.shape
    assert np.array_equal(colour.decode_alpha(colour.encode_alpha(alpha), width, height), alpha)


def test_every_representation_of_alpha_is_used_and_lossless() -> None:
    with Image.open(PHOTO) as photo:
        soft = np.asarray(photo.convert("L"))
    mask = np.zeros((64, 64), np.uint8)
    mask[10:50, 20:40] = 255
    for alpha, kind in ((np.full((600, 800), 255, np.uint8), 0), (mask, 1), (soft, 2)):
        data = colour.encode_alpha(alpha)
        assert data[0] == kind
        assert np.array_equal(colour.decode_alpha(data, alpha.shape[1], alpha.shape[0]), alpha)
    assert len(colour.encode_alpha(np.full((600, 800), 255, np.uint8))) == 2


def test_alpha_without_webp(monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(PHOTO) as photo:
        soft = np.asarray(photo.convert("L").crop((0, 0, 64, 64)))
    webp = colour.encode_alpha(soft)
    monkeypatch.setattr(features, "check", lambda name: False)
    assert colour.encode_alpha(soft)[0] == 1
    with pytest.raises(OSError, match="cannot read WebP"):
        colour.decode_alpha(webp, 64, 64)


def _webp(size: tuple[int, int], **options: bool) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)
    Image.fromarray(noise).save(file, "WEBP", **options)
    return b"\x02" + file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x03",
        b"\x00",
        b"\x00\x01\x02",
        b"\x01",
        b"\x01" + zlib.compress(bytes(63)),
        b"\x01" + zlib.compress(bytes(65)),
        b"\x01" + zlib.compress(bytes(10**7)),
        b"\x01" + zlib.compress(bytes(64)) + b"x",
        b"\x01" + zlib.compress(bytes(64))[:-1],
        b"\x01" + zlib.compress(bytes(64))[:-1] + b"x",
        b"\x02",
        b"\x02RIFF",
        _webp((8, 8)),
        _webp((8, 9), lossless=True),
        _webp((9, 8), lossless=True),
        _webp((8, 8), lossless=True)[:-9],
        _webp((8, 8), lossless=True)[:40] + bytes(60),
    ],
)
def test_alpha_that_is_no_plane_of_the_size_is_refused(data: bytes) -> None:
    with pytest.raises(BitstreamError, match="alpha plane"):
        colour.decode_alpha(data, 8, 8)


@given(st.data())
def test_damaged_alpha_gives_an_error_or_a_plane_of_the_size(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from((_webp((16, 12), lossless=True), b"\x01" + zlib.compress(bytes(192)))))
    damaged = bytearray(source)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        plane = colour.decode_alpha(bytes(damaged), 16, 12)
    except BitstreamError:
        return
    assert plane.shape == (12, 16)
    assert plane.dtype == np.uint8


def test_a_webp_that_lies_about_its_size_is_not_decoded() -> None:
    # The canvas that libwebp would allocate for these 14-bit sides has a gigabyte.
    data = bytearray(_webp((8, 8), lossless=True))
    data[22:26] = struct.pack("<I", 16382 | 16382 << 14)
    with pytest.raises(BitstreamError, match="size"):
        colour.decode_alpha(bytes(data), 8, 8)


def test_visible_colours_are_kept_and_hidden_ones_continue_them() -> None:
    y, x = np.mgrid[:61, :83]
    rgb = np.stack((x * 2, y * 3, x + y), axis=2).astype(np.uint8)
    alpha = np.where((x - 40) ** 2 + (y - 30) ** 2 < 400, 0, 255).astype(np.uint8)
    noisy = rgb.copy()
    noisy[alpha == 0] = np.random.default_rng(1).integers(0, 256, (int((alpha == 0).sum()), 3))
    filled = colour.fill_transparent(noisy, alpha)
    assert np.array_equal(filled[alpha > 0], rgb[alpha > 0])
    # Smooth: no step beyond what the gradient around the hole has anyway, and its mean in the hole.
    steps = np.abs(np.diff(filled.astype(int), axis=1))
    assert steps.max() <= 16
    assert np.abs(filled[alpha == 0].mean(0) - rgb[alpha == 0].mean(0)).max() < 6


@given(planes)
def test_fill_keeps_every_visible_pixel(alpha: np.ndarray) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*alpha.shape, 3), dtype=np.uint8)
    filled = colour.fill_transparent(rgb, alpha & 0x80)
    visible = (alpha & 0x80) > 0
    assert filled.shape == rgb.shape
    assert filled.dtype == np.uint8
    assert np.array_equal(filled[visible], rgb[visible])


def test_fill_of_nothing_and_of_everything() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert colour.fill_transparent(rgb, np.ones((5, 7), np.uint8)) is rgb
    assert np.ptp(colour.fill_transparent(rgb, np.zeros((5, 7), np.uint8))) == 0


@pytest.mark.parametrize("size", [(1, 1), (16, 40), (33, 47)])
def test_flat_colours_under_alpha_0_are_means_of_what_is_visible(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(8)
    rgb = rng.integers(0, 256, (*size, 3), np.uint8)
    alpha = (rng.random(size) < 0.3).astype(np.uint8)
    alpha[:16, :16] = 0
    flat = colour.flatten_transparent(rgb, alpha)
    np.testing.assert_array_equal(flat[alpha > 0], rgb[alpha > 0])
    everywhere = rgb[alpha > 0].mean(0).round() if alpha.any() else [128] * 3
    assert (flat[:16, :16] == everywhere).all()
    if size[1] > 16:
        square = (slice(16), slice(16, 32))
        seen = alpha[square] > 0
        hidden = flat[square][~seen]
        assert np.abs(hidden - rgb[square][seen].mean(0)).max() <= 0.5
    assert colour.flatten_transparent(rgb, np.ones(size, np.uint8)) is rgb
