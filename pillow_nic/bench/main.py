"""`nic bench`: how good and how fast the codec is on a folder of pictures, and how it compares with others.

    nic bench kodak/ --plot kodak.svg --json kodak.json
    nic bench kodak/ --codecs webp-m6 avif-444-s6 --tunes psnr ms-ssim --efforts 0 1 --metrics psnr ms-ssim
    nic bench kodak/ --codecs --anchors anchors_kodak.json --against bpg-444 vtm
    nic bench kodak/ --papers
    nic bench photo.png --speed 7

Needs the extra `bench`. comparison.py says what is compared and how, codecs.py at which settings.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from ..options import TOP_EFFORT, TUNES, EncodeOptions
from .anchors import PUBLISHED
from .codecs import CODECS
from .measuring import (
    MONOTONE_QUALITIES,
    SPEED_SIDES,
    falls,
    first_decode,
    measure,
    picture_files,
    progress,
    read,
    speed,
    table,
)
from .metrics import METRICS
from .rd_plot import SUFFIXES
from .settings import Settings

DESCRIPTION = "Rate, distortion and speed, beside other codecs."
STARTS = 5

# The options that each action takes beside the folder and the device; without an action, the comparison.
_OPTIONS = (
    "codecs",
    "tunes",
    "efforts",
    "qualities",
    "network_width",
    "metrics",
    "anchors",
    "against",
    "json",
    "plot",
)
_ACTIONS = {
    "papers": ("tunes", "efforts", "network_width"),
    "speed": ("tunes", "efforts", "qualities", "network_width"),
    "monotone": ("tunes", "efforts", "qualities", "network_width"),
    "layers": ("tunes", "efforts", "qualities"),
    "widths": ("tunes", "efforts", "qualities"),
}


def main(argv: Sequence[str]) -> int:
    """Run `nic bench`; 0 if all went well, 1 if a check or a codec failed, 2 for wrong usage."""
    settings = arguments(argv)
    if settings.device:
        os.environ["NIC_DEVICE"] = settings.device
    try:
        return run(settings)
    except (ImportError, OSError, ValueError) as error:
        print(f"nic bench: {error}", file=sys.stderr)
        return 2


def arguments(argv: Sequence[str]) -> Settings:
    """The options of `nic bench`, nothing heavy loaded."""
    parser = argparse.ArgumentParser(prog="nic bench", description=DESCRIPTION)
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="of pictures, or one picture")
    codecs = f"to compare with (default: all; none without a name): {', '.join(CODECS)}"
    add("--codecs", nargs="*", choices=CODECS, metavar="CODEC", help=codecs)
    tunes = f"of .nic (default: {EncodeOptions.tune})"
    add("--tunes", nargs="+", choices=TUNES, metavar="TUNE", help=tunes)
    efforts = f"of .nic (default: {EncodeOptions.effort})"
    add("--efforts", nargs="+", type=int, choices=range(TOP_EFFORT + 1), metavar="N", help=efforts)
    qualities = "of .nic, 0 to 1 (default: nine, 1/8 apart)"
    add("--qualities", nargs="+", type=_quality, metavar="Q", help=qualities)
    add(
        "--network-width",
        type=int,
        metavar="N",
        help="network width, 1 for the narrowest (default: the codec's)",
    )
    add("--device", help="cpu, cuda, mps … (default: the environment's NIC_DEVICE, else the best there is)")
    metrics = "psnr ms-ssim ssimulacra2; psnr comes with each of the others, which take time (default: all)"
    add("--metrics", nargs="+", type=_metric, metavar="METRIC", help=metrics)
    add("--anchors", type=Path, metavar="FILE", help="published curves of other codecs, in JSON")
    add("--against", nargs="+", metavar="CODEC", help=f"of the anchors (default: {' '.join(PUBLISHED)})")
    add("--json", type=_output, metavar="FILE", help="write the numbers in the form of an anchors file")
    add("--plot", type=_plot_file, metavar="FILE", help="draw the curves: .png or .svg")
    instead = parser.add_argument_group("instead of a comparison").add_mutually_exclusive_group()
    instead.add_argument("--papers", action="store_true", help="meet the rates of the papers' own pictures")
    instead.add_argument("--speed", type=_positive, metavar="N", help="time N runs at 1 and 4 megapixels")
    instead.add_argument("--monotone", action="store_true", help="check that bytes and PSNR always rise")
    instead.add_argument("--layers", action="store_true", help="what each layer costs and brings")
    instead.add_argument("--widths", action="store_true", help="what each network width costs and brings")
    return Settings(**vars(parser.parse_args(argv)))


def _quality(text: str) -> float:
    try:
        return EncodeOptions(quality=float(text)).quality
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def _metric(text: str) -> str:
    if (name := text.lower().replace("-", "_")) not in METRICS:
        raise argparse.ArgumentTypeError(f"{text} is none of psnr, ms-ssim, ssimulacra2")
    return name


def _output(text: str) -> Path:
    """Where a file can be written at the end of a long run."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written")
    return path


def _plot_file(text: str) -> Path:
    path = _output(text)
    if path.suffix.lower() not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text} ends neither in {' nor in '.join(SUFFIXES)}")
    return path


def run(settings: Settings) -> int:
    """0 if all went well, 1 if a check or a codec failed. ImportError, OSError or ValueError, before the long
    run, for what is not there or makes no sense."""
    action = next((name for name in _ACTIONS if getattr(settings, name)), "comparison")
    takes = _ACTIONS.get(action, _OPTIONS)
    if wrong := [name for name in _OPTIONS if getattr(settings, name) is not None and name not in takes]:
        raise ValueError(
            f"--{action} does not take {', '.join('--' + name.replace('_', '-') for name in wrong)}"
        )
    pictures = picture_files(settings.folder)
    match action:
        case "speed":
            return _speed(settings, pictures)
        case "monotone":
            return _monotone(settings, pictures)
        case "papers":
            from . import papers

            return papers.papers(settings, pictures)
        case "layers" | "widths":
            from . import scalability  # loads torch

            act = scalability.layers if settings.layers else scalability.widths
            return act(settings, pictures)
        case _:
            from . import comparison

            return comparison.comparison(settings, pictures)


def _speed(settings: Settings, pictures: list[Path]) -> int:
    pixels, runs = read(pictures[0]), settings.speed or 1
    codecs = settings.nics([EncodeOptions.quality])
    print(*codecs, f"{pictures[0].name}, repeated or cropped, in memory, model loaded", sep="\n")
    print(f"medians of {runs} runs, in brackets the least\n")
    rows = []
    for codec, side, quality in itertools.product(codecs, SPEED_SIDES, codecs[0].qualities):
        times = speed(pixels, runs, quality, codec, side)
        cells = [f"{median(t):.3f} ({min(t):.3f})" for t in times]
        rows.append([codec.name, f"{side}x{side}", f"{quality:.3f}", *cells])
    print(table(["codec", "picture", "quality", "encode s/MP", "decode s/MP"], rows))
    data = codecs[0].encode(pixels, {"quality": EncodeOptions.quality})
    seconds = first_decode(data, STARTS, settings.device)
    print(
        f"\nfirst decode in a new process, {pixels.shape[1]}x{pixels.shape[0]}, import of torch included: "
        f"median {median(seconds):.2f} s of {STARTS} ({min(seconds):.2f} to {max(seconds):.2f})"
    )
    return 0


def _monotone(settings: Settings, pictures: list[Path]) -> int:
    faults = []
    for codec in settings.nics(MONOTONE_QUALITIES):
        place, count = settings.folder.name, len(codec.qualities)
        print(f"{codec}\n{len(pictures)} pictures of {place} at {count} qualities")
        faults += falls(measure(progress(pictures, "picture"), codec))
    print(*faults, f"violations (bytes or PSNR do not rise): {len(faults)}", sep="\n")
    return int(bool(faults))
