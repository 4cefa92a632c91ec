"""What layers and widths cost, on a folder of pictures.

    nic bench kodak/ --layers
    nic bench kodak/ --widths

--layers: bytes and quality after each layer, and how many more bytes that is than a file without layers of
the same quality. --widths: for each width its multiply–adds, its time and its BD-rate against the full width.
Quality is what the model was trained for, PSNR or MS-SSIM. Needs the extra `bench`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import codec
from ..container import parse_header
from ..decoding import Pixels
from ..entropy_model import SymbolDecoder, code_groups, side_information
from ..network import Network
from ..options import TOP_RATE_POINT, EncodeOptions
from .codecs import QUALITIES, Nic
from .measuring import SPEED_SIDES, curve, means, measure, progress, read, speed, table
from .metrics import METRICS, Curve, bd_rate
from .settings import Settings

LAYER_QUALITIES = (0.2, 0.5, 0.8)
COST_SIDE = 128  # pixels
RUNS = 7  # to time a width

# -------------------------------------------------------------------------------------------------- layers


@dataclass(frozen=True)
class Prefix:
    """The first layers of one picture's file. ``score``: in dB; ``excess``: their bytes against a file
    without layers of the same score, minus 1; None where no quality has that score."""

    picture: str
    quality: float
    layers: int
    bpp: float
    share: float
    score: float
    excess: float | None


def prefixes(path: Path, setting: Nic) -> list[Prefix]:
    """Every prefix of whole layers of a picture's files."""
    pixels = read(path)
    metric = METRICS[setting.metric]

    def score(data: bytes, layers: int | None = None) -> float:
        return metric.on_curve(metric.score(pixels, codec.decode(data, layers=layers, device=setting.device)))

    plain = []
    for quality in QUALITIES:
        data = setting.encode(pixels, {"quality": quality, "layers": 1})
        plain.append((_bpp(len(data), pixels), score(data)))
    found = []
    for quality in setting.qualities:
        data = setting.encode(pixels, {"quality": quality})
        for k, end in enumerate(parse_header(data).layer_offsets, 1):
            decibels = score(data, k)
            rate = rate_at(plain, decibels)
            bpp = _bpp(end, pixels)
            excess = bpp / rate - 1 if rate else None
            found.append(Prefix(path.name, quality, k, bpp, end / len(data), decibels, excess))
    return found


def rate_at(curve: Curve, decibels: float) -> float | None:
    """The curve's bpp at a quality, PCHIP over log-rate; None outside it."""
    from scipy.interpolate import PchipInterpolator

    by_quality = sorted((quality, math.log(bpp)) for bpp, quality in curve)
    rate = float(PchipInterpolator(*zip(*by_quality, strict=True), extrapolate=False)(decibels))
    return None if math.isnan(rate) else math.exp(rate)


def layers_that_do_not_sharpen(found: Sequence[Prefix]) -> list[str]:
    """Where a layer does not raise the score."""
    return [
        f"{b.picture}, quality {b.quality:g}, layer {b.layers}: {a.score:.3f} to {b.score:.3f} dB"
        for a, b in pairwise(found)
        if (a.picture, a.quality) == (b.picture, b.quality) and b.score <= a.score
    ]


def _bpp(size: int, pixels: Pixels) -> float:
    return 8 * size / (pixels.shape[0] * pixels.shape[1])


# -------------------------------------------------------------------------------------------------- widths


def costs(network: Network, width: int) -> dict[str, float]:
    """Multiply–adds per pixel of each part at a width, counted while it runs; of the hyper-synthesis's head,
    only the outputs that are needed."""
    config, point = network.config, torch.tensor([2.5])
    groups = config.widths[width].groups
    channels = config.group_ends[groups - 1]
    side = COST_SIDE // 16
    x = torch.zeros(1, 3, COST_SIDE, COST_SIDE)
    y = torch.zeros(1, config.latent_channels, side, side)
    z = torch.zeros(1, config.hyper_channels, side // 4, side // 4)
    read = side_information(network, z, point, 0.0, (side, side))
    idle = SymbolDecoder(torch.zeros_like(y), read)
    known = torch.zeros(1, 1, side // 4, side // 4)
    unused = 2 * (config.latent_channels - channels) * network.h_s.head.in_channels / 256
    return {
        "g_a": _macs(lambda: network.g_a(x, point)),
        "h_a": _macs(lambda: network.h_a(y, point)),
        "h_s": _macs(lambda: network.h_s(z)) - unused,
        "hyper_prior": 3 * _macs(lambda: network.hyper_prior(z, known, point)),  # three passes
        "features": _macs(lambda: network.features(z)),
        "context": _macs(lambda: code_groups(network, read.features, point, idle, groups)),
        "g_s": _macs(lambda: network.g_s(y[:, :channels], point, width)),
    }


def decode_cost(parts: dict[str, float]) -> float:
    return sum(parts[name] for name in ("h_s", "hyper_prior", "features", "context", "g_s"))


def encode_cost(parts: dict[str, float]) -> float:
    return sum(parts[name] for name in ("g_a", "h_a", "h_s", "hyper_prior", "features", "context"))


def _macs(run: Callable[[], object]) -> float:
    """Multiply–adds of the convolutions that really run, per pixel."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2 / COST_SIDE**2


# ----------------------------------------------------------------------------------- actions of `nic bench`


def layers(settings: Settings, pictures: list[Path]) -> int:
    """Bytes and quality after each layer. 1 if a layer does not sharpen."""
    faults = [fault for setting in settings.nics(LAYER_QUALITIES) for fault in _layers(setting, pictures)]
    return int(bool(faults))


def _layers(setting: Nic, pictures: list[Path]) -> list[str]:
    title = METRICS[setting.metric].title
    print(f"{setting}\n{len(pictures)} pictures of {pictures[0].parent.name}; means over the pictures")
    print(
        f"share: of the whole file's bytes; excess: bytes against a file without layers of the same {title}\n"
    )
    found = [p for path in progress(pictures, "picture") for p in prefixes(path, setting)]
    rows = []
    for quality, layer in sorted({(p.quality, p.layers) for p in found}):
        group = [p for p in found if (p.quality, p.layers) == (quality, layer)]
        excess = [p.excess for p in group if p.excess is not None]
        cells = [f"{quality:g}", f"{layer}", f"{len(group)}", f"{fmean(p.bpp for p in group):.4f}"]
        cells += [f"{fmean(p.share for p in group):.1%}", f"{fmean(p.score for p in group):.2f}"]
        cells += [f"{min(p.score for p in group):.2f}", f"{fmean(excess):+.1%}" if excess else "-"]
        rows.append(cells)
    print(table(["quality", "layers", "files", "bpp", "share", f"{title} dB", "least dB", "excess"], rows))
    faults = layers_that_do_not_sharpen(found)
    print(*faults, f"layers that do not raise the {title}: {len(faults)}", sep="\n")
    return faults


def widths(settings: Settings, pictures: list[Path]) -> int:
    """Multiply–adds, time and BD-rate of each width."""
    for setting in settings.nics(QUALITIES):
        _widths(setting, pictures)
    return 0


def _widths(full_width: Nic, pictures: list[Path]) -> None:
    model, metric = full_width.model, full_width.metric
    print(f"{full_width}\n{len(pictures)} pictures of {pictures[0].parent.name}", end=", ")
    print(f"{len(full_width.qualities)} qualities")
    print(f"kMAC per pixel counted; seconds per megapixel: medians of {RUNS} runs at 1 megapixel")
    title = METRICS[metric].title
    print(f"BD-rate ({title}) of files encoded and decoded at the width, against the full one; by itself:")
    print("the quality up to which the encoder takes the width when it is not told\n")
    settings = [replace(full_width, network_width=width) for width in range(1, len(model.config.widths) + 1)]
    square = read(pictures[0])
    timed = [speed(square, RUNS, EncodeOptions.quality, setting, SPEED_SIDES[0]) for setting in settings]
    network = Network(model.config).eval().requires_grad_(False)
    full: Curve = []
    rows = []
    for setting, times in reversed(list(zip(settings, timed, strict=True))):
        assert setting.network_width is not None
        parts = costs(network, setting.network_width - 1)
        points = means(measure(progress(pictures, "picture"), setting, [metric]), setting.ladder)
        line = curve(points, metric)
        full = full or line
        limit = model.width_limits[setting.network_width - 1]
        rows.append(
            [
                str(setting.network_width),
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
