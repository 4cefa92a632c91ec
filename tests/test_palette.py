"""Fewer colours for exact cells, and what of a picture with exact cells is not computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pictures import pixels, whole_photo
from test_exact import page

import pillow_nic
from pillow_nic import codec, container, decoding, exact, graphics, palette
from pillow_nic.tile_coding import TileSymbols


def shades() -> np.ndarray:
    """Plain ground, and letters of a thousand colours."""
    text = np.asarray(page(320, 64))[:64].copy()
    ramp = np.linspace(0, 60, 320).astype(np.uint8)[:, None]
    letters = (text < 128).any(2)
    text[letters] = (text + ramp * np.array([1, 2, 3], np.uint8))[letters]
    return np.concatenate([text, np.roll(text, 7, 1)[:, ::-1]])


def test_no_colour_is_far_from_what_it_was_and_the_ground_stays() -> None:
    rng = np.random.default_rng(1)
    picture = np.full((100, 100, 3), (250, 251, 240), np.uint8)
    picture[:40] = rng.integers(0, 256, (40, 100, 3))
    found = palette.palettes(picture.reshape(-1, 3))
    assert len(found) == len(palette.SIZES)
    for reduced in found:
        shown = reduced.over(picture)
        np.testing.assert_array_equal(shown[40:], picture[40:])
        assert 0 < np.abs(shown.astype(int) - picture).max() <= palette.FARTHEST
        assert len(np.unique(palette.pack(shown))) < len(np.unique(palette.pack(picture)))


def test_grey_stays_grey_and_colours_that_are_not_in_it_stay() -> None:
    grey = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, -1, 3)
    (first, *_) = palette.palettes(grey.reshape(-1, 3))
    shown = first.over(grey)
    assert (shown == shown[..., :1]).all()
    other = np.array([[[1, 2, 3]]], np.uint8)
    np.testing.assert_array_equal(first.over(other), other)


def test_few_colours_and_those_of_a_photograph_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert palette.palettes(np.repeat(np.arange(32, dtype=np.uint8), 9).reshape(-1, 3)) == []
    monkeypatch.setattr(palette, "MOST_COLOURS", 1000)
    assert palette.palettes(whole_photo().reshape(-1, 3)) == []


def test_colours_are_fewer_below_the_default_quality_only() -> None:
    picture = shades()
    small, middle = (pillow_nic.encode(picture, quality=quality) for quality in (0.49, 0.5))
    assert pillow_nic.read_header(middle).lossless
    assert len(small) < 0.9 * len(middle)
    assert not pillow_nic.read_header(small).lossless
    decoded = pillow_nic.decode(small)
    assert 0 < np.abs(decoded.astype(int) - picture).max() <= palette.FARTHEST
    np.testing.assert_array_equal(
        pillow_nic.decode(pillow_nic.encode(picture, quality=0.2, graphics="always")), picture
    )


def test_squares_that_are_all_exact_need_no_painting() -> None:
    cells = np.ones((13, 20), bool)
    cells[5, 6] = False
    picture = pixels(size=(80, 52))
    file = container.parse(pillow_nic.encode(picture, graphics="never"))
    wanted = exact.to_be_painted(file.header, {"CELL": exact.chunk(False)}, exact.encode(picture, cells), 16)
    assert np.argwhere(wanted).tolist() == [[1, 1]]
    assert exact.to_be_painted(file.header, {}, [], 16).all()


@pytest.fixture(scope="module")
def wide() -> np.ndarray:
    """Text in the first tile; in the second a photograph."""
    photo = np.tile(pixels(size=(320, 160)), (1, 4, 1))
    return np.concatenate((np.asarray(page(320, 160)), photo), 1)


def test_tiles_without_exact_cells_are_encoded_once(
    wide: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_tile, calls = codec.encode_tile, []

    def counted(*arguments: object) -> TileSymbols:
        calls.append(arguments)
        return encode_tile(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(codec, "encode_tile", counted)
    data = pillow_nic.encode(wide)
    assert container.parse(data).exact
    assert len(calls) == 3
    monkeypatch.setattr(graphics, "_changed", lambda *arguments: {0, 1})
    assert pillow_nic.encode(wide) == data
    assert len(calls) == 3 + 4


def test_only_what_is_seen_is_painted(wide: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tile of the text, once its photograph is covered, too."""
    file = container.parse(pillow_nic.encode(wide, graphics="never"))
    cells = np.zeros((40, 400), bool)
    cells[:, :320] = True
    streams = exact.encode(wide, cells)
    data = container.dump(replace(file, chunks={"CELL": exact.chunk(False)}, exact=streams))
    real, seen = decoding.decode_tile, []
    monkeypatch.setattr(
        decoding, "decode_tile", lambda *arguments: seen.append(arguments[2]) or real(*arguments)
    )
    decoded = pillow_nic.decode(data)
    assert seen == [1]
    np.testing.assert_array_equal(decoded[:, :1280], wide[:, :1280])
    plain = pillow_nic.decode(pillow_nic.encode(wide, graphics="never"))
    np.testing.assert_array_equal(decoded[:, 1280:], plain[:, 1280:])


def test_a_screen_is_refined_once_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def counted(*arguments: object) -> list[TileSymbols]:
        calls.append(arguments)
        return arguments[3]  # type: ignore[return-value]

    monkeypatch.setattr(codec, "refine", counted)
    assert container.parse(pillow_nic.encode(np.asarray(page()), effort=2)).exact
    assert len(calls) == 1


@pytest.mark.parametrize("across", [True, False])
def test_a_gradient_has_no_steps(across: bool) -> None:
    """In a page whose text may have fewer colours."""
    text = np.tile(np.asarray(page(320, 60))[:60], (3, 1, 1))
    ramp = np.linspace(0, 255, 144)[:, None] * np.array([1, 0.5, -1]) + np.array([0, 0, 255])
    gradient = np.tile(ramp.astype(np.uint8)[None], (144, 1, 1))
    picture = np.concatenate([np.full((144, 320, 3), 255, np.uint8), text])
    picture[:144, :144] = gradient if across else gradient.swapaxes(0, 1)
    decoded = pillow_nic.decode(pillow_nic.encode(picture, quality=0.25))
    seen = decoded[16:128, 16:128].astype(int)
    assert np.abs(np.diff(seen, axis=1 if across else 0)).max() <= 8
