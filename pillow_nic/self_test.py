"""A small picture that every model decodes once when it is loaded: is this machine, this device, able to?

The table indices must be those that the exporting machine computed, bit for bit; the float networks' picture
may drift by a level. What is expected is stored in the weights file."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import numpy as np
import torch

from .entropy_model import SymbolDecoder, code_groups, side_information
from .errors import WeightsError
from .hyper_prior import IntegerHyperPrior
from .integer_net import Array, IntegerHyperSynthesis
from .network import HYPER, Network

SIDE = 2  # hyper-latent positions
RATE_POINTS = (0, 23456, 65535)


def expected(
    network: Network, integer_net: IntegerHyperSynthesis, hyper_prior: IntegerHyperPrior
) -> dict[str, Array]:
    """The arrays that export stores: ``indices`` (2, 3) int64, a CRC-32 of the latent's and of the
    hyper-latent's table indices at each rate point, and ``picture`` (3, 128, 128) uint8."""
    return {"indices": _indices(network, integer_net, hyper_prior), "picture": _picture(network)}


def check(
    network: Network,
    integer_net: IntegerHyperSynthesis,
    hyper_prior: IntegerHyperPrior,
    stored: Mapping[str, Array],
) -> None:
    """WeightsError if this process computes other table indices, or a picture more than a level off."""
    indices, picture = stored["indices"], stored["picture"]
    if not np.array_equal(_indices(network, integer_net, hyper_prior), indices):
        raise WeightsError("self-test: the integer networks give other table indices here than at export")
    device = next(network.parameters()).device
    found = _picture(network)
    if found.shape != picture.shape:
        raise WeightsError("self-test: the stored picture is not this network's")
    worst = int(np.abs(found.astype(int) - picture).max())
    if worst > 1:
        raise WeightsError(
            f"self-test: {device} decodes a picture that is {worst} levels off; try NIC_DEVICE=cpu"
        )


def _symbols(channels: int, side: int, step: int, most: int) -> Array:
    """Integers within ±most without a pattern that a convolution could miss."""
    mixed = np.arange(channels * side * side, dtype=np.int64) * 2654435761 % (1 << 32) >> step
    return (mixed % (2 * most + 1) - most).astype(np.int32).reshape(channels, side, side)


def _indices(network: Network, integer_net: IntegerHyperSynthesis, hyper_prior: IntegerHyperPrior) -> Array:
    symbols = _symbols(network.config.hyper_channels, SIDE, 7, 11)
    channels = network.config.latent_channels

    def of_hyper(point: int) -> Array:
        """What is coded of the hyper-latent, and with which tables."""
        return np.concatenate([part for pair in hyper_prior.segments(symbols, point) for part in pair], 1)

    latent = [integer_net.table_indices(symbols, point, 3, channels) for point in RATE_POINTS]
    hyper = [of_hyper(point) for point in RATE_POINTS]
    checksums = [[crc32(part.astype("<i4").tobytes()) for part in parts] for parts in (latent, hyper)]
    return np.array(checksums, np.int64)


@torch.inference_mode()
def _picture(network: Network) -> Array:
    config = network.config
    device = next(network.parameters()).device
    point = torch.tensor([config.rate_points / 2], device=device)
    hyper = torch.from_numpy(_symbols(config.hyper_channels, SIDE, 9, 3)).to(device)[None].float()
    side = side_information(network, hyper, point, 0.0, (HYPER * SIDE, HYPER * SIDE))
    symbols = torch.from_numpy(_symbols(config.latent_channels, HYPER * SIDE, 11, 1)).to(device)[None].float()
    latent = code_groups(network, side.features, point, SymbolDecoder(symbols, side), len(config.groups))
    picture = network.g_s(latent, point)[0].nan_to_num(0).clamp(0, 1)
    return (picture * 255).round().to(torch.uint8).cpu().numpy()
