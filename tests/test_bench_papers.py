"""The papers' pictures at the papers' rates."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import photo, pixels

import pillow_nic
from pillow_nic.bench.codecs import Nic
from pillow_nic.bench.papers import EXAMPLES, fit
from pillow_nic.command.main import main
from pillow_nic.options import TOP_RATE_POINT


def test_the_figures() -> None:
    assert [example.picture for example in EXAMPLES[:6]] == [f"kodim{n:02}" for n in (2, 4, 15, 19, 20, 23)]
    by_picture = {example.picture: example.figures for example in EXAMPLES}
    assert [figure.codec for figure in by_picture["kodim23"]] == [
        "Choi et al.",
        "BPG 4:4:4",
        "JPEG 2000",
        "JPEG",
    ]
    assert by_picture["kodim13"][1].codec == "VTM"
    for figures in by_picture.values():  # each paper met the rate of a codec of which it says to be better
        assert figures[0].bpp == figures[1].bpp
        assert figures[0].ms_ssim > figures[1].ms_ssim
        for figure in figures[1:]:
            assert figure.bpp == pytest.approx(figures[0].bpp, rel=0.1)


def test_fit_is_the_last_rate_point_below() -> None:
    picture, codec = pixels(size=(72, 56)), Nic(device="cpu")
    for size in (250, 800):
        quality, data = fit(picture, size, codec)
        assert data == pillow_nic.encode(picture, quality=quality, device="cpu")
        point = pillow_nic.read_header(data).rate_point
        larger = pillow_nic.encode(picture, quality=(point + 1) / TOP_RATE_POINT, device="cpu")
        assert len(data) <= size < len(larger)
        assert len(data) > 0.98 * size
    assert fit(picture, 10**6, codec)[0] == 1
    with pytest.raises(ValueError, match="the smallest file has"):
        fit(picture, 20, codec)


def test_papers_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIC_DEVICE", "cpu")
    photo(size=(192, 176)).save(tmp_path / "kodim04.png")
    photo(size=(40, 40)).save(tmp_path / "another.png")
    assert main(["bench", str(tmp_path), "--papers", "--efforts", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith("kodim04 ")]
    assert [row[1] for row in rows] == ["nic-ms-ssim-e0", "Choi", "BPG", "JPEG", "JPEG"]
    assert float(rows[0][2]) == pytest.approx(0.2078, rel=0.01)
    assert float(rows[0][2]) <= 0.2078
    assert rows[1][-3:] == ["0.2078", "32.43", "0.9543"]
    assert lines[-1].startswith("kodim04: Choi et al., ")
    assert lines[-1].endswith("supplement, figure 13")
