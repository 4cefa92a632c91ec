"""The command `nic bench`."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import photo
from PIL import Image

import pillow_nic
from pillow_nic.bench import anchors, codecs, comparison
from pillow_nic.bench import main as benchmark
from pillow_nic.bench.codecs import PillowCodec
from pillow_nic.bench.comparison import compare
from pillow_nic.bench.measuring import Measurement
from pillow_nic.command.main import main

POINTS = [(0.1, 24.0, 0.8, 10.0), (0.4, 30.0, 0.95, 50.0), (1.6, 36.0, 0.99, 80.0), (6.4, 44.0, 0.999, 95.0)]


def picture(folder: Path, width: int = 240, height: int = 225, name: str = "one.png") -> np.ndarray:
    crop = photo(size=(width, height))
    folder.mkdir(exist_ok=True)
    crop.save(folder / name)
    return np.asarray(crop)


def points(factor: float = 1) -> list[anchors.Point]:
    names = ("bpp", "psnr", "ms_ssim", "ssimulacra2")
    return [dict(zip(names, (factor * bpp, *rest), strict=True)) for bpp, *rest in POINTS]


def anchors_file(file: Path, images: list[str]) -> Path:
    codecs = {"vtm": {"points": points()}, "other": {"points": points(1.25)}}
    file.write_text(json.dumps({"images": images, "codecs": codecs}), encoding="utf-8")
    return file


def shorten(monkeypatch: pytest.MonkeyPatch, name: str, *values: Any) -> None:
    """Leave a codec these qualities."""
    ladder = [{"quality": value} for value in values]
    monkeypatch.setitem(codecs.CODECS, name, replace(codecs.CODECS[name], ladder=ladder))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a folder `set` with one picture."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIC_DEVICE", "")  # restored after --device, which sets it
    picture(tmp_path / "set")
    return tmp_path


def bench(*arguments: str) -> int:
    """`nic bench set` on the CPU; the exit code, also of wrong usage."""
    try:
        return main(["bench", "set", "--device", "cpu", *arguments])
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1


# ------------------------------------------------------------------------------------------ the comparison


def test_comparison(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, "webp-m6", 5, 50, 90)
    anchors_file(folder / "a.json", ["one.png"])
    outputs = ["--json", "out.json", "--plot", "out.svg"]
    chosen = ["--efforts", "0", "1", "--qualities", "0", "0.5", "1", "--codecs", "webp-m6"]
    assert bench(*chosen, *outputs, "--anchors", "a.json", "--split", "0.5") == 0
    text = capsys.readouterr().out
    assert re.findall(r"the other's from (.*) bpp", text) == ["0.1 to 1.5", "0.1 to 0.5", "0.5 to 1.5"]
    assert re.search(
        r"^nic-visual-e0: nic-2-visual .* at effort 0, .* on cpu, torch threads", text, re.MULTILINE
    )
    assert re.search(r"^webp-m6: WEBP, method=6 \(Pillow .*, webp .*\)$", text, re.MULTILINE)
    rows = [line.split() for line in text.splitlines() if re.match(r"(nic-\S+|webp-m6) +quality", line)]
    assert [(row[0], row[2]) for row in rows] == [
        *(("nic-visual-e0", q) for q in ("0", "0.5", "1")),
        *(("nic-visual-e1", q) for q in ("0", "0.5", "1")),
        *(("webp-m6", q) for q in ("5", "50", "90")),
    ]
    pixels = np.asarray(Image.open("set/one.png"))
    data = pillow_nic.encode(pixels, quality=0.5, effort=0, device="cpu")
    bpp = 8 * len(data) / (240 * 225)
    assert rows[1][3] == f"{bpp:.4f}"
    Image.fromarray(pixels).save("one.webp", quality=50, method=6)
    assert rows[7][3] == f"{8 * Path('one.webp').stat().st_size / (240 * 225):.4f}"

    content = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert content["images"] == ["one.png"]
    assert content["metrics"]["ssimulacra2"].startswith("ssimulacra2 ")
    assert content["codecs"]["webp-m6"]["save"] == {"method": 6}
    point = content["codecs"]["nic-visual-e0"]["points"][1]
    assert point["bpp"] == pytest.approx(bpp)
    error = np.square(pixels.astype(float) - pillow_nic.decode(data, device="cpu")).mean()
    assert point["psnr"] == pytest.approx(10 * math.log10(255**2 / error))
    assert 0.9 < point["ms_ssim"] < 1
    assert 20 < point["ssimulacra2"] < 90
    assert list(content["bd_rate"]) == ["nic-visual-e0", "nic-visual-e1"]
    assert list(content["bd_rate"]["nic-visual-e0"]) == ["nic-visual-e1", "webp-m6", "vtm"]
    assert content["bd_rate"]["nic-visual-e0"]["vtm"]["ssimulacra2"] == "not measured alike"
    assert content["bd_rate"]["nic-visual-e0"]["webp-m6"]["ssimulacra2"]["share"] > 0
    svg = Path("out.svg").read_text(encoding="utf-8")
    assert svg.count('<g id="axes_') == 3


def test_its_json_is_an_anchors_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--codecs", "--qualities", "0.3", "0.6", "0.9", "--metrics", "psnr"]
    assert bench(*chosen, "--json", "old.json") == 0
    assert "BD-rate" not in capsys.readouterr().out
    arguments = ["--anchors", "old.json", "--against", "nic-visual-e1", "--json", "new.json"]
    assert bench(*chosen, *arguments) == 0
    found = json.loads(Path("new.json").read_text(encoding="utf-8"))["bd_rate"]["nic-visual-e1"]
    assert list(found) == ["nic-visual-e1 (old)"]  # the same version: as many bytes
    assert found["nic-visual-e1 (old)"]["psnr"] == {
        "percent": pytest.approx(0),
        "low": pytest.approx(found["nic-visual-e1 (old)"]["psnr"]["low"]),
        "high": pytest.approx(found["nic-visual-e1 (old)"]["psnr"]["high"]),
        "share": pytest.approx(1),
    }


def test_a_codec_that_fails_is_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(folder / "set", 64, 48, "two.png")
    shorten(monkeypatch, "webp-m6", 5, 90)
    shorten(monkeypatch, "jpeg-420", 10, 90)
    encode = PillowCodec.encode

    def failing(codec: PillowCodec, pixels: np.ndarray, param: dict[str, Any]) -> bytes:
        if codec.name == "webp-m6" and pixels.shape[1] == 64:
            raise OSError("too small for it")
        return encode(codec, pixels, param)

    monkeypatch.setattr(PillowCodec, "encode", failing)
    codecs = ["--codecs", "webp-m6", "jpeg-420", "--metrics", "psnr", "--qualities", "0.2", "0.8"]
    assert bench(*codecs, "--json", "out.json") == 1
    out, err = capsys.readouterr()
    assert err == "webp-m6 is left out: two.png: too small for it\n"
    assert re.search(r"^jpeg-420 +[+-][\d.]+ %", out, re.MULTILINE)
    content = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert list(content["codecs"]) == ["nic-visual-e1", "jpeg-420"]


def test_png_plot(folder: Path) -> None:
    chosen = ["--codecs", "--qualities", "0.3", "0.6", "--metrics", "psnr", "--plot", "out.png"]
    assert bench(*chosen) == 0
    with Image.open("out.png") as im:
        assert im.format == "PNG"
        assert len(im.convert("RGB").getcolors(1 << 20)) > 10


def test_compare() -> None:
    less = [{"bpp": p["bpp"], "psnr": p["psnr"]} for p in points(0.8)]
    found = compare(less, ["psnr", "ms_ssim"], {"vtm": points(), "one": points()[:1]})
    rate = found["vtm"]["psnr"]
    assert isinstance(rate, comparison.BdRate)
    assert rate.percent == pytest.approx(-20)
    assert found["vtm"]["ms_ssim"] == "not measured alike"
    assert found["one"]["psnr"] == "fewer than two points, or not finite"


# ------------------------------------------------------------------------------------------- other actions


def test_monotone(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    picture(folder / "set", 96, 64)
    code = bench("--monotone")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "1 pictures of set at 21 qualities"
    assert lines[-1] == f"violations (bytes or PSNR do not rise): {len(lines) - 3}"
    assert code == (len(lines) > 3)

    for sizes, expected in (((10, 11), 0), ((11, 10), 1)):
        found = [
            Measurement("a", {"quality": n}, size, 1, {"psnr": 30 + n}, 1, 1) for n, size in enumerate(sizes)
        ]
        monkeypatch.setattr(benchmark, "measure", lambda *_, found=found, **__: found)
        assert bench("--monotone") == expected


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--anchors", "anchors.json", "--against", "nobody"], "has no nobody, but vtm, other"),
        (["--anchors", "wrong.json"], "other pictures"),
        (["--anchors", "none.json"], "none.json"),
        (
            [],
            "one.png is too small for MS-SSIM, which needs 161 pixels each way: leave it out with --metrics",
        ),
        (["--metrics", "ssimulacra2"], "too small for SSIMULACRA2, which needs 225 pixels"),
        (["--layers", "--json", "a.json", "--codecs"], "--layers does not take --codecs, --json"),
        (["--papers"], "none of the papers' pictures is there: kodim02, "),
    ],
)
def test_errors_before_the_run(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(comparison, "measure", lambda *_, **__: pytest.fail("measured"))
    picture(folder / "set", 96, 64)
    anchors_file(folder / "anchors.json", ["one.png"])
    anchors_file(folder / "wrong.json", ["kodim01.png"])
    assert bench(*arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("nic bench: ")
    assert message in err


@pytest.mark.parametrize(
    ("module", "arguments", "name"),
    [
        ("pytorch_msssim", [], "pytorch-msssim"),
        ("ssimulacra2", [], "ssimulacra2"),
        ("scipy.interpolate", ["--codecs", "jpeg-420"], "scipy"),
        ("matplotlib.figure", ["--plot", "plot.png"], "matplotlib"),
        ("pillow_heif", [], "pillow-heif"),
        ("pillow_jxl", ["--codecs", "jxl-e7"], "pillow-jxl-plugin"),
    ],
)
def test_a_missing_extra(
    module: str, arguments: list[str], name: str, folder: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(comparison, "measure", lambda *_, **__: pytest.fail("measured"))
    monkeypatch.setitem(sys.modules, module, None)
    assert bench(*arguments) == 2
    assert capsys.readouterr().err == f"nic bench: {name} is missing: pip install 'pillow-nic[bench]'\n"


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path)]) == 2
    assert "no pictures in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        ["--qualities", "1.5"],
        ["--speed", "x"],
        ["--speed", "0"],
        ["--speed", "1", "--monotone"],
        ["--codecs", "gif"],
        ["--metrics", "vmaf"],
        ["--split", "1.5"],
        ["--split", "half"],
        ["--efforts", "7"],
        ["--plot", "plot.gif"],
        ["--plot", "missing/plot.png"],
        ["--json", "missing/out.json"],
    ],
)
def test_wrong_usage(option: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(*option) == 2
    assert f"argument {option[-2] if len(option) == 2 else '--monotone'}" in capsys.readouterr().err
