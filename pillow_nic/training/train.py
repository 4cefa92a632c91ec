"""The training loop. One command starts a training and, given again, goes on with it:

    python -m pillow_nic.training --data TARS… --screens TARS… --valid FOLDER --out runs/nic-2 --minutes 60

The run in ``--out`` is a *trunk*: a constant rate after a short warm-up, and a checkpoint of weights, moving
average and optimiser, from which the next run goes on where this one stopped. ``--start FILE`` begins a new
trunk from another network's weights, as far as shapes allow (grow.py). What ships is the trunk's moving
average or a short run branched off it, ``--start runs/nic-2/checkpoint.safetensors --decay 1``, in
which the rate falls to 1 %. ``--steps 0`` only validates."""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..distortion import MIXTURES
from ..network import NetworkConfig
from .data import SUFFIXES, Pictures, decode_picture, klt
from .grow import grow
from .loss import TrainingModel, distortion, forward, judged


def _option(default: Any, sentence: str) -> Any:
    return field(default=default, metadata={"sentence": sentence})


@dataclass
class TrainConfig:
    """What a run is made of; stored in the checkpoint and copied into the model card."""

    data: list[str] = field(default_factory=list, metadata={"sentence": "tars and folders of photographs"})
    screens: list[str] = field(
        default_factory=list, metadata={"sentence": "tars and folders of screens, plots and drawings"}
    )
    screen_share: float = _option(
        0.08, "share of the crops that are taken from the screens, if there are any"
    )
    valid: str | None = _option(None, "folder of validation pictures")
    out: str = _option("runs/nic-2", "folder of the checkpoint; a run that finds one there goes on with it")
    start: str | None = _option(None, "weights or checkpoint to start a new run from, as far as shapes allow")
    freeze: list[str] = field(
        default_factory=list,
        metadata={"sentence": "parts of the network that do not learn, such as g_a; step: the predicted q"},
    )
    tune: str = _option("psnr", "what to train for")
    minutes: float = _option(60.0, "length of this run")
    steps: int | None = _option(None, "length of this run in steps, instead of minutes")
    batch: int = _option(12, "crops in a step; fewer where they are larger")
    crop: int = _option(192, "side of a crop in pixels")
    last_crop: int = _option(256, "side of a crop in the last part of the run")
    last_part: float = _option(0.0, "part of the run at its end with the last crop size")
    optimizer: str = _option("muon", "optimiser of the hidden convolutions")
    lr: float = _option(6e-4, "learning rate")
    linear_lr: float = _option(0.05, "learning rate of the linear paths, relative; 0 leaves them as they are")
    warmup: int = _option(100, "steps in which the rate rises at the start of a run without optimiser state")
    decay: float = _option(0.0, "part of the run at its end in which the rate falls to 1 %; 0 for a trunk")
    clip: float = _option(1.0, "bound of the gradient's norm")
    ema: float = _option(0.9998, "factor of the moving average of the weights")
    lmbda_weight: float = _option(0.5, "the loss of a rate point is divided by (λ/0.01) to this power")
    focus: float = _option(0.78, "lower part of the range of rate points that is drawn more often")
    focus_share: float = _option(0.8, "share of the rate points that are drawn from that part")
    narrow: float = _option(0.0, "share of the steps in which a narrow synthesis learns beside the full one")
    prefix: float = _option(0.0, "share of the steps with a random prefix of the groups")
    delta: float = _option(0.03, "share of the other steps with a random step exponent")
    bf16: bool = _option(False, "compute in bfloat16 where that is safe; only for processors that have it")
    compile: bool = _option(True, "compile the rate's elementwise chain")
    device: str = _option("cpu", "where to compute")
    seed: int = _option(1, "of the crops, rate points and noise")
    valid_pictures: int = _option(24, "how many validation pictures to use")


CHECKPOINT, OPTIMIZER = "checkpoint.safetensors", "optimizer.pt"


def save_checkpoint(
    path: Path, model: TrainingModel, ema: dict[str, Tensor], config: TrainConfig, done: dict[str, float]
) -> None:
    """Weights and their moving average (``ema.`` prefix) with both configurations, as safetensors."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v.detach().cpu().contiguous() for k, v in ema.items()}
    metadata = {
        "network": model.network.config.to_json(),
        "training": json.dumps(asdict(config)),
        "done": json.dumps(done),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata)
    partial.rename(path)


def load_checkpoint(
    path: Path, averaged: bool = True
) -> tuple[NetworkConfig, dict[str, Tensor], dict[str, float]]:
    """Network configuration, weights in float32 (their moving average where the file has one) and what was
    done so far."""
    with safe_open(path, "pt") as f:
        metadata = f.metadata()
        keys = list(f.keys())
        prefix = "ema." if averaged and any(k.startswith("ema.") for k in keys) else ""
        state = {k[len(prefix) :]: f.get_tensor(k) for k in keys if k.startswith("ema.") == bool(prefix)}
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    return NetworkConfig.from_json(metadata["network"]), state, json.loads(metadata.get("done", "{}"))


def load_recipe(path: Path) -> dict[str, Any]:
    """The `TrainConfig` that a checkpoint was trained with, as a dictionary."""
    with safe_open(path, "pt") as f:
        return json.loads(f.metadata()["training"])


def make_optimizer(model: TrainingModel, config: TrainConfig) -> torch.optim.Optimizer:
    """The linear paths hold small, well-started numbers: they learn at a fraction of the rate. Parameters
    that do not learn are left out."""
    kinds: dict[str, list[Tensor]] = {"hidden": [], "other": [], "linear": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = "linear" if ".klt." in name else "other"
        if kind == "other" and parameter.dim() == 4 and ".head." not in name:
            kind = "hidden"
        kinds[kind].append(parameter)
    scales = {"hidden": 1.0, "other": 1.0, "linear": config.linear_lr}
    groups: list[dict[str, Any]] = [
        {"params": parameters, "scale": scales[kind], "use_muon": kind == "hidden"}
        for kind, parameters in kinds.items()
        if parameters
    ]
    if config.optimizer == "muon":
        from .muon import Float32Muon

        for group in groups:
            group |= {"use_adjusted_lr": True} if group["use_muon"] else {"betas": (0.9, 0.99)}
        return Float32Muon(groups)
    for group in groups:
        del group["use_muon"]
    if config.optimizer == "soap":
        from pytorch_optimizer import SOAP

        return SOAP(groups, lr=config.lr, betas=(0.95, 0.95), weight_decay=0.0, precondition_frequency=50)
    return torch.optim.Adam(groups, lr=config.lr, betas=(0.9, 0.99), fused=True)


@torch.no_grad()
def validate(
    model: TrainingModel,
    pictures: list[Tensor],
    points: list[float],
    bf16: bool,
    width: int = -1,
    tune: str = "psnr",
) -> list[dict[str, float]]:
    """Means over pictures at each rate point, truly rounded: estimated bits per pixel in all and of the
    hyper-latent, and what the ``tune`` is judged by."""
    model.eval()
    rows = []
    for point in points:
        values: dict[str, list[float]] = {"bpp": [], "hyper": [], "score": []}
        for x in pictures:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                result = forward(model, x, torch.tensor([point], device=x.device), width=width, hard=True)
            values["bpp"].append(result.bpp.item())
            values["hyper"].append(result.hyper_bpp.item())
            values["score"].append(judged(tune, x, result.x_hat).item())
        rows.append({"point": point} | {key: float(np.mean(v)) for key, v in values.items()})
    model.train()
    return rows


def validation_pictures(folder: Path, count: int, device: torch.device) -> list[Tensor]:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)[:count]
    pictures = []
    for file in files:
        a = decode_picture(file.read_bytes())
        a = a[: a.shape[0] // 16 * 16, : a.shape[1] // 16 * 16]
        pictures.append(torch.from_numpy(a.copy()).to(device).permute(2, 0, 1)[None].float() / 255)
    return pictures


@dataclass
class Draw:
    """What one step trains: rate points (B,), how many groups are kept, the step exponent in octaves, and the
    width of a synthesis that learns beside the full one."""

    point: Tensor
    kept: int
    delta: float = 0.0
    narrow: int | None = None


def draw(rng: np.random.Generator, config: TrainConfig, network: NetworkConfig, count: int) -> Draw:
    """One rate point per picture, spread over the batch: no step sees only one end of the range. A focus
    below 1 draws most of them from the lower part of the range."""
    top = network.rate_points - 1
    part = np.where(rng.random(count) < config.focus_share, config.focus, 1.0)
    points = (rng.permutation(count) + rng.random(count)) / count * part * top
    drawn = Draw(torch.from_numpy(points).float().to(config.device), len(network.groups))
    if rng.random() < config.prefix:
        drawn.kept = int(rng.integers(1, len(network.groups)))
    elif rng.random() < config.delta:
        drawn.delta = float(rng.integers(-8, 9)) / 8
    if len(network.widths) > 1 and rng.random() < config.narrow:
        drawn.narrow = int(rng.integers(len(network.widths) - 1))
    return drawn


def loss_of(
    model: TrainingModel, x: Tensor, drawn: Draw, config: TrainConfig
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one step, and what to print of it.

    A prefix of the groups is trained at the λ that suits it, k of n groups at the rate point k/n of the range
    at most. A narrow synthesis learns from the same latent, which does not learn from it: a file is made by
    the whole writer for all readers."""
    network = model.network
    top, share = network.config.rate_points - 1, drawn.kept / len(network.config.groups)
    result = forward(model, x, drawn.point, delta=drawn.delta, groups=drawn.kept)
    lmbda = network.config.lmbda(drawn.point.clamp_max(top * share))
    weight = (lmbda / 0.01) ** -config.lmbda_weight
    cost = result.bpp + lmbda * distortion(config.tune, x, result.x_hat)
    if drawn.narrow is not None:
        channels = network.config.group_ends[network.config.widths[drawn.narrow].groups - 1]
        narrow = network.g_s(result.y_hat[:, :channels].detach(), drawn.point, drawn.narrow)
        cost = cost + lmbda * distortion(config.tune, x, narrow)
    loss = (weight * cost).mean()
    psnr = 10 * (255**2 / result.mse.detach()).log10().mean()
    shown = {"loss": loss, "bpp": result.bpp.mean(), "hyper": result.hyper_bpp.mean(), "psnr": psnr}
    return loss, {key: value.item() for key, value in shown.items()}


def learning_parts(model: TrainingModel, config: TrainConfig, whole: bool) -> None:
    """Say which parameters learn in a step: a missing group must not change what is sent of the others."""
    network = model.network
    model.learn_step = "step" not in config.freeze
    for name, part in network.named_children():
        writes = name in ("g_a", "h_a", "gain", "hyper_gain")
        part.requires_grad_(name not in config.freeze and (whole or not writes))
    for transform in (network.g_a, network.g_s):
        if not config.linear_lr:
            transform.klt.requires_grad_(False)


def train(config: TrainConfig, network: NetworkConfig | None = None) -> TrainingModel:
    """Run a training; returns the model with its averaged weights. ``network`` is for new runs."""
    begin = time.time()
    device, out = torch.device(config.device), Path(config.out)
    going_on = (out / CHECKPOINT).exists()
    done = {"steps": 0.0, "crops": 0.0, "minutes": 0.0, "trunk": 0.0}  # of these steps, those of this trunk
    ema: dict[str, Tensor] = {}
    if going_on:
        network, ema, before = load_checkpoint(out / CHECKPOINT)
        done |= before
    rng = np.random.default_rng([config.seed, int(done["steps"])])
    torch.manual_seed(int(rng.integers(1 << 31)))
    pictures = Pictures(
        [Path(p) for p in config.data],
        device,
        max(config.crop, config.last_crop),
        [Path(p) for p in config.screens],
        config.screen_share if config.screens else 0.0,
    )
    print(
        f"{len(pictures.pictures)} pictures, {pictures.megapixels:.0f} Mpixel, {time.time() - begin:.0f} s",
        flush=True,
    )
    model = TrainingModel(network or NetworkConfig())
    if going_on:
        model.load_state_dict(load_checkpoint(out / CHECKPOINT, averaged=False)[1])
    elif config.start:
        _, state, before = load_checkpoint(Path(config.start))
        done |= {key: before.get(key, 0.0) for key in done} | {"trunk": 0.0}
        print(grow(model, state), flush=True)
    else:
        model.network.start_from_klt(*klt(pictures, model.network.config.latent_channels, 16, rng))
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    if config.compile:
        model.symbol_bits = torch.compile(model.symbol_bits, dynamic=True)
    ema = {k: ema.get(k, v).to(device, copy=True) for k, v in model.state_dict().items()}
    learning_parts(model, config, True)
    optimizer = make_optimizer(model, config)
    warmup = config.warmup
    if going_on and (out / OPTIMIZER).exists():
        optimizer.load_state_dict(torch.load(out / OPTIMIZER, weights_only=True))
        warmup = 0
    valid = validation_pictures(Path(config.valid), config.valid_pictures, device) if config.valid else []
    log: list[dict[str, float]] = []
    begin = saved = time.time()
    step = crops = 0

    def save() -> None:
        now = {"steps": step, "crops": crops, "minutes": (time.time() - begin) / 60, "trunk": step}
        save_checkpoint(out / CHECKPOINT, model, ema, config, {key: done[key] + now[key] for key in done})
        torch.save(optimizer.state_dict(), out / OPTIMIZER)

    while config.steps is None or step < config.steps:
        elapsed = (time.time() - begin) / 60
        part = elapsed / config.minutes if config.steps is None else step / config.steps
        if part >= 1:
            break
        rate = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if part > 1 - config.decay:
            rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (part - 1 + config.decay) / config.decay))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate * group["scale"]
        side = config.last_crop if part > 1 - config.last_part else config.crop
        count = max(1, round(config.batch * (config.crop / side) ** 2))
        x = pictures.crops(rng, count, side).contiguous(memory_format=torch.channels_last)
        drawn = draw(rng, config, model.network.config, count)
        whole = drawn.kept == len(model.network.config.groups)
        learning_parts(model, config, whole)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            loss, shown = loss_of(model, x, drawn, config)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        if torch.isfinite(norm):
            optimizer.step()
        step, crops = step + 1, crops + count
        decay = min(config.ema, (1 + done["trunk"] + step) / (10 + done["trunk"] + step))
        _average(ema, model, decay)
        if whole:
            log.append(shown | {"norm": norm.item()})
        if log and (step in (1, 10, 50) or step % 100 == 0):
            mean = {key: np.mean([row[key] for row in log[-100:]]) for key in log[-1]}
            means = " ".join(f"{key} {value:.4f}" for key, value in mean.items())
            speed = crops / (time.time() - begin)
            print(f"step {step} {elapsed:.1f} min {means} {speed:.1f} crops/s", flush=True)
        if time.time() - saved > 300:
            saved = time.time()
            save()

    if step:
        save()
    model.load_state_dict(ema)
    if valid:
        top = model.network.config.rate_points - 1
        for row in validate(
            model, valid, [top * q / 8 for q in (0, 2, 3, 4, 5, 6, 8)], config.bf16, tune=config.tune
        ):
            print(json.dumps(row), flush=True)
    return model


@torch.no_grad()
def _average(ema: dict[str, Tensor], model: TrainingModel, decay: float) -> None:
    state = model.state_dict()
    floats = [key for key, value in state.items() if value.is_floating_point()]
    torch._foreach_lerp_([ema[key] for key in floats], [state[key] for key in floats], 1 - decay)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pillow_nic.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = TrainConfig()
    for entry in fields(TrainConfig):
        value = getattr(defaults, entry.name)
        flag, sentence = "--" + entry.name.replace("_", "-"), entry.metadata["sentence"]
        if isinstance(value, list):
            parser.add_argument(flag, nargs="+", default=[], required=entry.name == "data", help=sentence)
        elif isinstance(value, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=value, help=sentence)
        else:
            choices = {"tune": tuple(MIXTURES), "optimizer": ("adam", "muon", "soap")}.get(entry.name)
            kind = {"steps": int}.get(entry.name, str if value is None else type(value))
            shown = sentence if value is None else f"{sentence} (default: {value})"
            parser.add_argument(
                flag, type=kind, default=value, choices=choices, help=shown.replace("%", "%%")
            )
    parser.add_argument(
        "--network", default="{}", help="JSON of NetworkConfig fields that differ from the defaults"
    )
    args = vars(parser.parse_args(arguments))
    network = NetworkConfig.from_json(json.dumps(asdict(NetworkConfig()) | json.loads(args.pop("network"))))
    train(TrainConfig(**args), network)
