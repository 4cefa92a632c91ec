"""The papers' pictures at the papers' rates."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import photo

from pillow_nic.bench.papers import EXAMPLES
from pillow_nic.command.main import main


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


def test_papers_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIC_DEVICE", "cpu")
    photo(size=(192, 176)).save(tmp_path / "kodim04.png")
    photo(size=(40, 40)).save(tmp_path / "another.png")
    assert main(["bench", str(tmp_path), "--papers", "--efforts", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith("kodim04 ")]
    assert [row[1] for row in rows] == ["nic-visual-e0", "Choi", "BPG", "JPEG", "JPEG"]
    assert float(rows[0][2]) == pytest.approx(0.2078, rel=0.02)
    assert float(rows[0][2]) <= 0.2078
    assert rows[1][-3:] == ["0.2078", "32.43", "0.9543"]
    assert lines[-1].startswith("kodim04: Choi et al., ")
    assert lines[-1].endswith("supplement, figure 13")
