"""The training loop. Launch it with

    python -m pillow_nic.training --data TARS_OR_FOLDERS… --valid FOLDER --out runs/nic-1 --minutes 60

and go on from shipped weights or a checkpoint with ``--resume FILE``, for MS-SSIM with ``--tune ms-ssim``.
Time or steps (0: only validate) set the schedule: warm-up, then a cosine to 1 % of the peak; the moving
average of the weights is what is validated, saved for export and shipped."""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..network import NetworkConfig
from ..options import TUNES
from .data import SUFFIXES, Pictures, decode_picture, klt
from .loss import TrainingModel, forward, similarity, structural_distortion
from .revive import revive


@dataclass
class TrainConfig:
    """What a run is made of; stored in the checkpoint and copied into the model card."""

    data: list[str] = field(default_factory=list)
    valid: str | None = None
    out: str = "runs/nic-1"
    resume: str | None = None
    revive: bool = False
    tune: str = "psnr"
    minutes: float = 60.0
    steps: int | None = None
    batch: int = 8
    crop: int = 192
    last_crop: int = 256
    last_part: float = 0.1
    optimizer: str = "adam"
    lr: float = 1e-3
    linear_lr: float = 0.05
    prior_lr: float = 5.0
    warmup: int = 100
    clip: float = 1.0
    ema: float = 0.999
    lmbda_weight: float = 0.5
    hyper_weight: float = 1.0
    hyper_part: float = 0.4
    focus: float = 1.0
    focus_share: float = 0.8
    mixed_from: float = 0.6
    mixed_width: float = 0.15
    mixed_prefix: float = 0.1
    mixed_delta: float = 0.2
    bf16: bool = True
    compile: bool = False
    device: str = "cpu"
    seed: int = 1
    valid_pictures: int = 24


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


def load_checkpoint(path: Path) -> tuple[NetworkConfig, dict[str, Tensor], dict[str, float]]:
    """Network configuration, moving-average weights in float32 and what was done so far."""
    with safe_open(path, "pt") as f:
        metadata = f.metadata()
        keys = list(f.keys())
        prefix = "ema." if any(k.startswith("ema.") for k in keys) else ""
        state = {k[len(prefix) :]: f.get_tensor(k) for k in keys if k.startswith(prefix)}
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    return NetworkConfig.from_json(metadata["network"]), state, json.loads(metadata.get("done", "{}"))


def load_recipe(path: Path) -> dict[str, Any]:
    """The `TrainConfig` that a checkpoint was trained with, as a dictionary."""
    with safe_open(path, "pt") as f:
        return json.loads(f.metadata()["training"])


def make_optimizer(model: TrainingModel, config: TrainConfig) -> torch.optim.Optimizer:
    """The linear paths hold small, well-started numbers: they learn at a fraction of the rate. The
    factorised prior is slow to leave its start: it learns faster."""
    kinds: dict[str, list[Tensor]] = {"hidden": [], "other": [], "linear": [], "prior": []}
    for name, parameter in model.named_parameters():
        if name.endswith("quantiles"):
            continue
        kind = "linear" if ".klt." in name else "prior" if name.startswith("hyper_prior.") else "other"
        if kind == "other" and parameter.dim() == 4 and ".head." not in name:
            kind = "hidden"
        kinds[kind].append(parameter)
    scales = {"hidden": 1.0, "other": 1.0, "linear": config.linear_lr, "prior": config.prior_lr}
    groups: list[dict[str, Any]] = [
        {"params": parameters, "scale": scales[kind]} for kind, parameters in kinds.items()
    ]
    if config.optimizer == "muon":
        from pytorch_optimizer import Muon

        for kind, group in zip(kinds, groups, strict=True):
            group |= (
                {"use_muon": True, "use_adjusted_lr": True}
                if kind == "hidden"
                else {"use_muon": False, "betas": (0.9, 0.99)}
            )
        return Muon(groups)
    if config.optimizer == "soap":
        from pytorch_optimizer import SOAP

        return SOAP(groups, lr=config.lr, betas=(0.95, 0.95), weight_decay=0.0, precondition_frequency=10)
    return torch.optim.Adam(groups, lr=config.lr, betas=(0.9, 0.99), fused=True)


def hyper_discount(config: TrainConfig, part: float) -> float:
    """What part of the hyper-latent's bits does not count, after this part of the run.

    At full price most of its channels die before the rest has learned to use them, and a channel that is 0
    everywhere never comes back."""
    return (1 - config.hyper_weight) * max(0.0, 1 - part / config.hyper_part)


@torch.no_grad()
def validate(
    model: TrainingModel,
    pictures: list[Tensor],
    positions: list[float],
    bf16: bool,
    width: int = -1,
    tune: str = "psnr",
) -> list[dict[str, float]]:
    """Mean bits per pixel (estimated, hyper-latent included), PSNR and, for that ``tune``, MS-SSIM over
    pictures at each rate point, truly rounded."""
    model.eval()
    rows = []
    for position in positions:
        values: dict[str, list[float]] = {"bpp": [], "hyper": [], "psnr": []}
        for x in pictures:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                result = forward(model, x, torch.tensor([position], device=x.device), width=width, hard=True)
            values["bpp"].append(result.bpp.item())
            values["hyper"].append(result.hyper_bpp.item())
            values["psnr"].append(10 * math.log10(255**2 / result.mse.item()))
            if tune == "ms-ssim":
                values.setdefault("ms_ssim", []).append(similarity(x, result.x_hat).item())
        rows.append({"position": position} | {key: float(np.mean(v)) for key, v in values.items()})
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


def train(config: TrainConfig, network: NetworkConfig | None = None) -> TrainingModel:
    """Run a training from the KLT or from ``config.resume``; returns the model with its averaged weights."""
    start = time.time()
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    device = torch.device(config.device)
    pictures = Pictures([Path(p) for p in config.data], device, max(config.crop, config.last_crop))
    print(
        f"{len(pictures.pictures)} pictures, {pictures.megapixels:.0f} Mpixel, {time.time() - start:.0f} s",
        flush=True,
    )
    done = {"steps": 0.0, "crops": 0.0, "minutes": 0.0}
    if config.resume:
        network, state, before = load_checkpoint(Path(config.resume))
        model = TrainingModel(network)
        model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()}, strict=False)
        done |= {key: before.get(key, 0.0) for key in done}
    else:
        model = TrainingModel(network or NetworkConfig())
        model.network.start_from_klt(*klt(pictures, model.network.config.latent_channels, 16, rng))
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.revive:
        print(f"{revive(model, pictures.crops(rng, 16, config.crop))} channels revived", flush=True)
    model.train()
    if config.compile:
        model.symbol_bits = torch.compile(model.symbol_bits, dynamic=True)
    ema = {k: v.detach().clone() for k, v in model.state_dict().items()}
    optimizer = make_optimizer(model, config)
    valid = validation_pictures(Path(config.valid), config.valid_pictures, device) if config.valid else []
    points = model.network.config.rate_points - 1
    groups = len(model.network.config.groups)
    widths = len(model.network.config.widths)
    out = Path(config.out)

    begin, step, crops, log, saved = time.time(), 0, 0, [], time.time()

    def done_by_now() -> dict[str, float]:
        now = {"steps": step, "crops": crops, "minutes": (time.time() - begin) / 60}
        return {key: done[key] + now[key] for key in done}

    while config.steps is None or step < config.steps:
        elapsed = (time.time() - begin) / 60
        part = elapsed / config.minutes if config.steps is None else step / config.steps
        if part >= 1:
            break
        rate = min(1.0, (step + 1) / config.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate * group["scale"]
        last = part > 1 - config.last_part
        side = config.last_crop if last else config.crop
        count = max(1, round(config.batch * (config.crop / side) ** 2))
        x = pictures.crops(rng, count, side).contiguous(memory_format=torch.channels_last)
        # One rate point per picture, spread over the batch: no step sees only one end of the range. A focus
        # below 1 draws most of them from the lower part of the range.
        part_of_range = np.where(rng.random(count) < config.focus_share, config.focus, 1.0)
        drawn = (rng.permutation(count) + rng.random(count)) / count * part_of_range * points
        position = torch.from_numpy(drawn).float().to(device)
        width, kept, delta = -1, groups, 0.0
        if part > config.mixed_from:
            if rng.random() < config.mixed_width:
                width = int(rng.integers(widths - 1))
                kept = model.network.config.widths[width].groups
                suited = np.where(rng.random(count) < config.focus_share, kept / groups, 1.0)
                position = position * torch.from_numpy(suited).float().to(device)
            elif rng.random() < config.mixed_prefix:
                kept = int(rng.integers(1, groups))
            elif rng.random() < config.mixed_delta:
                delta = float(rng.integers(-8, 9)) / 8
        # A missing group must not change what is sent of the others, nor a width the steps that all share.
        learn = {"learn_encoder": width != -1 or kept == groups, "learn_gains": kept == groups}
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            result = forward(model, x, position, width=width, groups=kept, delta=delta, **learn)
        # A part of the channels is trained at the λ that suits it: groups/all of the range at most.
        lmbda = model.network.config.lmbda(position.clamp_max(points * kept / groups))
        weight = (lmbda / 0.01) ** -config.lmbda_weight
        hyper_bits = hyper_discount(config, part) * result.hyper_bpp
        distortion = result.mse if config.tune == "psnr" else structural_distortion(x, result)
        loss = (weight * (result.bpp - hyper_bits + lmbda * distortion)).mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        if torch.isfinite(norm):
            optimizer.step()
        step, crops = step + 1, crops + count
        decay = min(config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for key, value in model.state_dict().items():
                if value.is_floating_point():
                    ema[key].lerp_(value, 1 - decay)
        if width == -1 and kept == groups:
            psnr = 10 * (255**2 / result.mse.detach()).log10().mean()
            log.append(
                (
                    loss.item(),
                    result.bpp.mean().item(),
                    result.hyper_bpp.mean().item(),
                    psnr.item(),
                    norm.item(),
                )
            )
        if step in (1, 10, 50) or step % 100 == 0:
            mean = np.mean(log[-100:], 0)
            print(
                f"step {step} {elapsed:.1f} min lr {config.lr * rate:.2e} loss {mean[0]:.4f} "
                f"bpp {mean[1]:.4f} hyper {mean[2]:.4f} psnr {mean[3]:.2f} norm {mean[4]:.2f} "
                f"{crops / (time.time() - begin):.1f} crops/s",
                flush=True,
            )
        if time.time() - saved > 300:
            saved = time.time()
            save_checkpoint(out / "checkpoint.safetensors", model, ema, config, done_by_now())

    save_checkpoint(out / "checkpoint.safetensors", model, ema, config, done_by_now())
    model.load_state_dict(ema)
    if valid:
        positions = [points * q / 8 for q in (0, 2, 3, 4, 5, 6, 8)]
        for row in validate(model, valid, positions, config.bf16, tune=config.tune):
            print(json.dumps(row), flush=True)
    return model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pillow_nic.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = TrainConfig()
    for name, value in asdict(defaults).items():
        flag = "--" + name.replace("_", "-")
        if name == "data":
            parser.add_argument(flag, nargs="+", required=True)
        elif isinstance(value, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=value)
        else:
            choices = {"tune": TUNES, "optimizer": ("adam", "muon", "soap")}.get(name)
            kind = {"steps": int}.get(name, str if value is None else type(value))
            parser.add_argument(flag, type=kind, default=value, choices=choices)
    parser.add_argument(
        "--network", default="{}", help="JSON of NetworkConfig fields that differ from the defaults"
    )
    args = vars(parser.parse_args(arguments))
    network = NetworkConfig.from_json(json.dumps(asdict(NetworkConfig()) | json.loads(args.pop("network"))))
    train(TrainConfig(**args), network)
