"""Channels of the hyper-latent that have died: 0 everywhere, with a prior too narrow for them to return."""

from __future__ import annotations

import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor

from .loss import PRIOR_SCALE, TrainingModel

DEAD = 0.01
"""A channel is dead if it rounds to 0 at more than 99 % of the positions, at every rate point."""


@torch.no_grad()
def revive(model: TrainingModel, x: Tensor) -> int:
    """Give the dead channels another start, and say how many they were.

    On the pictures ``x`` (B, 3, H, W) in 0…1 their outputs are centred and scaled to a standard deviation of
    1, which the gain of the middle rate point leaves as it is; at the others the gain follows the mean of the
    living channels. Their priors are new, and what reads them is 0, so that at first only bits are added."""
    network = model.network
    config = network.config
    points = range(config.rate_points)
    positions = [torch.full((x.shape[0],), float(p), device=x.device) for p in points]
    latents = [network.h_a(network.g_a(x, p), p).movedim(1, 0).flatten(1) for p in positions]
    log2_gain = network.hyper_gain.log2_gain
    symbols = [(z * torch.exp2(gain)[:, None]).round() for z, gain in zip(latents, log2_gain, strict=True)]
    dead = torch.stack([(s != 0).float().mean(1) for s in symbols]).amax(0) < DEAD
    if not dead.any():
        return 0
    middle = config.rate_points // 2
    slope = torch.zeros(config.rate_points, device=x.device)
    if not dead.all():
        slope = (log2_gain[:, ~dead] - log2_gain[middle, ~dead]).mean(1)
    log2_gain[:, dead] = slope[:, None]
    network.hyper_gain.log2_inverse[:, dead] = -slope[:, None]
    last = network.h_a.conv4
    assert last.bias is not None
    mean, deviation = latents[middle][dead].mean(1), latents[middle][dead].std(1).clamp_min(1e-6)
    last.weight[dead] /= deviation[:, None, None, None]
    last.bias[dead] = (last.bias[dead] - mean) / deviation
    for reader in (network.h_s.conv1, network.features.conv1):
        reader.weight[:, dead] = 0
    fresh = EntropyBottleneck(config.hyper_channels, init_scale=PRIOR_SCALE).to(x.device).state_dict()
    for key, value in model.hyper_prior.state_dict().items():
        if value.dim() and value.shape[0] == config.hyper_channels:
            value[dead] = fresh[key][dead]
    return int(dead.sum())
