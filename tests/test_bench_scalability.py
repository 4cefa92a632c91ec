"""What layers and widths cost: the counting and the comparing, and both commands."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from pictures import photo
from PIL import Image

import pillow_nic
from pillow_nic.bench import scalability
from pillow_nic.bench.codecs import Nic
from pillow_nic.bench.scalability import Prefix, layers_that_do_not_sharpen, prefixes, rate_at
from pillow_nic.command.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture, just large enough for layers."""
    where = tmp_path_factory.mktemp("pictures")
    photo(size=(176, 162)).save(where / "one.png")
    return where


def test_rate_at_a_psnr() -> None:
    curve = [(0.1, 25.0), (0.4, 31.0), (1.6, 37.0)]  # a factor of four each six dB
    for decibels, rate in ((25, 0.1), (28, 0.2), (31, 0.4), (34, 0.8), (37, 1.6)):
        assert rate_at(curve, decibels) == pytest.approx(rate)
    assert rate_at(curve, 24.9) is None
    assert rate_at(curve, 37.1) is None


def test_prefixes_are_those_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalability, "QUALITIES", [0.0, 0.3, 0.6])
    found = prefixes(folder / "one.png", Nic("psnr", qualities=[0.6]))
    pixels = np.asarray(Image.open(folder / "one.png"))
    data = pillow_nic.encode(pixels, quality=0.6, tune="psnr")
    offsets = pillow_nic.read_header(data).layer_offsets
    assert [p.layers for p in found] == list(range(1, len(offsets) + 1))
    assert len(found) > 3
    assert [p.bpp for p in found] == pytest.approx([8 * end / (176 * 162) for end in offsets])
    assert [p.share for p in found] == pytest.approx([end / len(data) for end in offsets])
    error = np.square(pillow_nic.decode(data, layers=2).astype(float) - pixels).mean()
    assert found[1].score == pytest.approx(10 * math.log10(255**2 / error))
    plain = pillow_nic.encode(pixels, quality=0.6, layers=1, tune="psnr")
    assert found[-1].excess == pytest.approx(len(data) / len(plain) - 1, abs=1e-6)


def test_layers_that_do_not_sharpen() -> None:
    def prefix(picture: str, layers: int, score: float) -> Prefix:
        return Prefix(picture, 0.5, layers, 1.0, 1.0, score, None)

    found = [
        prefix("a", 1, 25),
        prefix("a", 2, 26),
        prefix("a", 3, 26),
        prefix("b", 1, 20),
        prefix("b", 2, 21),
    ]
    assert layers_that_do_not_sharpen(found) == ["a, quality 0.5, layer 3: 26.000 to 26.000 dB"]


@pytest.mark.parametrize(
    ("tune", "title"), [("psnr", "PSNR"), ("ms-ssim", "MS-SSIM"), ("visual", "SSIMULACRA2")]
)
def test_layers_command(
    tune: str, title: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalability, "QUALITIES", [0.0, 0.5])
    assert main(["bench", str(folder), "--layers", "--tunes", tune, "--qualities", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith("0.5")]
    assert [row[1] for row in rows] == [str(k) for k in range(1, len(rows) + 1)]
    assert len(rows) > 3
    assert rows[-1][4] == "100.0%"
    assert lines[-1] == f"layers that do not raise the {title}: 0"


def test_widths_command(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalability, "SPEED_SIDES", (64,))
    monkeypatch.setattr(scalability, "RUNS", 1)
    assert main(["bench", str(folder), "--widths", "--qualities", "0.2", "0.5"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line and line[0] in "1234"]
    widths = [row for row in rows if row[1] != "pictures"]
    assert [row[0] for row in widths] == list("1234")
    assert [float(row[1]) for row in widths] == sorted(float(row[1]) for row in widths)
    assert widths[-1][5:] == ["+0.0", "%", "1.00"]
