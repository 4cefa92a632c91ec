"""What training has brought: how many bytes a model needs against an earlier one, by every judge.

    git show COMMIT:weights/nic-2-visual.safetensors > before.safetensors
    python tests/tools/training_curve.py valid/ before.safetensors weights/nic-2-visual.safetensors
    python tests/tools/training_curve.py valid/ runs/*.safetensors --tune psnr --plot weights/nic-2.png

BD-rate of each file, weights or a checkpoint, against the first: at all rates, up to 0.5 bpp and from there,
means over pictures; and the crops that it has seen. The rate is the estimate of training (no file is
written), so that a checkpoint can be judged before it is exported. Needs the extras `train` and `bench`."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import torch

from pillow_nic.bench.metrics import METRICS, Curve, bd_rate, extra
from pillow_nic.decoding import Pixels
from pillow_nic.options import TUNES
from pillow_nic.training.loss import TrainingModel, forward
from pillow_nic.training.train import load_checkpoint, validation_pictures

JUDGES = {"psnr": ["psnr", "ms_ssim"]}
ALL_JUDGES = ["ssimulacra2", "butteraugli", "cvvdp", "ms_ssim", "psnr"]
POINTS = {"psnr": (0, 1.75, 2.625, 3.5, 4.375, 5.25)}
OTHER_POINTS = (0.9, 2, 3.2, 4.4, 5.6)
RATES = {"all rates": (0.01, 9.0), "to 0.5 bpp": (0.01, 0.5), "from 0.5 bpp": (0.5, 9.0)}


@torch.no_grad()
def curves(file: Path, pictures: list[torch.Tensor], tune: str) -> tuple[float, list[dict[str, Curve]]]:
    """The crops that a model has seen, and for each picture its curve by each judge."""
    network, state, done = load_checkpoint(file)
    model = TrainingModel(network)
    model.load_state_dict({key: state[key] for key in model.state_dict()})
    model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    found = []
    for x in pictures:
        original = levels(x)
        points: dict[str, list[tuple[float, float]]] = {}
        for point in POINTS.get(tune, OTHER_POINTS):
            result = forward(model, x, torch.tensor([float(point)]), hard=True)
            decoded = levels(result.x_hat)
            for name in JUDGES.get(tune, ALL_JUDGES):
                metric = METRICS[name]
                score = metric.on_curve(metric.score(original, decoded))
                points.setdefault(name, []).append((result.bpp.item(), score))
        found.append(dict(points))
    return done.get("crops", 0.0), found


def levels(x: torch.Tensor) -> Pixels:
    pixels: Pixels = (x[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return pixels


def changes(mine: list[dict[str, Curve]], first: list[dict[str, Curve]]) -> dict[str, list[float]]:
    """By judge and range of `RATES`, in percent; a picture without such rates does not count."""
    by_judge: dict[str, list[float]] = {}
    for name in first[0]:
        for rates in RATES.values():
            found = []
            for a, b in zip(mine, first, strict=True):
                try:
                    found.append(bd_rate(a[name], b[name], rates).percent)
                except ValueError:
                    continue
            by_judge.setdefault(name, []).append(fmean(found) if found else float("nan"))
    return by_judge


def plot(file: Path, crops: list[float], lines: dict[str, list[float]], title: str) -> None:
    panel = extra("matplotlib.figure").Figure(figsize=(7, 4.6), layout="constrained")
    axes = panel.subplots()
    for name, line in lines.items():
        axes.plot(
            [number / 1000 for number in crops], line, marker="o", label=METRICS[name].title.lstrip("−")
        )
    axes.set_xlabel("thousands of crops")
    axes.set_ylabel("bytes at equal quality, % against the first")
    axes.grid(alpha=0.3)
    axes.legend()
    panel.suptitle(title)
    panel.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="validation pictures")
    parser.add_argument(
        "files", type=Path, nargs="+", help="weights and checkpoints, the first to compare with"
    )
    parser.add_argument(
        "--tune", choices=TUNES, default="visual", help="whose judges and rates (default: visual)"
    )
    parser.add_argument(
        "--pictures", type=int, default=6, help="how many, spread over the folder (default: 6)"
    )
    parser.add_argument("--plot", type=Path, help="draw BD-rate at all rates over crops")
    args = parser.parse_args()
    found = validation_pictures(args.folder, 1 << 30, torch.device("cpu"))
    pictures = found[:: max(1, len(found) // args.pictures)][: args.pictures]
    names = JUDGES.get(args.tune, ALL_JUDGES)
    print(f"{len(pictures)} pictures; {' / '.join(RATES)}, %")
    print("| file | crops | " + " | ".join(METRICS[name].title.lstrip("−") for name in names) + " |")
    print("|---" * (len(names) + 2) + "|")
    crops, lines = [], {name: [] for name in names}
    first: list[dict[str, Curve]] = []
    for file in args.files:
        seen, mine = curves(file, pictures, args.tune)
        first = first or mine
        by_judge = changes(mine, first)
        cells = [" / ".join(f"{value:+.1f}" for value in by_judge[name]) for name in names]
        print(f"| {file} | {seen:.0f} | " + " | ".join(cells).replace("-", "−") + " |", flush=True)
        crops.append(seen)
        for name in names:
            lines[name].append(by_judge[name][0])
    if args.plot:
        plot(args.plot, crops, lines, f"{args.tune}: {len(pictures)} validation pictures, estimated rate")


if __name__ == "__main__":
    main()
