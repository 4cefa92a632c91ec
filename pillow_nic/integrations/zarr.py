"""Chunks of a zarr array of format 3 as `.nic` files.

    zarr.create_array("photos.zarr", shape=(100, 512, 512, 3), chunks=(1, 512, 512, 3), dtype="uint8",
                      serializer=NicSerializer(quality=0.7), compressors=None)

What a chunk may be, and what it loses: `integrations.numcodecs`. zarr finds the codec by itself, from the
name "nic" in the store, once this package is installed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self, Unpack

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from ..options import EncodeKeywords, EncodeOptions
from .numcodecs import chunk_options, configuration, decode_chunk, encode_chunk


@dataclass(frozen=True, init=False)
class NicSerializer(ArrayBytesCodec):  # type: ignore[misc]
    """The options are those of `pillow_nic.encode`."""

    options: EncodeOptions

    is_fixed_size = False

    def __init__(self, **keywords: Unpack[EncodeKeywords]) -> None:
        object.__setattr__(self, "options", chunk_options(keywords))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        return {"name": "nic", "configuration": configuration(self.options)}

    def validate(self, *, dtype: Any, **_: Any) -> None:
        """ValueError before anything is written."""
        if dtype.to_native_dtype() != np.uint8:
            raise ValueError(f"an array stored as .nic must be uint8, not {dtype.to_native_dtype()}")

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError("the size of a .nic file depends on the picture")

    async def _encode_single(self, chunk: NDBuffer, spec: ArraySpec) -> Buffer | None:
        data = await asyncio.to_thread(encode_chunk, chunk.as_numpy_array(), self.options)
        return spec.prototype.buffer.from_bytes(data)

    async def _decode_single(self, data: Buffer, spec: ArraySpec) -> NDBuffer:
        pixels = await asyncio.to_thread(decode_chunk, data.to_bytes(), self.options, spec.shape)
        return spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(spec.shape))
