"""Screens beside other codecs: the tables of docs/quality.md.

    python tests/tools/screens.py screens/ --qualities 0.2 0.5 0.8
    python tests/tools/screens.py screens/ --avif

Whole pictures, on white. For each quality of `.nic`: bytes against lossless WebP and PNG, the share of exact
pixels, SSIMULACRA2; with --avif, which takes its time, the bytes that AVIF (Pillow's default but for 4:4:4)
takes for that score, or where it does not reach it those of its best quality. Needs the extra `bench`."""

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
from pillow_nic.bench.metrics import ssimulacra2

AVIF = [40, 55, 70, 80, 90, 97]


def saved(im: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    im.save(file, name, **options)
    return file.getvalue()


def avif_bytes(im: Image.Image, scores: list[float]) -> list[float]:
    """What AVIF takes for each score."""
    points = []
    for quality in AVIF:
        data = saved(im, "AVIF", quality=quality, subsampling="4:4:4")
        with Image.open(io.BytesIO(data)) as decoded:
            points.append((ssimulacra2(np.asarray(im), np.asarray(decoded.convert("RGB"))), len(data)))
    reached, sizes = zip(*sorted(points), strict=True)
    return [float(np.interp(score, reached, sizes)) for score in scores]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--qualities", type=float, nargs="+", default=[0.2, 0.35, 0.5, 0.65, 0.8, 0.9])
    parser.add_argument("--graphics", default="auto")
    parser.add_argument("--avif", action="store_true")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number, im in enumerate(pictures(args.folder, None)):
        original = np.asarray(im)
        webp = len(saved(im, "WEBP", lossless=True))
        png = len(saved(im, "PNG", optimize=True))
        lossless = len(saved(im, "NIC", lossless=True))
        found = []
        for quality in args.qualities:
            data = pillow_nic.encode(im, quality=quality, graphics=args.graphics)
            decoded = pillow_nic.decode(data)
            same = float((decoded == original).all(2).mean())
            score = 100.0 if same == 1 else ssimulacra2(original, decoded)
            found.append({"quality": quality, "bytes": len(data), "exact": same, "score": score})
        theirs = avif_bytes(im, [row["score"] for row in found]) if args.avif else [float("nan")] * len(found)
        for row, avif in zip(found, theirs, strict=True):
            rows.append({**row, "webp": webp, "png": png, "avif": avif, "lossless": lossless})
            print(
                f"{number + 1:2} {row['quality']:.2f}  {row['bytes']:7}  of WebP {row['bytes'] / webp:.3f}",
                f"of PNG {row['bytes'] / png:.3f}  exact {row['exact']:.3f}  score {row['score']:5.1f}",
                f"of AVIF {row['bytes'] / avif:.2f}  lossless, of WebP {lossless / webp:.3f}",
                sep="  ",
                flush=True,
            )
    print("| quality | of lossless WebP | at most | of PNG | exact | SSIMULACRA2 | of AVIF at that score |")
    print("|---" * 7 + "|")
    for quality in args.qualities:
        own = [row for row in rows if row["quality"] == quality]
        total = sum(row["bytes"] for row in own)
        cells = [
            f"{quality:g}",
            f"{total / sum(row['webp'] for row in own):.2f}",
            f"{max(row['bytes'] / row['webp'] for row in own):.2f}",
            f"{total / sum(row['png'] for row in own):.2f}",
            f"{fmean(row['exact'] for row in own):.0%}",
            f"{fmean(row['score'] for row in own):.1f}",
            f"{total / sum(row['avif'] for row in own):.2f}",
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
