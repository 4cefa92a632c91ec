"""Exact cells: their streams, where they lie over what was painted, and whole files without a loss."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import photo, saved
from PIL import Image, ImageDraw, ImageFile

import pillow_nic
from pillow_nic import container, decoding, exact, webp
from pillow_nic.container import Container
from pillow_nic.errors import BitstreamError
from pillow_nic.header import NO_MODEL, Header
from pillow_nic.tiling import Window

Array = np.ndarray[Any, Any]


def page(width: int = 320, height: int = 208) -> Image.Image:
    """Text on white, with a photograph in it that begins at no multiple of anything."""
    im = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(im)
    for row in range(0, height, 14):
        draw.text((5, row), "The quick brown fox jumps over the lazy dog, and again. " * 2, fill=(30, 30, 90))
    im.paste(photo(size=(150, 110)), (131, 67))
    return im


def header(mode: str = "RGB", width: int = 40, height: int = 24, model: str = NO_MODEL) -> Header:
    return Header(mode, width, height, 0, 0, 0, (1,), 10, model, bytes(4))


def file_of(streams: list[bytes], log2: int = 12, **fields: Any) -> bytes:
    return container.dump(Container(header(**fields), {"CELL": bytes((0, log2))}, [[b""]], streams))


def random_pixels(width: int, height: int) -> Array:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


# -------------------------------------------------------------------------------------------------- streams


@given(st.integers(1, 70), st.integers(1, 50), st.integers(0, 9))
def test_a_tile_comes_back(width: int, height: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    cells = rng.random((-(-height // 4), -(-width // 4))) < seed / 9
    everything = Window(range(height), range(width))
    chunks = {"CELL": exact.chunk(False)}
    named = header(width=width, height=height, model="m")
    patches = [*exact.decode(named, chunks, exact.encode(pixels, cells), everything)]
    painted = np.zeros_like(pixels)
    for patch in patches:
        painted[patch.rows, patch.columns] = patch.over(painted[patch.rows, patch.columns])
    shown = cells.repeat(4, 0).repeat(4, 1)[:height, :width, None]
    np.testing.assert_array_equal(painted, np.where(shown, pixels, 0))
    assert bool(patches) == bool(cells.any())


def test_what_is_exact_is_reduced_by_means_and_weighs_as_much_as_there_is_of_it() -> None:
    pixels = np.full((16, 16, 3), 200, np.uint8)
    cells = np.zeros((4, 4), bool)
    cells[:, :2] = True
    chunks, streams = {"CELL": exact.chunk(False)}, exact.encode(pixels, cells)
    named = header(width=16, height=16, model="m")
    (patch,) = exact.decode(named, chunks, streams, Window(range(1), range(1)), 16)
    assert patch.over(np.full((1, 1, 3), 100, np.uint8)).tolist() == [[[150, 150, 150]]]
    (patch,) = exact.decode(named, chunks, streams, Window(range(4), range(1, 3)), 4)
    assert patch.over(np.full((4, 2, 3), 100, np.uint8))[0, :, 0].tolist() == [200, 100]


def over_black(named: Header, streams: list[bytes]) -> Array:
    """What streams show of a picture."""
    shown = np.zeros((named.height, named.width, 3), np.uint8)
    everything = Window(range(named.height), range(named.width))
    for patch in exact.decode(named, {"CELL": exact.chunk(False)}, streams, everything):
        shown[patch.rows, patch.columns] = patch.over(shown[patch.rows, patch.columns])
    return shown


def on_plain_ground(top: int, left: int) -> tuple[Array, Array]:
    """Noise that begins at this place of a plain picture of 40×48, and the cells that are plain."""
    pixels = np.full((40, 48, 3), 250, np.uint8)
    pixels[top:, left:] = random_pixels(48 - left, 40 - top) // 2
    cells = np.ones((10, 12), bool)
    cells[top // 4 :, left // 4 :] = False
    return pixels, cells


@pytest.mark.parametrize(("top", "left"), [(8, 12), (9, 12), (8, 15), (11, 13), (10, 14)])
def test_plain_ground_is_exact_up_to_the_edge_of_what_is_not(top: int, left: int) -> None:
    pixels, cells = on_plain_ground(top, left)
    ground = (pixels == 250).all(2)
    everything = slice(0, 40), slice(0, 48)
    np.testing.assert_array_equal(exact.shown(pixels, cells, everything), ground)
    for place in ((slice(8, 20), slice(4, 48)), (slice(12, 40), slice(12, 16))):
        np.testing.assert_array_equal(exact.shown(pixels, cells, place), ground[place])
    named, streams = header(width=48, height=40, model="m"), exact.encode(pixels, cells, edges=True)
    np.testing.assert_array_equal(over_black(named, streams), np.where(ground[..., None], pixels, 0))
    wanted = exact.to_be_painted(named, {"CELL": exact.chunk(False)}, streams, 16)
    assert not wanted[0].any() or top < 16
    assert wanted[-1, -1]


def test_edges_across_strips_and_exact_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of cells at the end of a tile goes on in one where no whole cell is exact."""
    pixels, cells = on_plain_ground(10, 12)
    cells[2:] = False
    monkeypatch.setattr(exact, "tile_log2", lambda *size: 3)
    monkeypatch.setattr(exact, "STRIP", 8)
    everything = slice(0, 40), slice(0, 48)
    known = exact.shown(pixels, cells, everything)
    assert known[8:11, :12].all()
    assert not known[11:].any()
    streams = exact.encode(pixels, cells, edges=True)
    named, chunks = header(width=48, height=40, model="m"), {"CELL": bytes((0, 3))}
    shown = np.zeros((40, 48), bool)
    for patch in exact.decode(named, chunks, streams, Window(range(40), range(48))):
        shown[patch.rows, patch.columns] = True if patch.weight is None else patch.weight[..., 0] > 0
    np.testing.assert_array_equal(shown, known)


def test_pixels_that_are_equal_by_chance_are_no_edge() -> None:
    pixels, cells = on_plain_ground(12, 16)
    pixels[12, 16:19] = 250
    assert not exact.shown(pixels, cells, (slice(0, 40), slice(0, 48)))[12:, 16:].any()


@pytest.mark.parametrize(
    ("mask", "alpha", "message"),
    [
        (bytes(12) + b"\x80\0" + bytes(10), 255, "edge cells that are not exact"),
        (b"\x80\0" + bytes(10) + b"\0\1" + bytes(10), 255, "beside the tile"),
        (b"\xff\xc0" + bytes(10) + b"\x80\0" + bytes(10), 128, "neither exact nor painted"),
    ],
)
def test_edge_cells_that_cannot_be(mask: bytes, alpha: int, message: str) -> None:
    """Six rows of ten cells: two bytes a row."""
    picture = np.dstack((random_pixels(40, 24), np.full((24, 40), alpha, np.uint8)))
    packed = zlib.compress(mask)
    stream = len(packed).to_bytes(4, "little") + packed + webp.encode(picture)
    with pytest.raises(BitstreamError, match=message):
        over_black(header(model="m"), [stream])


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "cells are missing"),
        (b"\1", "cells are missing"),
        (b"\1\0\0\0", "cells are missing"),
        (bytes(4), "not a lossless WebP picture"),
        (bytes(4) + webp.encode(random_pixels(24, 40)), "not of the picture's size 40×24"),
        (bytes(4) + webp.encode(random_pixels(40, 24))[:-30], "exact cells, tile 1"),
    ],
)
def test_what_is_not_a_whole_exact_tile_is_refused(stream: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        pillow_nic.decode(file_of([stream]))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (b"no zlib stream", "mask"),
        (zlib.compress(bytes(11)), "not of the tile's size"),
        (zlib.compress(bytes(13)), "not of the tile's size"),
        (zlib.compress(bytes(1 << 24)), "not of the tile's size"),
        (zlib.compress(bytes(12)) + b"x", "not of the tile's size"),
        (zlib.compress(bytes(12))[:-1], "not of the tile's size"),
        (zlib.compress(b"\0\1" + bytes(10)), "beside the tile"),
    ],
)
def test_a_mask_must_fit(mask: bytes, message: str) -> None:
    """Six rows of ten cells: two bytes a row."""
    stream = len(mask).to_bytes(4, "little") + mask + webp.encode(random_pixels(40, 24))
    everything = Window(range(24), range(40))
    with pytest.raises(BitstreamError, match=message):
        [*exact.decode(header(model="m"), {"CELL": exact.chunk(False)}, [stream], everything)]


def test_a_mask_that_is_longer_than_its_stream() -> None:
    everything = Window(range(24), range(40))
    with pytest.raises(BitstreamError, match="the mask ends early"):
        [*exact.decode(header(model="m"), {"CELL": exact.chunk(False)}, [b"\5\0\0\0four"], everything)]


# ---------------------------------------------------------------------------------------------------- files


def test_a_file_without_a_model_must_say_which_cells_are_exact_and_paint_nothing() -> None:
    with pytest.raises(ValueError, match="model 'none' needs a CELL chunk"):
        container.dump(Container(header(), {}, [[b""]]))
    with pytest.raises(ValueError, match="layer 1, tile 1: 1 bytes are more than the limit of 0"):
        container.dump(Container(header(), {"CELL": b"\0\14"}, [[b"x"]], [b""]))


@pytest.mark.parametrize("payload", [b"", b"\0", b"\2\14", b"\0\5", b"\0\15", b"\0\14\0"])
def test_a_cell_chunk_that_says_something_else_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="CELL"):
        container.dump(Container(header(), {"CELL": payload}, [[b""]], [b""]))


def test_the_limit_of_exact_cells_is_that_of_their_tile() -> None:
    over = bytes(4096 + 4 * 40 * 24 + 1)
    assert len(file_of([over[:-1]]))
    with pytest.raises(ValueError, match="exact cells, tile 1: 7937 bytes are more than the limit of 7936"):
        file_of([over])


def test_too_many_exact_tiles_are_refused() -> None:
    wide = header(width=1 << 15, height=1 << 15)
    file = Container(wide, {"CELL": b"\0\6"}, [[b""] * 1024], [b""] * 262144)
    with pytest.raises(ValueError, match="262144 exact tiles are more than 16384"):
        container.dump(file)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_lossless_is_every_pixel(mode: str) -> None:
    im = photo("RGBA" if mode == "RGBA" else "LA" if mode == "LA" else "RGB", size=(70, 50)).convert(mode)
    stored = im.convert({"P": "RGB", "1": "L"}.get(mode, mode))
    data = saved(im, lossless=True)
    with Image.open(io.BytesIO(data)) as back:
        assert back.info["lossless"] is True
        assert (back.info["model"], back.info["layers"], back.info["quality"]) == ("none", 1, 1.0)
        assert back.mode == stored.mode
        assert back.tobytes() == stored.tobytes()
    assert pillow_nic.read_header(data).lossless


def test_lossless_keeps_colours_that_nobody_sees() -> None:
    pixels = np.dstack((random_pixels(40, 30), np.zeros((30, 40), np.uint8)))
    np.testing.assert_array_equal(pillow_nic.decode(pillow_nic.encode(pixels, lossless=True)), pixels)


def test_lossless_takes_what_lossless_webp_takes() -> None:
    im = page()
    assert len(saved(im, lossless=True)) < 1.02 * len(webp.encode(np.asarray(im))) + 80


def test_a_file_without_a_model_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(page(), lossless=True)
    monkeypatch.setattr("pillow_nic.weights.load", None)
    assert pillow_nic.decode(data, reduce=4).shape == (52, 80, 3)


def test_what_a_file_without_a_model_has_not() -> None:
    data = saved(page(64, 48), lossless=True)
    with pytest.raises(pillow_nic.UnsupportedModelError, match="all of its pixels are stored exactly"):
        decoding.inspect(data)


def test_without_webp_lossless_is_an_error_and_nothing_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webp, "is_there", lambda: False)
    with pytest.raises(OSError, match="cannot write WebP"):
        saved(page(64, 48), lossless=True)
    assert not container.parse(saved(page(), quality=0.5)).exact


def test_the_share_of_exact_pixels(mixed: bytes) -> None:
    file = container.parse(mixed)
    same = (pillow_nic.decode(mixed) == np.asarray(page())).all(2).mean()
    assert 0.4 < exact.share(file.header, file.chunks, file.exact) <= same < 1
    whole = container.parse(saved(page(), lossless=True))
    assert exact.share(whole.header, whole.chunks, whole.exact) == 1
    plain = container.parse(saved(page(), graphics="never"))
    assert exact.share(plain.header, plain.chunks, plain.exact) == 0


@pytest.fixture(scope="module")
def mixed() -> bytes:
    return saved(page(), quality=0.5, layers=3)


def test_text_comes_back_exactly_and_the_photograph_is_painted(mixed: bytes) -> None:
    file = container.parse(mixed)
    assert file.header.model != NO_MODEL
    assert not file.header.lossless
    original, decoded = np.asarray(page()), pillow_nic.decode(mixed)
    same = (original == decoded).all(2)
    assert same[:48].all()
    assert same[80:, :112].all()
    assert not same[80:160, 150:260].all()
    assert len(mixed) < len(saved(page(), lossless=True))


def test_text_is_exact_in_the_first_layer(mixed: bytes) -> None:
    original = np.asarray(page())[:48]
    first = mixed[: pillow_nic.read_header(mixed).layer_offsets[0]]
    np.testing.assert_array_equal(pillow_nic.decode(mixed, layers=1)[:48], original)
    np.testing.assert_array_equal(pillow_nic.decode(first, partial=True)[:48], original)
    cut = pillow_nic.truncate(mixed, layers=1)
    np.testing.assert_array_equal(pillow_nic.decode(cut), pillow_nic.decode(mixed, layers=1))
    parser = ImageFile.Parser()
    parser.feed(mixed)
    np.testing.assert_array_equal(np.asarray(parser.close()), pillow_nic.decode(mixed))


def test_a_region_is_what_crop_cuts_out(mixed: bytes) -> None:
    whole = pillow_nic.decode(mixed).astype(int)
    for box in ((0, 0, 320, 208), (37, 21, 203, 150), (131, 67, 140, 70), (301, 199, 320, 208)):
        region = pillow_nic.decode(mixed, region=box)
        assert np.abs(region - whole[box[1] : box[3], box[0] : box[2]]).max() <= 1


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_a_reduced_picture_is_that_of_the_exact_pixels(mixed: bytes, factor: int) -> None:
    expected = np.asarray(page().reduce(factor)).astype(int)[: 48 // factor]
    reduced = pillow_nic.decode(mixed, reduce=factor)
    assert reduced.shape == (-(-208 // factor), -(-320 // factor), 3)
    assert np.abs(reduced[: 48 // factor] - expected).max() <= 1
    region = pillow_nic.decode(mixed, reduce=factor, region=(16, 16, 160, 128))
    part = reduced[16 // factor : 128 // factor, 16 // factor : 160 // factor]
    assert np.abs(region - part.astype(int)).max() <= 1


def test_batches_with_and_without_exact_cells(mixed: bytes) -> None:
    files = [mixed, saved(page(), graphics="never"), saved(page(), lossless=True), mixed]
    for data, decoded in zip(files, pillow_nic.decode_batch(files), strict=True):
        difference = np.abs(decoded.astype(int) - pillow_nic.decode(data))
        assert difference.max() <= 2  # in bfloat16 either is within one level of float32
        assert (difference > 1).mean() < 1e-4


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_other_modes(mode: str) -> None:
    im = page().convert(mode.removesuffix("A"))
    if mode.endswith("A"):
        im.putalpha(Image.linear_gradient("L").resize(im.size))
    back = pillow_nic.decode(saved(im, quality=0.5))
    original = np.asarray(im)
    visible = original[2:48] if mode == "L" else original[2:48, :, :]
    np.testing.assert_array_equal(back[2:48], visible)


def test_every_flipped_bit_is_found(mixed: bytes) -> None:
    """In its CELL chunk, the lengths and the exact cells."""
    start, end = mixed.index(b"CELL"), pillow_nic.read_header(mixed).layer_offsets[0]
    assert sum(map(len, container.parse(mixed).exact)) > 500
    for at in [*range(8 * start, 8 * start + 400), *range(8 * start + 400, 8 * end, 97)]:
        damaged = bytearray(mixed)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(BitstreamError):
            container.verify(bytes(damaged))


def test_the_page_shows_a_file_of_exact_cells() -> None:
    page = (Path(pillow_nic.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
    dump = page.partition("without a model, one grey pixel:\n\n```\n")[2].partition("\n```")[0]
    data = bytes.fromhex("".join(line[4:52] for line in dump.splitlines()))
    assert pillow_nic.decode(data).tolist() == [[128]]
    assert pillow_nic.read_header(data).lossless
