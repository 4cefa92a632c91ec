"""How near a decoded picture is to the original, and how many bytes one codec needs more than another for it.

Pictures are H×W×3 arrays of uint8. Other libraries than numpy come from the extra `bench`.
"""

from __future__ import annotations

import functools
import importlib
import io
import itertools
import math
import operator
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:  # a command can take its options from here without waiting for numpy and torch
    from ..decoding import Pixels

ANCHOR_RATES = (0.1, 1.5)  # bpp: what photographs are stored at

Curve = Sequence[tuple[float, float]]  # (bpp, quality)


def extra(module: str, distribution: str | None = None, install: str = "'pillow-nic[bench]'") -> Any:
    """A module of the extra `bench`, or of what else is to be installed. ModuleNotFoundError that says so."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = distribution or module.partition(".")[0].replace("_", "-")
        raise ModuleNotFoundError(f"{name} is missing: pip install {install}") from error


# --------------------------------------------------------------------------------------------- one picture


def psnr(a: Pixels, b: Pixels) -> float:
    """Over all samples of the picture, in dB."""
    import numpy as np

    mse = float(np.square(a.astype(np.int32) - b).mean())
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def ms_ssim(a: Pixels, b: Pixels) -> float:
    """0 to 1, mean over R, G and B (Wang et al., "Multiscale structural similarity", 2003).

    On the CPU whatever the codec runs on: CUDA's convolutions may round to TF32, which shows near 1.
    """
    import torch

    x, y = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() for pixels in (a, b))
    return float(extra("pytorch_msssim").ms_ssim(x, y, data_range=255))


def ssimulacra2(a: Pixels, b: Pixels) -> float:
    """Up to 100, no lower bound; 90 is visually lossless, 70 high and 50 medium quality. ``a``: the original.

    Implementations differ by a point or two (six at very low quality), so only scores of one are compared.
    """

    def lossless(pixels: Pixels) -> io.BytesIO:  # the library reads files
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PPM")
        return file

    return float(extra("ssimulacra2").compute_ssimulacra2(lossless(a), lossless(b)))


BUTTERAUGLI = "butteraugli_main"


def butteraugli_program() -> str:
    """Where libjxl's program is. OSError that says where it comes from."""
    if found := shutil.which(BUTTERAUGLI):
        return found
    raise OSError(f"{BUTTERAUGLI} is missing: it is one of libjxl's tools (Debian: libjxl-devtools)")


def butteraugli(a: Pixels, b: Pixels) -> float:
    """The 3-norm of the distances that the eye sees at 80 nits: 0 if none, about 1 if hardly any
    (Alakuijala et al., "Guetzli", arXiv 1703.04421). ``a``: the original."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("a.ppm", "b.ppm")]
        for pixels, file in zip((a, b), files, strict=True):
            Image.fromarray(pixels).save(file)
        command = [butteraugli_program(), *files, "--pnorm", "3"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    if not (found := re.search(r"3-norm: (\S+)", run.stdout)):
        raise OSError(f"{BUTTERAUGLI} failed: {run.stderr.strip()}")
    return float(found[1])


CVVDP_DISPLAY = "standard_fhd"


@functools.cache
def _cvvdp() -> Any:
    import torch

    return cvvdp_library().cvvdp(display_name=CVVDP_DISPLAY, device=torch.device("cpu"), quiet=True)


def cvvdp_library() -> Any:
    return extra("pycvvdp", "cvvdp", "cvvdp")


def cvvdp(a: Pixels, b: Pixels) -> float:
    """ColorVideoVDP in just-objectionable differences, 10 if there are none, on a display of 1920×1080 with
    24 inches (Mantiuk et al., SIGGRAPH 2024). ``a``: the original."""
    score, _ = _cvvdp().predict(b, a, dim_order="HWC")
    return float(score)


def decibels(similarity: float) -> float:
    return -10 * math.log10(1 - similarity) if similarity < 1 else math.inf


@dataclass(frozen=True)
class Metric:
    """``least``: side in pixels below which it has no meaning. ``check``: raises ImportError or OSError if
    what computes it is not there. ``library``: the distribution whose version scores must share to be
    compared, if it is not our own."""

    title: str
    unit: str
    score: Callable[[Pixels, Pixels], float]
    on_curve: Callable[[float], float] = float
    least: int = 1
    check: Callable[[], object] = bool
    library: str = ""

    @property
    def implementation(self) -> str:
        """Library and version; "" for our own."""
        from importlib.metadata import PackageNotFoundError, version  # slow to load

        try:
            return f"{self.library} {version(self.library)}" if self.library else ""
        except PackageNotFoundError:
            return f"{self.library}, not installed"


# By their names in an anchors file. MS-SSIM has five scales of an 11×11 window; SSIMULACRA2 six of 8×8 pixels
# or more, and weighs them wrongly if there are fewer. Butteraugli's curve is turned round: more is better.
METRICS = {
    "psnr": Metric("PSNR", "dB", psnr),
    "ms_ssim": Metric(
        "MS-SSIM",
        "dB",
        ms_ssim,
        decibels,
        161,
        functools.partial(extra, "pytorch_msssim"),
        "pytorch-msssim",
    ),
    "ssimulacra2": Metric(
        "SSIMULACRA2", "", ssimulacra2, float, 225, functools.partial(extra, "ssimulacra2"), "ssimulacra2"
    ),
    "butteraugli": Metric(
        "−Butteraugli", "(3-norm)", butteraugli, operator.neg, 8, butteraugli_program, BUTTERAUGLI
    ),
    "cvvdp": Metric("ColorVideoVDP", "JOD", cvvdp, float, 8, cvvdp_library, "cvvdp"),
}
DEFAULT_METRICS = ("psnr", "ms_ssim", "ssimulacra2")
"""The others need more than the extra `bench`, and time."""


def metric_of(tune: str) -> str:
    """Which of the metrics a model for this ``tune`` was trained for."""
    return {"visual": "ssimulacra2"}.get(tune, tune.replace("-", "_"))


# ------------------------------------------------------------------------------------------------- BD-rate


@dataclass(frozen=True)
class BdRate:
    """How many percent more bytes than the anchor for the same quality, mean over qualities ``low`` to
    ``high``. ``share``: how much that interval is of what the anchor covers at the rates asked for."""

    percent: float
    low: float
    high: float
    share: float


def bd_rate(curve: Curve, anchor: Curve, rates: tuple[float, float] = ANCHOR_RATES) -> BdRate:
    """Bjøntegaard's mean difference of the logarithms of the rates, over the quality that both curves reach.

    PCHIP, unlike the cubic of VCEG-M33, does not overshoot between points. The anchor counts where its rate
    is within ``rates``, cut between its points. ValueError if the curves have no quality in common, or if one
    has fewer than two points or two of the same quality.
    """
    pchip = extra("scipy.interpolate").PchipInterpolator
    if min(len(curve), len(anchor)) < 2 or not all(map(math.isfinite, itertools.chain(*curve, *anchor))):
        raise ValueError("fewer than two points, or not finite")
    by_rate = sorted(anchor)
    quality_at = pchip([math.log(bpp) for bpp, _ in by_rate], [quality for _, quality in by_rate])
    ends = max(rates[0], by_rate[0][0]), min(rates[1], by_rate[-1][0])
    bottom, top = (float(quality_at(math.log(bpp))) for bpp in ends)
    low = max(bottom, *(min(quality for _, quality in points) for points in (curve, anchor)))
    high = min(top, *(max(quality for _, quality in points) for points in (curve, anchor)))
    if not low < high:
        raise ValueError("no quality in common")

    def area(points: Curve) -> float:
        by_quality = sorted((quality, math.log(bpp)) for bpp, quality in points)
        return float(pchip(*zip(*by_quality, strict=True)).integrate(low, high))

    percent = 100 * math.expm1((area(curve) - area(anchor)) / (high - low))
    return BdRate(percent, low, high, (high - low) / (top - bottom))
