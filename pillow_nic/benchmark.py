"""How good and how fast the codec is on a folder of pictures, and how it compares with other codecs.

    python -m pillow_nic.benchmark kodak/ --anchors anchors_kodak.json --json nic-1.json
    python -m pillow_nic.benchmark kodak/ --monotone
    python -m pillow_nic.benchmark kodak/ --speed 10

Curves of other codecs come from an anchors file: {"images": [names], "codecs": {name: {"points": [...]}}},
a point being {"bpp", "psnr", "ms_ssim"}, means over the images. --json writes the same form, so that one
version of a model can be the anchor of the next. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from PIL import Image

from .quality import DEFAULT_QUALITY, parse_quality

if TYPE_CHECKING:  # a command can take these options into its own without waiting for torch
    from .codec import Pixels

QUALITIES = [i / 8 for i in range(9)]
MONOTONE_QUALITIES = [i / 20 for i in range(21)]
ANCHORS = ("bpg-444", "webp-m6", "avif-444-s6-psnr", "vtm", "jpeg2000", "jpeg-420", "jxl-e7")
ANCHOR_RATES = (0.1, 1.5)  # bpp: what photographs are stored at
MS_SSIM_SIDE = 161  # least side for five scales of an 11×11 window
SPEED_SIDES = (1024, 2048)  # squares of 1 and 4 megapixels
STARTS = 5

Curve = Sequence[tuple[float, float]]  # (bpp, dB)
Point = dict[str, Any]  # of an anchors file

# ----------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Setting:
    """What the codec runs on, the same for all that is measured."""

    device: str | None = None
    width: int | None = None

    def there_and_back(self, pixels: Pixels, quality: float) -> tuple[bytes, Pixels, float, float]:
        """File bytes, decoded pixels, seconds to encode, seconds to decode; all in memory."""
        from . import codec

        start = perf_counter()
        data = codec.encode(pixels, quality=quality, width=self.width, device=self.device)
        between = perf_counter()
        decoded = codec.decode(data, device=self.device)
        return data, decoded, between - start, perf_counter() - between

    def __str__(self) -> str:
        import torch

        from . import weights

        device = weights.pick_device(self.device)
        model = weights.load(device=device)
        width = self.width or len(model.config.widths)
        return (
            f"{model.name} ({model.hash.hex()}) at width {width} of {len(model.config.widths)} "
            f"on {device}, torch threads: {torch.get_num_threads()}"
        )


@dataclass(frozen=True)
class Measurement:
    """One picture at one quality. ``size`` is that of the whole file in bytes; seconds are per megapixel."""

    picture: str
    quality: float
    size: int
    bpp: float
    psnr: float
    ms_ssim: float | None
    enc_s_per_mp: float
    dec_s_per_mp: float


def measure(
    pictures: Iterable[Path], qualities: Sequence[float], setting: Setting, *, with_ms_ssim: bool = True
) -> list[Measurement]:
    """Encode and decode every picture once at every quality, after one run that loads and warms up."""
    found: list[Measurement] = []
    for path in pictures:
        pixels = read(path)
        count = pixels.shape[0] * pixels.shape[1]
        if not found:
            setting.there_and_back(pixels, DEFAULT_QUALITY)
        for quality in qualities:
            data, decoded, *seconds = setting.there_and_back(pixels, quality)
            similarity = ms_ssim(pixels, decoded) if with_ms_ssim else None
            scores = 8 * len(data) / count, psnr(pixels, decoded), similarity
            per_mp = (1e6 * s / count for s in seconds)
            found.append(Measurement(path.name, quality, len(data), *scores, *per_mp))
    return found


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder by name, or the one that is named itself. ValueError if there is none."""
    suffixes = Image.registered_extensions().keys() - {".nic"}
    paths = folder.iterdir() if folder.is_dir() else [folder]
    pictures = sorted(path for path in paths if path.suffix.lower() in suffixes)
    if not pictures:
        raise ValueError(f"no pictures in {folder}")
    return pictures


def read(path: Path) -> Pixels:
    """The picture as RGB pixels, H×W×3."""
    import numpy as np

    with Image.open(path) as im:
        return np.array(im.convert("RGB"))


def psnr(a: Pixels, b: Pixels) -> float:
    """Over all samples of the picture, in dB."""
    import numpy as np

    mse = float(np.square(a.astype(np.int32) - b).mean())
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def ms_ssim(a: Pixels, b: Pixels) -> float:
    """On the CPU whatever the codec runs on: CUDA's convolutions may round to TF32, which shows near 1."""
    import torch

    x, y = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() for pixels in (a, b))
    return float(_extra("pytorch_msssim").ms_ssim(x, y, data_range=255))


def decibels(similarity: float) -> float:
    return -10 * math.log10(1 - similarity) if similarity < 1 else math.inf


def means(measured: Iterable[Measurement]) -> list[Point]:
    """A point for each quality: means over the pictures, but medians of the seconds."""
    points = []
    in_order = sorted(measured, key=lambda m: m.quality)  # stable: pictures keep their order
    for quality, group in itertools.groupby(in_order, lambda m: m.quality):
        runs = list(group)
        names = ["bpp", "psnr", "ms_ssim", "enc_s_per_mp", "dec_s_per_mp"]
        each = {name: [getattr(run, name) for run in runs] for name in names}
        if None in each["ms_ssim"]:
            del each["ms_ssim"]
        centre = {name: median(v) if name.endswith("_per_mp") else fmean(v) for name, v in each.items()}
        points.append({"param": {"quality": quality}, **centre, "per_image": each})
    return points


def falls(measured: Iterable[Measurement]) -> list[str]:
    """Where, from one quality of a picture to the next, the file does not grow or the PSNR does not rise."""
    faults = []
    for a, b in itertools.pairwise(sorted(measured, key=lambda m: (m.picture, m.quality))):
        if a.picture == b.picture:
            step = f"{a.picture}, quality {a.quality:g} to {b.quality:g}"
            if b.size <= a.size:
                faults.append(f"{step}: {a.size} to {b.size} bytes")
            if b.psnr <= a.psnr:
                faults.append(f"{step}: PSNR {a.psnr:.4f} to {b.psnr:.4f} dB")
    return faults


def speed(
    pixels: Pixels, runs: int, quality: float, setting: Setting, side: int
) -> tuple[list[float], list[float]]:
    """Seconds per megapixel of each encode and decode of a square that repeats or crops the picture."""
    import numpy as np

    padding = [(0, max(0, side - n)) for n in pixels.shape[:2]]
    square = np.pad(pixels, [*padding, (0, 0)], mode="symmetric")[:side, :side]  # mirrored: no false edges
    setting.there_and_back(square, quality)
    timed = [setting.there_and_back(square, quality)[2:] for _ in progress(range(runs), "run")]
    return [1e6 * encode / side**2 for encode, _ in timed], [1e6 * decode / side**2 for _, decode in timed]


def first_decode(data: bytes, starts: int, device: str | None = None) -> list[float]:
    """Seconds of a new Python, from its start to its end, that opens a file: imports and weights included."""
    environment = {**os.environ, **({"NIC_DEVICE": device} if device else {})}
    code = "import sys, pillow_nic; from PIL import Image; Image.open(sys.argv[1]).load()"
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "picture.nic")
        file.write_bytes(data)
        for _ in progress(range(starts), "start"):
            start = perf_counter()
            subprocess.run([sys.executable, "-c", code, str(file)], env=environment, check=True)
            seconds.append(perf_counter() - start)
    return seconds


# ----------------------------------------------------------------------------------------------- comparing


@dataclass(frozen=True)
class BdRate:
    """How many percent more bytes than the anchor for the same quality, mean over ``low`` to ``high`` dB.

    ``share``: how much that interval is of what the anchor covers at the rates asked for.
    """

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
    pchip = _extra("scipy.interpolate").PchipInterpolator
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


def curves(points: Sequence[Point]) -> dict[str, Curve]:
    """Rate against PSNR, and against MS-SSIM in dB, for the points that have it."""
    return {
        "psnr": [(p["bpp"], p["psnr"]) for p in points if "psnr" in p],
        "ms_ssim": [(p["bpp"], decibels(p["ms_ssim"])) for p in points if "ms_ssim" in p],
    }


def load_anchors(
    file: Path, pictures: Sequence[Path], against: Sequence[str] | None = None
) -> dict[str, list[Point]]:
    """The chosen codecs of an anchors file. ValueError if one is not there or for other pictures."""
    content = json.loads(file.read_text(encoding="utf-8"))
    if {Path(name).stem for name in content["images"]} != {path.stem for path in pictures}:
        raise ValueError(f"{file.name} is of other pictures than these: a BD-rate would mean nothing")
    codecs: dict[str, Any] = content["codecs"]
    if missing := [name for name in against or () if name not in codecs]:
        raise ValueError(f"{file.name} has no {', '.join(missing)}, but {', '.join(codecs)}")
    return {name: codecs[name]["points"] for name in against or ANCHORS if name in codecs}


def compare(points: Sequence[Point], anchors: dict[str, list[Point]]) -> dict[str, dict[str, BdRate | str]]:
    """The BD-rate for each codec and metric, or why there is none."""
    result: dict[str, dict[str, BdRate | str]] = {}
    for name, anchor in anchors.items():
        result[name] = {}
        for (metric, ours), theirs in zip(curves(points).items(), curves(anchor).values(), strict=True):
            try:
                result[name][metric] = bd_rate(ours, theirs) if ours and theirs else "not measured"
            except ValueError as error:
                result[name][metric] = str(error)
    return result


# --------------------------------------------------------------------------------------------- the command


def main(argv: Sequence[str] | None = None) -> int:
    """0 if all went well, 1 if a check failed, 2 for wrong usage and what is not there."""
    parser = argparse.ArgumentParser(prog="python -m pillow_nic.benchmark", description=run.__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="of pictures, or one picture")
    add("--qualities", nargs="+", type=_quality, metavar="Q", help="from 0 to 1 (default: nine, 1/8 apart)")
    add("--anchors", type=Path, metavar="FILE", help="curves of other codecs, for BD-rates")
    add("--against", nargs="+", metavar="CODEC", help=f"of the anchors (default: {' '.join(ANCHORS)})")
    add("--json", type=Path, metavar="FILE", help="write the numbers in the form of an anchors file")
    add("--no-msssim", dest="ms_ssim", action="store_false", help="leave out MS-SSIM, which takes time")
    add("--device", help="cpu, cuda, mps … (default: the environment's NIC_DEVICE, else the best there is)")
    add("--width", type=int, help="network width, 1 for the narrowest (default: the codec's)")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--monotone", action="store_true", help="check instead that bytes and PSNR always rise"
    )
    other.add_argument("--speed", type=int, metavar="N", help="time instead N runs at 1 and 4 megapixels")


def _quality(text: str) -> float:
    return parse_quality(float(text))


def run(args: argparse.Namespace) -> int:
    """Measure rate, distortion and speed on a folder of pictures."""
    pictures = picture_files(args.folder)
    action = _monotone if args.monotone else _speed if args.speed is not None else _rate_distortion
    return action(args, pictures, Setting(args.device, args.width))


def _rate_distortion(args: argparse.Namespace, pictures: list[Path], setting: Setting) -> int:
    anchors = load_anchors(args.anchors, pictures, args.against) if args.anchors else {}
    _check_before(pictures, anchors=bool(anchors), ms_ssim=args.ms_ssim)
    print(f"{setting}\n{len(pictures)} pictures of {args.folder.name}, one run each, in memory, model loaded")
    print("bpp of whole files; bpp, PSNR (RGB), MS-SSIM: means over the pictures; seconds: medians\n")
    shown = progress(pictures, "picture")
    points = means(measure(shown, args.qualities or QUALITIES, setting, with_ms_ssim=args.ms_ssim))
    rows = []
    for p in points:
        cells = [f"{p['param']['quality']:.3f}", f"{p['bpp']:.4f}", f"{p['psnr']:.3f}"]
        cells += [f"{p['ms_ssim']:.5f}", f"{decibels(p['ms_ssim']):.3f}"] if args.ms_ssim else ["-", "-"]
        rows.append([*cells, f"{p['enc_s_per_mp']:.3f}", f"{p['dec_s_per_mp']:.3f}"])
    print(table(["quality", "bpp", "PSNR dB", "MS-SSIM", "in dB", "encode s/MP", "decode s/MP"], rows))
    result = compare(points, anchors)
    if result:
        low, high = ANCHOR_RATES
        print(
            f"\nBD-rate by PCHIP over log-rate, anchor at {low:g} to {high:g} bpp; below 0: fewer bytes here"
        )
        print("over: the interval that both curves reach; of: how much it is of the anchor's\n")
        rows = [[name, *itertools.chain(*map(_cells, row.values()))] for name, row in result.items()]
        print(table(["against", "PSNR", "over dB", "of", "MS-SSIM", "over dB", "of"], rows))
    if args.json:
        names = [path.name for path in pictures]
        ours = {"description": str(setting), "source": "pillow_nic.benchmark", "points": points}
        content = {"dataset": args.folder.name, "images": names, "codecs": {"nic": ours}, "bd_rate": result}
        args.json.write_text(json.dumps(content, indent=1, default=asdict) + "\n", encoding="utf-8")
    return 0


def _check_before(pictures: list[Path], *, anchors: bool, ms_ssim: bool) -> None:
    """Let what can go wrong go wrong before the long run."""
    if anchors:
        _extra("scipy.interpolate")
    if ms_ssim:
        _extra("pytorch_msssim")
        for path in pictures:
            with Image.open(path) as im:
                if min(im.size) < MS_SSIM_SIDE:
                    raise ValueError(f"{path.name} is too small for MS-SSIM: use --no-msssim")


def _cells(value: BdRate | str) -> list[str]:
    if isinstance(value, str):
        return ["-", value, "-"]
    return [f"{value.percent:+.1f} %", f"{value.low:.2f} to {value.high:.2f}", f"{value.share:.0%}"]


def _monotone(args: argparse.Namespace, pictures: list[Path], setting: Setting) -> int:
    qualities = args.qualities or MONOTONE_QUALITIES
    print(f"{setting}\n{len(pictures)} pictures of {args.folder.name} at {len(qualities)} qualities")
    faults = falls(measure(progress(pictures, "picture"), qualities, setting, with_ms_ssim=False))
    print(*faults, f"violations (bytes or PSNR do not rise): {len(faults)}", sep="\n")
    return int(bool(faults))


def _speed(args: argparse.Namespace, pictures: list[Path], setting: Setting) -> int:
    pixels = read(pictures[0])
    print(f"{setting}\n{pictures[0].name}, repeated or cropped, in memory, model loaded")
    print(f"medians of {args.speed} runs, in brackets the least\n")
    rows = []
    for side, quality in itertools.product(SPEED_SIDES, args.qualities or [DEFAULT_QUALITY]):
        times = speed(pixels, args.speed, quality, setting, side)
        rows.append([f"{side}x{side}", f"{quality:.3f}", *(f"{median(t):.3f} ({min(t):.3f})" for t in times)])
    print(table(["picture", "quality", "encode s/MP", "decode s/MP"], rows))
    data = setting.there_and_back(pixels, DEFAULT_QUALITY)[0]
    seconds = first_decode(data, STARTS, args.device)
    print(
        f"\nfirst decode in a new process, {pixels.shape[1]}x{pixels.shape[0]}, import of torch included: "
        f"median {median(seconds):.2f} s of {STARTS} ({min(seconds):.2f} to {max(seconds):.2f})"
    )
    return 0


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns aligned to the right, the first to the left."""
    lines = [head, *rows]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([line[0].ljust(first), *(cell.rjust(w) for cell, w in zip(line[1:], others, strict=True))])
        for line in lines
    )


def progress(items: Any, unit: str) -> Any:
    from tqdm import tqdm

    return tqdm(items, unit=unit, leave=False, disable=None)  # None: no bar unless stderr is a terminal


def _extra(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0].replace("_", "-")
        raise ModuleNotFoundError(f"{name} is missing: pip install 'pillow-nic[bench]'") from error


if __name__ == "__main__":
    sys.exit(main())
