"""One tile: its latent ↔ the symbols of its streams, by the one loop over the groups.

Both directions read the same table indices, which integers decide; the predicted means are floats, and only
say what a symbol is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import workers
from .container import Container
from .entropy import SymbolReader, SymbolWriter
from .entropy_model import (
    RateDistortionRounding,
    SideInformation,
    SymbolDecoder,
    SymbolEncoder,
    code_strips,
    side_information,
)
from .entropy_tables import MAX_SYMBOL
from .errors import BitstreamError
from .header import Header
from .hyper_prior import Segments
from .integer_net import DELTA_OCTAVE
from .network import HYPER
from .tiling import shares
from .weights import Model

# What a squared error of the latent is worth in the encoder's choices, against the λ of training. More than
# one, because later groups are predicted from it. On validation pictures 1, 1.6, 2.5, 4 and 7 changed the
# rate of nic-1, the model before, by +3.2, +0.4, −0.8, −1.2 and −1.1 %; the cards have more.
DISTORTION_WEIGHT = {"visual": 4.0, "ms-ssim": 6.0, "psnr": 4.0}
# Bound of |ŷ|. A picture's stay below 2**8; far above 2**16 the synthesis would end in infinities and NaN.
MAX_LATENT = 1 << 16
# Bound of a hyper-latent symbol in what is written: it may lie far from its mean, too.
MAX_HYPER = MAX_SYMBOL // 2
# Bytes of a layer in a tile. Each stream takes about ten for its length, checksum and the coder's state.
LEAST_LAYER = 160

STRIP = 16
"""Rows of a latent that are computed at once, at most, or more if these have fewer positions than"""
POSITIONS = 16 * 64
"""those of a whole tile: thin pictures would else take twice the time."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TileSymbols:
    """What is to be coded of one tile: the hyper-latent's symbols (Cz, ⌈h/4⌉, ⌈w/4⌉), the latent's and their
    table indices (C, h, w)."""

    hyper: Array
    symbols: Array
    indices: Array


class Stored:
    """The symbols of a large picture, held as the streams of its layers and read from them when they are
    asked for: those of 100 megapixels would take 0.8 GB."""

    def __init__(
        self, model: Model, header: Header, bands: Iterable[Sequence[TileSymbols]], threads: int
    ) -> None:
        self.model, self.header = model, header
        self.streams: list[list[bytes]] = [[] for _ in header.layer_ends]
        self.sizes: list[tuple[int, int]] = []
        for band in bands:
            written = write_layers(model, band, header, threads)
            for layer, streams in zip(self.streams, written, strict=True):
                layer += streams
            self.sizes += [(tile.symbols.shape[1], tile.symbols.shape[2]) for tile in band]

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[TileSymbols]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> TileSymbols:
        streams = [layer[number] for layer in self.streams]
        return TileSymbols(*read_symbols(self.model, streams, self.header, number, self.sizes[number]))


ByTile = Sequence[TileSymbols] | Stored
"""What is to be coded of each tile of a picture."""


class Known(NamedTuple):
    """What is to be coded of a picture's tiles, but for those that have ``changed``."""

    by_tile: ByTile
    changed: set[int]


def encode_tile(model: Model, y: Tensor, header: Header, effort: int, tune: str) -> TileSymbols:
    """Latent of one tile (1, all channels, h, w) → the symbols of the groups that the file has, chosen from
    effort 1 on for what the tune minimises."""
    network, point = model.network, model.point(header.rate_point)
    size = (y.shape[2], y.shape[3])
    z_gain = torch.exp2(network.hyper_gain(point)[0])[:, :, None, None]
    z = torch.round(network.h_a(y, point) * z_gain).clamp(-MAX_HYPER, MAX_HYPER)
    hyper = z[0].cpu().numpy().astype(np.int32)
    y = y[:, : model.config.group_ends[header.groups - 1]]
    indices = model.integer_net.table_indices(
        hyper, header.rate_point, header.delta, y.shape[1], workers.each_within
    )
    indices = indices[:, : size[0], : size[1]]
    has_table = torch.from_numpy(model.tables.sizes[indices] > 0).to(model.device)[None].float()
    side = side_information(network, z, point, header.delta / DELTA_OCTAVE, size)
    coders = []
    for rows in _strips(model, size):
        rounding = (
            _rounding(model, header, indices[:, rows], side, DISTORTION_WEIGHT[tune]) if effort else None
        )
        coders.append((rows, SymbolEncoder(y[:, :, rows], side, has_table[:, :, rows], MAX_SYMBOL, rounding)))
    code_strips(network, side.features, point, coders, header.groups, each=workers.each_within)
    symbols = torch.cat([coder.symbols for _, coder in coders], 2)
    return TileSymbols(hyper, as_integers(symbols), indices)


def as_integers(symbols: Tensor) -> Array:
    """Symbols (1, C, h, w) as they are kept: int16 where they fit, as nearly all of them do."""
    values = symbols[0].cpu().numpy()
    reach = max(values.max(initial=0), -values.min(initial=0))
    return values.astype(np.int16 if reach <= np.iinfo(np.int16).max else np.int32)


def write_layers(
    model: Model, by_tile: ByTile, header: Header, threads: int = 1, hyper: dict[int, Segments] | None = None
) -> list[list[bytes]]:
    """Streams of every layer and tile, for the header's layers and rate point. ``hyper``: of some tiles the
    segments of the hyper-latent, to which those of the others are added."""
    hyper = {} if hyper is None else hyper
    layer_ends = header.layer_ends
    if isinstance(by_tile, Stored) and by_tile.header.layer_ends == layer_ends:
        return list(by_tile.streams)
    ends, groups = model.config.group_ends, model.config.groups

    def write_tile(number: int) -> list[bytes]:
        tile = by_tile[number]

        def write(layer: tuple[int, int]) -> bytes:
            start, end = layer
            writer = SymbolWriter()
            if start == 0:
                if number not in hyper:
                    hyper[number] = model.hyper_prior.segments(tile.hyper, header.rate_point)
                model.hyper_prior.put(writer, hyper[number])
            for g in range(start, end):
                part = slice(ends[g] - groups[g], ends[g])
                writer.put(tile.symbols[part], tile.indices[part], model.tables)
            return writer.getvalue()

        return workers.each_within(write, pairwise((0, *layer_ends)))

    streams = workers.each(write_tile, range(len(by_tile)), threads)
    return [list(layer) for layer in zip(*streams, strict=True)]


def write_file(
    model: Model, by_tile: ByTile, header: Header, join: bool, threads: int = 1
) -> tuple[Header, list[list[bytes]]]:
    """The streams of a file, and its header with the layers that it has at last. ``join``: those that are
    too small to be worth a stream of their own."""
    hyper: dict[int, Segments] = {}
    streams = write_layers(model, by_tile, header, threads, hyper)
    if join:
        ends = _join_layers(header.layer_ends, streams)
        if ends != header.layer_ends:
            header = replace(header, layer_ends=ends)
            streams = write_layers(model, by_tile, header, threads, hyper)
    # Layers that came out empty say nothing that the predicted means do not: without them a file decodes to
    # the same picture.
    while len(streams) > 1 and not any(streams[-1]):
        streams.pop()
    return replace(header, layer_ends=header.layer_ends[: len(streams)]), streams


def _join_layers(layer_ends: tuple[int, ...], streams: list[list[bytes]]) -> tuple[int, ...]:
    """The layer ends without those of layers that are too small to be worth a stream of their own."""
    ends: list[int] = []
    size = 0
    for end, layer in zip(layer_ends, streams, strict=True):
        size += sum(map(len, layer))
        if size >= LEAST_LAYER * len(layer):
            ends.append(end)
            size = 0
    if size:
        ends = [*ends[:-1], layer_ends[-1]]
    return tuple(ends or layer_ends[-1:])


def decode_tile(model: Model, files: Sequence[Container], number: int, latent: Tensor, total: int) -> None:
    """Tile ``number`` of each file → its ŷ, ``latent`` (files, C, h, w); groups up to ``total`` that are not
    there stand at their predicted means. The files have one Δ; their rate points and layers may differ.
    BitstreamError for symbols that no picture has."""
    network, headers, size = model.network, [file.header for file in files], (*latent.shape[2:],)
    point = model.point(*(header.rate_point for header in headers))
    sides: list[SideInformation] = []

    def see(*hypers: Array) -> None:
        z = torch.from_numpy(np.stack(hypers).astype(np.float32)).to(model.device)
        sides.append(side_information(network, z, point, headers[0].delta / DELTA_OCTAVE, size))

    def read(file: Container) -> tuple[Array, Array, Array]:
        streams = [layer[number] for layer in file.streams]
        return read_symbols(model, streams, file.header, number, size, see if len(files) == 1 else None)

    found = workers.each_within(read, files)
    if len(files) > 1:
        see(*(hyper for hyper, _, _ in found))
    channels = max(len(symbols) for _, symbols, _ in found)
    values = np.zeros((len(files), channels, *size), np.float32)  # 0: the mean
    for value, (_, symbols, _) in zip(values, found, strict=True):
        value[: len(symbols)] = symbols
    w, side = torch.from_numpy(values).to(model.device), sides[0]
    kept = model.config.group_ends.index(channels) + 1
    coders = [(rows, SymbolDecoder(w[:, :, rows], side)) for rows in _strips(model, size)]
    code_strips(network, side.features, point, coders, kept, total, workers.each_within, latent)
    everywhere = (0, 1, 2, 3)
    most, least = latent.amax(everywhere, keepdim=True), latent.amin(everywhere, keepdim=True)
    largest = torch.maximum(most, -least).cpu()
    if not largest < MAX_LATENT:  # "not <": NaN is not less than anything
        raise BitstreamError(f"tile {number + 1}: its symbols give a latent out of range")


def _strips(model: Model, size: tuple[int, int]) -> list[slice]:
    """Rows of a tile's latent that one thread computes: always the same, so that the number of threads
    changes nothing."""
    height, width = size
    return shares(height, max(STRIP, POSITIONS // width) if model.device.type == "cpu" else height)


def read_symbols(
    model: Model,
    streams: list[bytes],
    header: Header,
    number: int,
    size: tuple[int, int],
    beside: Callable[[Array], None] | None = None,
) -> tuple[Array, Array, Array]:
    """One tile's symbols, int32: the hyper-latent's (Cz, ⌈h/4⌉, ⌈w/4⌉) and the latent's (C, h, w) of the
    groups that are there, with their table indices. BitstreamError names the stream. ``beside``: what to do
    with the first while the others are read."""
    config = model.config
    channels = config.group_ends[header.layer_ends[len(streams) - 1] - 1]
    shape = (config.hyper_channels, -(-size[0] // HYPER), -(-size[1] // HYPER))
    symbols = np.zeros((channels, *size), np.int32)

    @contextmanager
    def naming(layer: int) -> Iterator[None]:
        try:
            yield
        except BitstreamError as error:
            raise BitstreamError(f"stream of layer {layer + 1}, tile {number + 1}: {error}") from error

    with naming(0):
        first = SymbolReader(streams[0])
        z = model.hyper_prior.get(first, shape, header.rate_point)
    indices = model.integer_net.table_indices(
        z, header.rate_point, header.delta, channels, workers.each_within
    )
    indices = indices[:, : size[0], : size[1]]

    def read(layer: int) -> None:
        with naming(layer):
            reader = SymbolReader(streams[layer]) if layer else first
            for g in range(header.layer_ends[layer - 1] if layer else 0, header.layer_ends[layer]):
                part = slice(config.group_ends[g] - config.groups[g], config.group_ends[g])
                symbols[part] = reader.get(indices[part], model.tables)
            reader.finish()

    tasks: list[Callable[[], None]] = [partial(read, layer) for layer in range(len(streams))]
    tasks.reverse()  # the largest groups come last
    if beside is not None:
        tasks.insert(1, partial(beside, z))
    workers.each_within(lambda task: task(), tasks)
    return z, symbols, indices


def symbol_bits(model: Model, symbols: Array, indices: Array) -> Array:
    """Bits of latent symbols (C, h, w) with these table indices, float32; for the encoder's choices only."""
    costs = model.symbol_costs.cpu().numpy()
    reach = costs.shape[1] // 2
    return costs[indices, np.clip(symbols, -reach, reach) + reach]


def lmbda_of(model: Model, header: Header) -> Tensor:
    """λ of the file's rate point and Δ, (1,): bits that an error of one 8-bit level² in a pixel is worth."""
    return model.config.lmbda(model.point(header.rate_point)) / 4 ** (header.delta / DELTA_OCTAVE)


def _rounding(
    model: Model, header: Header, indices: Array, side: SideInformation, worth: float
) -> RateDistortionRounding:
    """The encoder's choice of symbols at the λ of the rate point and Δ: an error of one step in a channel
    is one of m'·deviation in an orthonormal transform, and λ counts the mean over three colours."""
    lmbda = lmbda_of(model, header)
    step = 255 * torch.exp2(side.log2_inverse) * model.network.g_s.deviation[:, None, None]
    weight = worth * lmbda / 3 * step.square()
    tables = torch.from_numpy(indices.astype(np.int64)).to(model.device)[None]
    return RateDistortionRounding(model.symbol_costs, tables, weight)
