"""Which quality of JPEG, WebP and AVIF a quality of `.nic` corresponds to: the tables of docs/quality.md.

    python tests/tools/equal_quality.py kodak/ --json kodak.json
    python tests/tools/equal_quality.py screens/ --crop 800x600 --json screens.json
    python tests/tools/equal_quality.py --from kodak.json

Every picture is saved by Pillow with `quality` alone, as a user would, at each step of a ladder.
SSIMULACRA2 and bits per pixel are averaged over the pictures; between the steps both means are interpolated
(PCHIP). Needs the extra `bench`."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import PIL
import ssimulacra2
from PIL import Image, features
from scipy.interpolate import PchipInterpolator

import pillow_nic

LADDERS: dict[str, Sequence[float]] = {
    "NIC": [i / 8 for i in range(9)],
    "JPEG": [5, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95],
    "WEBP": [0, 5, 20, 40, 60, 75, 80, 85, 90, 95, 100],
    "AVIF": [5, 15, 25, 35, 45, 55, 65, 75, 80, 85, 90, 95],
}
TITLES = {"JPEG": "JPEG", "WEBP": "WebP", "AVIF": "AVIF"}
OURS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
THEIRS = {"JPEG": [50, 75, 85, 90, 95], "WEBP": [50, 75, 80, 90], "AVIF": [50, 60, 75, 90]}

Point = tuple[float, float, float]  # quality, bits per pixel, SSIMULACRA2


def pictures(folder: Path, crop: tuple[int, int] | None) -> list[Image.Image]:
    """The PNG files of a folder as RGB on white; ``crop``: at most so much of their top left."""
    found = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as im:
            picture = im.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
        if crop:
            picture = picture.crop((0, 0, min(crop[0], picture.width), min(crop[1], picture.height)))
        found.append(picture)
    return found


def measure(images: Sequence[Image.Image], name: str, quality: float) -> Point:
    rates, scores = [], []
    for image in images:
        original, coded, decoded = io.BytesIO(), io.BytesIO(), io.BytesIO()
        image.save(original, "PPM")
        image.save(coded, name, quality=quality)
        with Image.open(coded) as im:
            im.convert("RGB").save(decoded, "PPM")
        rates.append(8 * len(coded.getvalue()) / image.width / image.height)
        scores.append(float(ssimulacra2.compute_ssimulacra2(original, decoded)))
    return quality, fmean(rates), fmean(scores)


def at_score(points: Sequence[Point], score: float) -> tuple[float, float] | None:
    """Quality and rate at which a codec reaches that mean score; None outside its ladder."""
    rising = [point for i, point in enumerate(points) if all(point[2] > before[2] for before in points[:i])]
    qualities, rates, scores = zip(*rising, strict=True)
    if not scores[0] <= score <= scores[-1]:
        return None
    return float(PchipInterpolator(scores, qualities)(score)), float(PchipInterpolator(scores, rates)(score))


def at_quality(points: Sequence[Point], quality: float) -> tuple[float, float]:
    """Rate and score at a quality."""
    qualities, rates, scores = zip(*points, strict=True)
    return float(PchipInterpolator(qualities, rates)(quality)), float(
        PchipInterpolator(qualities, scores)(quality)
    )


def tables(measured: dict[str, list[Point]]) -> None:
    others = [name for name in measured if name != "NIC"]
    heads = (f" {TITLES[name]} quality | bpp |" for name in others)
    print("| `.nic` quality | SSIMULACRA2 | bpp |", *heads, sep="")
    print("|---" * (3 + 2 * len(others)) + "|")
    for quality in OURS:
        rate, score = at_quality(measured["NIC"], quality)
        cells = [f"{quality:g}", f"{score:.1f}".replace("-", "−"), f"{rate:.2f}"]
        for name in others:
            found = at_score(measured[name], score)
            cells += [f"{found[0]:.0f}", f"{found[1]:.2f}"] if found else ["–", "–"]
        print("| " + " | ".join(cells) + " |")
    print(
        "\n| instead of | SSIMULACRA2 | bpp | `.nic` quality | bpp | bytes of `.nic` |\n" + "|---" * 6 + "|"
    )
    for name in others:
        for step in THEIRS[name]:
            rate, score = at_quality(measured[name], step)
            found = at_score(measured["NIC"], score)
            cells = [f"{TITLES[name]} {step}", f"{score:.1f}", f"{rate:.2f}"]
            if found:
                change = f"{100 * (found[1] / rate - 1):+.0f} %".replace("-", "−")
                cells += [f"{found[0]:.2f}", f"{found[1]:.2f}", change]
            else:
                cells += ["–", "–", "–"]
            print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--crop", type=lambda text: tuple(map(int, text.split("x"))), metavar="WxH")
    parser.add_argument("--json", type=Path, help="keep the measured means")
    parser.add_argument("--from", type=Path, dest="kept", help="tables of means that were kept")
    args = parser.parse_args()
    if args.kept:
        measured = {
            name: [tuple(p) for p in line] for name, line in json.loads(args.kept.read_text()).items()
        }
    else:
        images = pictures(args.folder, args.crop)
        measured = {}
        for name, ladder in LADDERS.items():
            measured[name] = []
            for quality in ladder:
                measured[name].append(measure(images, name, quality))
                print(f"{name} {quality:g}", file=sys.stderr)
        if args.json:
            args.json.write_text(json.dumps(measured, indent=1) + "\n")
        versions = ", ".join(f"{name} {features.version(name)}" for name in ("jpg", "webp", "avif"))
        print(f"{len(images)} pictures of {args.folder.name}, means; ", end="")
        print(f"Pillow {PIL.__version__} ({versions}), pillow-nic {pillow_nic.__version__}\n")
    tables(measured)


if __name__ == "__main__":
    main()
