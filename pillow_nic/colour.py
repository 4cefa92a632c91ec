"""Picture modes: what a Pillow image is stored as, its pixels as colour planes and a lossless alpha plane."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from PIL import Image

from . import webp
from .errors import BitstreamError

LARGE = 1 << 24
"""Pixels of a picture of which nothing is held that can be made again."""

_STORED = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "La": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
}
# Only these can have a transparent colour or palette beside their pixels (`im.info["transparency"]`).
_CAN_BE_TRANSPARENT = ("1", "L", "P", "RGB")


def storage_mode(pil_mode: str, has_transparency: bool) -> str:
    """The mode, of RGB, RGBA, L and LA, that a file stores for a picture of a Pillow mode.

    OSError for the modes of more than 8 bits, which are never cut to 8 silently.
    """
    if pil_mode.startswith("I") or pil_mode == "F":
        raise OSError(
            f"cannot write mode {pil_mode} as NIC: convert it to 8 bits first, "
            "for example with im.point(...).convert('L')"
        )
    if pil_mode not in _STORED:
        raise OSError(f"cannot write mode {pil_mode} as NIC")
    mode = _STORED[pil_mode]
    return mode + "A" if has_transparency and pil_mode in _CAN_BE_TRANSPARENT else mode


def to_storage(im: Image.Image) -> Image.Image:
    """The picture in its storage mode; the image itself if it has that mode already."""
    mode = storage_mode(im.mode, im.has_transparency_data)
    return im if im.mode == mode else im.convert(mode)


def as_pixels(array: Any) -> np.ndarray:
    """An array as uint8 pixels: bool as 0 and 255, H×W×1 as H×W. ValueError for other types."""
    pixels = np.asarray(array)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"pixels must be uint8 or bool, not {pixels.dtype}: scale them to 0…255 and convert them first"
        )
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


class ImagePixels:
    """The colours H×W×3 of a Pillow image of mode RGB or L, which become an array where they are asked for:
    one of all of them would hold a large picture twice."""

    def __init__(self, im: Image.Image) -> None:
        im.load()
        self.im, self.shape = im, (im.height, im.width, 3)

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        (top, bottom, _), (left, right, _) = (
            part.indices(side) for part, side in zip(place, self.shape, strict=False)
        )
        part = self.im.crop((left, top, right, bottom))
        return np.asarray(part if part.mode == "RGB" else part.convert("RGB"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:, :]


def pixels_of(im: Image.Image) -> np.ndarray | ImagePixels:
    """The pixels of a Pillow image in its storage mode: uint8 H×W or H×W×(2, 3, 4)."""
    stored = to_storage(im)
    if im.width * im.height > LARGE and stored.mode in ("RGB", "L"):
        return ImagePixels(stored)
    return np.asarray(stored)


def split_alpha(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels uint8 H×W or H×W×(2, 3, 4) -> colour H×W×3, grey replicated, and alpha H×W or None."""
    if array.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8, not {array.dtype}")
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim != 3 or not 2 <= array.shape[2] <= 4:
        raise ValueError(f"pixels must have the shape H×W or H×W×(2, 3 or 4), not {array.shape}")
    colours = 1 if array.shape[2] < 3 else 3
    rgb = np.repeat(array[..., :1], 3, axis=2) if colours == 1 else np.ascontiguousarray(array[..., :3])
    alpha = np.ascontiguousarray(array[..., -1]) if array.shape[2] > colours else None
    return rgb, alpha


def reduce_plane(plane: np.ndarray, factor: int) -> np.ndarray:
    """An H×W plane at 1/factor of its size, rounded up, each pixel a mean."""
    return plane if factor == 1 else np.asarray(Image.fromarray(plane).reduce(factor))


# The alpha plane: one byte that names the representation, then
_CONSTANT = 0  # the one value, 1 byte
_DEFLATE = 1  # zlib over the rows, each minus the one above it (mod 256), the first as it is
_WEBP = 2  # a lossless WebP file of a single VP8L chunk, grey = alpha


def encode_alpha(alpha: np.ndarray) -> bytes:
    """An alpha plane uint8 H×W as bytes, lossless, in the smallest of the representations."""
    if (alpha == alpha[0, 0]).all():
        return bytes((_CONSTANT, int(alpha[0, 0])))
    differences = alpha.copy()
    differences[1:] -= alpha[:-1]
    found = [bytes((_DEFLATE,)) + zlib.compress(differences.tobytes(), 9)]
    if max(alpha.shape) <= webp.MAX_SIDE and webp.is_there():
        found.append(bytes((_WEBP,)) + webp.encode(alpha))
    return min(found, key=len)


def decode_alpha(data: bytes, width: int, height: int) -> np.ndarray:
    """The alpha plane uint8 H×W; BitstreamError for anything that is not one of exactly this size."""
    kind, body = data[:1], data[1:]
    if kind == bytes((_CONSTANT,)):
        if len(body) != 1:
            raise BitstreamError(f"alpha plane: {len(body)} bytes for the one value of a constant plane")
        return np.full((height, width), body[0], np.uint8)
    if kind == bytes((_DEFLATE,)):
        return _inflate(body, width, height)
    if kind == bytes((_WEBP,)):
        return webp.decode(body, width, height, "alpha plane")[..., 0].copy()
    raise BitstreamError(f"alpha plane: unknown representation {kind.hex() or '(nothing)'}")


def _inflate(body: bytes, width: int, height: int) -> np.ndarray:
    stream = zlib.decompressobj()
    try:
        # One byte more than the plane, so that a longer stream is seen and never unpacked.
        plane = stream.decompress(body, width * height + 1)
    except zlib.error as error:
        raise BitstreamError(f"alpha plane: {error}") from error
    if len(plane) != width * height or not stream.eof or stream.unused_data:
        raise BitstreamError(f"alpha plane: not the {width}×{height} values of the picture")
    differences = np.frombuffer(plane, np.uint8).reshape(height, width)
    return np.cumsum(differences, axis=0, dtype=np.uint8)


def fill_transparent(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours uint8 H×W×3 with those under alpha 0, which nobody sees, replaced by what costs least to code.

    They continue the visible colours smoothly: a pyramid of means of the visible pixels going down, and of
    interpolations into the holes going up ("pull-push").
    """
    visible = alpha != 0
    if visible.all():
        return rgb
    if not visible.any():
        return np.full_like(rgb, 128)
    filled = rgb.copy()
    for channel in range(3):  # one at a time: float planes of a large picture are large
        smooth = _fill_holes(rgb[..., channel].astype(np.float32), visible)
        filled[..., channel] = np.rint(smooth).astype(np.uint8)
    return filled


def flatten_transparent(rgb: np.ndarray, alpha: np.ndarray, side: int = 16) -> np.ndarray:
    """Colours uint8 H×W×3 with those under alpha 0 replaced by what costs least in lossless coding: in each
    square the mean of what is visible there, or of all that is, so that a reduced picture shows no other."""
    visible = alpha != 0
    if visible.all():
        return rgb
    flat, everywhere = rgb.copy(), rgb[visible].mean(0) if visible.any() else np.full(3, 128.0)
    for top in range(0, len(rgb), side):
        seen, strip = visible[top : top + side], flat[top : top + side]
        starts = np.arange(0, rgb.shape[1], side)
        count = np.add.reduceat(seen.sum(0), starts)[:, None]
        total = np.add.reduceat((strip * seen[..., None]).sum(0), starts)
        mean = np.where(count > 0, total / np.maximum(count, 1), everywhere).round().astype(np.uint8)
        strip[:] = np.where(seen[..., None], strip, mean.repeat(side, 0)[: rgb.shape[1]])
    return flat


def _fill_holes(plane: np.ndarray, known: np.ndarray) -> np.ndarray:
    if known.all():
        return plane
    height, width = known.shape
    pad = ((0, height % 2), (0, width % 2))
    blocks = (-(-height // 2), 2, -(-width // 2), 2)
    count = np.pad(known, pad).reshape(blocks).sum(axis=(1, 3), dtype=np.float32)
    total = np.pad(plane * known, pad).reshape(blocks).sum(axis=(1, 3))
    coarse = _fill_holes(total / np.maximum(count, 1), count > 0)
    return np.where(known, plane, _double(_double(coarse).T).T[:height, :width])


def _double(plane: np.ndarray) -> np.ndarray:
    """Twice the rows, interpolated linearly between the old rows' centres."""
    above = np.concatenate((plane[:1], plane[:-1]))
    below = np.concatenate((plane[1:], plane[-1:]))
    doubled = np.stack((0.75 * plane + 0.25 * above, 0.75 * plane + 0.25 * below), axis=1)
    return doubled.reshape(-1, plane.shape[1])
