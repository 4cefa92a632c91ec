"""`nic info`: what stands in .nic files, as text, as JSON and as a picture."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import container
from ..header import VERSION
from ..metadata import Metadata
from ..options import TOP_RATE_POINT
from ..writing import is_special
from .batch import FILE_ERRORS
from .files import STANDARD, Inputs, Output, find_sources, read
from .messages import OutputError, UsageError, complain, say, source_name, target_name


@dataclass(frozen=True)
class Form:
    """How the files are described."""

    as_json: bool = False
    plot: str | None = None  # the name of a PNG file to paint
    force: bool = False  # even if there is one already


def info(inputs: Inputs, form: Form) -> int:
    """Describe the files on stdout; 0, or 1 if something failed. UsageError; OutputError for the plot."""
    sources, unreadable = find_sources(inputs, {".nic"})
    if form.plot is not None and len(sources) != 1:
        raise UsageError("--plot takes one file")
    plot = None if form.plot is None else _plot_output(form.plot, form.force)
    failed = sum(complain(Path(error.filename), error) for error in unreadable)
    for path in (source.path for source in sources):
        try:
            data = read(path)
            described = describe(data)
            painted = _paint(data) if plot else b""
        except FILE_ERRORS as error:
            failed += complain(path, error)
            continue
        if form.as_json:
            text = json.dumps({"file": STANDARD if path is None else str(path), **described})
        else:
            text = "\n  ".join((source_name(path), *_lines(described)))
        # A picture that goes to stdout has it for itself.
        say(text, sys.stderr if plot and plot.target is None else None)
        if plot:
            plot.write(painted)
    return int(failed > 0)


def describe(data: bytes) -> dict[str, Any]:
    """What stands in a file, for ``nic info --json``, which adds its name, ``file``. Every CRC is checked.

    Keys stay and keep their meaning; others may come.

    version        of the file format
    mode, width, height
                   of the picture: "RGB", "RGBA", "L" or "LA"; pixels
    bytes, bpp     the size of the file, and in bits per pixel
    quality        0 to 1
    rate_point, delta
                   what stands in the header for it
    model, model_hash
                   the weights that decode it; the hash in hexadecimal
    network_width  that it was encoded with, 1 for the narrowest
    tile_size, tile_columns, tile_rows
                   the side of a tile in pixels, and how many there are
    lossless       whether every pixel is as it was given
    exact_bytes    of the streams of exact cells, which are part of layer 1
    layers         a list, the first layer first:
        end            the file up to here decodes to this layer and those before
        bytes          of its streams
        groups         how many groups of channels it holds
        streams        the bytes of each tile's
    chunks         the bytes of each metadata chunk and of the alpha plane by their tags (FORMAT.md)
    dpi            [x, y], or null
    """
    file = container.parse(data)
    header = container.parse_header(data)
    offsets = header.layer_offsets
    columns, rows = header.tile_grid
    groups = [end - start for start, end in zip((0, *header.layer_ends), header.layer_ends, strict=False)]
    dpi = Metadata.from_chunks(file.chunks).dpi
    return {
        "version": VERSION,
        "mode": header.mode,
        "width": header.width,
        "height": header.height,
        "bytes": offsets[-1],
        "bpp": 8 * offsets[-1] / header.width / header.height,
        "quality": header.rate_point / TOP_RATE_POINT,
        "rate_point": header.rate_point,
        "delta": header.delta,
        "model": header.model,
        "model_hash": header.model_hash.hex(),
        "network_width": header.width_index + 1,
        "tile_size": header.tile_size,
        "tile_columns": columns,
        "tile_rows": rows,
        "lossless": header.lossless,
        "exact_bytes": sum(map(len, file.exact)),
        "layers": [
            {"end": end, "bytes": sum(map(len, streams)), "groups": count, "streams": [*map(len, streams)]}
            for end, streams, count in zip(offsets, file.streams, groups, strict=True)
        ],
        "chunks": {tag: len(payload) for tag, payload in file.chunks.items()},
        "dpi": dpi and [*dpi],
    }


def _lines(of: dict[str, Any]) -> Iterator[str]:
    yield f"picture   {of['width']}x{of['height']} {of['mode']}"
    yield f"size      {of['bytes']} bytes, {of['bpp']:.4f} bpp"
    yield f"quality   {of['quality']:.4f} (rate point {of['rate_point']}, delta {of['delta']})"
    yield f"model     {of['model']} ({of['model_hash']}), encoded at network width {of['network_width']}"
    columns, rows, size = of["tile_columns"], of["tile_rows"], of["tile_size"]
    yield f"tiles     {columns * rows} ({columns}x{rows}), each up to {size} pixels wide and high"
    if of["lossless"]:
        yield f"exact     {of['exact_bytes']} bytes: lossless"
    elif of["exact_bytes"]:
        yield f"exact     {of['exact_bytes']} bytes of cells that are stored lossless, part of layer 1"
    first = 1
    for number, layer in enumerate(of["layers"], 1):
        last = first + layer["groups"] - 1
        groups = f"group {last}" if first == last else f"groups {first} to {last}"
        lengths = layer["streams"]
        streams = f", streams of {' '.join(map(str, lengths))}" if len(lengths) > 1 else ""
        yield f"layer {number:<3} {layer['bytes']} bytes, {groups}, ends at byte {layer['end']}{streams}"
        first = last + 1
    for tag, size in of["chunks"].items():
        yield f"chunk {tag} {size} bytes"
    if of["dpi"]:
        yield "dpi       {:g} x {:g}".format(*of["dpi"])


def _plot_output(name: str, force: bool) -> Output:
    """UsageError or OutputError if nothing can be painted there."""
    if name == STANDARD:
        return Output(None)
    path = Path(name)
    if not is_special(path):
        if path.suffix.lower() != ".png":
            raise UsageError(f"--plot writes PNG: {target_name(path)} does not end in .png")
        if path.exists() and not force:
            raise OutputError(f"{target_name(path)} exists (-f replaces it)")
    return Output(path, force)


def _paint(data: bytes) -> bytes:
    from .layer_plot import plot  # loads torch

    file = io.BytesIO()
    plot(data).save(file, "PNG")
    return file.getvalue()
