"""Chunks of an array store as `.nic` files: a numcodecs codec, for zarr's format 2 and whatever else uses it.

    zarr.create_array("photos.zarr", shape=(100, 512, 512, 3), chunks=(1, 512, 512, 3), dtype="uint8",
                      zarr_format=2, filters=None, compressors=NicChunks(quality=0.7))

A chunk is one image: uint8, H×W, H×W×2, H×W×3 or H×W×4 (see `pillow_nic.encode`), with any number of axes of
length 1 before it. numcodecs finds the codec by itself, from the id "nic" in the store, once this package is
installed. It is lossy: what is read is not what was written, and a chunk that is read, changed and written
again loses again. For zarr's format 3 see `integrations.zarr`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_bytes, ndarray_copy

from ..quality import DEFAULT_EFFORT, DEFAULT_QUALITY, DEFAULT_TUNE, parse_effort, parse_quality, parse_tune

Array = np.ndarray[Any, Any]


def encode_chunk(chunk: Array, quality: float, effort: int, tune: str) -> bytes:
    """The file of a chunk; ValueError for one that is no image of 8 bits per sample."""
    from .. import codec  # loads torch

    if chunk.dtype != np.uint8:
        raise ValueError(f"a chunk stored as .nic must be uint8, not {chunk.dtype}")
    image = chunk
    while image.ndim > 2 and image.shape[0] == 1 and not (image.ndim == 3 and image.shape[2] <= 4):
        image = image[0]
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim not in (2, 3) or (image.ndim == 3 and not 2 <= image.shape[2] <= 4):
        raise ValueError(f"a chunk of shape {chunk.shape} is not one image: H×W, or H×W×1 to H×W×4")
    return codec.encode(image, quality=quality, effort=effort, tune=tune, layers=1)


def decode_chunk(data: bytes) -> Array:
    """The pixels; BitstreamError for damaged data."""
    from .. import codec  # loads torch

    return codec.decode(data)


class NicChunks(Codec):  # type: ignore[misc]
    """``quality``, ``effort``, ``tune``: as for `pillow_nic.encode`."""

    codec_id = "nic"

    def __init__(
        self, quality: float = DEFAULT_QUALITY, effort: int = DEFAULT_EFFORT, tune: str = DEFAULT_TUNE
    ) -> None:
        self.quality, self.effort, self.tune = parse_quality(quality), parse_effort(effort), parse_tune(tune)

    def encode(self, buf: Any) -> bytes:
        return encode_chunk(np.asarray(buf), self.quality, self.effort, self.tune)

    def decode(self, buf: Any, out: Any = None) -> Any:
        return ndarray_copy(decode_chunk(ensure_bytes(buf)), out)
