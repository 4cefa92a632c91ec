"""Checkpoint → weights file: half-precision floats, the integer network and integer tables, with the
exactness bound verified; and the measured part of the model card beside it.

    python -m pillow_nic.training.export CHECKPOINT weights/nic-2.safetensors --valid FOLDER --refit TARS…
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import avg_pool2d
from tqdm import tqdm

from .. import codec, container, self_test, weights
from ..entropy_tables import Table, Tables
from ..integer_net import IntegerHyperSynthesis
from ..network import Network
from ..options import REDUCTIONS, TOP_RATE_POINT, rate_point
from .data import Pictures
from .loss import TITLES, TrainingModel, forward, judged
from .quantise import quantise
from .refit import count_symbols, refit
from .tables import gaussian_tables, table_from_pmf
from .train import load_checkpoint, load_recipe, validate, validation_pictures

ROWS, COLUMNS = 48, 7
SIGMA_MIN, ROWS_PER_OCTAVE, MAX_SKEW = 0.12, 4, 0.75
BEGIN, END = "<!-- written by export -->", "<!-- end of what export writes -->"
MOST_WIDTH_COST = 0.005
LEAST_SHOWN = 0.3
"""PSNR in dB that the groups which a reduced picture does without may be worth."""
HYPER_REACH = 1000
"""Hyper-latent symbols beyond ± this are left to the escape."""


def hyper_tables(model: TrainingModel) -> Tables:
    """One integer table per hyper-latent channel from the trained factorised prior."""
    prior = model.hyper_prior
    values = torch.arange(-HYPER_REACH, HYPER_REACH + 1, dtype=torch.float32)
    with torch.no_grad():
        likelihood, _, _ = prior._likelihood(values.expand(model.network.config.hyper_channels, 1, -1))
    return Tables.join(_hyper_table(p) for p in likelihood[:, 0].double().numpy())


def _hyper_table(pmf: np.ndarray) -> Table:
    return table_from_pmf(pmf / max(pmf.sum(), 1.0), HYPER_REACH)


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
    model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()}, strict=False)
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
    named |= hyper_tables(model).to_arrays("hyper_tables.")
    named |= {f"self_test.{k}": v for k, v in _self_test(network, arrays).items()}
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
    fitted = refit(model.tables, count_symbols(model, drawn.to(torch.uint8).numpy()))
    with safe_open(file, "pt") as f:
        tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
        metadata = f.metadata()
    tensors |= {key: torch.from_numpy(array) for key, array in fitted.to_arrays("tables.").items()}
    save_file(tensors, file, metadata)
    file.chmod(0o644)


def _self_test(network: Network, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of the network as it ships: convolutions in half precision."""
    shipped = copy.deepcopy(network).eval()
    for parameter in shipped.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.half().float()
    return self_test.expected(shipped, IntegerHyperSynthesis(arrays))


@torch.no_grad()
def integer_cost(
    file: Path, checkpoint: Path, folder: Path, qualities: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
) -> list[str]:
    """Per quality, a table row: the float model's estimated bits per pixel on validation pictures; those of
    real files' streams and how far they are off: integer network, integer tables and coder together; and
    those of the whole files with their PSNR or MS-SSIM."""
    config, state, _ = load_checkpoint(checkpoint)
    model = TrainingModel(config)
    model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()}, strict=False)
    model.eval()
    weights.use(file, torch.device("cpu"))
    tune = load_recipe(checkpoint)["tune"]
    pictures = validation_pictures(folder, 24, torch.device("cpu"))
    rows = []
    for quality in tqdm(qualities):
        estimated, coded, real, scores = [], [], [], []
        for x in pictures:
            point = torch.tensor([rate_point(quality) * (config.rate_points - 1) / 65536])
            estimated.append(forward(model, x, point, hard=True).bpp.item())
            pixels = (x[0].permute(1, 2, 0) * 255).round().byte().numpy()
            data = codec.encode(pixels, quality=quality, effort=0, model=file.stem, device="cpu")
            streams = container.parse(data).streams
            coded.append(8 * sum(len(s) for layer in streams for s in layer) / pixels[..., 0].size)
            real.append(8 * len(data) / pixels[..., 0].size)
            decoded = torch.from_numpy(codec.decode(data, device="cpu")).permute(2, 0, 1)[None] / 255
            scores.append(judged(tune, x, decoded).item())
        change = 100 * (np.mean(coded) / np.mean(estimated) - 1)
        streams_cell = f"{np.mean(coded):.4f} | {change:+.2f} %"
        files_cell = f"{np.mean(real):.4f} | {np.mean(scores):.2f}"
        rows.append(f"| {quality} | {np.mean(estimated):.4f} | {streams_cell} | {files_cell} |")
    return rows


def describe(file: Path, checkpoint: Path, folder: Path | None, costs: np.ndarray | None) -> str:
    """The part of the model card that is measured here: what the weights are and what they were made with."""
    model = weights.read(file, file.stem, torch.device("cpu"))
    with safe_open(checkpoint, "pt") as f:
        metadata = f.metadata()
    recipe = load_recipe(checkpoint)
    title = TITLES[recipe["tune"]]
    for key in ("data", "screens", "valid", "out", "start"):  # places on one machine say nothing to others
        del recipe[key]
    bits = ", ".join(f"{b:.2f}" for b in model.integer_net.bits_used())
    lines = [
        f"`{file.name}`, {file.stat().st_size} bytes, hash `{model.hash.hex()}`.",
        "",
        f"Network: `{metadata['network']}`",
        "",
        f"Last training run: `{json.dumps(recipe)}`",
        "",
        f"Done in all: `{metadata['done']}`",
        "",
        f"Integer network: the worst partial sum of each layer takes {bits} of the 24 exact bits.",
    ]
    if folder is not None and costs is not None:
        tops = (f"{limit / TOP_RATE_POINT:.2f}" if limit >= 0 else "never" for limit in model.width_limits)
        steps = costs.shape[1] - 1
        lines += [
            "",
            "Widths against the full one, estimated bytes on the validation pictures at equal "
            f"{title.partition(',')[0]}, and the highest quality up to which the encoder takes the width by "
            f"itself (at most {MOST_WIDTH_COST:.1%} more bytes):",
            "",
            "| width | "
            + " | ".join(f"quality {i / steps:.2f}" for i in range(steps + 1))
            + " | by itself |",
            "|---" * (steps + 3) + "|",
            *(
                f"| {k} | " + " | ".join(f"{cost:+.1%}" for cost in row) + f" | {top} |"
                for k, (row, top) in enumerate(zip(costs, tops, strict=True), 1)
            ),
            "",
            "Validation pictures, float estimate against what the streams of real files take (effort 0):",
            "",
            f"| quality | estimate, bpp | streams, bpp | difference | whole files, bpp | {title} |",
            "|---|---|---|---|---|---|",
            *integer_cost(file, checkpoint, folder),
        ]
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
    if args.refit:
        refit_file(args.out, args.refit)
    text = describe(args.out, args.checkpoint, args.valid, costs)
    print(text)
    write_card(args.out.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
