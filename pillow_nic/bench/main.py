"""`nic bench`: how good and how fast the codec is on a folder of pictures, and how it compares with others.

    nic bench kodak/ --plot kodak.svg --json kodak.json
    nic bench kodak/ --codecs webp-m6 avif-444-s6 --tunes psnr ms-ssim --efforts 0 1 --metrics psnr ms-ssim
    nic bench kodak/ --codecs --anchors anchors_kodak.json --against bpg-444 vtm
    nic bench kodak/ --papers
    nic bench photo.png --speed

Needs the extra `bench`. comparison.py says what is compared and how, codecs.py at which settings.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..options import TOP_EFFORT, TUNES, EncodeOptions
from .anchors import PUBLISHED
from .codecs import CODECS, SPEED_CODECS
from .measuring import MONOTONE_QUALITIES, falls, measure, picture_files, progress
from .metrics import ANCHOR_RATES, METRICS
from .rd_plot import SUFFIXES
from .settings import LARGE, Settings

DESCRIPTION = "Rate, distortion and speed, beside other codecs."
RUNS = 5  # of --speed
MOST_MEGAPIXELS = 1000  # of a .nic file

# The options that each action takes beside the pictures and the device.
_ACTIONS = {
    "papers": ("tunes", "efforts", "network_width"),
    "speed": (
        "tunes",
        "efforts",
        "qualities",
        "network_width",
        "codecs",
        "large",
        "against_version",
        "json",
    ),
    "monotone": ("tunes", "efforts", "qualities", "network_width"),
    "layers": ("tunes", "efforts", "qualities"),
    "widths": ("tunes", "efforts", "qualities"),
    "comparison": (
        "codecs",
        "tunes",
        "efforts",
        "qualities",
        "network_width",
        "metrics",
        "split",
        "anchors",
        "against",
        "json",
        "plot",
    ),
}
_OPTIONS = dict.fromkeys(itertools.chain.from_iterable(_ACTIONS.values()))


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
    add("paths", nargs="+", type=Path, metavar="PICTURES", help="pictures, or folders of them")
    codecs = f"to compare with (default: all, with --speed {', '.join(SPEED_CODECS)}; "
    codecs += f"no codec if no name follows): {', '.join(CODECS)}"
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
    names = ", ".join(name.replace("_", "-") for name in METRICS)
    metrics = f"{names}; psnr comes with each of the others, which take time (default: the first three)"
    add("--metrics", nargs="+", type=_metric, metavar="METRIC", help=metrics)
    split = "also print the BD-rates below and above this rate"
    add("--split", type=_rate, metavar="BPP", help=split)
    add("--anchors", type=Path, metavar="FILE", help="published curves of other codecs, in JSON")
    add("--against", nargs="+", metavar="CODEC", help=f"of the anchors (default: {' '.join(PUBLISHED)})")
    add("--json", type=_output, metavar="FILE", help="write the numbers in the form of an anchors file")
    add("--plot", type=_plot_file, metavar="FILE", help="draw the curves: .png or .svg")
    instead = parser.add_argument_group("instead of a comparison").add_mutually_exclusive_group()
    papers = "compare at the rates of the pictures in papers"
    instead.add_argument("--papers", action="store_true", help=papers)
    instead.add_argument(
        "--speed",
        nargs="?",
        type=_positive,
        const=RUNS,
        metavar="RUNS",
        help=f"seconds and memory: quiet and busy, first decode, thumbnails, batches (default: {RUNS} runs)",
    )
    monotone = "check that bytes and PSNR always rise with quality"
    instead.add_argument("--monotone", action="store_true", help=monotone)
    instead.add_argument("--layers", action="store_true", help="what each layer costs and brings")
    instead.add_argument("--widths", action="store_true", help="what each network width costs and brings")
    speed = parser.add_argument_group("with --speed")
    speed.add_argument(
        "--large",
        type=_megapixels,
        metavar="MEGAPIXELS",
        help=f"of the picture whose peak memory is measured, 0 for none (default: {LARGE:g})",
    )
    speed.add_argument(
        "--against-version",
        type=Path,
        metavar="PATH",
        help="another version of .nic, in turns with this one: its environment's Python, or its checkout",
    )
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


def _megapixels(text: str) -> float:
    try:
        if 0 <= float(text) <= MOST_MEGAPIXELS:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to {MOST_MEGAPIXELS}")


def _metric(text: str) -> str:
    if (name := text.lower().replace("-", "_")) not in METRICS:
        known = ", ".join(name.replace("_", "-") for name in METRICS)
        raise argparse.ArgumentTypeError(f"{text} is none of {known}")
    return name


def _rate(text: str) -> float:
    low, high = ANCHOR_RATES
    try:
        if low < float(text) < high:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g} bpp")


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
    action = next((name for name in _ACTIONS if getattr(settings, name, None)), "comparison")
    takes = _ACTIONS[action]
    if wrong := [name for name in _OPTIONS if getattr(settings, name) is not None and name not in takes]:
        who = "a comparison" if action == "comparison" else f"--{action}"
        raise ValueError(f"{who} does not take {', '.join('--' + name.replace('_', '-') for name in wrong)}")
    pictures = picture_files(settings.paths)
    match action:
        case "speed":
            from . import speed  # loads torch, as scalability does

            return speed.speed(settings, pictures)
        case "monotone":
            return _monotone(settings, pictures)
        case "papers":
            from . import papers

            return papers.papers(settings, pictures)
        case "layers" | "widths":
            from . import scalability

            act = scalability.layers if settings.layers else scalability.widths
            return act(settings, pictures)
        case _:
            from . import comparison

            return comparison.comparison(settings, pictures)


def _monotone(settings: Settings, pictures: list[Path]) -> int:
    faults = []
    for codec in settings.nics(MONOTONE_QUALITIES):
        place, count = settings.title, len(codec.qualities)
        print(f"{codec}\n{len(pictures)} pictures of {place} at {count} qualities")
        faults += falls(measure(progress(pictures, "picture"), codec))
    print(*faults, f"violations (bytes or PSNR do not rise): {len(faults)}", sep="\n")
    return int(bool(faults))
