"""The pictures of the papers that this codec comes from, at exactly their rates, beside their figures."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .codecs import Nic
from .measuring import progress, read, table
from .metrics import METRICS, extra
from .settings import Settings


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


def _examples() -> Iterator[Example]:
    content = json.loads(Path(__file__).with_name("papers.json").read_text(encoding="utf-8"))
    for paper in content["papers"]:
        for picture, found in paper["pictures"].items():
            rows = zip(paper["codecs"], found["rows"], strict=True)
            source = f"{picture}: {paper['paper']}, supplement, figure {found['figure']}"
            yield Example(picture, source, [Figure(codec, *row) for codec, row in rows])


EXAMPLES = tuple(_examples())


@dataclass(frozen=True)
class Match:
    """One of the examples at one effort, at the paper's rate. ``size`` in bytes is that of the whole file."""

    example: Example
    size: int
    figure: Figure


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
            data = codec.encode(pixels, {"target_bpp": example.figures[0].bpp})
            decoded = codec.decode(data)
            scores = (METRICS[name].score(pixels, decoded) for name in ("psnr", "ms_ssim"))
            yield Match(example, len(data), Figure(codec.name, 8 * len(data) / count, *scores))


def papers(settings: Settings, pictures: list[Path]) -> int:
    """The action of `nic bench`: a table of `.nic` and of all that the papers show."""
    examples, codecs = present(pictures), settings.nics([0.0])
    extra("pytorch_msssim")
    print(*codecs, sep="\n")
    print(
        "whole files, 98 to 100 % of the rate of each paper's own codec; the others' figures: the papers'\n"
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
