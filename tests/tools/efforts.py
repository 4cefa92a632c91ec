"""What effort 2 and 3 save, and what they cost: the table of docs/quality.md.

    python tests/tools/efforts.py kodak/ --tune psnr --qualities 0.5 0.3 --log psnr.jsonl
    python tests/tools/efforts.py --from psnr.jsonl ms-ssim.jsonl

Whole files, one thread; with --crop 384x256 the middles of the pictures. Bytes are compared with effort 1 at
equal quality: on the curve of the same picture at effort 1 (PCHIP through the logarithms). Loss is what an
effort minimises, bits + λ·distortion of the file and of what it decodes to. Seconds are those of the
processor. AVIF is Pillow's at speed 0, 4:4:4 and quality 50. A run that was ended goes on where its log ends.
Needs the extra `bench`."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from time import process_time
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.interpolate import PchipInterpolator

import pillow_nic
from pillow_nic import weights
from pillow_nic.bench.metrics import METRICS
from pillow_nic.distortion import REFINED, Distortion
from pillow_nic.options import TUNES, rate_point

JUDGES = {
    "psnr": ("psnr", "ssimulacra2"),
    "ms-ssim": ("ms_ssim", "ssimulacra2"),
    "visual": ("ssimulacra2", "butteraugli"),
}
"""By tune: what it is trained for, and another metric."""
CURVE = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)

Record = dict[str, Any]


def loss(tune: str, quality: float, size: int, before: np.ndarray, after: np.ndarray) -> float:
    """Bits + λ·distortion."""
    model = weights.load(TUNES[tune], torch.device("cpu"))
    lmbda = float(model.config.lmbda(model.point(rate_point(quality))))
    x, y = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 for pixels in (before, after))
    return 8 * size + lmbda * float(Distortion(REFINED[tune], x)(y)) * before.shape[0] * before.shape[1]


def measured(pixels: np.ndarray, tune: str, effort: int, quality: float) -> Record:
    start = process_time()
    data = pillow_nic.encode(pixels, tune=tune, effort=effort, quality=quality, threads=1, graphics="never")
    seconds = process_time() - start
    decoded = pillow_nic.decode(data, threads=1)
    scores = {name: METRICS[name].on_curve(METRICS[name].score(pixels, decoded)) for name in JUDGES[tune]}
    return {
        "bytes": len(data),
        "seconds": seconds,
        "loss": loss(tune, quality, len(data), pixels, decoded),
        **scores,
    }


def avif(pixels: np.ndarray) -> Record:
    file = io.BytesIO()
    start = process_time()
    Image.fromarray(pixels).save(file, "AVIF", quality=50, speed=0, subsampling="4:4:4")
    return {"bytes": len(file.getvalue()), "seconds": process_time() - start}


def centre(pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """The middle of a picture, or all of it."""
    if size is None:
        return pixels
    left, top = ((side - n) // 2 for side, n in zip(pixels.shape[1::-1], size, strict=True))
    return np.ascontiguousarray(pixels[top : top + size[1], left : left + size[0]])


def run(args: argparse.Namespace) -> None:
    done = records([args.log]) if args.log.exists() else []
    keys = {(r["picture"], r["codec"], r["effort"], r["quality"]) for r in done}
    pictures = sorted(args.folder.glob("*.png"))
    asked = [
        (path, *what)
        for quality in args.qualities
        for path in pictures
        for what in (
            *((args.tune, 1, at) for at in CURVE if abs(at - quality) < 0.11),
            *((args.tune, effort, quality) for effort in args.efforts),
            *([("avif", 0, 0.5)] if path in pictures[: args.avif] else []),
        )
    ]
    pillow_nic.encode(
        np.zeros((64, 64, 3), np.uint8), tune=args.tune, effort=2, threads=1
    )  # loads and warms up
    with args.log.open("a") as log:
        for path, codec, effort, quality in asked:
            if (key := (path.name, codec, effort, quality)) in keys:
                continue
            keys.add(key)
            with Image.open(path) as im:
                pixels = centre(np.array(im.convert("RGB")), args.crop)
            found = avif(pixels) if codec == "avif" else measured(pixels, codec, effort, quality)
            about = dict(zip(("picture", "codec", "effort", "quality"), key, strict=True))
            print(
                json.dumps({**about, "pixels": pixels.shape[0] * pixels.shape[1], **found}),
                file=log,
                flush=True,
            )


def records(logs: list[Path]) -> list[Record]:
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def table(found: list[Record]) -> None:
    by_point: dict[tuple[str, float, int], dict[str, Record]] = defaultdict(dict)
    for r in found:
        by_point[r["codec"], r["quality"], r["effort"]][r["picture"]] = r
    head = "tune", "quality", "effort", "pictures", "bytes at equal metric", "worst", "at equal other", "loss"
    print("| " + " | ".join((*head, "s/MP", "×")) + " |")
    print("|---" * 10 + "|")
    for (codec, quality, effort), pictures in sorted(by_point.items()):
        if codec == "avif":
            seconds = (
                1e6
                * sum(r["seconds"] for r in pictures.values())
                / sum(r["pixels"] for r in pictures.values())
            )
            print(f"| AVIF, speed 0 | | | {len(pictures)} | | | | | {seconds:.1f} | |")
        if codec == "avif" or effort < 2:
            continue
        metrics = JUDGES[codec]
        savings: dict[str, list[float]] = {name: [] for name in metrics}
        losses, worse, times = [], 0, [0.0, 0.0]
        for name, r in pictures.items():
            curve = [
                group[name]
                for (c, _, e), group in sorted(by_point.items())
                if c == codec and e == 1 and name in group
            ]
            for metric in metrics:
                x = [one[metric] for one in curve]
                expected = PchipInterpolator(x, [math.log(one["bytes"]) for one in curve])(r[metric])
                savings[metric].append(100 * (r["bytes"] / math.exp(expected) - 1))
            less = by_point[codec, quality, effort - 1].get(name)
            plain = by_point[codec, quality, 1][name]
            losses.append(100 * (r["loss"] / plain["loss"] - 1))
            worse += less is not None and r["loss"] > less["loss"]
            times[0] += r["seconds"]
            times[1] += plain["seconds"]
        own = savings[metrics[0]]
        other = f"{METRICS[metrics[1]].title} {fmean(savings[metrics[1]]):+.1f} %"
        pixels = sum(r["pixels"] for r in pictures.values())
        cells = [codec, quality, effort, len(pictures), f"{fmean(own):+.2f} %", f"{max(own):+.1f} %", other]
        cells += [f"{fmean(losses):+.2f} % ({worse} above effort {effort - 1})"]
        cells += [f"{1e6 * times[0] / pixels:.1f}", f"{times[0] / times[1]:.0f}"]
        print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--tune", choices=TUNES, default="visual")
    parser.add_argument("--qualities", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--efforts", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--avif", type=int, default=6, help="of so many pictures")
    parser.add_argument(
        "--crop", type=lambda text: tuple(map(int, text.split("x"))), metavar="WxH", help="centres"
    )
    parser.add_argument("--log", type=Path, help="JSON, a line for each file")
    parser.add_argument("--from", type=Path, nargs="+", dest="logs", help="tables of these")
    args = parser.parse_args()
    if args.logs is None:
        if args.folder is None or args.log is None:
            sys.exit("efforts.py: a folder and --log, or --from")
        run(args)
    table(records(args.logs or [args.log]))


if __name__ == "__main__":
    main()
