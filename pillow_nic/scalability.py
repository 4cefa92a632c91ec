"""What layers and widths cost, on a folder of pictures.

    nic bench kodak/ --layers
    nic bench kodak/ --widths

--layers: bytes and PSNR after each layer, and how many more bytes that is than a file without layers of the
same PSNR. --widths: for each width its multiply–adds, its time and its BD-rate against the full width. Needs
the extra `bench`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import torch
from torch.utils.flop_counter import FlopCounterMode

from . import codec, weights
from .benchmark import SPEED_SIDES
from .container import parse_header
from .entropy_model import SymbolDecoder, code_groups
from .measuring import QUALITIES, Nic, curve, means, measure, progress, read, speed, table
from .metrics import Curve, bd_rate, psnr
from .network import Network
from .quality import DEFAULT_QUALITY, TOP_RATE_POINT

LAYER_QUALITIES = (0.2, 0.5, 0.8)
COST_SIDE = 128  # pixels
RUNS = 7  # to time a width

# -------------------------------------------------------------------------------------------------- layers


@dataclass(frozen=True)
class Prefix:
    """The first layers of one picture's file. ``excess``: their bytes against a file without layers of the
    same PSNR, minus 1; None where no quality has that PSNR."""

    picture: str
    quality: float
    layers: int
    bpp: float
    share: float
    psnr: float
    excess: float | None


def prefixes(path: Path, qualities: Sequence[float], device: str | None = None) -> list[Prefix]:
    """Every prefix of whole layers of a picture's files."""
    pixels = read(path)
    plain = []
    for quality in QUALITIES:
        data = codec.encode(pixels, quality=quality, layers=1, device=device)
        plain.append((_bpp(len(data), pixels), psnr(pixels, codec.decode(data, device=device))))
    found = []
    for quality in qualities:
        data = codec.encode(pixels, quality=quality, device=device)
        for k, end in enumerate(parse_header(data).layer_offsets, 1):
            decibels = psnr(pixels, codec.decode(data, layers=k, device=device))
            rate = rate_at(plain, decibels)
            bpp = _bpp(end, pixels)
            excess = bpp / rate - 1 if rate else None
            found.append(Prefix(path.name, quality, k, bpp, end / len(data), decibels, excess))
    return found


def rate_at(curve: Curve, decibels: float) -> float | None:
    """The curve's bpp at a PSNR, PCHIP over log-rate; None outside it."""
    from scipy.interpolate import PchipInterpolator

    by_quality = sorted((quality, math.log(bpp)) for bpp, quality in curve)
    rate = float(PchipInterpolator(*zip(*by_quality, strict=True), extrapolate=False)(decibels))
    return None if math.isnan(rate) else math.exp(rate)


def layers_that_do_not_sharpen(found: Sequence[Prefix]) -> list[str]:
    """Where a layer does not raise the PSNR."""
    return [
        f"{b.picture}, quality {b.quality:g}, layer {b.layers}: {a.psnr:.3f} to {b.psnr:.3f} dB"
        for a, b in pairwise(found)
        if (a.picture, a.quality) == (b.picture, b.quality) and b.psnr <= a.psnr
    ]


def _bpp(size: int, pixels: codec.Pixels) -> float:
    return 8 * size / (pixels.shape[0] * pixels.shape[1])


# -------------------------------------------------------------------------------------------------- widths


def costs(network: Network, width: int) -> dict[str, float]:
    """Multiply–adds per pixel of each part at a width, counted while it runs; of the hyper-synthesis's head,
    only the outputs that are needed."""
    config, position = network.config, torch.tensor([2.5])
    groups = config.widths[width].groups
    channels = config.group_ends[groups - 1]
    x = torch.zeros(1, 3, COST_SIDE, COST_SIDE)
    y = torch.zeros(1, channels, COST_SIDE // 16, COST_SIDE // 16)
    z = torch.zeros(1, config.hyper_channels, COST_SIDE // 64, COST_SIDE // 64)
    features = network.features(z)
    idle = SymbolDecoder(torch.zeros_like(y), torch.ones(1, channels, 1, 1))
    unused = 2 * (config.latent_channels - channels) * network.h_s.head.in_channels / 256
    return {
        "g_a": _macs(lambda: network.g_a(x, position, width)),
        "h_a": _macs(lambda: network.h_a(y, position)),
        "h_s": _macs(lambda: network.h_s(z)) - unused,
        "features": _macs(lambda: network.features(z)),
        "context": _macs(lambda: code_groups(network, features, position, idle, groups)),
        "g_s": _macs(lambda: network.g_s(y, position, width)),
    }


def decode_cost(parts: dict[str, float]) -> float:
    return sum(parts[name] for name in ("h_s", "features", "context", "g_s"))


def encode_cost(parts: dict[str, float]) -> float:
    return sum(parts[name] for name in ("g_a", "h_a", "h_s", "features", "context"))


def _macs(run: Callable[[], object]) -> float:
    """Multiply–adds of the convolutions that really run, per pixel."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2 / COST_SIDE**2


# ----------------------------------------------------------------------------------- actions of `nic bench`


def layers(args: argparse.Namespace, pictures: list[Path]) -> int:
    """Bytes and PSNR after each layer. 1 if a layer does not sharpen."""
    qualities = args.qualities or LAYER_QUALITIES
    print(
        f"{Nic(device=args.device)}\n{len(pictures)} pictures of {args.folder.name}; means over the pictures"
    )
    print("share: of the whole file's bytes; excess: bytes against a file without layers of the same PSNR\n")
    found = [p for path in progress(pictures, "picture") for p in prefixes(path, qualities, args.device)]
    rows = []
    for quality, layer in sorted({(p.quality, p.layers) for p in found}):
        group = [p for p in found if (p.quality, p.layers) == (quality, layer)]
        excess = [p.excess for p in group if p.excess is not None]
        cells = [f"{quality:g}", f"{layer}", f"{len(group)}", f"{fmean(p.bpp for p in group):.4f}"]
        cells += [f"{fmean(p.share for p in group):.1%}", f"{fmean(p.psnr for p in group):.2f}"]
        cells += [f"{min(p.psnr for p in group):.2f}", f"{fmean(excess):+.1%}" if excess else "-"]
        rows.append(cells)
    print(table(["quality", "layers", "files", "bpp", "share", "PSNR dB", "least dB", "excess"], rows))
    faults = layers_that_do_not_sharpen(found)
    print(*faults, f"layers that do not raise the PSNR: {len(faults)}", sep="\n")
    return int(bool(faults))


def widths(args: argparse.Namespace, pictures: list[Path]) -> int:
    """Multiply–adds, time and BD-rate of each width."""
    model = weights.load(device=weights.pick_device(args.device))
    qualities = args.qualities or QUALITIES
    print(f"{Nic(device=args.device)}\n{len(pictures)} pictures of {args.folder.name}", end=", ")
    print(f"{len(qualities)} qualities")
    print(f"kMAC per pixel counted; seconds per megapixel: medians of {RUNS} runs at 1 megapixel")
    print("BD-rate (PSNR) of files encoded and decoded at the width, against the full one; by itself: the")
    print("quality up to which the encoder takes the width when it is not told\n")
    settings = [
        Nic(device=args.device, width=width, qualities=qualities)
        for width in range(1, len(model.config.widths) + 1)
    ]
    square = read(pictures[0])
    timed = [speed(square, RUNS, DEFAULT_QUALITY, setting, SPEED_SIDES[0]) for setting in settings]
    network = Network(model.config).eval().requires_grad_(False)
    full: Curve = []
    rows = []
    for setting, times in reversed(list(zip(settings, timed, strict=True))):
        assert setting.width is not None
        parts = costs(network, setting.width - 1)
        points = means(measure(progress(pictures, "picture"), setting), setting.ladder)
        line = curve(points, "psnr")
        full = full or line
        limit = model.width_limits[setting.width - 1]
        rows.append(
            [
                str(setting.width),
                f"{decode_cost(parts) / 1000:.1f}",
                f"{encode_cost(parts) / 1000:.1f}",
                f"{median(times[1]):.3f}",
                f"{median(times[0]):.3f}",
                f"{bd_rate(line, full).percent:+.1f} %",
                f"{limit / TOP_RATE_POINT:.2f}" if limit >= 0 else "never",
            ]
        )
    head = ["width", "decode kMAC", "encode kMAC", "decode s/MP", "encode s/MP", "BD-rate", "by itself"]
    print(table(head, rows[::-1]))
    return 0
