"""Checkpoint → weights file: half-precision floats, the integer network and integer tables, with the
exactness bound verified; and the measured part of the model card beside it.

    python -m pillow_nic.training.export CHECKPOINT weights/nic-2.safetensors --valid FOLDER --refit TARS…
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import avg_pool2d
from tqdm import tqdm

from .. import codec, container, self_test, weights
from ..hyper_prior import FRACTIONS, IntegerHyperPrior
from ..integer_net import IntegerHyperSynthesis
from ..network import Network
from ..options import REDUCTIONS, TOP_RATE_POINT, rate_point
from .data import Pictures
from .loss import TITLES, TrainingModel, forward, judged
from .quantise import quantise, quantise_prior
from .refit import count_symbols, refit
from .tables import gaussian_tables, shifted_tables
from .train import load_checkpoint, load_recipe, validate, validation_pictures

ROWS, COLUMNS, HYPER_ROWS = 48, 7, 40
SIGMA_MIN, ROWS_PER_OCTAVE, MAX_SKEW = 0.12, 4, 0.75
BEGIN, END = "<!-- written by export -->", "<!-- end of what export writes -->"
MOST_WIDTH_COST = 0.005
CARD_QUALITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
LEAST_SHOWN = 0.3
"""PSNR in dB that the groups which a reduced picture does without may be worth."""


def width_costs(model: TrainingModel, pictures: list[Tensor], tune: str = "psnr") -> np.ndarray:
    """Estimated bytes of each width against the full one, minus 1, at an equal value of what the tune is
    judged by: (widths, points), means over pictures at rate points 0, 1, 2 … The full width's curve goes on
    straight beyond its ends."""
    config = model.network.config
    points = [float(i) for i in range(config.rate_points)]
    curves = [validate(model, pictures, points, False, width, tune) for width in range(len(config.widths))]
    rate = np.array([[row["bpp"] for row in curve] for curve in curves])
    score = np.array([[row["score"] for row in curve] for curve in curves])
    x, y = score[-1], np.log(rate[-1])
    low, high = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    x, y = np.r_[x[0] - 100, x, x[-1] + 100], np.r_[y[0] - 100 * low, y, y[-1] + 100 * high]
    return np.expm1(np.log(rate) - np.interp(score, x, y))


def width_limits(costs: np.ndarray, most: float = MOST_WIDTH_COST) -> list[int]:
    """For each width the highest rate point up to which it nowhere costs more than ``most``; −1 for none."""
    limits = []
    for row in costs:
        dear = np.flatnonzero(~(row <= most))
        first = int(dear[0]) if dear.size else row.size
        limits.append(TOP_RATE_POINT * (first - 1) // (row.size - 1) if first else -1)
    return limits


@torch.no_grad()
def reduced_groups(model: TrainingModel, pictures: list[Tensor]) -> dict[int, list[int]]:
    """For each reduction of the size, at rate points 0, 1, 2 …, how many groups show in the reduced picture:
    as few as come within LEAST_SHOWN of the PSNR of all, in the mean over pictures."""
    config = model.network.config
    counts: dict[int, list[int]] = {factor: [] for factor in REDUCTIONS[1:]}
    for index in range(config.rate_points):
        point = torch.tensor([float(index)])
        latents = [forward(model, x, point, hard=True).y_hat for x in pictures]
        scores: dict[int, list[float]] = {factor: [] for factor in counts}
        for end in config.group_ends:
            painted = [model.network.g_s(y_hat[:, :end], point).clamp(0, 1) for y_hat in latents]
            for factor, means in scores.items():
                pairs = zip(pictures, painted, strict=True)
                psnr = [judged("psnr", *(avg_pool2d(t, factor) for t in pair)).item() for pair in pairs]
                means.append(float(np.mean(psnr)))
        for factor, found in counts.items():
            least = scores[factor][-1] - LEAST_SHOWN
            found.append(next(g for g, score in enumerate(scores[factor], 1) if score >= least))
    return counts


def export(checkpoint: Path, out: Path, valid: Path | None = None) -> np.ndarray | None:
    """Write the weights file of a checkpoint; returns what the widths cost on the validation pictures.

    Without pictures the encoder takes the full width always, and a reduced picture all groups. WeightsError
    if the integer network would not be exact."""
    config, state, done = load_checkpoint(checkpoint)
    model = TrainingModel(config)
    model.load_state_dict(state)
    costs = None
    shown = {factor: [len(config.groups)] * config.rate_points for factor in REDUCTIONS[1:]}
    if valid is not None:
        pictures = validation_pictures(valid, 12, torch.device("cpu"))
        costs = width_costs(model, pictures, load_recipe(checkpoint)["tune"])
        shown = reduced_groups(model, pictures)
    tensors: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        # Convolutions lose nothing in half precision; gains, conditioning and deviations are few and stay.
        half = key.startswith("network.") and value.dim() == 4
        if key.startswith("network.") or value.is_floating_point():
            tensors[key] = value.half() if half else value
    network = model.network
    arrays = quantise(
        network.h_s,
        network.gain.log2_gain.detach().numpy(),
        network.hyper_gain.log2_inverse.detach().numpy(),
        table_rows=ROWS,
        table_columns=COLUMNS,
        scale_step=1 / ROWS_PER_OCTAVE,
        skew_step=2 * MAX_SKEW / (COLUMNS - 1),
        scale_zero=float(np.log2(SIGMA_MIN)),
    )
    named = {f"integer.{k}": v for k, v in arrays.items()}
    named |= gaussian_tables(
        ROWS, COLUMNS, sigma_min=SIGMA_MIN, rows_per_octave=ROWS_PER_OCTAVE, max_skew=MAX_SKEW
    ).to_arrays("tables.")
    prior = quantise_prior(network.hyper_prior, scale_step=1 / ROWS_PER_OCTAVE, scale_zero=np.log2(SIGMA_MIN))
    prior |= shifted_tables(
        HYPER_ROWS, FRACTIONS, sigma_min=SIGMA_MIN, rows_per_octave=ROWS_PER_OCTAVE
    ).to_arrays("tables.")
    named |= {f"hyper_prior.{k}": v for k, v in prior.items()}
    named |= {f"self_test.{k}": v for k, v in _self_test(network, arrays, prior).items()}
    tensors |= {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in named.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    limits = [-1] * (len(config.widths) - 1) + [TOP_RATE_POINT] if costs is None else width_limits(costs)
    metadata = {
        "network": config.to_json(),
        "done": json.dumps(done),
        "width_limits": json.dumps(limits),
        "reduced_groups": json.dumps(shown),
    }
    save_file({k: v.contiguous() for k, v in tensors.items()}, out, metadata)
    out.chmod(0o644)
    return costs


def refit_file(file: Path, sources: list[Path], crops: int = 150, side: int = 320) -> None:
    """Refit the tables of a weights file to crops of training pictures (refit.py)."""
    model = weights.read(file, file.stem, torch.device("cpu"))
    pictures = Pictures(sources, torch.device("cpu"), side)
    drawn = pictures.crops(np.random.default_rng(1), crops, side).permute(0, 2, 3, 1).mul(255).round()
    latent, hyper = count_symbols(model, drawn.to(torch.uint8).numpy())
    fitted = refit(model.tables, latent).to_arrays("tables.")
    fitted |= refit(model.hyper_prior.tables, hyper).to_arrays("hyper_prior.tables.")
    with safe_open(file, "pt") as f:
        tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
        metadata = f.metadata()
    tensors |= {key: torch.from_numpy(array) for key, array in fitted.items()}
    save_file(tensors, file, metadata)
    file.chmod(0o644)


def _self_test(
    network: Network, arrays: dict[str, np.ndarray], prior: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Of the network as it ships: convolutions in half precision."""
    shipped = copy.deepcopy(network).eval()
    for parameter in shipped.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.half().float()
    hyper_prior = IntegerHyperPrior(prior, network.config.hyper_channels)
    return self_test.expected(shipped, IntegerHyperSynthesis(arrays), hyper_prior)


@dataclass
class Coded:
    """Validation pictures in real files at one quality: bits per pixel of their streams and of whole files,
    and what the tune is judged by."""

    streams: float
    files: float
    score: float


def coded(file: Path, folder: Path, tune: str) -> list[Coded]:
    """What files of these weights take at each of CARD_QUALITIES, at effort 0."""
    weights.use(file, torch.device("cpu"))
    found = []
    for quality in tqdm(CARD_QUALITIES):
        rows = []
        for x in validation_pictures(folder, 24, torch.device("cpu")):
            pixels = (x[0].permute(1, 2, 0) * 255).round().byte().numpy()
            data = codec.encode(pixels, quality=quality, effort=0, model=file.stem, device="cpu")
            streams = sum(len(stream) for layer in container.parse(data).streams for stream in layer)
            decoded = torch.from_numpy(codec.decode(data, device="cpu")).permute(2, 0, 1)[None] / 255
            size = pixels[..., 0].size
            rows.append((8 * streams / size, 8 * len(data) / size, judged(tune, x, decoded).item()))
        found.append(Coded(*(float(mean) for mean in np.mean(rows, 0))))
    return found


@torch.no_grad()
def estimated(checkpoint: Path, folder: Path) -> list[float]:
    """Bits per pixel that the float model counts for the same pictures and qualities."""
    config, state, _ = load_checkpoint(checkpoint)
    model = TrainingModel(config)
    model.load_state_dict(state)
    model.eval()
    points = [rate_point(quality) * (config.rate_points - 1) / 65536 for quality in CARD_QUALITIES]
    pictures = validation_pictures(folder, 24, torch.device("cpu"))
    bpp = [[forward(model, x, torch.tensor([p]), hard=True).bpp.item() for x in pictures] for p in points]
    return [float(mean) for mean in np.mean(bpp, 1)]


def describe_rate(counted: list[float], exported: list[Coded], shipped: list[Coded], title: str) -> list[str]:
    """Table of what the float model counts, of streams with the tables as exported, which integers and coder
    alone set apart from it, and of those that ship, with refitted tables."""
    rows = []
    for quality, float_bpp, first, last in zip(CARD_QUALITIES, counted, exported, shipped, strict=True):
        cells = [f"{100 * (first.streams / float_bpp - 1):+.2f} %", f"{last.streams:.4f}"]
        cells += [f"{100 * (last.streams / first.streams - 1):+.2f} %", f"{last.files:.4f}"]
        row = (f"{quality}", f"{float_bpp:.4f}", f"{first.streams:.4f}", *cells, f"{last.score:.2f}")
        rows.append(f"| {' | '.join(row)} |")
    return [
        "| quality | estimate, bpp | streams, bpp | difference | tables refitted, bpp | difference "
        f"| whole files, bpp | {title} |",
        "|---" * 8 + "|",
        *rows,
    ]


def describe(file: Path, checkpoint: Path, costs: np.ndarray | None, rate: list[str]) -> str:
    """The part of the model card that is measured here: what the weights are and what they were made with."""
    model = weights.read(file, file.stem, torch.device("cpu"))
    with safe_open(checkpoint, "pt") as f:
        metadata = f.metadata()
    recipe = load_recipe(checkpoint)
    judge = TITLES[recipe["tune"]].partition(",")[0]
    for key in ("data", "screens", "valid", "out", "start"):  # places on one machine say nothing to others
        del recipe[key]
    bits = ", ".join(f"{b:.2f}" for net in (model.integer_net, model.hyper_prior) for b in net.bits_used())
    lines = [
        f"`{file.name}`, {file.stat().st_size} bytes, hash `{model.hash.hex()}`.",
        "",
        f"Network: `{metadata['network']}`",
        "",
        f"Last training run: `{json.dumps(recipe)}`",
        "",
        f"Done in all: `{metadata['done']}`",
        "",
        f"Integer networks: the worst partial sum of each layer takes {bits} of the 24 exact bits.",
    ]
    if costs is not None:
        tops = (f"{limit / TOP_RATE_POINT:.2f}" if limit >= 0 else "never" for limit in model.width_limits)
        steps = costs.shape[1] - 1
        lines += [
            "",
            "Widths against the full one, estimated bytes on the validation pictures at equal "
            f"{judge}, and the highest quality up to which the encoder takes the width by itself (at most "
            f"{MOST_WIDTH_COST:.1%} more bytes):",
            "",
            "| width | "
            + " | ".join(f"quality {i / steps:.2f}" for i in range(steps + 1))
            + " | by itself |",
            "|---" * (steps + 3) + "|",
            *(
                f"| {k} | " + " | ".join(f"{cost:+.1%}" for cost in row) + f" | {top} |"
                for k, (row, top) in enumerate(zip(costs, tops, strict=True), 1)
            ),
        ]
    if rate:
        lines += ["", "Validation pictures, float estimate against real files (effort 0):", "", *rate]
    return "\n".join(lines)


def write_card(card: Path, text: str) -> None:
    """Put ``text`` between the card's markers; everything else in the card is left as people wrote it."""
    old = card.read_text(encoding="utf-8") if card.exists() else f"# {card.stem}\n\n{BEGIN}\n{END}\n"
    before, rest = old.split(BEGIN)
    after = rest.split(END)[1]
    card.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--valid", type=Path, help="folder of pictures to measure the cost of integers on")
    parser.add_argument("--refit", type=Path, nargs="+", help="training pictures to refit the tables to")
    args = parser.parse_args(arguments)
    costs = export(args.checkpoint, args.out, args.valid)
    tune = load_recipe(args.checkpoint)["tune"]
    exported = coded(args.out, args.valid, tune) if args.valid else []
    if args.refit:
        refit_file(args.out, args.refit)
    shipped = coded(args.out, args.valid, tune) if args.valid and args.refit else exported
    counted = estimated(args.checkpoint, args.valid) if args.valid else []
    rate = describe_rate(counted, exported, shipped, TITLES[tune]) if args.valid else []
    text = describe(args.out, args.checkpoint, costs, rate)
    print(text)
    write_card(args.out.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
