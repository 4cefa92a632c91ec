"""The command `nic`."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from pictures import photo
from PIL import Image, ImageFile

import pillow_nic
from pillow_nic.command import info
from pillow_nic.command.main import main
from pillow_nic.NicImagePlugin import NicImageFile


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with one small picture, a.png."""
    monkeypatch.chdir(tmp_path)
    photo().save("a.png")
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def run(*arguments: str) -> int:
    """The exit code, also of wrong usage."""
    try:
        return main(arguments)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1


def test_there_and_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "--psnr", "-q", "0.8", "a.png") == 0
    size = (here / "a.nic").stat().st_size
    last = capsys.readouterr().out.splitlines()[-1]
    bpp = 8 * size / (208 * 144)
    ratio = (here / "a.png").stat().st_size / size
    assert last.startswith(f"1 file, {size} bytes, {bpp:.4f} bpp, ratio {ratio:.2f}, PSNR ")
    assert float(last.split()[-2]) > 28

    assert run("decode", "a.nic", "-o", "b.png") == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"1 file, {size} bytes, {bpp:.4f} bpp, ratio ")
    assert err == ""
    with Image.open("b.png") as im, Image.open("a.nic") as nic:
        assert (im.format, im.size) == ("PNG", (208, 144))
        assert im.tobytes() == nic.tobytes()
    assert names(here) == ["a.nic", "a.png", "b.png"]


def test_the_same_bytes_as_image_save(here: Path) -> None:
    options = ("-q", "30", "--layers", "2", "--network-width", "2", "--tune", "psnr")
    assert run("encode", "a.png", *options, "-o", "x.nic") == 0
    with Image.open("a.png") as im:
        im.save("y.nic", quality=0.3, layers=2, network_width=2, tune="psnr")
    assert (here / "x.nic").read_bytes() == (here / "y.nic").read_bytes()


@pytest.mark.parametrize(
    ("text", "point"), [("1", 65535), ("0", 0), ("0.5", 32768), ("50", 32768), ("75.5", 49479)]
)
def test_quality_as_text(here: Path, capsys: pytest.CaptureFixture[str], text: str, point: int) -> None:
    assert run("encode", "a.png", "-q", text) == 0
    assert pillow_nic.read_header((here / "a.nic").read_bytes()).rate_point == point
    remark = "nic: quality=1 is the best quality, as 1.0 is; 1 percent is quality=0.01\n"
    assert capsys.readouterr().err == (remark if text == "1" else "")


@pytest.mark.parametrize("text", ["-1", "101", "1.5", "nan", "high", ""])
def test_wrong_quality_is_wrong_usage(here: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "a.png", f"--quality={text}") == 2
    assert "quality must be a number from 0 to 1 or from 2 to 100 (percent), not " in capsys.readouterr().err
    assert names(here) == ["a.png"]


def test_nothing_is_overwritten_without_force(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "a.png") == 0
    # The default name of the decoded picture is that of the original.
    original = (here / "a.png").read_bytes()
    assert run("decode", "a.nic") == 1
    assert capsys.readouterr().err == "nic: a.nic: a.png exists (-f replaces it)\n"
    assert (here / "a.png").read_bytes() == original
    assert run("decode", "a.nic", "-f") == 0
    assert (here / "a.png").read_bytes() != original
    # Its own input, never.
    assert run("truncate", "a.nic", "--layers", "1", "-f", "-o", "./a.nic") == 1
    assert capsys.readouterr().err == "nic: a.nic: a.nic is the input itself\n"
    os.link("a.nic", "b.nic")
    assert run("truncate", "a.nic", "--layers", "1", "-f", "-o", f"../{here.name}/b.nic") == 1
    assert capsys.readouterr().err == f"nic: a.nic: ../{here.name}/b.nic is the input itself\n"


def test_folders_keep_their_structure(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "in/deep").mkdir(parents=True)
    with Image.open("a.png") as im:
        im.crop((0, 0, 40, 40)).save("in/b.jpg")
        im.crop((0, 0, 40, 30)).save("in/c.PNG")
        im.crop((0, 0, 30, 40)).save("in/deep/d.webp")
    (here / "in/notes.txt").write_text("no picture")
    assert run("encode", "in", "-o", "flat") == 0
    assert names(here / "flat") == ["b.nic", "c.nic"]
    assert run("encode", "-r", "in", "-o", "out") == 0
    assert names(here / "out") == ["b.nic", "c.nic", os.path.join("deep", "d.nic")]
    size = sum(path.stat().st_size for path in (here / "out").rglob("*.nic"))
    bpp = 8 * size / (1600 + 1200 + 1200)
    assert (
        capsys.readouterr().out.splitlines()[-1].startswith(f"3 files, {size} bytes, {bpp:.4f} bpp, ratio ")
    )
    assert run("decode", "out", "-r", "-o", "back") == 0
    assert names(here / "back") == ["b.png", "c.png", os.path.join("deep", "d.png")]


def test_globs(here: Path) -> None:
    for name in ("p1.png", "p2.png", "q.png"):
        (here / name).write_bytes((here / "a.png").read_bytes())
    assert run("encode", "p*.png", "-o", "out/") == 0
    assert names(here / "out") == ["p1.nic", "p2.nic"]
    assert run("encode", "z*.png") == 2


def test_one_file_into_a_folder(here: Path) -> None:
    assert run("encode", "a.png", "-o", "new/") == 0
    (here / "there").mkdir()
    assert run("encode", "a.png", "-o", "there") == 0
    assert names(here) == ["a.png", os.path.join("new", "a.nic"), os.path.join("there", "a.nic")]


def test_bad_files_fail_and_the_others_are_done(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "b.png").write_bytes(b"no picture\n")
    (here / "c.png").write_bytes((here / "a.png").read_bytes()[:2000])
    Image.new("I;16", (20, 20)).save("d.png")
    assert run("encode", "a.png", "b.png", "c.png", "d.png", "missing.png") == 1
    out, err = capsys.readouterr()
    assert out.startswith("1 file, ")
    assert out.endswith(", 4 failed\n")
    lines = err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["b.png", "c.png", "d.png", "missing.png"]
    assert lines[0] == "nic: b.png: not a picture that Pillow can read"
    assert "convert it to 8 bits first" in lines[2]
    assert lines[3].endswith(": No such file or directory")
    assert names(here) == ["a.nic", "a.png", "b.png", "c.png", "d.png"]


def test_damaged_files_and_foreign_files_are_not_decoded(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("encode", "a.png", "-o", "b.nic")
    data = bytearray((here / "b.nic").read_bytes())
    (here / "cut.nic").write_bytes(data[:-5])
    data[-5] ^= 1
    (here / "flip.nic").write_bytes(data)
    capsys.readouterr()
    assert run("decode", "cut.nic", "flip.nic", "a.png", "-o", "out") == 1
    out, err = capsys.readouterr()
    assert out == "0 files, 3 failed\n"
    lines = err.splitlines()
    assert "truncated" in lines[0]
    assert "CRC" in lines[1]
    assert lines[2] == "nic: a.png: not a NIC file"
    assert names(here) == ["a.png", "b.nic", "cut.nic", "flip.nic"]


def test_a_failed_write_leaves_nothing(here: Path) -> None:
    with Image.open("a.png") as im:
        im.putalpha(7)
        im.save("b.png")
    assert run("encode", "b.png") == 0
    assert run("decode", "b.nic", "-o", "b.jpg") == 1  # JPEG has no alpha
    assert names(here) == ["a.png", "b.nic", "b.png"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["encode"],
        ["recode", "a.png"],
        ["encode", "a.png", "a.png.copy/a.png", "-o", "out"],
        ["encode", "a.png", "b.png", "-o", "a.png"],
        ["encode", "a.png", "-o", "a.png/"],
        ["encode", "a.png", "-o", "a.jpg"],
        ["encode", "a.png", "-o", ""],
        ["encode", ""],
        ["encode", "a.png", "--lossless", "--target-size", "2k"],
        ["encode", "-", "a.png", "-o", "out/"],
        ["encode", "-", "-o", "empty"],
        ["encode", "a.png", "a.png.copy", "-o", "-"],
        ["encode", "empty", "-o", "-"],
        ["encode", "empty"],
        ["decode", "empty"],
        ["decode", "a.nic", "-o", "a.txt"],
        ["decode", "a.nic", "-o", "a"],
        ["decode", "a.nic", "-o", "b.nic"],
        ["decode", "a.nic", "--format", "nic"],
        ["decode", "a.nic", "--format", "doc"],
        ["decode", "a.nic", "--format", "png", "-o", "a.jpg"],
        ["decode", "a.nic", "-q", "90"],
        ["decode", "a.nic", "--format", "jpg", "-q", "101"],
        ["info", "a.nic", "--plot", "a.jpg"],
    ],
)
def test_wrong_usage(here: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (here / "empty").mkdir()
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert ": error: " in error
    assert "Traceback" not in error
    assert names(here) == ["a.png"]


def test_layers_that_the_file_does_not_have(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("encode", "a.png", "--layers", "2", "-q", "0.7")
    assert run("decode", "a.nic", "--layers", "1", "-o", "b.png") == 0
    assert run("decode", "a.nic", "--layers", "3", "-o", "c.png") == 1
    assert "layers must be a whole number from 1 to 2" in capsys.readouterr().err


def test_metadata_is_carried_both_ways(here: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a kitten"
    profile = b"\0" * 16 + b"RGB " + b"\0" * 108
    with Image.open("a.png") as im:
        im.save("b.jpg", exif=exif, icc_profile=profile, dpi=(300, 300), comment=b"on a lawn", xmp=b"<x/>")
    assert run("encode", "b.jpg") == 0
    with Image.open("b.nic") as im:
        assert im.getexif()[0x010E] == "a kitten"
        assert im.info["icc_profile"] == profile
        assert im.info["dpi"] == (300, 300)
        assert im.info["comment"] == b"on a lawn"
    assert run("decode", "b.nic") == 0
    assert run("decode", "b.nic", "-o", "c.jpg") == 0
    for name in ("b.png", "c.jpg"):
        with Image.open(name) as im:
            im.load()
            assert im.getexif()[0x010E] == "a kitten"
            assert im.info["icc_profile"] == profile
            assert im.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    with Image.open("b.png") as im:
        im.load()
        assert im.info["Comment"] == "on a lawn"


def test_only_the_first_frame_is_kept_and_that_is_said(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("L", (20, 20), value) for value in (0, 128, 255)]
    frames[0].save("x.gif", save_all=True, append_images=frames[1:])
    assert run("encode", "x.gif") == 0
    assert capsys.readouterr().err == "nic: x.gif: only the first of its 3 frames is stored\n"


def test_info(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open("a.png") as im:
        im.save("a.nic", quality=0.6, layers=2, comment=b"on a lawn", dpi=(300, 300))
    size = (here / "a.nic").stat().st_size
    assert run("info", "a.nic") == 0
    lines = capsys.readouterr().out.splitlines()
    header = pillow_nic.read_header((here / "a.nic").read_bytes())
    model = f"{header.model} ({header.model_hash.hex()})"
    assert lines[:5] == [
        "a.nic",
        "  picture   208x144 RGB",
        f"  size      {size} bytes, {8 * size / (208 * 144):.4f} bpp",
        "  quality   0.6000 (rate point 39321, delta 0)",
        f"  model     {model}, encoded at network width {header.width_index + 1}",
    ]
    assert [line.split()[:2] for line in lines if line.startswith("  layer")] == [
        ["layer", "1"],
        ["layer", "2"],
    ]
    assert "  chunk text 9 bytes" in lines
    assert "  dpi       300 x 300" in lines

    assert run("info", "a.nic", "a.png", "missing.nic") == 1
    assert "nic: a.png: not a NIC file" in capsys.readouterr().err


def test_info_paints_the_layers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open("a.png") as im:
        im.save("a.nic", quality=0.8, layers=3)
    assert run("info", "a.nic", "--plot", "plot.png") == 0
    assert "layer 3" in capsys.readouterr().out
    with Image.open("plot.png") as im:
        plot = np.asarray(im.convert("RGB"), float)
    assert plot.shape[1] == 8 + 3 * 248
    height = round(240 * 144 / 208)
    assert plot.shape[0] == 8 + 3 * (16 + height + 8)
    with Image.open("a.nic") as im:
        whole = np.asarray(im.resize((240, height), Image.Resampling.LANCZOS), float)
    cells = [plot[24 : 24 + height, 8 + 248 * k : 248 * (k + 1)] for k in range(3)]
    errors = [np.square(cell - whole).mean() for cell in cells]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1
    bits = [plot[24 + height + 24 :][:height, 8 + 248 * k : 248 * (k + 1)].mean() for k in range(3)]
    assert min(bits) > 0
    assert max(bits) < 250
    assert run("info", "a.nic", "b.nic", "--plot", "plot.png") == 2


def test_truncate(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open("a.png") as im:
        im.save("a.nic", quality=0.8, comment=b"on a lawn")
        im.crop((0, 0, 40, 40)).save("b.nic", layers=1)
    ends = pillow_nic.read_header((here / "a.nic").read_bytes()).layer_offsets
    assert run("truncate", "a.nic", "b.nic", "--layers", "2", "-o", "small") == 0
    assert (here / "small/b.nic").read_bytes() == (here / "b.nic").read_bytes()  # has no more than one
    data = (here / "small/a.nic").read_bytes()
    assert 0 < ends[1] - len(data) < 20  # it lacks the lengths of the other layers, too
    size = len(data) + (here / "b.nic").stat().st_size
    assert capsys.readouterr().out.startswith(f"2 files, {size} bytes, ")
    with Image.open("small/a.nic") as im, Image.open("a.nic") as whole:
        assert im.info["layers"] == 2
        assert im.info["comment"] == b"on a lawn"
        assert isinstance(whole, NicImageFile)
        whole.layers = 2
        assert im.tobytes() == whole.tobytes()
    assert run("truncate", "a.png", "--layers", "2", "-o", "c.nic") == 1
    assert run("truncate", "a.nic", "--layers", "2", "-o", "a.nic", "-f") == 1  # the input itself
    assert run("truncate", "a.nic", "--layers", "2") == 2
    assert run("truncate", "a.nic", "--layers", "0", "-o", "c.nic") == 2
    assert not (here / "c.nic").exists()


def test_several_processes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "in").mkdir()
    with Image.open("a.png") as im:
        for i in range(5):
            im.crop((i, 0, i + 40, 30)).save(f"in/{i}.png")
    (here / "in/bad.png").write_bytes(b"no picture")
    assert run("encode", "in", "-o", "one") == 1
    first = capsys.readouterr()
    assert run("encode", "in", "-o", "two", "-j", "2") == 1
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err.splitlines() == ["nic: in/bad.png: not a picture that Pillow can read"]
    assert names(here / "two") == names(here / "one") == [f"{i}.nic" for i in range(5)]
    for name in names(here / "one"):
        assert (here / "two" / name).read_bytes() == (here / "one" / name).read_bytes()


def test_ray_is_named_where_it_is_missing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run("encode", "a.png", "--ray", "auto") == 2
    assert "--ray needs Ray Data, pip install 'pillow-nic[ray]': " in capsys.readouterr().err
    assert names(here) == ["a.png"]


def test_going_on_after_an_interruption(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "b.png").write_bytes((here / "a.png").read_bytes())
    assert run("encode", "a.png", "-o", "out/") == 0
    written = (here / "out/a.nic").stat().st_mtime_ns
    capsys.readouterr()
    assert run("encode", "a.png", "b.png", "-o", "out/", "--skip-existing") == 0
    out = capsys.readouterr().out
    assert out.startswith("1 file, ")
    assert out.endswith(", 1 skipped\n")
    assert (here / "out/a.nic").stat().st_mtime_ns == written
    assert run("encode", "a.png", "b.png", "-o", "out/", "--skip-existing") == 0
    assert capsys.readouterr().out == "0 files, 2 skipped\n"
    assert run("encode", "a.png", "-o", "out/", "--skip-existing", "-f") == 2
    assert run("encode", "a.png", "-o", "out/", "-j", "0") == 2


def test_fast_decoding(here: Path) -> None:
    assert run("encode", "a.png", "-q", "0.8") == 0
    assert run("decode", "a.nic", "--layers", "1", "-o", "full.png") == 0
    assert run("decode", "a.nic", "--layers", "1", "--fast", "-o", "fast.png") == 0
    with Image.open("full.png") as full, Image.open("fast.png") as fast:
        assert full.size == fast.size
        assert full.tobytes() != fast.tobytes()


def test_progress_is_shown_on_a_terminal_only(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "b.png").write_bytes((here / "a.png").read_bytes())
    assert run("encode", "a.png", "b.png", "-o", "out") == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run("encode", "a.png", "b.png", "-o", "out", "-f") == 0
    assert "0/2" in capsys.readouterr().err
    assert run("encode", "a.png", "-o", "out", "-f") == 0
    assert capsys.readouterr().err == ""


def test_device_reaches_the_codec(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIC_DEVICE", "")
    assert run("encode", "a.png", "--device", "cpu") == 0
    assert run("encode", "a.png", "-f", "--device", "abacus") == 1


def test_truncated_sources_are_not_encoded_by_accident(here: Path) -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    (here / "b.png").write_bytes((here / "a.png").read_bytes()[:-3000])
    assert run("encode", "b.png") == 1
    assert not (here / "b.nic").exists()


def test_permissions_of_what_is_replaced(here: Path) -> None:
    (here / "a.nic").touch(mode=0o600)
    assert run("encode", "a.png", "-f") == 0
    assert (here / "a.nic").stat().st_mode & 0o777 == 0o600
    assert (here / "a.nic").stat().st_size > 100


def test_decode_to_another_format(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "in").mkdir()
    for name in ("x", "y"):
        assert run("encode", "a.png", "-o", f"in/{name}.nic") == 0
    assert run("decode", "in", "-o", "coarse", "--format", "jpg", "-q", "10") == 0
    assert run("decode", "in", "-o", "fine", "--format", ".JPG", "-q", "95") == 0
    assert run("decode", "in/x.nic", "--format", "jpeg") == 0
    assert run("decode", "in/x.nic", "--format", "webp", "-o", "x") == 0
    assert run("decode", "in/x.nic", "-q", "10", "-o", "x.webp") == 0
    sizes = {}
    for name, expected in {
        "coarse/x.jpg": "JPEG",
        "coarse/y.jpg": "JPEG",
        "fine/x.jpg": "JPEG",
        "in/x.jpeg": "JPEG",
        "x": "WEBP",
        "x.webp": "WEBP",
    }.items():
        sizes[name] = (here / name).stat().st_size
        with Image.open(name) as im:
            assert im.format == expected
    assert sizes["coarse/x.jpg"] < sizes["in/x.jpeg"] < sizes["fine/x.jpg"]
    assert sizes["x.webp"] < sizes["x"]
    capsys.readouterr()
    assert run("decode", "in", "--format", "png", "-q", "10") == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "nic decode: error: -q is for JPEG, WEBP, AVIF, and PNG has no such quality"
    )


def test_every_option_of_decode_and_encode_is_there(here: Path) -> None:
    assert run("encode", "a.png", "-o", "a.nic", "--model", "nic-2", "--effort", "0", "-q", "80") == 0
    header = pillow_nic.read_header(here / "a.nic")
    assert header.model == "nic-2"
    (here / "cut.nic").write_bytes((here / "a.nic").read_bytes()[: header.layer_offsets[1] + 5])
    assert run("decode", "cut.nic", "-o", "b.png") == 1
    assert run("decode", "cut.nic", "--partial", "-o", "b.png") == 0
    assert run("decode", "a.nic", "--layers", "2", "-o", "c.png") == 0
    assert run("decode", "a.nic", "--layers", "2", "--region", "20,30,70,50", "-o", "d.png") == 0
    with Image.open("b.png") as b, Image.open("c.png") as c, Image.open("d.png") as d:
        assert b.tobytes() == c.tobytes()
        region = np.asarray(c.crop((20, 30, 70, 50)), int)
        assert np.abs(np.asarray(d, int) - region).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["encode", "-q", "high"], "-q/--quality: quality must be a number from 0 to 1 or from 2 to 100"),
        (["encode", "--effort", "9"], "--effort: effort must be a whole number from 0 to "),
        (["encode", "--effort", "x"], "--effort: effort must be a whole number from 0 to "),
        (["encode", "--tune", "x"], "--tune: tune must be 'visual' or 'ms-ssim' or 'psnr', not 'x'"),
        (["encode", "--layers", "0"], "--layers: layers must be a whole number from 1, not 0"),
        (["encode", "-j", "0"], "-j/--jobs: '0' is not a whole number from 1"),
        (["decode", "--region", "1,2,3"], "--region: region must be (left, top, right, bottom) in pixels"),
        (["decode", "-q", "75.5"], "-q/--quality: '75.5' is not a whole number from 0 to 100"),
        (["truncate", "--layers", "all"], "--layers: 'all' is not a whole number from 1"),
    ],
)
def test_a_wrong_option_is_explained(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "a") == 2
    usage, error = capsys.readouterr().err.splitlines()
    assert usage == f"usage: nic {arguments[0]} [OPTIONS] INPUT [INPUT ...]"
    assert error.startswith(f"nic {arguments[0]}: error: argument {problem}")


def test_a_plot_replaces_nothing_without_force(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "a.png") == 0
    before = (here / "a.png").read_bytes()
    capsys.readouterr()
    assert run("info", "a.nic", "--plot", "a.png") == 1
    assert capsys.readouterr() == ("", "nic: a.png exists (-f replaces it)\n")
    assert (here / "a.png").read_bytes() == before
    assert run("info", "a.nic", "--plot", "a.png", "-f") == 0
    assert (here / "a.png").read_bytes() != before


def test_info_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open("a.png") as im:
        im.putalpha(7)
        im.save("a.nic", quality=0.6, layers=2, comment=b"on a lawn", dpi=(300, 72))
        im.convert("L").save("b.nic", layers=1)
    assert run("info", "--json", "a.nic", "b.nic") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    header = pillow_nic.read_header(here / "a.nic")
    ends = header.layer_offsets
    size = (here / "a.nic").stat().st_size
    alpha = first["chunks"].pop("ALPH")
    sizes = [layer["streams"] for layer in first["layers"]]
    assert first == {
        "file": "a.nic",
        "version": 1,
        "mode": "RGBA",
        "width": 208,
        "height": 144,
        "bytes": size,
        "bpp": pytest.approx(8 * size / (208 * 144)),
        "quality": 39321 / 65535,
        "rate_point": 39321,
        "delta": 0,
        "model": "nic-2-visual",
        "lossless": False,
        "exact_bytes": 0,
        "model_hash": header.model_hash.hex(),
        "network_width": header.width_index + 1,
        "tile_size": 1024,
        "tile_columns": 1,
        "tile_rows": 1,
        "layers": [
            {"end": ends[0], "bytes": sum(sizes[0]), "groups": 1, "streams": sizes[0]},
            {"end": ends[1], "bytes": sum(sizes[1]), "groups": header.groups - 1, "streams": sizes[1]},
        ],
        "chunks": {"phys": 8, "text": 9},
        "dpi": [300, 72],
    }
    assert 0 < alpha + sum(map(sum, sizes)) + 17 < size
    assert (second["file"], second["mode"], second["dpi"], len(second["layers"])) == ("b.nic", "L", None, 1)
    assert set(second) == set(first)
    # As its docstring says.
    documented = re.findall(r"^    ((?:\w+, )*\w+)(?:  +|$)", info.describe.__doc__ or "", re.MULTILINE)
    assert {name for line in documented for name in line.split(", ")} == set(first) - {"file"}

    (here / "cut.nic").write_bytes((here / "a.nic").read_bytes()[:-1])
    assert run("info", "--json", "cut.nic", "b.nic") == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == second
    assert err.startswith("nic: cut.nic: truncated file")


def test_warnings_are_said_about_their_file(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    assert run("encode", "a.png", "-o", "b.nic") == 0
    said = "nic: a.png: Image size (29952 pixels) exceeds limit of {} pixels, could be decompression bomb"
    assert capsys.readouterr().err == said.format("20000") + " DOS attack.\n"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert run("encode", "a.png", "-o", "c.nic") == 1
    assert capsys.readouterr().err.startswith(said.format("20000"))
    assert names(here) == ["a.png", "b.nic"]


def test_a_warning_about_the_options_is_said_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.png", "c.png"):
        (here / name).write_bytes((here / "a.png").read_bytes())
    assert run("encode", "--lossless", "-q", "0.3", "a.png", "b.png", "c.png") == 0
    assert capsys.readouterr().err == "nic: quality means nothing to a lossless file, and is ignored\n"


# ---------------------------------------------------------------------------------------- as a program


NIC = (sys.executable, "-m", "pillow_nic")


def nic(
    *arguments: str | bytes, data: bytes = b"", out: int | IO[bytes] = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*NIC, *arguments],
        env={**os.environ, **environment},
        input=data,
        stdout=out,
        stderr=subprocess.PIPE,
        check=False,
        timeout=300,
    )


def shell(script: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'nic() {{ "{sys.executable}" -m pillow_nic "$@"; }}; {script}'],
        capture_output=True,
        check=False,
        timeout=300,
    )


def test_as_a_program(here: Path) -> None:
    done = nic("encode", "a.png", "missing.png")
    assert done.returncode == 1
    assert done.stderr == b"nic: missing.png: No such file or directory\n"
    assert done.stdout.endswith(b", 1 failed\n")
    for module in ("pillow_nic", "pillow_nic.command.main"):
        version = subprocess.check_output([sys.executable, "-m", module, "--version"])
        assert version.decode() == f"nic {pillow_nic.__version__}\n"


def test_a_pipe_of_pictures(here: Path) -> None:
    assert run("encode", "a.png", "-o", "b.nic") == 0
    picture, expected = (here / "a.png").read_bytes(), (here / "b.nic").read_bytes()
    for arguments in (["-"], ["a.png", "-o", "-"], ["a.png", "-o", "/dev/stdout"]):
        encoded = nic("encode", *arguments, data=picture)
        assert encoded.stdout == expected
        assert encoded.stderr.startswith(f"1 file, {len(expected)} bytes, ".encode())
        assert encoded.returncode == 0
    for options, name in (([], "PNG"), (["--format", "jpg", "-q", "50"], "JPEG")):
        decoded = nic("decode", "-", *options, data=expected)
        with Image.open(io.BytesIO(decoded.stdout)) as im:
            assert (im.format, im.size) == (name, (208, 144))
    truncated = nic("truncate", "-", "--layers", "1", data=expected)
    assert truncated.stdout == pillow_nic.truncate(expected, 1)
    described = nic("info", "-", data=expected)
    assert described.stdout.startswith(b"standard input\n  picture   208x144 RGB\n")
    assert json.loads(nic("info", "--json", "-", data=expected).stdout)["file"] == "-"
    plot = nic("info", "b.nic", "--plot", "-")
    assert plot.stdout.startswith(b"\x89PNG")
    assert plot.stderr.startswith(b"b.nic\n")
    # Nothing that is no picture is made of what is none.
    for command, problem in (("encode", "not a picture that Pillow can read"), ("decode", "not a NIC file")):
        refused = nic(command, "-", data=b"text")
        assert (refused.returncode, refused.stdout) == (1, b"")
        assert refused.stderr.decode() == f"nic: standard input: {problem}\n0 files, 1 failed\n"
    assert names(here) == ["a.png", "b.nic"]


def test_standard_output_into_a_file_keeps_what_is_there(here: Path) -> None:
    (here / "out").write_bytes(b"before")
    with open(here / "out", "ab") as out:
        done = nic("encode", "a.png", "-o", "/dev/stdout", out=out)
    assert done.returncode == 0
    assert (here / "out").read_bytes().startswith(b"before\x89NIC")
    assert pillow_nic.decode((here / "out").read_bytes()[6:]).shape == (144, 208, 3)


def test_no_picture_goes_to_a_terminal(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("encode", "a.png", "-o", "-") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "is not written to a terminal: redirect it, or name a file with -o" in err


@pytest.mark.skipif(os.name == "nt", reason="no FIFOs")
def test_fifos_and_devices(here: Path) -> None:
    done = shell("mkfifo p && { nic encode a.png -o p & nic decode p -o b.png; } && wait")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (here / "p").is_fifo()
    done = shell("nic encode a.png -o >(cat > b.nic); wait; nic decode <(cat b.nic) -o c.png")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (here / "b.png").read_bytes() == (here / "c.png").read_bytes()
    assert nic("encode", "a.png", "-o", "/dev/null").returncode == 0
    assert Path("/dev/null").is_char_device()
    full = nic("encode", "a.png", "-o", "/dev/full")
    assert full.returncode == 1
    assert full.stderr == b"nic: a.png: cannot write /dev/full: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["info", "a.nic"], ["encode", "a.png", "-o", "-"], ["--version"]])
def test_a_full_standard_output_is_an_error(here: Path, arguments: list[str]) -> None:
    with Image.open("a.png") as im:
        im.save("a.nic")
    with open("/dev/full", "wb") as out:
        done = nic(*arguments, out=out)
    assert done.stderr == b"nic: cannot write standard output: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.skipif(os.name == "nt", reason="no SIGPIPE")
def test_a_reader_that_has_had_enough_is_no_error(here: Path) -> None:
    with Image.open("a.png") as im:
        im.save("a.nic")
    (here / "many").mkdir()
    for number in range(400):
        os.link("a.nic", f"many/{number}.nic")
    # More than a pipe holds.
    done = shell("nic info many | head -1")
    assert (done.returncode, done.stdout, done.stderr) == (141, b"many/0.nic\n", b"")
    done = shell("nic encode a.png -o - | true")
    assert (done.returncode, done.stderr) == (141, b"")
    done = shell("{ sleep 1; nic --help; } | true")
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_odd_names(here: Path, encoding: str) -> None:
    name = b"\xff \xc3\xa9\n\x1b[31mred"
    os.link(b"a.png", name + b".png")
    done = nic("encode", name + b".png", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = b"\\xff \xc3\xa9\\n\\x1b[31mred" if encoding == "utf-8" else b"\\xff \\xe9\\n\\x1b[31mred"
    done = nic("info", name + b".nic", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[0] == shown + b".nic"
    done = nic("info", "--json", name + b".nic", PYTHONIOENCODING=encoding)
    assert os.fsencode(json.loads(done.stdout)["file"]) == name + b".nic"
    done = nic("encode", name + b".png", name + b"?.png", PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(b"no files to work on in " + shown + b"?.png")
    done = nic("encode", name + b".png", PYTHONIOENCODING=encoding)
    assert done.stderr == b"nic: %b.png: %b.nic exists (-f replaces it)\n" % (shown, shown)
    done = nic("encode", b"a.png", b"--" + name.replace(b" ", b""), PYTHONIOENCODING=encoding)
    assert done.stderr.splitlines()[-1].endswith(b"unrecognized arguments: --" + shown.replace(b" ", b""))


def heeding() -> None:
    """In a process to come: signals that nohup, and a shell's "&", ignore."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="no such signals")
@pytest.mark.parametrize(
    ("name", "times", "code"),
    [("SIGINT", 1, 130), ("SIGINT", 2, 130), ("SIGTERM", 1, 143), ("SIGHUP", 1, 129), ("SIGKILL", 1, -9)],
)
def test_an_end_before_the_end(here: Path, name: str, times: int, code: int) -> None:
    (here / "in").mkdir()
    with Image.open("a.png") as im:
        large = im.resize((1200, 900))
    for number in range(12):
        large.save(f"in/{number}.jpg")
    process = subprocess.Popen(
        [*NIC, "encode", "in", "-o", "out", "-j", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heeding,
    )
    deadline = time.monotonic() + 200
    while not list(here.glob("out/*.nic")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    before = len(list(here.glob("out/*.nic")))
    sent = time.monotonic()
    for _ in range(times):
        if name == "SIGINT":  # as a terminal does
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(getattr(signal, name))
        time.sleep(0.05)
    out, err = process.communicate(timeout=100)  # ends when no worker holds the pipes any more
    assert time.monotonic() - sent < 20  # 5 where nothing else runs
    # A shell says 130 for a process that the second signal ends, too.
    assert process.returncode == code or (times == 2 and process.returncode == -signal.SIGINT)
    assert out == ""
    if name != "SIGKILL" and times == 1:
        assert re.fullmatch(r"nic: interrupted: \d+ files?(, .*)?\n", err)
        assert not list(here.glob("out/.nic-*"))
    done = names(here / "out")
    assert len(list(here.glob("out/*.nic"))) <= before + 2  # those that were in work
    assert len(done) < 12
    # What is there is whole.
    for file in here.glob("out/*.nic"):
        with Image.open(file) as im:
            im.verify()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pillow_nic.command.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    own = {"command", "command.main", "command.messages", "options", "hook"}
    # Each takes longer to load than all of the command's own; `nic --help` shall take 0.15 s.
    heavy = {"torch", "numpy", "tqdm", "argcomplete", "multiprocessing", "concurrent.futures", "random"}
    for arguments in (["--help"], ["encode", "--help"], ["info", "--help"], ["--version"], ["encode"]):
        out = subprocess.check_output(
            [sys.executable, "-c", code, *arguments],
            stderr=subprocess.DEVNULL,
            text=True,
        )
        loaded = set(out.splitlines()[-1].split())
        assert {name for name in loaded if name.startswith("pillow_nic.")} == {f"pillow_nic.{o}" for o in own}
        assert "PIL.Image" in loaded  # with which the package registers .nic
        assert not [name for name in loaded if name.endswith("Plugin")]
        assert not heavy & loaded


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nic ", {"encode", "decode", "truncate", "info", "bench", "install-hook", "remove-hook"}),
        ("nic encode --net", {"--network-width"}),
        ("nic decode --re", {"--recursive", "--reduce", "--region"}),
    ],
)
def test_completion(here: Path, line: str, expected: set[str]) -> None:
    done = nic(
        _ARGCOMPLETE="1",
        _ARGCOMPLETE_IFS="\n",
        _ARGCOMPLETE_SUPPRESS_SPACE="1",
        _ARGCOMPLETE_STDOUT_FILENAME=str(here / "words"),
        COMP_LINE=line,
        COMP_POINT=str(len(line)),
    )
    assert done.returncode == 0
    words = {word.strip() for word in (here / "words").read_text().splitlines()}
    assert {word for word in words if not word.startswith("-") or line[-1] != " "} == expected
    assert done.stdout == b""
