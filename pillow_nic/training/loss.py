"""Rate and distortion of a batch: the whole codec with its roundings replaced for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..distortion import MIXTURES, Distortion, Similarity
from ..entropy_model import (
    RateEstimator,
    code_groups,
    noisy,
    side_information,
    two_piece_gaussian_bits,
)
from ..hyper_prior import passes
from ..network import LOG2_LEAST, Network, NetworkConfig
from ..visual import Light, WeightedSum, score


class TrainingModel(nn.Module):
    """The network and how it is trained."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.network = Network(config)
        self.symbol_bits = two_piece_gaussian_bits
        self.learn_step = True


@dataclass
class Result:
    """Per picture: bits per pixel in all and of the hyper-latent, MSE in 8-bit levels², and the
    reconstruction in 0…1; and ŷ in the natural domain (B, C, h, w), which a narrow synthesis can read,
    too."""

    bpp: Tensor
    hyper_bpp: Tensor
    mse: Tensor
    x_hat: Tensor
    y_hat: Tensor


def forward(
    model: TrainingModel,
    x: Tensor,
    point: Tensor,
    *,
    delta: float = 0.0,
    width: int = -1,
    groups: int | None = None,
    hard: bool = False,
) -> Result:
    """Code pictures ``x`` (B, 3, H, W) at rate points ``point`` (B,), with step exponent ``delta`` (octaves),
    for readers of a width, keeping the first ``groups`` of its groups. ``hard``: bits of the rounded symbols,
    and pictures rounded to 8 bits."""
    network = model.network
    config = network.config
    total = config.widths[width].groups
    y = network.g_a(x, point)
    size = (y.shape[2], y.shape[3])
    scaled = network.h_a(y, point) * torch.exp2(network.hyper_gain(point)[0])[:, :, None, None]
    rounded = scaled + (scaled.round() - scaled).detach()
    hyper_bits = _hyper_bits(model, rounded if hard else noisy(scaled), rounded, point)
    side = side_information(network, rounded, point, delta, size)
    log2_scale, log2_skew = (t[:, :, : size[0], : size[1]] for t in network.h_s(side.z_hat))
    log2_scale = log2_scale + side.log2_gain
    coder = RateEstimator(y, side, log2_scale, log2_skew, not hard, model.symbol_bits, model.learn_step)
    y_hat = code_groups(network, side.features, point, coder, total if groups is None else groups, total)
    x_hat = network.g_s(y_hat, point, width)
    if hard:
        x_hat = (x_hat.clamp(0, 1) * 255).round() / 255
    pixels = x.shape[2] * x.shape[3]
    hyper_bpp = hyper_bits / pixels
    return Result(coder.bits / pixels + hyper_bpp, hyper_bpp, squared_error(x, x_hat), x_hat, y_hat)


def _hyper_bits(model: TrainingModel, samples: Tensor, rounded: Tensor, point: Tensor) -> Tensor:
    """Bits of the hyper-latent of each picture, pass by pass (hyper_prior.py). Of rounded symbols with the
    scales that the tables have; noise, which is no narrower than a step, would make these dear."""
    height, width = samples.shape[2:]
    known, bits = samples.new_zeros(1, 1, height, width), samples.new_zeros(len(samples))
    with torch.autocast(samples.device.type, enabled=False):
        for positions in passes(height, width):
            mask = torch.from_numpy(positions).to(known)
            mu, log2_scale = model.network.hyper_prior(rounded, known, point)
            if samples is rounded:  # the gradient passes: a scale that has sunk lower must be able to rise
                log2_scale = log2_scale + (log2_scale.clamp_min(LOG2_LEAST) - log2_scale).detach()
            found = model.symbol_bits(samples - mu, log2_scale, torch.zeros_like(mu))
            bits = bits + (found * mask).sum((1, 2, 3))
            known = known + mask
    return bits


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """MSE of each picture in 8-bit levels², (B,)."""
    return (x_hat - x).square().mean((1, 2, 3)) * 255**2


def distortion(tune: str, x: Tensor, x_hat: Tensor) -> Tensor:
    """What a tune minimises beside the rate, (B,) in 8-bit levels²."""
    with torch.autocast(x.device.type, enabled=False):
        return Distortion(MIXTURES[tune], x)(x_hat.float())


def similarity(x: Tensor, x_hat: Tensor) -> Tensor:
    """MS-SSIM of each picture, (B,)."""
    with torch.autocast(x.device.type, enabled=False):
        return Similarity(x)(x_hat.float())


TITLES = {"visual": "SSIMULACRA2", "ms-ssim": "MS-SSIM, dB", "psnr": "PSNR, dB"}
"""What each tune is judged by."""


def judged(tune: str, x: Tensor, x_hat: Tensor) -> Tensor:
    """PSNR, MS-SSIM as −10·log₁₀(1 − MS-SSIM), or SSIMULACRA2, of each picture, (B,)."""
    if tune == "psnr":
        return 10 * (255**2 / squared_error(x, x_hat)).log10()
    if tune == "ms-ssim":
        return -10 * (1 - similarity(x, x_hat)).log10()
    return x.new_tensor([score(found) for found in WeightedSum(Light.of(x))(Light.of(x_hat)).tolist()])
