"""One tile: its latent ↔ the symbols of its streams, by the one loop over the groups.

Both directions read the same table numbers, which integers decide; the predicted means are floats, and only
say what a symbol is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .entropy import SymbolReader, SymbolWriter
from .entropy_model import Coder, RateDistortionRounding, SymbolDecoder, SymbolEncoder, code_groups
from .entropy_tables import MAX_SYMBOL
from .errors import BitstreamError
from .header import Header
from .integer_net import DELTA_OCTAVE
from .network import HYPER
from .weights import Model

# What a squared error of the latent is worth in the encoder's choices, against the λ of training. More than
# one, because later groups are predicted from it. On validation pictures 1, 1.6, 2.5, 4 and 7 changed the
# rate of nic-1 by +3.2, +0.4, −0.8, −1.2 and −1.1 %; the card of nic-1-ms has the figures for that.
DISTORTION_WEIGHT = 4.0

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TileSymbols:
    """What is to be coded of one tile: the hyper-latent's symbols (Cz, ⌈h/4⌉, ⌈w/4⌉), the latent's and their
    table numbers (C, h, w)."""

    hyper: Array
    symbols: Array
    numbers: Array


def encode_tile(model: Model, y: Tensor, header: Header, effort: int) -> TileSymbols:
    """Latent of one tile (1, C, h, w) → its symbols."""
    network, position = model.network, model.position(header.rate_point)
    height, width = y.shape[2:]
    z_gain = torch.exp2(network.hyper_gain(position)[0])[:, :, None, None]
    z_rounded = torch.round(network.h_a(y, position) * z_gain)[0].clamp(-MAX_SYMBOL, MAX_SYMBOL)
    z = z_rounded.cpu().numpy().astype(np.int32)
    numbers = model.integer_net.table_numbers(z, header.rate_point, header.delta, y.shape[1])
    numbers = numbers[:, :height, :width]
    coded = torch.from_numpy(model.tables.sizes[numbers] > 0).to(model.device)[None].float()
    encoders: list[SymbolEncoder] = []

    def make_coder(gain: Tensor, inverse: Tensor) -> SymbolEncoder:
        rounding = _rounding(model, header, numbers, inverse) if effort else None
        encoders.append(SymbolEncoder(y, gain, inverse, coded, MAX_SYMBOL, rounding))
        return encoders[0]

    _run_groups(model, z, header, (height, width), header.groups, make_coder, header.groups)
    return TileSymbols(z, encoders[0].symbols[0].cpu().numpy().astype(np.int32), numbers)


def write_layers(
    model: Model, by_tile: Sequence[TileSymbols], layer_ends: tuple[int, ...]
) -> list[list[bytes]]:
    """Streams of every layer and tile, for layers that end after these groups."""
    streams: list[list[bytes]] = []
    for start, end in pairwise((0, *layer_ends)):
        streams.append([])
        for tile in by_tile:
            writer = SymbolWriter()
            if start == 0:
                writer.put(tile.hyper, _hyper_indices(tile.hyper.shape), model.hyper_tables)
            for g in range(start, end):
                part = slice(model.config.group_ends[g] - model.config.groups[g], model.config.group_ends[g])
                writer.put(tile.symbols[part], tile.numbers[part], model.tables)
            streams[-1].append(writer.getvalue())
    return streams


def decode_tile(
    model: Model, streams: list[bytes], header: Header, number: int, size: tuple[int, int], total: int
) -> Tensor:
    """Streams of tile ``number``, one for each layer that is there → ŷ (1, C, *size); groups up to ``total``
    that are not there stand at their predicted means."""
    coded = header.layer_ends[len(streams) - 1]
    z, symbols, _ = read_symbols(model, streams, header, number, size)
    values = torch.from_numpy(symbols).to(model.device)[None].float()

    def make_coder(_: Tensor, inverse: Tensor) -> SymbolDecoder:
        return SymbolDecoder(values, inverse[:, : values.shape[1]])

    return _run_groups(model, z, header, size, total, make_coder, coded)


def read_symbols(
    model: Model, streams: list[bytes], header: Header, number: int, size: tuple[int, int]
) -> tuple[Array, Array, Array]:
    """One tile's symbols, int32: the hyper-latent's (Cz, ⌈h/4⌉, ⌈w/4⌉) and the latent's (C, h, w) of the
    groups that are there, with their table numbers. BitstreamError names the stream."""
    config = model.config
    channels = config.group_ends[header.layer_ends[len(streams) - 1] - 1]
    z = np.zeros((config.hyper_channels, -(-size[0] // HYPER), -(-size[1] // HYPER)), np.int32)
    symbols = np.zeros((channels, *size), np.int32)
    numbers = np.zeros(0, np.uint16)
    group = 0
    for layer, stream in enumerate(streams):
        try:
            reader = SymbolReader(stream)
            if layer == 0:
                z = reader.get(_hyper_indices(z.shape), model.hyper_tables)
                numbers = model.integer_net.table_numbers(z, header.rate_point, header.delta, channels)
                numbers = numbers[:, : size[0], : size[1]]
            for g in range(group, header.layer_ends[layer]):
                part = slice(config.group_ends[g] - config.groups[g], config.group_ends[g])
                symbols[part] = reader.get(numbers[part], model.tables)
            reader.finish()
        except BitstreamError as error:
            raise BitstreamError(f"stream of layer {layer + 1}, tile {number + 1}: {error}") from error
        group = header.layer_ends[layer]
    return z, symbols, numbers


def _run_groups(
    model: Model,
    z: Array,
    header: Header,
    size: tuple[int, int],
    total: int,
    make_coder: Callable[[Tensor, Tensor], Coder],
    coded: int,
) -> Tensor:
    """The loop over the groups, for both directions: hyper-latent symbols (Cz, h, w) → ŷ (1, C, *size).

    ``make_coder`` gets the gains m and m' (1, C, 1, 1) with Δ included.
    """
    network, position = model.network, model.position(header.rate_point)
    channels = model.config.group_ends[total - 1]
    delta = header.delta / DELTA_OCTAVE
    hyper_inverse = torch.exp2(network.hyper_gain(position)[1])[:, :, None, None]
    log2_gain, log2_inverse = (t[:, :channels, None, None] for t in network.gain(position))
    z_hat = torch.from_numpy(z).to(model.device)[None].float() * hyper_inverse
    features = network.features(z_hat)[:, :, : size[0], : size[1]]
    coder = make_coder(torch.exp2(log2_gain - delta), torch.exp2(log2_inverse + delta))
    return code_groups(network, features, position, coder, coded, total)


def _rounding(model: Model, header: Header, numbers: Array, inverse: Tensor) -> RateDistortionRounding:
    """The encoder's choice of symbols at the λ of the rate point and Δ: an error of one step in a channel
    is one of m'·deviation in an orthonormal transform, and λ counts the mean over three colours."""
    lmbda = model.config.lmbda(model.position(header.rate_point)) / 4 ** (header.delta / DELTA_OCTAVE)
    step = 255 * inverse * model.network.g_s.deviation[: inverse.shape[1], None, None]
    weight = DISTORTION_WEIGHT * lmbda / 3 * step.square()
    tables = torch.from_numpy(numbers.astype(np.int64)).to(model.device)[None]
    return RateDistortionRounding(model.symbol_costs, tables, weight)


def _hyper_indices(shape: tuple[int, ...]) -> Array:
    """Table numbers of hyper-latent symbols (Cz, h, w): one table per channel."""
    return np.broadcast_to(np.arange(shape[0], dtype=np.uint16)[:, None, None], shape)
