"""Lossless WebP through Pillow, as a part of a `.nic` file: for alpha planes and exact cells."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, WebPImagePlugin, features

from .errors import BitstreamError

MAX_SIDE = 16383  # the largest that WebP can hold


def is_there() -> bool:
    """Whether this build of Pillow has WebP."""
    return bool(features.check("webp"))


def encode(pixels: np.ndarray, **options: Any) -> bytes:
    """uint8 H×W, H×W×3 or H×W×4 as a WebP file of a single VP8L chunk; options of Pillow's plugin. OSError
    where Pillow has no WebP."""
    if not is_there():
        raise OSError("this build of Pillow cannot write WebP, which lossless files need")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, **options)
    return file.getvalue()


def decode(data: bytes, width: int, height: int, what: str) -> np.ndarray:
    """uint8 H×W×4, which may be read-only; BitstreamError, which begins with ``what``, for all but a lossless
    WebP picture of just this size."""
    # The size is read here, because the WebP decoder allocates its canvas before it tells the size.
    bits = int.from_bytes(data[21:25], "little")
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8L" or data[20:21] != b"\x2f":
        raise BitstreamError(f"{what}: not a lossless WebP picture")
    if ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1) != (width, height):
        raise BitstreamError(f"{what}: not of the picture's size {width}×{height}")
    if not is_there():
        raise OSError(f"{what}: this build of Pillow cannot read WebP")
    try:
        # Not Image.open: its limit on pixels has been applied, to the picture itself, and the size is right.
        pixels = np.asarray(WebPImagePlugin.WebPImageFile(io.BytesIO(data)).convert("RGBA"))
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BitstreamError(f"{what}: {error}") from error
    if pixels.shape[:2] != (height, width):
        raise BitstreamError(f"{what}: not of the picture's size {width}×{height}")
    return pixels
