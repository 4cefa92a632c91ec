"""What the writer stores exactly: screens and text, never a photograph."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from pictures import pixels, whole_photo
from PIL import Image, ImageDraw
from test_exact import page

import pillow_nic
from pillow_nic import cells, container, exact, filling, graphics
from pillow_nic.header import NO_MODEL


def test_a_photograph_is_stored_as_if_there_were_no_exact_cells() -> None:
    photo = whole_photo()
    assert not cells.has_graphics(photo)
    assert pillow_nic.encode(photo, quality=0.5) == pillow_nic.encode(photo, quality=0.5, graphics="never")


@pytest.mark.parametrize("shape", [(16, 16), (50, 70)])
def test_noise_is_no_graphics(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    assert not cells.has_graphics(noise)


def test_a_photograph_on_a_plain_ground_is_no_graphics() -> None:
    goods = np.full((256, 256, 3), 255, np.uint8)
    goods[90:154, 70:166] = pixels(size=(96, 64))
    assert not cells.has_graphics(goods)


def drawn(ink: int, paper: int) -> np.ndarray:
    im = Image.new("RGB", (200, 100), (paper,) * 3)
    ImageDraw.Draw(im).multiline_text((5, 5), "Pale text, dark text.\n" * 5, fill=(ink,) * 3)
    return np.asarray(im)


def squares(side: int) -> np.ndarray:
    """Two colours, checked: the side of 16 pixels has cells of one colour each."""
    dark = np.indices((96 // side, 96 // side)).sum(0) % 2 == 0
    return np.where(np.kron(dark, np.ones((side, side)))[..., None], np.uint8((200, 30, 60)), np.uint8(250))


@pytest.mark.parametrize(
    "drawing",
    [
        np.full((40, 40, 3), 9, np.uint8),
        np.full((100, 90, 3), (255, 0, 0), np.uint8),
        drawn(210, 255),
        drawn(70, 30),
        *(squares(side) for side in (1, 2, 8, 16, 32)),
        np.random.default_rng(4).integers(0, 2, (16, 16, 1), np.uint8).repeat(3, 2) * 255,
    ],
    ids=["grey", "red", "pale", "dark", "1", "2", "8", "16", "32", "icon"],
)
@pytest.mark.parametrize("choice", ["auto", "always"])
def test_simple_drawings_are_exact_and_small(drawing: np.ndarray, choice: str) -> None:
    """Without sharp cells: pale, aligned with the cells, dots, of one colour."""
    data = pillow_nic.encode(drawing, quality=0.5, graphics=choice)
    np.testing.assert_array_equal(pillow_nic.decode(data), drawing)
    assert len(data) <= len(pillow_nic.encode(drawing, lossless=True))


def test_always_is_never_larger_than_lossless() -> None:
    dense = np.random.default_rng(5).integers(0, 3, (96, 96, 1), np.uint8).repeat(3, 2) * 100
    dense[:, :64] = np.asarray(page())[:96, :64]
    data = pillow_nic.encode(dense, quality=0.2, graphics="always")
    np.testing.assert_array_equal(pillow_nic.decode(data), dense)
    assert len(data) <= len(pillow_nic.encode(dense, lossless=True))


def test_text_is_graphics_also_in_part_of_a_picture() -> None:
    assert cells.has_graphics(np.asarray(page()))
    tall = np.concatenate((pixels(size=(320, 320)), np.asarray(page())[:48]))
    assert cells.has_graphics(tall)


def test_never_and_always() -> None:
    text = np.asarray(page())[:48]
    assert not container.parse(pillow_nic.encode(text, quality=0.05, graphics="never")).exact
    always = pillow_nic.encode(text, quality=0.05, graphics="always")
    np.testing.assert_array_equal(pillow_nic.decode(always), text)


def test_a_screen_is_all_exact_and_needs_no_model() -> None:
    text = np.tile(np.asarray(page())[:48, :128], (3, 2, 1))
    data = pillow_nic.encode(text, quality=0.6)
    header = pillow_nic.read_header(data)
    assert (header.model, header.lossless) == (NO_MODEL, True)
    np.testing.assert_array_equal(pillow_nic.decode(data), text)


def test_neighbours_agree() -> None:
    """A cell that would lose a little among many that win is with them, and the other way round."""
    gain, may, none = np.full((5, 5), 1000.0), np.ones((5, 5), bool), np.zeros((4, 5, 5))
    gain[2, 2] = -100
    assert graphics.choose(may, gain, none).all()
    assert not graphics.choose(may, -gain, none).any()
    assert not graphics.choose(np.zeros((5, 5), bool), gain, none).any()


def test_a_border_does_not_cut_through_what_would_be_wrong_on_both_sides() -> None:
    gain = np.array([[900.0, -10.0, -900.0]])
    may, seams = np.ones((1, 3), bool), np.zeros((4, 1, 3))
    assert graphics.choose(may, gain, seams).tolist() == [[True, False, False]]
    seams[1, 0, 0] = 500  # the right side of the first cell
    assert graphics.choose(may, gain, seams).tolist() == [[True, False, False]]
    seams[0, 0, 1] = 500  # and the left one of the second
    assert graphics.choose(may, gain, seams).tolist() == [[True, True, False]]


def test_exact_parts_grow_over_what_is_plain() -> None:
    pixels = np.full((32, 64, 3), 255, np.uint8)
    pixels[:, 38:] = np.random.default_rng(2).integers(0, 256, (32, 26, 3))
    chosen = np.zeros((2, 4), bool)
    chosen[:, :1] = True
    small = cells.grown(pixels, chosen)
    assert small.shape == (8, 16)
    assert small[:, :9].all()
    assert not small[:, 9:].any()


def test_cells_of_a_linear_gradient_may_be_exact_whichever_way_it_runs() -> None:
    ramp = np.arange(64, dtype=np.uint8)[None, :, None] * np.array([3, 2, 1], np.uint8)
    across = np.tile(ramp, (64, 1, 1))
    for gradient in (across, across.swapaxes(0, 1)):
        found = cells.candidates(gradient)
        assert found.may.all()
        assert found.smooth.all()
    assert not cells.candidates(np.asarray(page())[:64]).smooth.any()
    assert not cells.candidates(np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)).may.any()


def test_the_first_rows_of_a_photograph_in_a_page_are_painted() -> None:
    pixels = np.full((32, 48, 3), 255, np.uint8)
    pixels[18:, 5:] = np.random.default_rng(2).integers(0, 200, (14, 43, 3))
    small = np.ones((8, 12), bool)
    small[5:, 2:] = False
    changed = cells.candidates(pixels).changed
    assert changed.shape == (8, 12)
    assert changed[5, 4] == changed[7, 4] == 16
    assert changed[4, 4] == 8
    assert not changed[1:4].any()
    kept = cells.given_back(pixels, small, changed, np.full((8, 12), 40.0))
    assert kept[:4].all()
    assert kept[:, 0].all()
    assert not kept[4:, 1:].any()
    # What painting would lose more of than it saves stays exact, and what has few colours.
    assert (cells.given_back(pixels, small, changed, np.full((8, 12), 200.0)) == small).all()
    assert (cells.given_back(pixels & 0x80, small, changed, np.full((8, 12), 40.0)) == small).all()


def test_the_fill_is_smooth_and_touches_nothing_else() -> None:
    photo = pixels(size=(64, 64))
    small = np.zeros((16, 16), bool)
    small[4:12, 4:12] = True
    filled = filling.Filled(photo, partial(exact.shown, photo, small))[0:64, 0:64]
    outside = ~small.repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(filled[outside], photo[outside])
    inside = filled[20:44, 20:44].astype(int)
    assert np.abs(np.diff(inside, axis=1)).max() < 12
