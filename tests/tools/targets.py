"""How well targets are met: the figures of docs/quality.md.

    python tests/tools/targets.py kodak/ --log targets.jsonl
    python tests/tools/targets.py kodak/ --crop 384x256 --log crops.jsonl
    python tests/tools/targets.py --from targets.jsonl

Five targets of each kind for every picture: sizes, rates and PSNR with tune="psnr", MS-SSIM (as
pytorch_msssim has it) with "ms-ssim". An encode counts when the latent is coded. A run that was ended goes on
where its log ends. Needs the extra `bench`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from efforts import centre
from PIL import Image

import pillow_nic
from pillow_nic import codec, targets
from pillow_nic.bench.metrics import decibels, ms_ssim, psnr
from pillow_nic.options import TOP_RATE_POINT

RATES = (0.1, 0.25, 0.5, 1.0, 1.75)  # bpp, of the sizes
TARGETS = {
    "target_bpp": (0.08, 0.2, 0.4, 0.8, 1.5),
    "target_psnr": (26, 29, 32, 35, 38),
    "target_ssim": (0.9, 0.95, 14, 17, 0.99),
}

Record = dict[str, Any]


def asked(pixels: int) -> Iterator[tuple[str, float]]:
    yield from (("target_size", round(rate * pixels / 8)) for rate in RATES)
    yield from ((kind, value) for kind, values in TARGETS.items() for value in values)


def met(pixels: np.ndarray, kind: str, value: float) -> Record:
    """``got``: of a size or rate its share, of a fidelity the dB beyond it."""
    tune = "ms-ssim" if kind == "target_ssim" else "psnr"
    encodes = 0
    real = codec.symbols_of

    def counting(*arguments: Any, **keywords: Any) -> Any:
        nonlocal encodes
        encodes += 1
        return real(*arguments, **keywords)

    codec.symbols_of = counting
    try:
        data = pillow_nic.encode(pixels, tune=tune, threads=1, **{kind: value})  # type: ignore[misc]
    except ValueError as error:
        return {"error": str(error), "encodes": encodes}
    finally:
        codec.symbols_of = real
    header = pillow_nic.read_header(data)
    place = targets.Place(header.rate_point / TOP_RATE_POINT, header.delta)
    end = place in (targets.place(targets.LOWEST), targets.place(targets.HIGHEST))
    count = pixels.shape[0] * pixels.shape[1]
    if kind in ("target_size", "target_bpp"):
        got = len(data) / value if kind == "target_size" else 8 * len(data) / count / value
    else:
        decoded = pillow_nic.decode(data, threads=1)
        found = psnr(pixels, decoded) if kind == "target_psnr" else decibels(ms_ssim(pixels, decoded))
        got = found - (-10 * math.log10(1 - value) if value < 1 else value)
    return {"got": got, "end": end, "encodes": encodes}


def run(args: argparse.Namespace) -> None:
    done = records(args.log) if args.log.exists() else []
    keys = {(r["picture"], r["kind"], r["value"]) for r in done}
    with args.log.open("a") as log:
        for path in sorted(args.folder.glob("*.png"))[: args.pictures]:
            with Image.open(path) as im:
                pixels = centre(np.array(im.convert("RGB")), args.crop)
            for kind, value in asked(pixels.shape[0] * pixels.shape[1]):
                if (path.name, kind, value) not in keys:
                    about = {"picture": path.name, "kind": kind, "value": value}
                    print(json.dumps({**about, **met(pixels, kind, value)}), file=log, flush=True)


def records(log: Path) -> list[Record]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def table(found: list[Record]) -> None:
    head = "target", "files", "missed", "range ended", "least and mean share, or most and mean excess"
    print("| " + " | ".join((*head, "encodes, mean and most")) + " |")
    print("|---" * 6 + "|")
    for kind in ("target_size", *TARGETS):
        of_kind = [r for r in found if r["kind"] == kind]
        inside = [r["got"] for r in of_kind if "got" in r and not r["end"]]
        got = [r["got"] for r in of_kind if "got" in r]
        if kind in ("target_size", "target_bpp"):
            missed, how = sum(x > 1 for x in got), f"{min(inside):.2%}, {fmean(inside):.2%}"
        else:
            missed, how = sum(x < -5e-4 for x in got), f"{max(inside):.3f} dB, {fmean(inside):.3f} dB"
        encodes = [r["encodes"] for r in of_kind]
        ended = sum("error" in r or r["end"] for r in of_kind)
        cells = [f"`{kind}`", len(of_kind), missed, ended, how, f"{fmean(encodes):.1f}, {max(encodes)}"]
        print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--pictures", type=int, help="the first of them")
    parser.add_argument("--crop", type=lambda text: tuple(map(int, text.split("x"))), metavar="WxH")
    parser.add_argument("--log", type=Path, help="JSON, a line for each file")
    parser.add_argument("--from", type=Path, dest="kept", help="the table of this")
    args = parser.parse_args()
    if args.kept is None:
        if args.folder is None or args.log is None:
            sys.exit("targets.py: a folder and --log, or --from")
        run(args)
    table(records(args.kept or args.log))


if __name__ == "__main__":
    main()
