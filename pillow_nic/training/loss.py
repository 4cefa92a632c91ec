"""Rate and distortion of a batch: the whole codec with its roundings replaced for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from compressai.entropy_models import EntropyBottleneck
from pytorch_msssim import ms_ssim
from torch import Tensor, nn

from ..entropy_model import RateEstimator, code_groups, two_piece_gaussian_bits
from ..network import Network, NetworkConfig

PRIOR_SCALE = 3
"""Half the width, in symbols, of the hyper-latent's prior at the start."""


class TrainingModel(nn.Module):
    """The network and what only training needs: the factorised prior of the hyper-latent (Ballé et al.,
    ICLR 2018)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.network = Network(config)
        self.symbol_bits = two_piece_gaussian_bits
        self.hyper_prior = EntropyBottleneck(config.hyper_channels, init_scale=PRIOR_SCALE)


MS_SSIM_SCALE = 1270.0
"""What 1 − MS-SSIM = 1 counts as, in 8-bit levels²: at this ratio of their λ, CompressAI's models for MSE and
for MS-SSIM have about the same rates, so that a rate point means the same for both."""
MSE_SHARE = 0.1
"""What is left of the MSE beside MS-SSIM, which hardly sees a shift of colours."""


@dataclass
class Result:
    """Per picture: bits per pixel in all and of the hyper-latent, MSE in 8-bit levels², and the
    reconstruction in 0…1."""

    bpp: Tensor
    hyper_bpp: Tensor
    mse: Tensor
    x_hat: Tensor


def forward(
    model: TrainingModel,
    x: Tensor,
    position: Tensor,
    *,
    delta: Tensor | float = 0.0,
    width: int = -1,
    groups: int | None = None,
    hard: bool = False,
    learn_encoder: bool = True,
    learn_gains: bool = True,
) -> Result:
    """Code pictures ``x`` (B, 3, H, W) at rate points ``position`` (B,), with step exponent ``delta``
    (octaves), at a width, keeping the first ``groups`` groups. ``hard``: bits of the rounded symbols, and
    pictures rounded to 8 bits. ``learn_encoder``, ``learn_gains``: whether gradients reach the analysis and
    the hyper-analysis, and the gains of both latents."""
    network = model.network
    config = network.config
    kept = config.widths[width].groups if groups is None else groups
    with torch.set_grad_enabled(learn_encoder and torch.is_grad_enabled()):
        y = network.g_a(x, position, width)
        z = network.h_a(y, position)
    channels = y.shape[1]
    with torch.set_grad_enabled(learn_gains and torch.is_grad_enabled()):
        gains, hyper_gains = network.gain(position), network.hyper_gain(position)
    hyper_gain, hyper_inverse = (torch.exp2(t)[:, :, None, None] for t in hyper_gains)
    scaled = z * hyper_gain
    with torch.autocast(x.device.type, enabled=False):
        _, likelihood = model.hyper_prior(scaled, training=not hard)
    z_hat = (scaled + (scaled.round() - scaled).detach()) * hyper_inverse
    log2_scale, log2_skew = (t[:, :channels, : y.shape[2], : y.shape[3]] for t in network.h_s(z_hat))
    features = network.features(z_hat)[:, :, : y.shape[2], : y.shape[3]]
    log2_gain, log2_inverse = (t[:, :channels, None, None] for t in gains)
    log2_gain, log2_inverse = log2_gain - delta, log2_inverse + delta
    coder = RateEstimator(
        y, log2_gain, log2_inverse, log2_scale + log2_gain, log2_skew, not hard, model.symbol_bits
    )
    y_hat = code_groups(network, features, position, coder, kept, config.widths[width].groups)
    x_hat = network.g_s(y_hat, position, width)
    if hard:
        x_hat = (x_hat.clamp(0, 1) * 255).round() / 255
    pixels = x.shape[2] * x.shape[3]
    hyper_bpp = -torch.log2(likelihood.clamp_min(1e-9)).sum((1, 2, 3)) / pixels
    mse = (x_hat - x).square().mean((1, 2, 3)) * 255**2
    return Result(coder.bits / pixels + hyper_bpp, hyper_bpp, mse, x_hat)


def structural_distortion(x: Tensor, result: Result) -> Tensor:
    """In place of the MSE for ``tune="ms-ssim"``: (B,), in 8-bit levels². Pictures of more than 160 pixels a
    side (Wang et al., Asilomar 2003: five scales)."""
    dissimilarity = 1 - similarity(x, result.x_hat)
    return (1 - MSE_SHARE) * MS_SSIM_SCALE * dissimilarity + MSE_SHARE * result.mse


def similarity(x: Tensor, x_hat: Tensor) -> Tensor:
    """MS-SSIM of each picture, (B,)."""
    with torch.autocast(x.device.type, enabled=False):
        return ms_ssim(x_hat.float(), x, data_range=1.0, size_average=False)
