"""A picture of a file's layers: what each adds to the reconstruction, where its bits are, a channel of it.

After figure A2 of the supplement to Yang et al., "Slimmable compressive autoencoders" (CVPR 2021)."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .. import codec, container, decoding, weights
from ..header import Header

COLUMN = 240  # pixels
GAP, LINE = 8, 16


def plot(data: bytes) -> Image.Image:
    """One column for each layer: the picture decoded from it and those before, a map of its bits (the same
    scale in all columns), and the channel of its latent that takes the most bits. Errors as for decode."""
    header = container.parse_header(data)
    latent, bits = decoding.inspect(data)
    config = weights.load(header.model).config
    shape = COLUMN, max(1, round(COLUMN * header.height / header.width))
    maps = []
    first = 0
    for end in header.layer_ends:
        last = config.group_ends[end - 1]
        maps.append((bits[first:last].sum(0), latent[first + int(bits[first:last].sum((1, 2)).argmax())]))
        first = last
    most = max(float(np.quantile(total, 0.995)) for total, _ in maps) or 1.0
    columns = []
    for k, (total, channel) in enumerate(maps):
        start, end = (0, *header.layer_offsets)[k : k + 2]
        picture = Image.fromarray(codec.decode(data, layers=k + 1)).convert("RGB")
        limit = float(np.quantile(np.abs(channel), 0.995)) or 1.0
        columns.append(
            [
                (
                    f"{k + 1} of {header.layers} layers: {end} bytes, {end / header.layer_offsets[-1]:.0%}",
                    picture.resize(shape, Image.Resampling.LANCZOS),
                ),
                (
                    f"bits of layer {k + 1}: {end - start} bytes",
                    _paint(total / most, ("black", "#d9622b", "white"), header, shape),
                ),
                (
                    f"a channel of layer {k + 1}",
                    _paint(channel / limit / 2 + 0.5, ("#2166ac", "white", "#b2182b"), header, shape),
                ),
            ]
        )
    return _grid(columns, shape)


def _paint(
    values: np.ndarray, colours: tuple[str, str, str], header: Header, shape: tuple[int, int]
) -> Image.Image:
    """A map of latent positions, 0…1, in the colours of 0, ½ and 1, cut to the picture."""
    grey = Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
    painted = ImageOps.colorize(grey, colours[0], colours[2], colours[1])
    box = (0, 0, header.width / 16, header.height / 16)
    return painted.resize(shape, Image.Resampling.NEAREST, box=box)


def _grid(columns: list[list[tuple[str, Image.Image]]], shape: tuple[int, int]) -> Image.Image:
    """Pictures with a line of text above each."""
    step = shape[0] + GAP, LINE + shape[1] + GAP
    rows = max(map(len, columns))
    canvas = Image.new("RGB", (GAP + step[0] * len(columns), GAP + step[1] * rows), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for x, column in enumerate(columns):
        for y, (text, picture) in enumerate(column):
            corner = GAP + x * step[0], GAP + y * step[1]
            draw.text(corner, text, "black", font)
            canvas.paste(picture, (corner[0], corner[1] + LINE))
    return canvas
