"""The command `nic`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

import pillow_nic
from pillow_nic.command.main import main
from pillow_nic.NicImagePlugin import NicImageFile

PHOTO = Path(__file__).parent / "data" / "photo.png"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with one small picture, a.png."""
    monkeypatch.chdir(tmp_path)
    with Image.open(PHOTO) as im:
        im.crop((60, 60, 268, 204)).save("a.png")
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
def test_quality_as_text(here: Path, text: str, point: int) -> None:
    assert run("encode", "a.png", "-q", text) == 0
    assert pillow_nic.read_header((here / "a.nic").read_bytes()).rate_point == point


@pytest.mark.parametrize("text", ["-1", "101", "1.5", "nan", "high", ""])
def test_wrong_quality_is_wrong_usage(here: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "a.png", f"--quality={text}") == 2
    assert "is neither 0 to 1 nor 2 to 100" in capsys.readouterr().err
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
    assert run("decode", "a.nic", "-f", "-o", "./a.nic") == 1
    assert run("encode", "a.png", "-f", "-o", f"../{here.name}/a.png") == 1
    assert "is the input itself" in capsys.readouterr().err


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
    assert "cannot identify" in lines[0]
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
        ["encode", "empty"],
        ["decode", "empty"],
        ["decode", "a.nic", "-o", "a.txt"],
        ["decode", "a.nic", "-o", "a"],
    ],
)
def test_wrong_usage(here: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (here / "empty").mkdir()
    assert run(*arguments) == 2
    assert "error: " in capsys.readouterr().err
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
    assert lines[:5] == [
        "a.nic",
        "  picture   208x144 RGB",
        f"  size      {size} bytes, {8 * size / (208 * 144):.4f} bpp",
        "  quality   0.6000 (rate point 39321, delta 0)",
        f"  model     nic-1-ms ({header.model_hash.hex()}), encoded at width {header.width_index + 1}",
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
    assert len(data) == ends[1]
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
    assert second.err.splitlines() == ["nic: in/bad.png: cannot identify image file 'in/bad.png'"]
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


def test_as_a_program(here: Path) -> None:
    path = os.pathsep.join((str(Path(pillow_nic.__file__).parents[1]), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, "-m", "pillow_nic.command.main"]
    done = subprocess.run(
        [*command, "encode", "a.png", "missing.png"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "nic: missing.png: No such file or directory\n"
    assert done.stdout.endswith(", 1 failed\n")
    version = subprocess.run(
        [*command, "--version"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert version.stdout == f"nic {pillow_nic.__version__}\n"
