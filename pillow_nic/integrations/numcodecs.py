"""Chunks of an array store as `.nic` files: a numcodecs codec, for zarr's format 2 and whatever else uses it.

    zarr.create_array("photos.zarr", shape=(100, 512, 512, 3), chunks=(1, 512, 512, 3), dtype="uint8",
                      zarr_format=2, filters=None, compressors=NicChunks(quality=0.7))

A chunk is one image: uint8, H×W, H×W×2, H×W×3 or H×W×4 (see `pillow_nic.encode`), with any number of axes of
length 1 before it. numcodecs finds the codec by itself, from the id "nic" in the store, once this package is
installed. It is lossy: what is read is not what was written, and a chunk that is read, changed and written
again loses again. For zarr's format 3 see `integrations.zarr`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Unpack

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_bytes, ndarray_copy

from .. import container
from ..errors import BitstreamError
from ..options import EncodeKeywords, EncodeOptions

Array = np.ndarray[Any, Any]


def chunk_options(keywords: EncodeKeywords) -> EncodeOptions:
    """Those of `pillow_nic.encode`; but nobody reads a chunk layer by layer. ValueError, TypeError."""
    chosen: EncodeKeywords = {"layers": 1, **keywords}
    return EncodeOptions(**chosen)


def configuration(options: EncodeOptions) -> dict[str, Any]:
    """What a store keeps of the options; the device is this machine's own."""
    return {name: value for name, value in asdict(options).items() if value is not None and name != "device"}


def encode_chunk(chunk: Array, options: EncodeOptions) -> bytes:
    """The file of a chunk; ValueError for one that is no image of 8 bits per sample."""
    from .. import codec, colour  # loads torch

    image = chunk
    while image.ndim > 2 and image.shape[0] == 1 and not (image.ndim == 3 and image.shape[2] <= 4):
        image = image[0]
    try:
        return codec.encode_pixels(colour.as_pixels(image), options)
    except ValueError as error:
        raise ValueError(f"a chunk of shape {chunk.shape} is not one image: {error}") from error


def decode_chunk(data: bytes, options: EncodeOptions, shape: tuple[int, ...] | None = None) -> Array:
    """The pixels; BitstreamError for damaged data, and before anything is decoded for a picture of another
    shape, axes of length 1 aside."""
    header, _ = container.read_info(data)
    found = (header.height, header.width, len(header.mode))
    if shape is not None and [n for n in found if n > 1] != [n for n in shape if n > 1]:
        raise BitstreamError(f"the picture in a chunk of shape {shape} is {found}")
    from .. import codec  # loads torch

    return codec.decode(data, device=options.device)


class NicChunks(Codec):  # type: ignore[misc]
    """The options are those of `pillow_nic.encode`."""

    codec_id = "nic"

    def __init__(self, **keywords: Unpack[EncodeKeywords]) -> None:
        self.options = chunk_options(keywords)

    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id, **configuration(self.options)}

    def encode(self, buf: Any) -> bytes:
        return encode_chunk(np.asarray(buf), self.options)

    def decode(self, buf: Any, out: Any = None) -> Any:
        shape = None if out is None else np.shape(out)
        return ndarray_copy(decode_chunk(ensure_bytes(buf), self.options, shape), out)
