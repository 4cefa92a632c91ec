"""Pixels ↔ the bytes of a file: the whole pipeline.

Encoding: colour planes → latent (analysis, tile by tile with a halo) → for each tile hyper-latent, table
indices and symbols → one stream per layer and tile → container. Decoding is the same backwards; every
symbol is decoded, on the CPU, before any float network runs.

Tiles are coded independently of each other, so near a tile's border the predicted means are other ones than
those of an untiled picture, and so is the rounding. The transforms see across the borders (halo), so there
is no seam."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from . import colour, container, exact, graphics, targets, weights, workers
from .binary import Buffer, Source, whole
from .cells import has_graphics
from .colour import ImagePixels
from .container import Container
from .decoding import (
    Part,
    Pixels,
    as_array,
    choose,
    decode_together,
    latent_size,
    model_for,
    places,
    threads_for,
)
from .header import NO_MODEL, Header
from .memory import saying, within_memory
from .metadata import Metadata
from .network import PATCH
from .options import (
    TOP_RATE_POINT,
    TUNES,
    DecodeKeywords,
    DecodeOptions,
    EncodeOptions,
    Progress,
    SaveKeywords,
    chosen_for_decode,
    rate_point,
    refuse_unknown,
    whole_number,
)
from .refinement import refine
from .streams import CELLS_TAG
from .tile_coding import Array, ByTile, Known, Stored, TileSymbols, encode_tile, write_file
from .tiling import BAND, PIECE, Plane, Tile, Window, pieces
from .weights import Model

TILE_LOG2 = 10
# A thumbnail gains nothing from arriving in layers, and each costs it five bytes.
SMALL = 128 * 128


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
    refuse_unknown("encode", keywords, SaveKeywords.__annotations__)
    options, progress = EncodeOptions.chosen(keywords), keywords.get("progress")
    if isinstance(image, Image.Image):
        metadata = Metadata.from_save(image.info, keywords)
        return encode_pixels(colour.pixels_of(image), options, metadata, progress)
    if isinstance(image, Tensor):
        image = _channels_last(image).detach().cpu().numpy()
    array = np.asarray(image)
    if array.dtype.kind in "OSU":  # of a path, for example
        raise TypeError(f"encode() takes an array, a Pillow image or a tensor, not {type(image).__name__}")
    return encode_pixels(colour.as_pixels(array), options, Metadata.from_save({}, keywords), progress)


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
    pixels: Pixels | ImagePixels,
    options: EncodeOptions,
    metadata: Metadata | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Encode uint8 pixels, H×W (grey), H×W×2 (grey, alpha), H×W×3 or H×W×4, or those of a Pillow image, as a
    ``.nic`` file; errors and ``progress`` as for :func:`encode`."""
    if 0 in pixels.shape[:2]:
        raise ValueError(f"pixels of shape {pixels.shape}: size out of range")
    given: Plane
    given, alpha = (pixels, None) if isinstance(pixels, ImagePixels) else colour.split_alpha(pixels)
    chunks = metadata.to_chunks() if metadata is not None else {}
    if alpha is not None:
        chunks["ALPH"] = colour.encode_alpha(alpha)
    if options.lossless:
        each = partial(workers.each, threads=workers.thread_count(options.threads))
        return _all_exact(pixels, chunks, TOP_RATE_POINT, exact.encode(given, None, each=each), True)
    colours = flat = given
    if alpha is not None:
        array = np.asarray(given)
        colours, flat = colour.fill_transparent(array, alpha), colour.flatten_transparent(array, alpha)
    height, width = pixels.shape[:2]
    device = weights.pick_device(options.device)

    def encode_at(options: EncodeOptions, delta: int, progress: Progress | None) -> bytes:
        def encode_on(device: str, side: int) -> tuple[Model, Header, graphics.Mixture]:
            loaded = weights.load(options.model or TUNES[options.tune], torch.device(device))
            header = header_for(loaded, pixels, options, delta)

            def symbols(colours: Plane, effort: int, known: Known | None = None) -> ByTile:
                chosen = replace(options, effort=effort)
                return symbols_of(loaded, colours, header, chosen, side, progress, known)

            return loaded, header, graphics.mixture(loaded, header, colours, flat, symbols, options)

        loaded, header, mixture = within_memory(device, f"encode {width}×{height} pixels", encode_on)
        if mixture.painted is None:
            lossless = colours is given and not mixture.fewer_colours
            return _all_exact(pixels, chunks, header.rate_point, mixture.exact, lossless)
        threads = threads_for(loaded, options.threads)
        header, streams = write_file(loaded, mixture.painted, header, options.layers is None, threads)
        cells = {CELLS_TAG: exact.chunk(False, exact.tile_log2(height, width))} if mixture.exact else {}
        return container.dump(Container(header, chunks | cells, streams, mixture.exact))

    def decoded(data: bytes) -> Pixels:
        parsed = container.parse(data)
        header = parsed.header
        groups = 0
        if header.model != NO_MODEL:
            groups = model_for(header, options.device).config.widths[header.width_index].groups
        reading = DecodeOptions(device=options.device, threads=options.threads)
        return colour.split_alpha(as_array(decode_together([Part(parsed, groups)], reading)[0]))[0]

    if options.target is None:
        return encode_at(options, 0, progress)
    original = targets.Picture(np.asarray(colours), alpha, has_graphics(flat))
    return targets.meet(options, original, encode_at, decoded, progress)


def _all_exact(
    pixels: Pixels | ImagePixels, chunks: dict[str, bytes], point: int, streams: list[bytes], lossless: bool
) -> bytes:
    """A file without a model."""
    height, width = pixels.shape[:2]
    header = Header(_mode(pixels), width, height, point, 0, 0, (1,), TILE_LOG2, NO_MODEL, bytes(4))
    chunks = {**chunks, CELLS_TAG: exact.chunk(lossless, exact.tile_log2(height, width))}
    return container.dump(Container(header, chunks, [[b""] * header.tiles], streams))


def symbols_of(
    model: Model,
    colours: Plane,
    header: Header,
    options: EncodeOptions,
    side: int = PIECE,
    progress: Progress | None = None,
    known: Known | None = None,
) -> ByTile:
    """Colours H×W×3 → the symbols of each tile; those that are ``known``, up to effort 1, are not computed.
    The analysis computes ``side`` positions a side at once, and up to effort 1 no more is held of the latent
    than a band of it, nor of a large picture's symbols."""
    threads = threads_for(model, options.threads)
    height, width = latent_size(header)
    wanted = np.ones((height, width), bool)
    for number, place in places(header):
        wanted[place] = known is None or number in known.changed

    def coded(window: Window) -> tuple[list[TileSymbols], Tensor]:
        """The tiles of some of the latent's rows, and the latent there."""
        top = window.rows.start
        y = _analyse(model, colours, header, threads, side, wanted, window)

        def encode(numbered: tuple[int, tuple[slice, slice]]) -> TileSymbols:
            number, (rows, columns) = numbered
            if known is not None and number not in known.changed:
                return known.by_tile[number]
            own = y[:, :, rows.start - top : rows.stop - top, columns]
            return encode_tile(model, own, header, options.effort, options.loss)

        return workers.each(encode, places(header, window), threads), y

    if options.effort < 2:
        rows = (range(top, min(top + BAND, height)) for top in range(0, height, BAND))
        bands = (coded(Window(band, range(width)))[0] for band in rows)
        if header.width * header.height > colour.LARGE:
            return Stored(model, header, bands, threads)
        return [tile for band in bands for tile in band]
    by_tile, y = coded(Window(range(height), range(width)))
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
    return decode_bytes(whole(source), chosen_for_decode("decode", keywords))


@saying("decode this file")
def decode_bytes(data: Buffer, options: DecodeOptions) -> Pixels:
    """As :func:`decode`."""
    header, _ = container.read_info(data)

    def decode_on(device: str, side: int) -> Pixels:
        chosen = replace(options, device=device)
        return as_array(decode_together([choose(data, chosen)], chosen, side)[0])

    what = f"decode {header.width}×{header.height} pixels"
    return within_memory(weights.pick_device(options.device), what, decode_on)


encode.__doc__ = f"{encode.__doc__}\n{EncodeOptions.described()}"
decode.__doc__ = f"{decode.__doc__}\n{DecodeOptions.described()}"


def header_for(model: Model, pixels: Pixels | ImagePixels, options: EncodeOptions, delta: int = 0) -> Header:
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
    ends = (*range(1, count), groups)
    return Header(
        _mode(pixels), width, height, point, delta, width_index, ends, TILE_LOG2, model.name, model.hash
    )


def _mode(pixels: Pixels | ImagePixels) -> str:
    if isinstance(pixels, ImagePixels):
        return pixels.im.mode
    return "L" if pixels.ndim == 2 else {2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]


def _automatic_width(model: Model, point: int, layers: int) -> int:
    """The narrowest width that costs no rate at this rate point and has room for so many layers."""
    fits = (
        index
        for index, (width, limit) in enumerate(zip(model.config.widths, model.width_limits, strict=True))
        if point <= limit and layers <= width.groups
    )
    return next(fits, len(model.config.widths) - 1)


def _analyse(
    model: Model,
    colours: Plane,
    header: Header,
    threads: int,
    side: int = PIECE,
    wanted: Array | None = None,
    window: Window | None = None,
) -> Tensor:
    """Colours H×W×3 → the latent or a window of it (1, all channels, rows, columns), channels last, of the
    pieces that have wanted positions; edges repeated up to whole patches."""
    height, width = latent_size(header)
    window = window or Window(range(height), range(width))
    point = model.point(header.rate_point)
    top, left = window.rows.start, window.columns.start
    shape = (1, len(window.rows), len(window.columns), model.config.latent_channels)
    y = torch.empty(shape, dtype=torch.float32, device=model.device).permute(0, 3, 1, 2)

    def analyse(piece: Tile) -> None:
        pixels = np.array(colours[piece.times(PATCH).outer])  # torch warns of those that are read-only
        x = torch.from_numpy(pixels).to(model.device).permute(2, 0, 1)[None].to(torch.float32).div_(255)
        if x.shape[2] % PATCH or x.shape[3] % PATCH:
            x = functional.pad(x, (0, -x.shape[3] % PATCH, 0, -x.shape[2] % PATCH), mode="replicate")
        y[:, :, *piece.own_from(top, left)] = model.network.g_a(x, point)[:, :, *piece.inner]

    grid = pieces(height, width, model.network.g_a.reach, side, window)
    workers.each(analyse, (piece for piece in grid if wanted is None or wanted[piece.own].any()), threads)
    return y
