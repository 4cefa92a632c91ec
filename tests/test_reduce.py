"""Reduced pictures and parts of pictures: near what the full decode gives, for less of the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from pictures import photo, psnr, saved, whole_photo
from PIL import Image

import imageio_nic  # noqa: F401  (registers the plugin)
import pillow_nic
from pillow_nic.options import TUNES

FACTORS = (2, 4, 8, 16)


@pytest.fixture(scope="module", params=[*TUNES])
def file(request: pytest.FixtureRequest) -> bytes:
    return pillow_nic.encode(whole_photo(), quality=0.6, tune=request.param)


def box(pixels: np.ndarray, factor: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).reduce(factor))


@pytest.mark.parametrize("factor", FACTORS)
def test_near_the_reduced_full_decode(file: bytes, factor: int) -> None:
    original, full = box(whole_photo(), factor), box(pillow_nic.decode(file), factor)
    reduced = pillow_nic.decode(file, reduce=factor)
    assert reduced.shape == full.shape
    assert psnr(reduced, original) > psnr(full, original) - 0.5


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", [(1, 1), (16, 15), (33, 70)])
def test_sides_are_rounded_up(mode: str, factor: int, size: tuple[int, int]) -> None:
    im = photo(mode, size)
    data = saved(im, quality=0.9)
    pixels = pillow_nic.decode(data, reduce=factor)
    assert pixels.shape[:2] == (-(-size[1] // factor), -(-size[0] // factor))
    assert Image.fromarray(pixels).mode == mode
    if mode.endswith("A"):
        alpha = np.asarray(im.getchannel("A").reduce(factor))
        assert np.abs(pixels[..., -1].astype(int) - alpha).max() <= 1


@pytest.mark.parametrize("factor", [2, 16])
def test_a_region_of_a_reduced_picture(factor: int) -> None:
    data = saved(photo("RGBA", (330, 230)), quality=0.7)
    whole = pillow_nic.decode(data, reduce=factor)
    left, top, right, bottom = region = (48, 32, 176, 208)
    part = pillow_nic.decode(data, reduce=factor, region=region)
    expected = whole[top // factor : bottom // factor, left // factor : right // factor]
    assert part.shape == expected.shape
    assert np.abs(part.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("factor", [0, 3, 32, 1.5, "2", True])
def test_other_factors_are_refused(file: bytes, factor: Any) -> None:
    with pytest.raises(ValueError, match="reduce must be"):
        pillow_nic.decode(file, reduce=factor)


def test_only_the_layers_that_show_are_read() -> None:
    class Counting(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size)
            self.most = max(self.most, self.tell())
            return piece

    noise = np.random.default_rng(1).integers(0, 256, (640, 640, 3), np.uint8)
    data = pillow_nic.encode(noise, quality=0.3)
    ends = pillow_nic.read_header(data).layer_offsets
    assert len(ends) > 3
    for file, read in (
        (Counting(data), lambda file: iio.imread(file, extension=".nic", reduce=16)),
        (Counting(data), lambda file: Image.open(file).thumbnail((40, 40), reducing_gap=1.0)),
    ):
        read(file)
        assert file.most < len(data)


# ------------------------------------------------------------------------------------------ through Pillow


def test_draft_is_the_smallest_that_is_large_enough(tmp_path: Path) -> None:
    file = tmp_path / "x.nic"
    photo(size=(330, 230)).save(file)
    for asked, size in (
        ((330, 230), (330, 230)),
        ((165, 115), (165, 115)),
        ((166, 115), (330, 230)),
        ((41, 28), (42, 29)),
        ((1, 1), (21, 15)),
        ((999, 1), (330, 230)),
    ):
        with Image.open(file) as im:
            answer = im.draft("L", asked)
            assert im.size == size
            assert answer is not None
            mode, (left, top, right, bottom) = answer
            assert (mode, left, top) == ("RGB", 0, 0)
            assert right / bottom == pytest.approx(330 / 230)
            assert size[0] - 1 < right <= size[0]
            assert np.asarray(im).shape == (size[1], size[0], 3)
            assert im.draft("L", (1, 1)) is None


def test_thumbnail(tmp_path: Path) -> None:
    file = tmp_path / "x.nic"
    Image.fromarray(whole_photo()).save(file, quality=0.7)
    expected = Image.fromarray(whole_photo())
    expected.thumbnail((64, 64))
    with Image.open(file) as im:
        im.thumbnail((64, 64))
        assert im.size == expected.size
        assert psnr(im, expected) > 36


@pytest.mark.parametrize("mode", ["RGB", "LA"])
def test_region(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "x.nic"
    photo(mode, (330, 230)).save(file)
    region = (17, 30, 200, 190)
    with Image.open(file) as im:
        im.region = region
        assert im.size == (183, 160)
        part = np.asarray(im)
        with pytest.raises(ValueError, match="region must be set before"):
            im.region = None
    with Image.open(file) as im:
        assert np.abs(part.astype(int) - np.asarray(im.crop(region))).max() <= 1
    with Image.open(file) as im:
        for wrong in ((0, 0, 331, 1), (5, 5, 5, 9), (-1, 0, 3, 3)):
            with pytest.raises(ValueError, match="region"):
                im.region = wrong
        assert im.size == (330, 230)
        im.region = region
        im.region = None
        assert im.size == (330, 230)


def test_region_and_draft_together(tmp_path: Path) -> None:
    file = tmp_path / "x.nic"
    photo(size=(330, 230)).save(file)
    with Image.open(file) as im:
        im.region = (32, 16, 232, 216)
        im.draft(None, (50, 50))
        assert im.size == (50, 50)
        expected = pillow_nic.decode(file, region=(32, 16, 232, 216), reduce=4)
        assert (np.asarray(im) == expected).all()
