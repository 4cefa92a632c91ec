"""Targets: sizes from below, fidelities from above, and what cannot be."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from pictures import photo, pixels, psnr, saved
from PIL import Image, ImageDraw
from pytorch_msssim import ms_ssim

import pillow_nic
from pillow_nic import codec, options, targets
from pillow_nic.command.main import main
from pillow_nic.options import EncodeOptions

KINDS: list[dict[str, Any]] = [
    {"target_size": 2000},
    {"target_bpp": 0.4},
    {"target_psnr": 31.5},
    {"target_ssim": 0.96},
    {"target_ssim": 15},
]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The efforts of the encodes that were made."""
    efforts: list[int] = []
    real = codec.symbols_of

    def symbols_of(*arguments: Any) -> Any:
        efforts.append(arguments[3].effort)
        return real(*arguments)

    monkeypatch.setattr(codec, "symbols_of", symbols_of)
    return efforts


def decibels(before: Any, after: Any) -> float:
    import torch

    x, y = (torch.from_numpy(np.array(t)).permute(2, 0, 1)[None].float() for t in (before, after))
    return float(-10 * (1 - ms_ssim(x, y, data_range=255)).log10())


@pytest.mark.parametrize("effort", [0, 1])
@pytest.mark.parametrize("target", KINDS, ids=str)
def test_targets_are_met(target: dict[str, Any], effort: int, counted: list[int]) -> None:
    picture = pixels(size=(203, 171))
    data = pillow_nic.encode(picture, effort=effort, **target)
    assert 1 <= len(counted) <= 6
    assert set(counted) == {effort}
    decoded = pillow_nic.decode(data)
    match target:
        case {"target_size": size}:
            assert 0.98 * size <= len(data) <= size
        case {"target_bpp": bpp}:
            assert 0.975 * bpp <= 8 * len(data) / (203 * 171) <= bpp
        case {"target_psnr": quality}:
            assert quality <= psnr(picture, decoded) <= quality + 0.1
        case {"target_ssim": quality}:
            wanted = quality if quality > 1 else -10 * math.log10(1 - quality)
            assert wanted - 1e-3 <= decibels(picture, decoded) <= wanted + 0.1


def test_metadata_and_alpha_count(tmp_path: Path) -> None:
    im = photo("RGBA", (150, 97))
    comment = "a comment that says nothing " * 20
    data = saved(im, target_size=4000, comment=comment)
    assert 0.98 * 4000 <= len(data) <= 4000
    with Image.open(io.BytesIO(data)) as decoded:
        assert decoded.info["comment"] == comment.encode()
        assert decoded.getchannel("A").tobytes() == im.getchannel("A").tobytes()
    least = len(saved(im, target_psnr=1, comment=comment))
    with pytest.raises(ValueError, match=rf"target_size={least - 1} cannot be met: .* has {least} bytes$"):
        saved(im, target_size=least - 1, comment=comment)
    assert len(saved(im, target_size=least, comment=comment)) == least


def test_transparent_pixels_have_no_fidelity() -> None:
    im = photo("RGBA", (120, 90))
    alpha = np.zeros((90, 120), np.uint8)
    alpha[:, :60] = 200
    im.putalpha(Image.fromarray(alpha))
    picture = np.array(im)
    decoded = pillow_nic.decode(pillow_nic.encode(im, target_psnr=33))
    assert 33 <= psnr(picture[:, :60, :3], decoded[:, :60, :3]) <= 33.1


def test_grey() -> None:
    picture = pixels("L", (130, 170))
    data = pillow_nic.encode(picture, target_psnr=34)
    assert 34 <= psnr(picture, pillow_nic.decode(data)) <= 34.1


def test_beyond_the_qualities_steps_change() -> None:
    picture = pixels(size=(96, 80))
    lowest, highest = (len(pillow_nic.encode(picture, quality=quality)) for quality in (0.0, 1.0))
    size = lowest - 8
    data = pillow_nic.encode(picture, target_size=size)
    assert len(data) <= size
    assert pillow_nic.read_header(data).delta > 0
    size = round(1.1 * highest)
    data = pillow_nic.encode(picture, target_size=size)
    assert highest < len(data) <= size
    assert pillow_nic.read_header(data).delta < 0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"target_size": 20}, r"target_size=20 cannot be met: the smallest file has \d+ bytes$"),
        ({"target_bpp": 0.001}, r"target_bpp=0.001 cannot be met: .* has \d+ bytes, \d\.\d{4} bpp$"),
        ({"target_psnr": 70}, r"target_psnr=70 cannot be met: at the best quality .* \d\d\.\d\d dB of PSNR$"),
        ({"target_ssim": 0.99999}, r"target_ssim=0.99999 cannot be met: .* \d\d\.\d\d dB of MS-SSIM$"),
    ],
)
def test_what_cannot_be_met(target: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pillow_nic.encode(pixels(size=(96, 80)), **target)


def test_what_is_met_by_everything_is_met_by_the_smallest_or_best() -> None:
    picture = pixels(size=(96, 80))
    assert pillow_nic.encode(picture, target_psnr=3) == pillow_nic.encode(picture, target_ssim=0.01)
    best = pillow_nic.encode(picture, target_size=10**7)
    assert best == pillow_nic.encode(picture, target_bpp=500)
    assert len(best) > len(pillow_nic.encode(picture, quality=1.0))
    flat = np.full((40, 40, 3), 128, np.uint8)
    assert len(pillow_nic.encode(flat, target_size=5000)) < 1000
    assert len(pillow_nic.encode(flat, target_psnr=30)) < 200


@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_a_size_between_painted_and_exact_text(share: float) -> None:
    """Where bytes jump from painted to exact: the best file that fits, painted throughout if need be."""
    letters = np.random.default_rng(6).integers(97, 123, (16, 50), np.uint8)
    im = Image.new("RGB", (320, 224), "white")
    ImageDraw.Draw(im).multiline_text(
        (5, 5), "\n".join(map(bytes.decode, map(bytes, letters))), fill=(30, 30, 90)
    )
    text = np.asarray(im)
    size = int(share * len(pillow_nic.encode(text, lossless=True)))
    data, painted = (pillow_nic.encode(text, target_size=size, graphics=g) for g in ("auto", "never"))
    assert len(data) <= size
    assert psnr(text, pillow_nic.decode(data)) >= psnr(text, pillow_nic.decode(painted))


def test_imageio_and_the_other_options(tmp_path: Path) -> None:
    picture = pixels(size=(96, 80))
    chosen: dict[str, Any] = {"target_size": 900, "tune": "psnr", "layers": 2}
    iio.imwrite(tmp_path / "a.nic", picture, **chosen)
    data = (tmp_path / "a.nic").read_bytes()
    assert data == pillow_nic.encode(picture, **chosen)
    header = pillow_nic.read_header(data)
    assert (header.layers, header.model) == (2, options.TUNES["psnr"])


@pytest.mark.parametrize(
    ("given", "size"), [("900", 900), ("0.9k", 900), ("1kB", 1000), ("1KiB", 1024), ("0.001M", 1000)]
)
def test_sizes_of_the_command(given: str, size: int, tmp_path: Path) -> None:
    photo(size=(96, 80)).save(tmp_path / "a.png")
    assert main(["encode", str(tmp_path / "a.png"), "--target-size", given]) == 0
    assert 0.98 * size <= (tmp_path / "a.nic").stat().st_size <= size


def test_the_command_says_what_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(size=(96, 80)).save(tmp_path / "a.png")
    assert main(["encode", str(tmp_path / "a.png"), "--target-psnr", "90"]) == 1
    assert "target_psnr=90 cannot be met" in capsys.readouterr().err
    assert not (tmp_path / "a.nic").exists()
    for arguments in (
        ["-q", "0.5", "--target-size", "2k"],
        ["--target-psnr", "30", "--target-bpp", "1"],
        ["--target-size", "2x"],
        ["--target-ssim", "1"],
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["encode", str(tmp_path / "a.png"), *arguments])


def test_targets_exclude_each_other_and_a_quality() -> None:
    for given in ({"quality": 0.5}, {"target_psnr": 30.0}):
        with pytest.raises(ValueError, match="exclude each other: give one"):
            EncodeOptions.chosen({"target_size": 900, **given})
    with pytest.raises(ValueError, match="quality= and target_bpp= exclude each other"):
        EncodeOptions(quality=0.6, target_bpp=1)
    with pytest.raises(ValueError, match="exclude each other"):
        saved(photo(size=(8, 8)), quality=85, target_size=900)
    assert EncodeOptions(target_bpp=1).given() == {"target_bpp": 1.0}
    assert EncodeOptions().target is None


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("target_size", [0, -5, 900.5, "900", True]),
        ("target_bpp", [0, -1, math.inf, math.nan, "1", True]),
        ("target_psnr", [0, math.inf, None.__class__]),
        ("target_ssim", [0, 1, 1.0, -0.5]),
    ],
)
def test_values_that_are_no_targets(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=name):
            EncodeOptions(**{name: value})


def test_the_axis_goes_on_beyond_the_qualities() -> None:
    assert targets.place(0.25) == (0.25, 0)
    assert targets.place(0.0) == (0.0, 0)
    assert targets.place(1.0) == (1.0, 0)
    assert targets.place(-targets.STEP) == (0.0, 1)
    assert targets.place(targets.LOWEST) == pytest.approx((0.0, 16))
    assert targets.place(targets.HIGHEST) == pytest.approx((1.0, -8))
    quality, delta = targets.place(-1.25 * targets.STEP)
    assert (quality, delta) == (pytest.approx(0.75 * targets.STEP), 2)
    quality, delta = targets.place(1 + 0.25 * targets.STEP)
    assert (quality, delta) == (pytest.approx(1 - 0.75 * targets.STEP), -1)


SHAPES: list[Callable[[float], float]] = [
    lambda t: 6 + 4.2 * t,
    lambda t: 7 + 2 * t + 2 * t * t,
    lambda t: 5 + 6 * math.tanh(2 * t),
    lambda t: 6 + 3 * t + 0.01 * math.sin(300 * t),  # not monotone
    lambda t: 6 + 3 * t + (0.3 if t > 0.61 else 0),  # a jump
    lambda t: 6 + math.floor(40 * t) / 10,  # steps
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [700, 2000, 6000, 12000])
def test_the_search_never_exceeds_a_size(shape: Callable[[float], float], size: int) -> None:
    goal = targets.goal_of(EncodeOptions(target_size=size), 40_000)
    tried: list[float] = []

    def attempt(position: float) -> tuple[bytes, float]:
        tried.append(position)
        assert targets.LOWEST <= position <= targets.HIGHEST
        return b"", shape(position)

    _, _, score = targets._search(goal, attempt, None)
    assert score <= goal.limit
    assert len(tried) <= targets.ATTEMPTS
    if shape in SHAPES[:3]:
        reached = min(goal.limit, shape(targets.HIGHEST))
        assert score > reached + math.log(targets.SHARE) - 1e-9


def test_progress_of_several_attempts_rises() -> None:
    told: list[float] = []
    for number in range(3):
        for done in (0.5, 1.0):
            targets.part_of(told.append, number)(done)
    assert told == sorted(told)
    assert told[:2] == [0.25, 0.5]
    assert told[-1] < 1
