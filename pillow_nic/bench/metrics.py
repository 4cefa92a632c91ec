"""How near a decoded picture is to the original, and how many bytes one codec needs more than another for it.

Pictures are H×W×3 arrays of uint8. Other libraries than numpy come from the extra `bench`.
"""

from __future__ import annotations

import importlib
import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:  # a command can take its options from here without waiting for numpy and torch
    from ..decoding import Pixels

ANCHOR_RATES = (0.1, 1.5)  # bpp: what photographs are stored at

Curve = Sequence[tuple[float, float]]  # (bpp, quality)


def extra(module: str, distribution: str | None = None) -> Any:
    """A module of the extra `bench`. ModuleNotFoundError that says what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = distribution or module.partition(".")[0].replace("_", "-")
        raise ModuleNotFoundError(f"{name} is missing: pip install 'pillow-nic[bench]'") from error


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


def decibels(similarity: float) -> float:
    return -10 * math.log10(1 - similarity) if similarity < 1 else math.inf


@dataclass(frozen=True)
class Metric:
    """``least``: side in pixels below which it has no meaning. ``library``: its module, if not our own."""

    title: str
    unit: str
    score: Callable[[Pixels, Pixels], float]
    on_curve: Callable[[float], float] = float
    least: int = 1
    library: str | None = None

    @property
    def implementation(self) -> str:
        """Library and version, which scores must share to be compared; "" for our own."""
        from importlib.metadata import PackageNotFoundError, version  # slow to load

        name = (self.library or "").replace("_", "-")
        try:
            return f"{name} {version(name)}" if name else ""
        except PackageNotFoundError:
            return f"{name}, not installed"


# By their names in an anchors file. MS-SSIM has five scales of an 11×11 window; SSIMULACRA2 six of 8×8 pixels
# or more, and weighs them wrongly if there are fewer.
METRICS = {
    "psnr": Metric("PSNR", "dB", psnr),
    "ms_ssim": Metric("MS-SSIM", "dB", ms_ssim, decibels, 161, "pytorch_msssim"),
    "ssimulacra2": Metric("SSIMULACRA2", "", ssimulacra2, float, 225, "ssimulacra2"),
}


def metric_of(tune: str) -> str:
    """Which of the metrics a model for this ``tune`` was trained for."""
    return tune.replace("-", "_")


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
