"""Runs of a codec over pictures: bytes, scores and seconds, all in memory, with the model loaded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..header import SIGNATURE
from .anchors import Point
from .codecs import Codec
from .metrics import METRICS, Curve

if TYPE_CHECKING:  # a command can take its options from here without waiting for torch
    from ..decoding import Pixels

MONOTONE_QUALITIES = [i / 20 for i in range(21)]
SPEED_SIDES = (1024, 2048)  # squares of 1 and 4 megapixels

# ------------------------------------------------------------------------------------- pictures and points


@dataclass(frozen=True)
class Measurement:
    """One picture at one point of a codec. ``size`` is that of the whole file in bytes; ``exact`` the share
    of its pixels that .nic stores lossless; seconds are per megapixel."""

    picture: str
    param: Mapping[str, Any]
    size: int
    bpp: float
    scores: Mapping[str, float]
    enc_s_per_mp: float
    dec_s_per_mp: float
    exact: float = 0.0


def picture_files(paths: Iterable[Path]) -> list[Path]:
    """The pictures that are named, and those of the folders, by name. ValueError where there is none."""
    suffixes = Image.registered_extensions().keys() - {".nic"}
    pictures: list[Path] = []
    for named in paths:
        inside = sorted(named.iterdir()) if named.is_dir() else [named]
        found = [path for path in inside if path.suffix.lower() in suffixes]
        if not found:
            raise ValueError(f"no pictures in {named}")
        pictures += found
    return pictures


def read(path: Path) -> Pixels:
    """The picture as RGB pixels, H×W×3."""
    import numpy as np

    with Image.open(path) as im:
        return np.array(im.convert("RGB"))


def there_and_back(
    codec: Codec, pixels: Pixels, param: Mapping[str, Any]
) -> tuple[bytes, Pixels, float, float]:
    """File bytes, decoded pixels, seconds to encode, seconds to decode."""
    start = perf_counter()
    data = codec.encode(pixels, param)
    between = perf_counter()
    decoded = codec.decode(data)
    return data, decoded, between - start, perf_counter() - between


def exact_share(data: bytes) -> float:
    """Of a file's pixels, those that .nic stores lossless; 0 for other formats."""
    if not data.startswith(SIGNATURE):
        return 0.0
    from .. import container, exact  # loads numpy

    file = container.parse(data)
    return exact.share(file.header, file.chunks, file.exact)


def measure(
    pictures: Iterable[Path], codec: Codec, metrics: Sequence[str] = ("psnr",)
) -> Iterator[Measurement]:
    """Encode and decode every picture once at every point, after one run that loads and warms up."""
    for number, path in enumerate(pictures):
        pixels = read(path)
        count = pixels.shape[0] * pixels.shape[1]
        if not number:
            there_and_back(codec, pixels, codec.ladder[0])
        for param in codec.ladder:
            data, decoded, *seconds = there_and_back(codec, pixels, param)
            scores = {name: METRICS[name].score(pixels, decoded) for name in metrics}
            encode, decode = (1e6 * s / count for s in seconds)
            bpp, exact = 8 * len(data) / count, exact_share(data)
            yield Measurement(path.name, param, len(data), bpp, scores, encode, decode, exact)


def means(measured: Iterable[Measurement], ladder: Sequence[Mapping[str, Any]]) -> list[Point]:
    """A point for each of the ladder: means over the pictures, but medians of the seconds."""
    points: list[Point] = []
    found = list(measured)
    for param in ladder:
        runs = [run for run in found if run.param == param]
        each = {
            "bpp": [run.bpp for run in runs],
            "exact": [run.exact for run in runs],
            **{name: [run.scores[name] for run in runs] for name in runs[0].scores},
            "enc_s_per_mp": [run.enc_s_per_mp for run in runs],
            "dec_s_per_mp": [run.dec_s_per_mp for run in runs],
        }
        centre = {name: median(v) if name.endswith("_per_mp") else fmean(v) for name, v in each.items()}
        points.append({"param": dict(param), **centre, "per_image": each})
    return points


def curve(points: Sequence[Point], metric: str) -> Curve:
    """Rate against a metric, MS-SSIM in dB, for the points that have it and are not without a loss."""
    on_curve = METRICS[metric].on_curve
    found = [(point["bpp"], on_curve(point[metric])) for point in points if metric in point]
    return [point for point in found if math.isfinite(point[1])]


def falls(measured: Iterable[Measurement]) -> list[str]:
    """Where, from one quality of a picture to the next, the file does not grow or the PSNR does not rise."""
    faults = []
    in_order = sorted(measured, key=lambda m: (m.picture, m.param["quality"]))
    for a, b in itertools.pairwise(in_order):
        if a.picture == b.picture:
            step = f"{a.picture}, quality {a.param['quality']:g} to {b.param['quality']:g}"
            if math.isinf(a.scores["psnr"]) and math.isinf(b.scores["psnr"]) and b.size == a.size:
                continue  # both without a loss
            if b.size <= a.size:
                faults.append(f"{step}: {a.size} to {b.size} bytes")
            if b.scores["psnr"] <= a.scores["psnr"]:
                faults.append(f"{step}: PSNR {a.scores['psnr']:.4f} to {b.scores['psnr']:.4f} dB")
    return faults


# --------------------------------------------------------------------------------------------------- speed


def speed(
    pixels: Pixels, runs: int, quality: float, codec: Codec, side: int
) -> tuple[list[float], list[float]]:
    """Seconds per megapixel of each encode and decode of a square that repeats or crops the picture."""
    import numpy as np

    padding = [(0, max(0, side - n)) for n in pixels.shape[:2]]
    square = np.pad(pixels, [*padding, (0, 0)], mode="symmetric")[:side, :side]  # mirrored: no false edges
    param = {"quality": quality}
    there_and_back(codec, square, param)
    timed = [there_and_back(codec, square, param)[2:] for _ in progress(range(runs), "run")]
    return [1e6 * encode / side**2 for encode, _ in timed], [1e6 * decode / side**2 for _, decode in timed]


# ------------------------------------------------------------------------------------------------- showing


def progress(items: Any = None, unit: str = "it", total: int | None = None) -> Any:
    from tqdm import tqdm

    # disable=None: no bar unless stderr is a terminal
    return tqdm(items, unit=unit, total=total, leave=False, disable=None)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns aligned to the right, the first to the left."""
    lines = [head, *rows]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([line[0].ljust(first), *(cell.rjust(w) for cell, w in zip(line[1:], others, strict=True))])
        for line in lines
    )
