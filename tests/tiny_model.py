"""Models small enough to be made in a test: a tiny architecture, random parameters, its weights file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from pillow_nic import self_test
from pillow_nic.hyper_prior import FRACTIONS, IntegerHyperPrior
from pillow_nic.integer_net import Array, IntegerHyperSynthesis
from pillow_nic.network import Network, NetworkConfig, Ranks, Width, Writer
from pillow_nic.training.quantise import quantise, quantise_prior
from pillow_nic.training.tables import gaussian_tables, shifted_tables

CONFIG = NetworkConfig(
    slices=(8, 8, 16),
    groups=(5, 3, 8, 16),
    writer=Writer(14, (11, 18), 20, (22,)),
    widths=(Width(2, 0.5), Width(3, 0.75), Width(4, 1.0)),
    ranks=Ranks(12, 8, 20, 5),
    channels_8=16,
    blocks_8=2,
    channels_16=24,
    blocks_16=1,
    hyper_channels=6,
    hyper_hidden=10,
    hyper_last=13,
    features=7,
    context_hidden=9,
    checkerboard=1,
    rate_points=4,
)
"""Every number differs from its neighbours where it can, so that a mixed-up one does not fit."""

METADATA = {
    "network": CONFIG.to_json(),
    "width_limits": "[-1, -1, 65535]",
    "reduced_groups": json.dumps({2: [4] * 4, 4: [3, 4, 4, 4], 8: [3] * 4, 16: [1, 2, 3, 3]}),
}


def random_network(config: NetworkConfig = CONFIG, seed: int = 1, spread: float = 0.5) -> Network:
    """A network in which every parameter counts: nothing is left at what training starts from.

    ``spread``: the standard deviation of what a convolution gives for inputs of variance 1.
    """
    generator = torch.Generator().manual_seed(seed)
    network = Network(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 4:
                parameter.copy_(noise * spread / parameter[0].numel() ** 0.5)
            elif name.endswith(("log2_gain", "conditioning.scale")):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("log2_inverse"):
                parameter.copy_(-1 + 0.3 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return network.eval().requires_grad_(False)


def integer_arrays(network: Network) -> dict[str, Array]:
    """The arrays of its integer network, with the tables' geometry that export uses."""
    return quantise(
        network.h_s,
        network.gain.log2_gain.numpy(),
        network.hyper_gain.log2_inverse.numpy(),
        table_rows=48,
        table_columns=7,
        scale_step=1 / 4,
        skew_step=1 / 4,
        scale_zero=float(np.log2(0.12)),
    )


def prior_arrays(network: Network) -> dict[str, Array]:
    """The arrays of its hyper-latent's prior, with tables of the geometry that export uses."""
    scales = {"scale_step": 1 / 4, "scale_zero": float(np.log2(0.12))}
    tables = shifted_tables(40, FRACTIONS, sigma_min=0.12, rows_per_octave=4)
    return quantise_prior(network.hyper_prior, **scales) | tables.to_arrays("tables.")


def self_test_arrays(network: Network) -> dict[str, Array]:
    """What its self-test expects."""
    hyper_prior = IntegerHyperPrior(prior_arrays(network), network.config.hyper_channels)
    return self_test.expected(network, IntegerHyperSynthesis(integer_arrays(network)), hyper_prior)


def weights_tensors(network: Network) -> dict[str, torch.Tensor]:
    """All tensors of its weights file, by their names."""
    arrays = {f"integer.{k}": v for k, v in integer_arrays(network).items()}
    arrays |= gaussian_tables(48, 7).to_arrays("tables.")
    arrays |= {f"hyper_prior.{k}": v for k, v in prior_arrays(network).items()}
    arrays |= {f"self_test.{k}": v for k, v in self_test_arrays(network).items()}
    tensors = {f"network.{k}": v.contiguous() for k, v in network.state_dict().items()}
    return tensors | {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}


def save_weights(file: Path, network: Network) -> Path:
    """Write the network's weights file and return its path."""
    save_file(weights_tensors(network), file, METADATA | {"network": network.config.to_json()})
    return file
