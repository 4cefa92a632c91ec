"""PSNR, MS-SSIM, SSIMULACRA2 and BD-rate."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import pixels

from pillow_nic.bench import metrics
from pillow_nic.bench.metrics import METRICS, bd_rate, decibels

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


def test_scores() -> None:
    a = np.full((176, 176, 3), 100, np.uint8)
    b = a + np.uint8(5)
    assert metrics.psnr(a, b) == metrics.psnr(b, a) == pytest.approx(34.1514, abs=1e-4)
    assert metrics.psnr(a, a) == math.inf
    assert metrics.ms_ssim(a, a) == pytest.approx(1)
    assert decibels(0.99) == pytest.approx(20)
    assert decibels(1) == math.inf


def test_ssimulacra2() -> None:
    a = pixels(size=(240, 230))
    noise = np.random.default_rng(0).normal(0, 1, a.shape)
    little, much = (np.clip(a + strength * noise, 0, 255).astype(np.uint8) for strength in (2, 20))
    assert metrics.ssimulacra2(a, a) == pytest.approx(100)
    assert 100 > metrics.ssimulacra2(a, little) > 80
    assert metrics.ssimulacra2(a, much) < 60


FAKE_BUTTERAUGLI = """#!/bin/sh
[ "$3 $4" = "--pnorm 3" ] || exit 1
if cmp -s "$1" "$2"; then printf '0.0000000000\\n3-norm: 0.000000\\n'; exit; fi
[ "$(head -c 2 "$1")" = P6 ] && printf '5.2128095627\\n3-norm: 1.590573\\n'
"""


def test_butteraugli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is not a library, so a script stands for it that says what the program says."""
    program = tmp_path / metrics.BUTTERAUGLI
    program.write_text(FAKE_BUTTERAUGLI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    a = pixels(size=(32, 24))
    assert metrics.butteraugli(a, a) == 0
    assert metrics.butteraugli(a, 255 - a) == 1.590573
    assert METRICS["butteraugli"].on_curve(1.5) == -1.5
    program.write_text("#!/bin/sh\necho what >&2\n")
    with pytest.raises(OSError, match=r"^butteraugli_main failed: what$"):
        metrics.butteraugli(a, a)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(OSError, match=r"^butteraugli_main is missing: .*libjxl-devtools"):
        METRICS["butteraugli"].check()


def test_cvvdp(monkeypatch: pytest.MonkeyPatch) -> None:
    class Judge:
        def __init__(self, **options: object) -> None:
            assert options["display_name"] == "standard_fhd"

        def predict(self, test: np.ndarray, reference: np.ndarray, dim_order: str) -> tuple[float, None]:
            assert dim_order == "HWC"
            return 10 - float(np.abs(test.astype(int) - reference).mean()), None

    metrics._cvvdp.cache_clear()
    monkeypatch.setitem(sys.modules, "pycvvdp", SimpleNamespace(cvvdp=Judge))
    a = np.full((32, 24, 3), 100, np.uint8)
    assert metrics.cvvdp(a, a) == 10
    assert metrics.cvvdp(a, a + np.uint8(2)) == 8
    metrics._cvvdp.cache_clear()
    monkeypatch.setitem(sys.modules, "pycvvdp", None)
    with pytest.raises(ImportError, match=r"^cvvdp is missing: pip install cvvdp$"):
        METRICS["cvvdp"].check()


def test_implementations() -> None:
    assert METRICS["psnr"].implementation == ""
    assert METRICS["ms_ssim"].implementation.startswith("pytorch-msssim ")
    assert METRICS["ssimulacra2"].implementation.startswith("ssimulacra2 ")


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_msssim", None)
    a = np.zeros((176, 176, 3), np.uint8)
    with pytest.raises(ImportError, match=r"^pytorch-msssim is missing: pip install 'pillow-nic\[bench\]'$"):
        metrics.ms_ssim(a, a)


# ------------------------------------------------------------------------------------------------- BD-rate


@pytest.mark.parametrize(
    ("curve", "psnr", "ms_ssim"), [(WEBP_M6, 43, 28), (JPEG_420, 119, 67), (BPG_444, 0, 0)]
)
def test_bd_rate_of_known_codecs(
    curve: list[tuple[float, float, float]], psnr: float, ms_ssim: float
) -> None:
    found = bd_rate([(bpp, y) for bpp, y, _ in curve], [(bpp, y) for bpp, y, _ in BPG_444])
    assert found.percent == pytest.approx(psnr, abs=1)
    in_db = [[(bpp, decibels(x)) for bpp, _, x in line] for line in (curve, BPG_444)]
    assert bd_rate(*in_db).percent == pytest.approx(ms_ssim, abs=1)


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
