"""The pictures of the papers that this codec comes from, at exactly their rates, beside their figures."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .measuring import Nic, nics, progress, read, table
from .metrics import METRICS, extra
from .quality import TOP_RATE_POINT

if TYPE_CHECKING:
    from .codec import Pixels

CHOI = 'Choi et al., "Variable rate deep image compression with a conditional autoencoder" (ICCV 2019)'
CUI = 'Cui et al., "Asymmetric gained deep image compression with continuous rate adaptation" (CVPR 2021)'


@dataclass(frozen=True)
class Figure:
    """What a paper says of one codec on one picture."""

    codec: str
    bpp: float
    psnr: float  # dB
    ms_ssim: float


@dataclass(frozen=True)
class Example:
    """A picture of a paper: the paper's own codec first, of which the rate is met, then others'."""

    picture: str  # name of the file without its suffix
    source: str
    figures: Sequence[Figure]


def _choi(picture: str, number: int, *rows: tuple[float, float, float]) -> Example:
    codecs = ("Choi et al.", "BPG 4:4:4", "JPEG 2000", "JPEG")
    figures = [Figure(codec, *row) for codec, row in zip(codecs, rows, strict=True)]
    return Example(picture, f"{picture}: {CHOI}, supplement, figure {number}", figures)


def _cui(picture: str, number: int, *rows: tuple[float, float, float]) -> Example:
    codecs = ("AG-VAE (for MS-SSIM)", "VTM", "BPG")
    figures = [Figure(codec, *row) for codec, row in zip(codecs, rows, strict=True)]
    return Example(picture, f"{picture}: {CUI}, supplement, figure {number}", figures)


EXAMPLES = (
    _choi(
        "kodim02",
        11,
        (0.1950, 32.5684, 0.9434),
        (0.1950, 32.4526, 0.9365),
        (0.1958, 31.1678, 0.9165),
        (0.1925, 28.7086, 0.8588),
    ),
    _choi(
        "kodim04",
        13,
        (0.2078, 32.4296, 0.9543),
        (0.2078, 32.0406, 0.9488),
        (0.2092, 30.9488, 0.9342),
        (0.2098, 28.1758, 0.8777),
    ),
    _choi(
        "kodim15",
        15,
        (0.1697, 32.2332, 0.9602),
        (0.1697, 31.9403, 0.9539),
        (0.1702, 30.3140, 0.9354),
        (0.1775, 27.3389, 0.8668),
    ),
    _choi(
        "kodim19",
        17,
        (0.2298, 30.9975, 0.9542),
        (0.2298, 30.8182, 0.9485),
        (0.2309, 29.2735, 0.9295),
        (0.2395, 26.8454, 0.8838),
    ),
    _choi(
        "kodim20",
        19,
        (0.1855, 33.2626, 0.9753),
        (0.1855, 32.9725, 0.9719),
        (0.1866, 31.0575, 0.9587),
        (0.1887, 28.2723, 0.9257),
    ),
    _choi(
        "kodim23",
        21,
        (0.1289, 34.4543, 0.9695),
        (0.1289, 33.3546, 0.9593),
        (0.1298, 31.8927, 0.9482),
        (0.1299, 27.1270, 0.8404),
    ),
    _cui("kodim13", 5, (0.449, 22.80, 0.965), (0.449, 25.82, 0.923), (0.480, 25.35, 0.914)),
    _cui("kodim24", 3, (0.230, 25.23, 0.964), (0.230, 27.57, 0.932), (0.248, 26.90, 0.922)),
)


@dataclass(frozen=True)
class Match:
    """One of the examples at one effort, at the paper's rate. ``size`` in bytes is that of the whole file."""

    example: Example
    quality: float
    size: int
    figure: Figure


def fit(pixels: Pixels, size: float, codec: Nic) -> tuple[float, bytes]:
    """Quality and file of the last rate point of at most ``size`` bytes, by bisection: the next is larger.

    ValueError if the lowest one is larger already.
    """
    low, high = 0, TOP_RATE_POINT + 1
    data = codec.encode(pixels, {"quality": 0.0})
    if len(data) > size:
        raise ValueError(f"the smallest file has {len(data)} bytes, more than {size:.0f}")
    while high - low > 1:
        middle = (low + high) // 2
        attempt = codec.encode(pixels, {"quality": middle / TOP_RATE_POINT})
        if len(attempt) <= size:
            low, data = middle, attempt
        else:
            high = middle
    return low / TOP_RATE_POINT, data


def present(pictures: Sequence[Path]) -> list[tuple[Path, Example]]:
    """The examples whose picture is there. ValueError if there is none."""
    paths = {path.stem: path for path in pictures}
    found = [(paths[example.picture], example) for example in EXAMPLES if example.picture in paths]
    if not found:
        raise ValueError(f"none of the papers' pictures is there: {', '.join(e.picture for e in EXAMPLES)}")
    return found


def matches(examples: Sequence[tuple[Path, Example]], codecs: Sequence[Nic]) -> Iterator[Match]:
    """Each example once with each of the codecs."""
    for path, example in progress(examples, "picture"):
        pixels = read(path)
        count = pixels.shape[0] * pixels.shape[1]
        for codec in codecs:
            quality, data = fit(pixels, example.figures[0].bpp * count / 8, codec)
            decoded = codec.decode(data)
            scores = (METRICS[name].score(pixels, decoded) for name in ("psnr", "ms_ssim"))
            yield Match(example, quality, len(data), Figure(codec.name, 8 * len(data) / count, *scores))


def papers(args: argparse.Namespace, pictures: list[Path]) -> int:
    """The action of `nic bench`: a table of `.nic` and of all that the papers show."""
    examples, codecs = present(pictures), nics(args, [0.0])
    extra("pytorch_msssim")
    print(*codecs, sep="\n")
    print(
        "whole files, at the rate of each paper's own codec (from below); the others' figures: the papers'\n"
    )
    rows = []
    sources: list[str] = []
    for example, group in itertools.groupby(matches(examples, codecs), lambda match: match.example):
        sources.append(example.source)
        for figure in (*(match.figure for match in group), *example.figures):
            scores = f"{figure.psnr:.2f}", f"{figure.ms_ssim:.4f}"
            rows.append([example.picture, figure.codec, f"{figure.bpp:.4f}", *scores])
    print(table(["picture", "codec", "bpp", "PSNR dB", "MS-SSIM"], rows), "", *sources, sep="\n")
    return 0
