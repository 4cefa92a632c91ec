"""The codecs that `.nic` is compared with, through their libraries, and published curves."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pictures
import pytest
from PIL import Image, JpegImagePlugin, features

from pillow_nic.bench.anchors import load_published
from pillow_nic.bench.codecs import CODECS
from pillow_nic.bench.metrics import METRICS, psnr


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return pictures.pixels(size=(127, 96))  # odd width


@pytest.mark.parametrize("name", CODECS)
def test_codecs_there_and_back(name: str, pixels: np.ndarray) -> None:
    codec = CODECS[name]
    codec.load()
    ends = [codec.encode(pixels, param) for param in (codec.ladder[0], codec.ladder[-1])]
    decoded = [codec.decode(data) for data in ends]
    assert [picture.shape for picture in decoded] == [pixels.shape] * 2
    assert len(ends[0]) < len(ends[1]) < pixels.size / 2
    assert psnr(pixels, decoded[0]) + 5 < psnr(pixels, decoded[1])
    assert psnr(pixels, decoded[1]) > 35
    with Image.open(io.BytesIO(ends[0])) as im:
        assert im.format == codec.format
    assert str(codec).startswith(f"{name}: {codec.format}, ")


def test_chroma(pixels: np.ndarray) -> None:
    jpeg = Image.open(io.BytesIO(CODECS["jpeg-420"].encode(pixels, {"quality": 50})))
    assert JpegImagePlugin.get_sampling(jpeg) == 2  # 4:2:0
    checks = np.zeros((64, 64, 3), np.uint8)
    checks[::2, ::2, 0] = checks[1::2, 1::2, 2] = 255  # colours of single pixels, which 4:2:0 loses
    for name in ("avif-444-s6-psnr", "avif-444-s6", "heic-444-psnr"):
        codec = CODECS[name]
        codec.load()
        assert psnr(checks, codec.decode(codec.encode(checks, {"quality": 95}))) > 30, name


@pytest.mark.parametrize(
    ("name", "module", "library"),
    [("heic-444-psnr", "pillow_heif", "pillow-heif"), ("jxl-e7", "pillow_jxl", "pillow-jxl-plugin")],
)
def test_a_missing_plugin(name: str, module: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"^{library} is missing: pip install 'pillow-nic\[bench\]'$"):
        CODECS[name].load()


def test_a_pillow_without_a_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    CODECS["webp-m6"].load()
    with pytest.raises(OSError, match=r"^avif-444-s6: this Pillow \(.*\) was built without avif$"):
        CODECS["avif-444-s6"].load()


def anchors_file(folder: Path, **more: object) -> Path:
    points = [{"bpp": 0.5, "psnr": 30.0, "ms_ssim": 0.95, "ssimulacra2": 50.0}]
    codecs = {name: {"points": points} for name in ("webp-m6", "vtm", "mine")}
    content = {"images": ["a.png", "b.png"], "codecs": codecs, **more}
    (folder / "anchors.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "anchors.json"


def test_published_curves(tmp_path: Path) -> None:
    file, pictures = anchors_file(tmp_path), [Path("x/a.png"), Path("x/b.webp")]
    assert list(load_published(file, pictures)) == ["vtm"]  # of the default ones, what is there
    found = load_published(file, pictures, ["mine", "webp-m6"], measured=["webp-m6", "nic-ms-ssim-e1"])
    assert list(found) == ["mine", "webp-m6 (anchors)"]
    with pytest.raises(ValueError, match="has no nobody, but webp-m6, vtm, mine"):
        load_published(file, pictures, ["nobody"])
    with pytest.raises(ValueError, match="other pictures"):
        load_published(file, pictures[:1])


def test_published_ssimulacra2_counts_if_it_is_of_the_same_implementation(tmp_path: Path) -> None:
    pictures = [Path("a.png"), Path("b.png")]
    point = {"bpp": 0.5, "psnr": 30.0, "ms_ssim": 0.95}
    for made_by in ({}, {"ssimulacra2": "another 1.0"}):
        assert load_published(anchors_file(tmp_path, metrics=made_by), pictures) == {"vtm": [point]}
    same = anchors_file(tmp_path, metrics={"ssimulacra2": METRICS["ssimulacra2"].implementation})
    assert load_published(same, pictures) == {"vtm": [{**point, "ssimulacra2": 50.0}]}
