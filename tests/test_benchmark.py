"""Rate–distortion and speed measurements, and the comparison with other codecs."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pillow_nic
from pillow_nic import benchmark
from pillow_nic.benchmark import Measurement, Setting, bd_rate, compare, decibels, falls, main, means

PHOTO = Path(__file__).parent / "data" / "photo.png"

# Means over the 24 Kodak pictures: (bpp, PSNR, MS-SSIM). BPG as published with CompressAI.
BPG_444 = [
    (0.067768, 26.195128, 0.86859),
    (0.161023, 28.681549, 0.924205),
    (0.351554, 31.594657, 0.961144),
    (0.684697, 34.857474, 0.980799),
    (1.199665, 38.259887, 0.990467),
    (1.929712, 41.478873, 0.994933),
    (3.057876, 44.70311, 0.997546),
    (4.703143, 47.632516, 0.998802),
]
WEBP_M6 = [
    (0.10257, 25.6749, 0.858127),
    (0.217424, 28.1086, 0.924164),
    (0.326443, 29.6002, 0.947635),
    (0.47621, 31.2283, 0.963723),
    (0.627999, 32.6566, 0.972588),
    (0.76866, 33.7324, 0.97837),
    (0.939036, 34.872, 0.982858),
    (1.447547, 37.6061, 0.990013),
    (2.22367, 40.2861, 0.99435),
]
JPEG_420 = [
    (0.140802, 23.8522, 0.807085),
    (0.255512, 26.6718, 0.894243),
    (0.449147, 29.1445, 0.945674),
    (0.610103, 30.4915, 0.963153),
    (0.743263, 31.422, 0.971693),
    (0.929938, 32.5154, 0.978743),
    (1.213014, 33.9167, 0.984721),
    (1.549036, 35.37, 0.98886),
    (2.096425, 37.3303, 0.992336),
    (3.016282, 39.9448, 0.995176),
]


def points(curve: list[tuple[float, float, float]]) -> list[benchmark.Point]:
    return [{"bpp": bpp, "psnr": psnr, "ms_ssim": similarity} for bpp, psnr, similarity in curve]


def picture(folder: Path, width: int = 208, height: int = 176, name: str = "one.png") -> np.ndarray:
    with Image.open(PHOTO) as im:
        crop = im.convert("RGB").crop((60, 60, 60 + width, 60 + height))
    folder.mkdir(exist_ok=True)
    crop.save(folder / name)
    return np.asarray(crop)


def anchors_file(file: Path, images: list[str]) -> Path:
    codecs = {"webp-m6": {"points": points(WEBP_M6)}, "other": {"points": points(JPEG_420)}}
    file.write_text(json.dumps({"images": images, "codecs": codecs}), encoding="utf-8")
    return file


# ------------------------------------------------------------------------------------------------- BD-rate


@pytest.mark.parametrize(
    ("curve", "psnr", "ms_ssim"), [(WEBP_M6, 43, 28), (JPEG_420, 119, 67), (BPG_444, 0, 0)]
)
def test_bd_rate_of_known_codecs(
    curve: list[tuple[float, float, float]], psnr: float, ms_ssim: float
) -> None:
    found = compare(points(curve), {"bpg-444": points(BPG_444)})["bpg-444"]
    for metric, expected in (("psnr", psnr), ("ms_ssim", ms_ssim)):
        value = found[metric]
        assert isinstance(value, benchmark.BdRate)
        assert value.percent == pytest.approx(expected, abs=1)


def test_bd_rate_of_a_constant_factor() -> None:
    anchor = [(0.05, 25.0), (0.2, 29.0), (0.7, 34.0), (1.9, 39.0)]
    worse = bd_rate([(1.25 * bpp, quality) for bpp, quality in anchor], anchor, rates=(0.05, 1.9))
    assert worse.percent == pytest.approx(25)
    assert (worse.low, worse.high, worse.share) == pytest.approx((25, 39, 1))
    better = bd_rate([(0.8 * bpp, quality) for bpp, quality in reversed(anchor)], anchor)
    assert better.percent == pytest.approx(-20)


def test_bd_rate_says_what_it_covers() -> None:
    # log2(rate) is linear in dB: at 0.25 bpp 30 dB, at 1 bpp 36 dB.
    anchor = [(2.0**n, 36.0 + 3 * n) for n in range(-4, 3)]
    found = bd_rate([(0.5, 33.0), (1.0, 36.0)], anchor, rates=(0.25, 2.0))
    assert (found.percent, found.low, found.high) == pytest.approx((0, 33, 36))
    assert found.share == pytest.approx(3 / 9)


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ([(0.5, 30.0)], "two points"),
        ([(0.5, 30.0), (1.0, math.inf)], "finite"),
        ([(0.5, 10.0), (1.0, 20.0)], "in common"),
        ([(0.5, 30.0), (1.0, 30.0), (2.0, 40.0)], "increasing"),
    ],
)
def test_no_bd_rate(curve: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bd_rate(curve, [(0.2, 28.0), (0.7, 33.0), (1.4, 38.0)])


def test_a_metric_that_was_not_measured() -> None:
    ours = [{"bpp": bpp, "psnr": psnr} for bpp, psnr, _ in WEBP_M6]
    found = compare(ours, {"bpg-444": points(BPG_444)})["bpg-444"]
    assert isinstance(found["psnr"], benchmark.BdRate)
    assert found["ms_ssim"] == "not measured"


# ------------------------------------------------------------------------------------------------ measuring


def measurement(picture: str, quality: float, size: int, psnr: float, seconds: float = 1.0) -> Measurement:
    return Measurement(picture, quality, size, size / 100, psnr, 0.9, seconds, seconds / 2)


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
    low, high = means([measurement(name, q, 100, psnr, seconds) for name, q, psnr, seconds in values])
    assert low["param"] == {"quality": 0}
    assert high["param"] == {"quality": 0.5}
    assert (high["bpp"], high["psnr"], high["ms_ssim"]) == pytest.approx((1, 35, 0.9))
    assert (high["enc_s_per_mp"], high["dec_s_per_mp"]) == (1.5, 0.75)
    assert high["per_image"]["psnr"] == [30, 40, 35]


def test_scores() -> None:
    a = np.full((176, 176, 3), 100, np.uint8)
    b = a + np.uint8(5)
    assert benchmark.psnr(a, b) == benchmark.psnr(b, a) == pytest.approx(34.1514, abs=1e-4)
    assert benchmark.psnr(a, a) == math.inf
    assert benchmark.ms_ssim(a, a) == pytest.approx(1)
    assert decibels(0.99) == pytest.approx(20)
    assert decibels(1) == math.inf


def test_speed(tmp_path: Path) -> None:
    pixels = picture(tmp_path, 40, 24)
    for side in (32, 100):
        encode, decode = benchmark.speed(pixels, 2, 0.5, Setting("cpu", 1), side)
        assert len(encode) == len(decode) == 2
        assert min(*encode, *decode) > 0


def test_first_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join((str(Path(pillow_nic.__file__).parents[1]), os.environ.get("PYTHONPATH", "")))
    monkeypatch.setenv("PYTHONPATH", path)  # the new Python finds the same pillow_nic as this one
    data = pillow_nic.encode(picture(tmp_path, 40, 24), quality=0.5, device="cpu")
    assert benchmark.first_decode(data, 1, "cpu")[0] > 0


# ---------------------------------------------------------------------------------------------- the command


def test_rate_distortion_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = picture(tmp_path / "set")
    anchors = anchors_file(tmp_path / "anchors.json", ["one.png"])
    out = tmp_path / "out.json"
    arguments = ["--anchors", str(anchors), "--qualities", "0", "0.5", "1", "--json", str(out)]
    arguments += ["--device", "cpu"]
    assert main([str(tmp_path / "set"), *arguments]) == 0
    text = capsys.readouterr().out
    assert "on cpu, torch threads: " in text
    rows = [line.split() for line in text.splitlines() if re.match(r"\d\.\d{3} ", line)]
    assert [row[0] for row in rows] == ["0.000", "0.500", "1.000"]
    assert [len(row) for row in rows] == [7, 7, 7]
    data = pillow_nic.encode(pixels, quality=0.5, device="cpu")
    assert rows[1][1] == f"{8 * len(data) / (208 * 176):.4f}"
    assert re.search(r"^webp-m6  ", text, re.MULTILINE)
    assert not re.search(r"^other ", text, re.MULTILINE)

    content = json.loads(out.read_text(encoding="utf-8"))
    point = content["codecs"]["nic"]["points"][1]
    assert point["bpp"] == pytest.approx(8 * len(data) / (208 * 176))
    error = np.square(pixels.astype(float) - pillow_nic.decode(data, device="cpu")).mean()
    assert point["psnr"] == pytest.approx(10 * math.log10(255**2 / error))
    assert set(content["bd_rate"]) == {"webp-m6"}

    # What it wrote is an anchors file: the same version needs as many bytes.
    arguments[1], arguments[2:2] = str(out), ["--against", "nic"]
    assert main([str(tmp_path / "set"), *arguments]) == 0
    again = json.loads(out.read_text(encoding="utf-8"))["bd_rate"]["nic"]["psnr"]
    assert isinstance(again, str) or again["percent"] == pytest.approx(0)


def test_monotone_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "set", 96, 64)
    arguments = [str(tmp_path / "set"), "--monotone", "--device", "cpu"]
    code = main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "1 pictures of set at 21 qualities"
    assert lines[-1] == f"violations (bytes or PSNR do not rise): {len(lines) - 3}"
    assert code == (len(lines) > 3)

    for sizes, expected in (((10, 11), 0), ((11, 10), 1)):
        found = [measurement("a", n, size, 30 + n) for n, size in enumerate(sizes)]
        monkeypatch.setattr(benchmark, "measure", lambda *_, found=found, **__: found)
        assert main(arguments) == expected


def test_speed_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "set", 96, 64)
    monkeypatch.setattr(benchmark, "SPEED_SIDES", (48, 100))
    monkeypatch.setattr(benchmark, "first_decode", lambda *_: [3.0, 1.0, 2.0, 5.0, 4.0])
    assert main([str(tmp_path / "set"), "--speed", "1", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    seconds = r"  +\d+\.\d{3} \(\d+\.\d{3}\)"
    assert re.search(rf"^48x48    +0\.500{seconds}{seconds}$", text, re.MULTILINE)
    assert re.search(r"^100x100 ", text, re.MULTILINE)
    assert text.endswith("median 3.00 s of 5 (1.00 to 5.00)\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--anchors", "anchors.json", "--against", "nobody"], "has no nobody, but webp-m6, other"),
        (["--anchors", "wrong.json"], "other pictures"),
        (["--anchors", "none.json"], "none.json"),
        ([], "too small for MS-SSIM: use --no-msssim"),
    ],
)
def test_errors_before_the_run(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "measure", lambda *_, **__: pytest.fail("measured"))
    picture(tmp_path / "set", 96, 64)
    anchors_file(tmp_path / "anchors.json", ["one.png"])
    anchors_file(tmp_path / "wrong.json", ["kodim01.png"])
    assert main(["set", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert message in err


@pytest.mark.parametrize(
    ("module", "arguments", "name"),
    [("pytorch_msssim", [], "pytorch-msssim"), ("scipy.interpolate", ["--anchors", "anchors.json"], "scipy")],
)
def test_a_missing_extra(
    module: str, arguments: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    picture(tmp_path / "set")
    anchors_file(tmp_path / "anchors.json", ["one.png"])
    assert main(["set", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {name} is missing: pip install 'pillow-nic[bench]'\n"


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no pictures in" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--qualities", "1.5"], ["--speed", "x"], ["--speed", "1", "--monotone"]])
def test_wrong_usage(option: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([".", *option])
