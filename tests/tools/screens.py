"""Screens beside other codecs: the tables of docs/quality.md.

    python tests/tools/screens.py screens/ --qualities 0.2 0.5 0.8
    python tests/tools/screens.py screens/ --others

Whole pictures, on white. For each quality of `.nic`: bytes against lossless WebP, PNG and lossless JPEG XL,
the share of exact cells, SSIMULACRA2; with --others, which takes its time, the bytes that AVIF (Pillow's
default but for 4:4:4) and JPEG XL take for that score, or where they do not reach it those of their best
quality, for JPEG XL lossless. Needs the extra `bench`."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from equal_quality import pictures
from PIL import Image

import pillow_nic
from pillow_nic import container, exact
from pillow_nic.bench.codecs import CODECS
from pillow_nic.bench.metrics import ssimulacra2

AVIF = [
    {"format": "AVIF", "subsampling": "4:4:4", "quality": quality} for quality in (25, 45, 65, 80, 92, 100)
]
JXL = [{"format": "JXL", "quality": quality} for quality in (30, 60, 80, 92, 97)]
JXL.append({"format": "JXL", "lossless": True})  # the plugin refuses quality 100


def saved(im: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    im.save(file, format, **options)
    return file.getvalue()


def score_of(original: np.ndarray, decoded: np.ndarray) -> float:
    return 100.0 if np.array_equal(original, decoded) else ssimulacra2(original, decoded)


def bytes_of(im: Image.Image, codec: list[dict[str, Any]], scores: list[float]) -> list[float]:
    """What another codec takes for each score: the least that its settings reach it with, interpolated."""
    points = []
    for options in codec:
        data = saved(im, **options)
        with Image.open(io.BytesIO(data)) as decoded:
            points.append((score_of(np.asarray(im), np.asarray(decoded.convert("RGB"))), len(data)))
    points = [point for point in points if not any(a >= point[0] and b < point[1] for a, b in points)]
    reached, sizes = zip(*sorted(points), strict=True)
    return [float(np.interp(score, reached, sizes)) for score in scores]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--qualities", type=float, nargs="+", default=[0.2, 0.35, 0.5, 0.65, 0.8, 0.9])
    parser.add_argument("--graphics", default="auto")
    parser.add_argument("--others", action="store_true", help="AVIF and JPEG XL at the same score")
    args = parser.parse_args()
    CODECS["jxl-e7"].load()
    rows: list[dict[str, Any]] = []
    for number, im in enumerate(pictures(args.folder, None)):
        original = np.asarray(im)
        webp = len(saved(im, "WEBP", lossless=True))
        png = len(saved(im, "PNG", optimize=True))
        modular = len(saved(im, "JXL", lossless=True))
        lossless = len(saved(im, "NIC", lossless=True))
        found = []
        for quality in args.qualities:
            data = pillow_nic.encode(im, quality=quality, graphics=args.graphics)
            decoded = pillow_nic.decode(data)
            file, score = container.parse(data), score_of(original, decoded)
            share = exact.share(file.header, file.chunks, file.exact)
            found.append({"quality": quality, "bytes": len(data), "exact": share, "score": score})
        scores = [row["score"] for row in found]
        nothing = [float("nan")] * len(found)
        theirs = [bytes_of(im, codec, scores) if args.others else nothing for codec in (AVIF, JXL)]
        for row, avif, jxl in zip(found, *theirs, strict=True):
            sizes = {"webp": webp, "png": png, "jxl-lossless": modular, "lossless": lossless}
            rows.append({**row, **sizes, "avif": avif, "jxl": jxl})
            print(
                f"{number + 1:2} {row['quality']:.2f}  {row['bytes']:7}  of WebP {row['bytes'] / webp:.3f}",
                f"of PNG {row['bytes'] / png:.3f}  exact {row['exact']:.3f}  score {row['score']:5.1f}",
                f"of AVIF {row['bytes'] / avif:.2f}  of JPEG XL {row['bytes'] / jxl:.2f}",
                f"lossless, of WebP {lossless / webp:.3f}",
                sep="  ",
                flush=True,
            )
    print("| quality | of lossless WebP | at most | of PNG | of lossless JPEG XL", end=" | exact | ")
    print("SSIMULACRA2 | at least ", end="")
    print("| of AVIF at that score | at most | of JPEG XL at that score |")
    print("|---" * 11 + "|")
    for quality in args.qualities:
        own = [row for row in rows if row["quality"] == quality]
        total = sum(row["bytes"] for row in own)
        cells = [
            f"{quality:g}",
            f"{total / sum(row['webp'] for row in own):.2f}",
            f"{max(row['bytes'] / row['webp'] for row in own):.2f}",
            f"{total / sum(row['png'] for row in own):.2f}",
            f"{total / sum(row['jxl-lossless'] for row in own):.2f}",
            f"{fmean(row['exact'] for row in own):.0%}",
            f"{fmean(row['score'] for row in own):.1f}",
            f"{min(row['score'] for row in own):.1f}",
            f"{total / sum(row['avif'] for row in own):.2f}",
            f"{max(row['bytes'] / row['avif'] for row in own):.2f}",
            f"{total / sum(row['jxl'] for row in own):.2f}",
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
