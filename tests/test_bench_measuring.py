"""Runs of a codec over pictures, and what is made of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from pictures import photo
from PIL import Image

import pillow_nic
from pillow_nic.bench import measuring
from pillow_nic.bench.codecs import Nic
from pillow_nic.bench.measuring import Measurement, falls, means, measure
from pillow_nic.bench.settings import Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    photo(size=(40, 24)).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def measurement(picture: str, quality: float, size: int, psnr: float, seconds: float = 1.0) -> Measurement:
    scores = {"psnr": psnr, "ms_ssim": 0.9}
    return Measurement(picture, {"quality": quality}, size, size / 100, scores, seconds, seconds / 2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """In which every encode takes 2 seconds and every decode 5."""
    ticks = itertools.accumulate(itertools.cycle((10, 2, 5)))
    monkeypatch.setattr(measuring, "perf_counter", lambda: next(ticks))


@pytest.mark.usefixtures("clock")
def test_measure(file: Path) -> None:
    codec = Nic(effort=0, device="cpu", network_width=2, qualities=[0.2, 0.8])
    low, high = measure([file], codec)
    pixels = np.asarray(Image.open(file))
    for found, quality in ((low, 0.2), (high, 0.8)):
        data = pillow_nic.encode(pixels, quality=quality, effort=0, network_width=2, device="cpu")
        assert (found.picture, found.param, found.size) == ("one.png", {"quality": quality}, len(data))
        assert found.bpp == pytest.approx(8 * len(data) / (40 * 24))
        decoded = pillow_nic.decode(data, device="cpu")
        assert found.scores == {"psnr": measuring.METRICS["psnr"].score(pixels, decoded)}
        assert found.enc_s_per_mp == pytest.approx(2e6 / (40 * 24))
        assert found.dec_s_per_mp == pytest.approx(5e6 / (40 * 24))
    assert high.scores["psnr"] > low.scores["psnr"]


def test_the_share_of_exact_pixels_is_measured(tmp_path: Path) -> None:
    screen = np.full((64, 96, 3), 255, np.uint8)
    screen[8:56:4, 8:88:3] = 0
    Image.fromarray(screen).save(tmp_path / "screen.png")
    (found,) = measure([tmp_path / "screen.png"], Nic(device="cpu", qualities=[0.9]))
    assert found.exact == 1
    assert measuring.curve(measuring.means([found], [{"quality": 0.9}]), "psnr") == []
    webp = measuring.exact_share(b"RIFF, and so on")
    assert webp == 0


def test_tunes_and_efforts_are_those_that_are_asked_for(file: Path) -> None:
    pixels = np.asarray(Image.open(file))
    codecs = Settings([file], tunes=["psnr", "ms-ssim"], efforts=[1, 0], device="cpu").nics([0.5])
    assert [codec.name for codec in codecs] == [
        "nic-psnr-e0",
        "nic-psnr-e1",
        "nic-ms-ssim-e0",
        "nic-ms-ssim-e1",
    ]
    files = [codec.encode(pixels, codec.ladder[0]) for codec in codecs]
    assert len(set(files)) == 4
    for codec, data in zip(codecs, files, strict=True):
        options = {"tune": codec.tune, "effort": codec.effort, "device": "cpu"}
        assert pillow_nic.encode(pixels, quality=0.5, **options) == data
        assert codec.model.name == pillow_nic.read_header(data).model
    assert [codec.metric for codec in codecs] == ["psnr", "psnr", "ms_ssim", "ms_ssim"]


def test_falls() -> None:
    good = [measurement("a", q, 100 + n, 30 + n) for n, q in enumerate((0, 0.5, 1))]
    assert falls(good) == []
    bad = [
        measurement("b", 1, 120, 31),
        measurement("b", 0, 120, 30),
        measurement("b", 0.5, 120, 31.5),
    ]
    assert falls(good + bad) == [
        "b, quality 0 to 0.5: 120 to 120 bytes",
        "b, quality 0.5 to 1: 120 to 120 bytes",
        "b, quality 0.5 to 1: PSNR 31.5000 to 31.0000 dB",
    ]


def test_means_over_pictures() -> None:
    values = [("a", 0.5, 30, 1.0), ("a", 0, 10, 1.0), ("b", 0.5, 40, 1.5), ("c", 0.5, 35, 9.0)]
    runs = [measurement(name, q, 100, psnr, seconds) for name, q, psnr, seconds in values]
    low, high = means(runs, [{"quality": 0}, {"quality": 0.5}])
    assert low["param"] == {"quality": 0}
    assert high["param"] == {"quality": 0.5}
    assert (high["bpp"], high["psnr"], high["ms_ssim"]) == pytest.approx((1, 35, 0.9))
    assert (high["enc_s_per_mp"], high["dec_s_per_mp"]) == (1.5, 0.75)
    assert high["per_image"]["psnr"] == [30, 40, 35]


def test_curves_have_the_points_that_have_the_metric() -> None:
    points = [{"bpp": 0.5, "psnr": 30.0, "ms_ssim": 0.9}, {"bpp": 1.0, "psnr": 33.0}]
    assert measuring.curve(points, "psnr") == [(0.5, 30), (1, 33)]
    assert measuring.curve(points, "ms_ssim") == [(0.5, pytest.approx(10))]
    assert measuring.curve(points, "ssimulacra2") == []


@pytest.mark.usefixtures("clock")
def test_speed(file: Path) -> None:
    pixels = measuring.read(file)
    for side in (32, 100):
        encode, decode = measuring.speed(pixels, 2, 0.5, Nic(device="cpu", network_width=1), side)
        assert encode == [2e6 / side**2] * 2
        assert decode == [5e6 / side**2] * 2


def test_table() -> None:
    assert measuring.table(["a", "b"], [["long", "1"], ["x", "12.5"]]) == "a        b\nlong     1\nx     12.5"
