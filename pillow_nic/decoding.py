"""Files → pixels: streams → symbols → latent → synthesis → exact cells and alpha over it.

Every symbol is decoded, on the CPU, before any float network runs. Tiles are coded independently of each
other, but the synthesis sees across their borders (halo), so there is no seam."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import colour, container, exact, weights, workers
from .binary import Buffer
from .container import Container
from .errors import BitstreamError, UnsupportedModelError
from .header import NO_MODEL, Header, region_inside
from .memory import check_size
from .network import PATCH
from .options import DecodeOptions
from .tile_coding import Array, decode_tile, read_symbols, symbol_bits
from .tiling import BAND, PIECE, Tile, Window, pieces, tiles
from .weights import Model

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Part(NamedTuple):
    """What of a file is decoded: the layers that count, under a header with the network width that decodes
    them; and how many groups the latent has, of which those that are not there stand at their predicted
    means."""

    file: Container
    groups: int


def choose(data: Buffer, options: DecodeOptions) -> Part:
    """Read a file's bytes as far as the options want it; errors as for :func:`decode`."""
    header, _ = container.read_info(data)
    region_inside(options.region, header)
    check_size(header)
    if header.model == NO_MODEL:
        return Part(container.parse(data), 0)
    widths = model_for(header, options.device).config.widths
    parsed = container.parse(data, layers=layers_needed(header, options), partial=options.partial)
    header = replace(header, layer_ends=header.layer_ends[: len(parsed.streams)])
    if options.fast:
        narrow = next(i for i, width in enumerate(widths) if width.groups >= header.groups)
        header = replace(header, width_index=min(narrow, header.width_index))
    # A reduced picture does without the groups that are not there: their means are all but invisible in it.
    groups = header.groups if options.reduce > 1 else widths[header.width_index].groups
    return Part(replace(parsed, header=header), groups)


def decode_together(
    parts: Sequence[Part], options: DecodeOptions, side: int = PIECE, wanted: Array | None = None
) -> list[Tensor]:
    """Decode files of one model, size, mode, tile size, network width, number of groups and Δ: uint8 tensors
    H×W×C on the device. The synthesis computes ``side`` positions a side at once. ``wanted``: positions
    (⌈H/16⌉, ⌈W/16⌉) outside of which a picture may have any pixels; by default those that are not exact
    throughout."""
    headers = [part.file.header for part in parts]
    header, factor = headers[0], options.reduce
    left, top, right, bottom = region_inside(options.region, header)
    height, width = (-(-length // factor) for length in (bottom - top, right - left))
    if header.model == NO_MODEL:
        device = weights.pick_device(options.device)
        shape = (height, width, len(header.mode))
        pictures = [_zeros(shape, np.uint8, device) for _ in parts]
    else:
        if wanted is None:
            files = (part.file for part in parts)
            unlike = (exact.to_be_painted(header, file.chunks, file.exact, PATCH) for file in files)
            wanted = np.logical_or.reduce([*unlike])
        pictures = _painted(parts, options, side, wanted)
    rows, columns = (range(a // factor, a // factor + b) for a, b in ((top, height), (left, width)))

    def complete(item: tuple[Tensor, Part]) -> None:
        picture, (file, _) = item
        for patch in exact.decode(header, file.chunks, file.exact, Window(rows, columns), factor):
            place = picture[patch.rows, patch.columns, : patch.pixels.shape[2]]
            place.copy_(torch.from_numpy(patch.over(place.cpu().numpy())))
        if "ALPH" in file.chunks:
            alpha = colour.decode_alpha(file.chunks["ALPH"], header.width, header.height)
            alpha = colour.reduce_plane(alpha[top:bottom, left:right], factor)
            picture[:, :, -1] = torch.from_numpy(alpha.copy())  # it may be read-only

    # On the pool: torch copies on several threads, too, those that a forked child would wait for for ever.
    workers.each(complete, zip(pictures, parts, strict=True), workers.thread_count(options.threads))
    return pictures


def paint(
    parts: Sequence[Part],
    options: DecodeOptions,
    canvas: Callable[[Window], list[Tensor]],
    side: int = PIECE,
    wanted: Array | None = None,
) -> Iterator[Window]:
    """Paint what the networks make of the files where that is wanted, without their exact cells and alpha, in
    bands of the latent's rows, of which each comes back when it is done. ``canvas``: of a band the uint8
    tensors H×W×C (`painted_shape`) that take each file's pixels."""
    headers, files = [part.file.header for part in parts], [part.file for part in parts]
    model = model_for(headers[0], options.device)
    rows, columns = _positions(headers[0], options)
    threads = threads_for(model, options.threads)
    latent: Latent | None = None
    for start in range(rows.start, rows.stop, BAND):
        band = Window(range(start, min(start + BAND, rows.stop)), columns)
        seen = band.grown(model.network.g_s.reach)
        latent = _decode_latent(model, files, parts[0].groups, threads, seen, wanted, latent)
        _synthesise(model, latent, headers, band, canvas(band), options.reduce, threads, side, wanted)
        yield band


def _positions(header: Header, options: DecodeOptions) -> Window:
    """Those of the latent that a region touches."""
    left, top, right, bottom = region_inside(options.region, header)
    return Window(range(top // PATCH, -(-bottom // PATCH)), range(left // PATCH, -(-right // PATCH)))


def painted_shape(header: Header, window: Window, factor: int) -> tuple[int, int, int]:
    """What a window of the latent's positions becomes at 1/factor of the size, cut at the picture's ends:
    rows, columns and the channels of the mode, of which alpha is not painted."""
    height, width = (
        min(part.stop * PATCH // factor, -(-whole // factor)) - part.start * PATCH // factor
        for part, whole in zip(window, (header.height, header.width), strict=True)
    )
    return height, width, len(header.mode)


def _painted(parts: Sequence[Part], options: DecodeOptions, side: int, wanted: Array) -> list[Tensor]:
    """Of each file all of the region, as of `paint`."""
    header, patch = parts[0].file.header, PATCH // options.reduce
    left, top, right, bottom = region_inside(options.region, header)
    whole = _positions(header, options)
    device, shape = model_for(header, options.device).device, painted_shape(header, whole, options.reduce)
    pictures = [torch.empty(shape, dtype=torch.uint8, device=device) for _ in parts]

    def canvas(band: Window) -> list[Tensor]:
        start = (band.rows.start - whole.rows.start) * patch
        return [picture[start : start + len(band.rows) * patch] for picture in pictures]

    for _ in paint(parts, options, canvas, side, wanted):
        pass
    row, column = (start // options.reduce for start in (top % PATCH, left % PATCH))
    height, width = (-(-length // options.reduce) for length in (bottom - top, right - left))
    return [picture[row : row + height, column : column + width] for picture in pictures]


def as_array(picture: Tensor) -> Pixels:
    """A tensor H×W×C as an array, H×W if it is grey alone."""
    pixels: Pixels = picture.cpu().numpy()
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def layers_needed(header: Header, options: DecodeOptions) -> int:
    """How many layers of a file are to be read and decoded: of a reduced picture no more than show in it.
    UnsupportedModelError or BitstreamError, before any is read, for more than the file's model has."""
    wanted = header.wanted(options.layers)
    if header.model == NO_MODEL:
        return wanted
    model = model_for(header, options.device)
    if options.reduce == 1:
        return wanted
    groups = model.reduced_groups(options.reduce, header.rate_point)
    return min(wanted, sum(end < groups for end in header.layer_ends) + 1)


def inspect(data: Buffer, *, device: str | None = None) -> tuple[Array, Array]:
    """What a file's streams hold: the latent ŷ in its natural domain, float32 (C, h, w), and the bits that
    each of its symbols takes, float32 (C, h, w), 0 for groups that are not there. Errors as for decode."""
    header, _ = container.read_info(data)
    check_size(header)
    model = model_for(header, device)
    parsed = container.parse(data)
    groups = model.config.widths[header.width_index].groups
    height, width = latent_size(header)
    whole = _decode_latent(model, [parsed], groups, threads_for(model, None))
    latent = whole.part(slice(0, height), slice(0, width))[0].cpu().numpy()
    bits = np.zeros_like(latent)
    for number, place in places(header):
        streams = [layer[number] for layer in parsed.streams]
        _, symbols, indices = read_symbols(model, streams, header, number, latent[0][place].shape)
        bits[: len(symbols), *place] = symbol_bits(model, symbols, indices)
    return latent, bits


def threads_for(model: Model, threads: int | None) -> int:
    """How many threads compute; one that feeds it where the model is on another device."""
    return workers.thread_count(threads) if model.device.type == "cpu" else 1


class Latent(NamedTuple):
    """ŷ by rows of tiles, ``tall`` positions each, (files, C, tall, ⌈W/16⌉), channels last."""

    strips: dict[int, Tensor]
    tall: int

    def part(self, rows: slice, columns: slice) -> Tensor:
        """Some rows and columns of it, channels last."""
        found = []
        for number in range(rows.start // self.tall, -(-rows.stop // self.tall)):
            top = number * self.tall
            own = slice(max(rows.start - top, 0), min(rows.stop - top, self.tall))
            found.append(self.strips[number][:, :, own, columns])
        joined = torch.cat(found, 2) if len(found) > 1 else found[0]
        return joined.contiguous(memory_format=torch.channels_last)


def _decode_latent(
    model: Model,
    files: Sequence[Container],
    groups: int,
    threads: int,
    window: Window | None = None,
    wanted: Array | None = None,
    above: Latent | None = None,
) -> Latent:
    """All tiles' ŷ with the channels of so many groups, or with a window the rows of tiles that it meets, of
    which only the tiles that it meets hold anything; with ``wanted`` only those that are seen there.
    ``above``: the latent of a window further up, from which rows of tiles are taken."""
    header = files[0].header
    (height, width), tall = latent_size(header), header.tile_size // PATCH
    first, stop = (0, height) if window is None else (max(window.rows.start, 0), window.rows.stop)
    channels, halo = model.config.group_ends[groups - 1], model.network.g_s.reach
    latent, known = Latent({}, tall), {} if above is None else above.strips
    for number in range(first // tall, -(-min(stop, height) // tall)):
        shape = (len(files), min(height - number * tall, tall), width, channels)
        strip = known.get(number)
        if strip is None:
            strip = _zeros(shape, np.float32, model.device).permute(0, 3, 1, 2)
        latent.strips[number] = strip

    def decode(numbered: tuple[int, tuple[slice, slice]]) -> None:
        number, (rows, columns) = numbered
        decode_tile(model, files, number, latent.strips[rows.start // tall][..., columns], groups)

    def is_new(place: tuple[slice, slice]) -> bool:
        rows, columns = (slice(max(part.start - halo, 0), part.stop + halo) for part in place)
        seen = wanted is None or bool(wanted[rows, columns].any())
        return seen and place[0].start // tall not in known

    workers.each(decode, (tile for tile in places(header, window) if is_new(tile[1])), threads)
    return latent


def _zeros(shape: tuple[int, ...], kind: type, device: torch.device | str) -> Tensor:
    """numpy's: torch fills on several threads, those that a forked child would wait for for ever."""
    return torch.from_numpy(np.zeros(shape, kind)).to(device)


def places(header: Header, window: Window | None = None) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """The number of each tile, or of each that a window meets, and its rows and columns in the latent."""
    for number, tile in enumerate(tiles(*latent_size(header), header.tile_size // PATCH)):
        if window is None or window.meets(tile):
            yield number, tile.own


def model_for(header: Header, device: str | None) -> Model:
    """The model that a file was made for; UnsupportedModelError if this is not it, or cannot have made it."""
    if header.model == NO_MODEL:
        raise UnsupportedModelError("the file has no model: all of its pixels are stored exactly")
    model = weights.load(header.model, weights.pick_device(device))
    if model.hash != header.model_hash:
        raise UnsupportedModelError(
            f"file needs model {header.model!r} of hash {header.model_hash.hex()}; "
            f"installed is {model.hash.hex()}"
        )
    config = model.config
    if header.width_index >= len(config.widths) or header.groups > config.widths[header.width_index].groups:
        raise BitstreamError(
            f"header: width {header.width_index} with {header.groups} groups is not in model {header.model!r}"
        )
    return model


def latent_size(header: Header) -> tuple[int, int]:
    return -(-header.height // PATCH), -(-header.width // PATCH)


def _synthesise(
    model: Model,
    latent: Latent,
    headers: Sequence[Header],
    window: Window,
    canvas: Sequence[Tensor],
    factor: int,
    threads: int,
    side: int = PIECE,
    wanted: Array | None = None,
) -> None:
    """Latents → on each file's canvas (`painted_shape`) a window of its positions at 1/factor of their size;
    but for pieces of which nothing is wanted."""
    patch, colours = PATCH // factor, 3 if headers[0].mode.startswith("RGB") else 1
    point, synthesis = model.point(*(header.rate_point for header in headers)), model.network.g_s

    def levels(pixels: Tensor) -> Tensor:
        pixels = pixels.mul_(255).add_(0.5).clamp_(0, 255).to(torch.uint8)
        if colours == 1:  # the rounded mean: a third never ends in .5
            total = pixels.view(*pixels.shape[:3], -1, 3).sum(4, dtype=torch.int16)
            pixels = total.add_(1).div_(3, rounding_mode="floor").to(torch.uint8)
        return pixels

    def synthesise(piece: Tile) -> None:
        width = headers[0].width_index
        x = synthesis(latent.part(*piece.outer), point, width, piece.inner, factor, levels)
        own = piece.times(patch).own_from(window.rows.start * patch, window.columns.start * patch)
        for picture, pixels in zip(canvas, x.permute(0, 2, 3, 1), strict=True):
            place = picture[own][..., :colours]
            place.copy_(pixels[: place.shape[0], : place.shape[1]])

    grid = pieces(*latent_size(headers[0]), synthesis.reach, side, window)
    workers.each(synthesise, (piece for piece in grid if wanted is None or wanted[piece.own].any()), threads)
