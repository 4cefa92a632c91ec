"""Pixels ↔ the bytes of a file: the whole pipeline.

Encoding: colour planes → latent (analysis, tile by tile with a halo) → for each tile hyper-latent, table
indices and symbols → one stream per layer and tile → container. Decoding is the same backwards; every
symbol is decoded, on the CPU, before any float network runs.

Tiles are coded independently of each other, so near a tile's border the predicted means are other ones than
those of an untiled picture, and so is the rounding. The transforms see across the borders (halo), so there
is no seam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from . import colour, container, targets, weights, workers
from .binary import Buffer, Source, whole
from .container import Container
from .errors import BitstreamError, UnsupportedModelError
from .header import Header, region_inside
from .memory import check_size, saying, within_memory
from .metadata import Metadata
from .network import PATCH, NetworkConfig
from .options import (
    TUNES,
    DecodeKeywords,
    DecodeOptions,
    EncodeOptions,
    Progress,
    SaveKeywords,
    near_name,
    rate_point,
    unknown,
    whole_number,
)
from .refinement import refine
from .tile_coding import Array, TileSymbols, decode_tile, encode_tile, read_symbols, write_file
from .tiling import PIECE, Tile, Window, pieces, tiles
from .weights import Model

TILE_LOG2 = 10
# A thumbnail gains nothing from arriving in layers, and each costs it five bytes.
SMALL = 128 * 128

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def encode(image: Array | Image.Image | Tensor, **keywords: Unpack[SaveKeywords]) -> bytes:
    """Encode a picture as a ``.nic`` file.

    ``image``: an array, uint8 or bool (stored as 0 and 255), H×W or H×W×1 (grey), H×W×2 (grey, alpha),
    H×W×3 or H×W×4; a PIL image of any mode that ``Image.save`` takes, with its metadata; or a uint8
    tensor of torch, C×H×W or H×W, on any device. ``icc_profile``, ``exif``, ``xmp``, ``dpi``,
    ``comment``: metadata, as for ``Image.save``. ``progress``: at effort 2 and 3 called now and then, on
    another thread, with how much is done, 0 to 1; what it raises ends the encoding. ValueError or
    TypeError for options, metadata, shapes and types that cannot be, and for targets that cannot be met;
    OSError for modes of more than 8 bits; UnsupportedModelError for a model that is not installed. Options:
    """
    for name in unknown(keywords):
        near = near_name(name)
        raise TypeError(f"encode() has no option {name!r}" + (f": is it {near!r}?" if near else ""))
    options, progress = EncodeOptions.chosen(keywords), keywords.get("progress")
    if isinstance(image, Image.Image):
        metadata = Metadata.from_save(image.info, keywords)
        return encode_pixels(np.asarray(colour.to_storage(image)), options, metadata, progress)
    if isinstance(image, Tensor):
        image = _channels_last(image).cpu().numpy()
    return encode_pixels(colour.as_pixels(image), options, Metadata.from_save({}, keywords), progress)


def _channels_last(tensor: Tensor) -> Tensor:
    if tensor.ndim == 3 and tensor.shape[0] <= 4:
        return tensor.permute(1, 2, 0)
    if tensor.ndim == 2:
        return tensor
    raise ValueError(
        f"a tensor must have the shape H×W or C×H×W with C from 1 to 4, not {tuple(tensor.shape)}"
    )


@saying("encode this picture")
def encode_pixels(
    pixels: Pixels,
    options: EncodeOptions,
    metadata: Metadata | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Encode uint8 pixels, H×W (grey), H×W×2 (grey, alpha), H×W×3 or H×W×4, as a ``.nic`` file; errors and
    ``progress`` as for :func:`encode`."""
    if 0 in pixels.shape[:2]:
        raise ValueError(f"pixels of shape {pixels.shape}: size out of range")
    colours, alpha = colour.split_alpha(pixels)
    if alpha is not None:
        colours = colour.fill_transparent(colours, alpha)
    chunks = metadata.to_chunks() if metadata is not None else {}
    if alpha is not None:
        chunks["ALPH"] = colour.encode_alpha(alpha)
    height, width = pixels.shape[:2]
    device = weights.pick_device(options.device)

    def encode_at(options: EncodeOptions, delta: int, progress: Progress | None) -> bytes:
        def encode_on(device: str, side: int) -> tuple[Model, Header, list[TileSymbols]]:
            loaded = weights.load(options.model or TUNES[options.tune], torch.device(device))
            header = header_for(loaded, pixels, options, delta)
            return loaded, header, symbols_of(loaded, colours, header, options, side, progress)

        loaded, header, by_tile = within_memory(device, f"encode {width}×{height} pixels", encode_on)
        header, streams = write_file(loaded, by_tile, header, join=options.layers is None)
        return container.dump(Container(header, chunks, streams))

    def decoded(data: bytes) -> Pixels:
        parsed = container.parse(data)
        model = _model_for(parsed.header, options.device)
        part = Part(parsed, model.config.widths[parsed.header.width_index].groups)
        reading = DecodeOptions(device=options.device, threads=options.threads)
        return colour.split_alpha(as_array(decode_together([part], reading)[0]))[0]

    if options.target is None:
        return encode_at(options, 0, progress)
    return targets.meet(options, targets.Picture(colours, alpha), encode_at, decoded, progress)


def symbols_of(
    model: Model,
    colours: Pixels,
    header: Header,
    options: EncodeOptions,
    side: int = PIECE,
    progress: Progress | None = None,
) -> list[TileSymbols]:
    """Colours H×W×3 → the symbols of each tile. The analysis computes ``side`` positions a side at once."""
    threads = _threads(model, options.threads)
    y = _analyse(model, colours, header, threads, side)

    def encode(numbered: tuple[int, tuple[slice, slice]]) -> TileSymbols:
        return encode_tile(model, y[:, :, *numbered[1]], header, options.effort, options.loss)

    by_tile = workers.each(encode, _places(header), threads)
    if options.effort < 2:
        return by_tile
    return refine(model, colours, y, by_tile, header, options, threads, progress)


def decode(source: Source, **keywords: Unpack[DecodeKeywords]) -> Pixels:
    """Decode a ``.nic`` file, given as bytes, path or binary file, to uint8 pixels in the shape that its
    mode has: H×W, H×W×2, H×W×3 or H×W×4.

    A region is what ``Image.crop`` would cut out, to ±1 level; tiles elsewhere are not decoded.
    ValueError if it is empty or not all inside the picture. TruncatedError for a truncated file;
    BitstreamError (an OSError, as all of these) for damaged or foreign data; UnsupportedModelError if its
    model is not installed. More pixels than PIL.Image.MAX_IMAGE_PIXELS are a warning or an error as for
    Image.open. Options:
    """
    return decode_bytes(whole(source), DecodeOptions(**keywords))


@saying("decode this file")
def decode_bytes(data: Buffer, options: DecodeOptions) -> Pixels:
    """As :func:`decode`."""
    header, _ = container.read_info(data)

    def decode_on(device: str, side: int) -> Pixels:
        chosen = replace(options, device=device)
        return as_array(decode_together([choose(data, chosen)], chosen, side)[0])

    what = f"decode {header.width}×{header.height} pixels"
    return within_memory(weights.pick_device(options.device), what, decode_on)


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
    widths = _model_for(header, options.device).config.widths
    parsed = container.parse(data, layers=layers_needed(header, options), partial=options.partial)
    header = replace(header, layer_ends=header.layer_ends[: len(parsed.streams)])
    if options.fast:
        narrow = next(i for i, width in enumerate(widths) if width.groups >= header.groups)
        header = replace(header, width_index=min(narrow, header.width_index))
    # A reduced picture does without the groups that are not there: their means are all but invisible in it.
    groups = header.groups if options.reduce > 1 else widths[header.width_index].groups
    return Part(replace(parsed, header=header), groups)


def decode_together(parts: Sequence[Part], options: DecodeOptions, side: int = PIECE) -> list[Tensor]:
    """Decode files of one model, size, mode, tile size, network width, number of groups and Δ: uint8 tensors
    H×W×C on the device. The synthesis computes ``side`` positions a side at once."""
    headers = [part.file.header for part in parts]
    header, model = headers[0], _model_for(headers[0], options.device)
    left, top, right, bottom = region_inside(options.region, header)
    window = Window(range(top // PATCH, -(-bottom // PATCH)), range(left // PATCH, -(-right // PATCH)))
    threads = _threads(model, options.threads)
    seen = window.grown(_synthesis_halo(model.config))
    latent = _decode_latent(model, [part.file for part in parts], parts[0].groups, threads, seen)
    row, column = (start // options.reduce for start in (top % PATCH, left % PATCH))
    height, width = (-(-length // options.reduce) for length in (bottom - top, right - left))
    pictures = [
        picture[row : row + height, column : column + width]
        for picture in _synthesise(model, latent, headers, window, options.reduce, threads, side)
    ]
    for picture, part in zip(pictures, parts, strict=True):
        if "ALPH" in part.file.chunks:
            alpha = colour.decode_alpha(part.file.chunks["ALPH"], header.width, header.height)
            alpha = colour.reduce_plane(alpha[top:bottom, left:right], options.reduce)
            picture[:, :, -1] = torch.from_numpy(alpha.copy())  # it may be read-only
    return pictures


def as_array(picture: Tensor) -> Pixels:
    """A tensor H×W×C as an array, H×W if it is grey alone."""
    pixels: Pixels = picture.cpu().numpy()
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def layers_needed(header: Header, options: DecodeOptions) -> int:
    """How many layers of a file are to be read and decoded: of a reduced picture no more than show in it.
    UnsupportedModelError or BitstreamError, before any is read, for more than the file's model has."""
    wanted, model = header.wanted(options.layers), _model_for(header, options.device)
    if options.reduce == 1:
        return wanted
    groups = model.reduced_groups(options.reduce, header.rate_point)
    return min(wanted, sum(end < groups for end in header.layer_ends) + 1)


def inspect(data: Buffer, *, device: str | None = None) -> tuple[Array, Array]:
    """What a file's streams hold: the latent ŷ in its natural domain, float32 (C, h, w), and the bits that
    each of its symbols takes, float32 (C, h, w), 0 for groups that are not there. Errors as for decode."""
    header, _ = container.read_info(data)
    check_size(header)
    model = _model_for(header, device)
    parsed = container.parse(data)
    groups = model.config.widths[header.width_index].groups
    latent = _decode_latent(model, [parsed], groups, _threads(model, None))[0].cpu().numpy()
    costs = model.symbol_costs.cpu().numpy()
    bits = np.zeros_like(latent)
    for number, place in _places(header):
        streams = [layer[number] for layer in parsed.streams]
        _, symbols, indices = read_symbols(model, streams, header, number, latent[0][place].shape)
        reach = costs.shape[1] // 2
        bits[: len(symbols), *place] = costs[indices, np.clip(symbols, -reach, reach) + reach]
    return latent, bits


encode.__doc__ = f"{encode.__doc__}\n{EncodeOptions.described()}"
decode.__doc__ = f"{decode.__doc__}\n{DecodeOptions.described()}"


def _threads(model: Model, threads: int | None) -> int:
    """How many threads compute; one that feeds it where the model is on another device."""
    return workers.thread_count(threads) if model.device.type == "cpu" else 1


def _decode_latent(
    model: Model, files: Sequence[Container], groups: int, threads: int, window: Window | None = None
) -> Tensor:
    """All tiles' ŷ: (files, C, ⌈H/16⌉, ⌈W/16⌉) with the channels of so many groups, channels last. With a
    window, only the tiles that it meets hold anything."""
    header = files[0].header
    shape = (len(files), *_latent_size(header), model.config.group_ends[groups - 1])
    latent = torch.empty(shape, dtype=torch.float32, device=model.device).permute(0, 3, 1, 2)

    def decode(numbered: tuple[int, tuple[slice, slice]]) -> None:
        number, place = numbered
        part = latent[:, :, *place]
        part.copy_(decode_tile(model, files, number, (part.shape[2], part.shape[3]), groups))

    workers.each(decode, _places(header, window), threads)
    return latent


def _places(header: Header, window: Window | None = None) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """The number of each tile, or of each that a window meets, and its rows and columns in the latent."""
    for number, tile in enumerate(tiles(*_latent_size(header), header.tile_size // PATCH)):
        if window is None or window.meets(tile):
            yield number, tile.own


def header_for(model: Model, pixels: Pixels, options: EncodeOptions, delta: int = 0) -> Header:
    """The header of a file of these pixels, as far as it is known before they are encoded."""
    config, point = model.config, rate_point(options.quality)
    layers, network_width = options.layers, options.network_width
    if network_width is None:
        most, width_index = len(config.groups), _automatic_width(model, point, layers or 1)
    else:
        width_index = whole_number("network_width", network_width, 1, len(config.widths)) - 1
        most = config.widths[width_index].groups
    if layers is not None:
        whole_number("layers", layers, 1, most)
    groups = config.widths[width_index].groups
    height, width = pixels.shape[:2]
    count = layers or (1 if height * width <= SMALL else groups)
    mode = "L" if pixels.ndim == 2 else {2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    ends = (*range(1, count), groups)
    return Header(mode, width, height, point, delta, width_index, ends, TILE_LOG2, model.name, model.hash)


def _automatic_width(model: Model, point: int, layers: int) -> int:
    """The narrowest width that costs no rate at this rate point and has room for so many layers."""
    fits = (
        index
        for index, (width, limit) in enumerate(zip(model.config.widths, model.width_limits, strict=True))
        if point <= limit and layers <= width.groups
    )
    return next(fits, len(model.config.widths) - 1)


def _model_for(header: Header, device: str | None) -> Model:
    """The model that a file was made for; UnsupportedModelError if this is not it, or cannot have made it."""
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


def _latent_size(header: Header) -> tuple[int, int]:
    return -(-header.height // PATCH), -(-header.width // PATCH)


def _analysis_halo(config: NetworkConfig) -> int:
    """Latent positions around a tile that its latent depends on: the reach of g_a's 3×3 convolutions."""
    return len(config.writer.blocks_16) + -(-len(config.writer.blocks_8) // 2)


def _synthesis_halo(config: NetworkConfig) -> int:
    """Latent positions around a tile that its pixels depend on: the reach of g_s's 3×3 convolutions."""
    return config.blocks_16 + -(-(config.blocks_8 + 1) // 2)


def _analyse(model: Model, colours: Pixels, header: Header, threads: int, side: int = PIECE) -> Tensor:
    """Colours H×W×3 → latent (1, all channels, ⌈H/16⌉, ⌈W/16⌉), channels last; edges repeated up to whole
    patches."""
    height, width = _latent_size(header)
    point = model.point(header.rate_point)
    shape = (1, height, width, model.config.latent_channels)
    y = torch.empty(shape, dtype=torch.float32, device=model.device).permute(0, 3, 1, 2)

    def analyse(piece: Tile) -> None:
        pixels = np.ascontiguousarray(colours[piece.times(PATCH).outer])
        x = torch.from_numpy(pixels).to(model.device).permute(2, 0, 1)[None].to(torch.float32).div_(255)
        if x.shape[2] % PATCH or x.shape[3] % PATCH:
            x = functional.pad(x, (0, -x.shape[3] % PATCH, 0, -x.shape[2] % PATCH), mode="replicate")
        y[:, :, *piece.own] = model.network.g_a(x, point)[:, :, *piece.inner]

    workers.each(analyse, pieces(height, width, _analysis_halo(model.config), threads, side), threads)
    return y


def _synthesise(
    model: Model,
    y_hat: Tensor,
    headers: Sequence[Header],
    window: Window,
    factor: int,
    threads: int,
    side: int = PIECE,
) -> list[Tensor]:
    """Latents (files, C, h, w) → of each file a window of its positions at 1/factor of their size, cut at the
    picture's ends: uint8 H×W×C, the channels of its mode, of which alpha is not set."""
    header, patch = headers[0], PATCH // factor
    top, left = window.rows.start * patch, window.columns.start * patch
    height = min(window.rows.stop * patch, -(-header.height // factor)) - top
    width = min(window.columns.stop * patch, -(-header.width // factor)) - left
    shape, colours = (height, width, len(header.mode)), 3 if header.mode.startswith("RGB") else 1
    out = [torch.empty(shape, dtype=torch.uint8, device=model.device) for _ in headers]
    point, synthesis = model.point(*(h.rate_point for h in headers)), model.network.g_s

    def synthesise(piece: Tile) -> None:
        latent = y_hat[:, :, *piece.outer].contiguous(memory_format=torch.channels_last)
        if factor == 1:
            x = synthesis(latent, point, header.width_index)
        else:
            x = synthesis.reduced(latent, point, factor, header.width_index)
        x = x[:, :, *piece.times(patch).inner].mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8)
        if colours == 1:  # the rounded mean: a third never ends in .5
            x = x.sum(1, keepdim=True, dtype=torch.int16).add_(1).div_(3, rounding_mode="floor")
        for picture, pixels in zip(out, x.permute(0, 2, 3, 1), strict=True):
            place = picture[piece.times(patch).own_from(top, left)][..., :colours]
            place.copy_(pixels[: place.shape[0], : place.shape[1]])

    halo = _synthesis_halo(model.config)
    workers.each(synthesise, pieces(y_hat.shape[2], y_hat.shape[3], halo, threads, side, window), threads)
    return out
