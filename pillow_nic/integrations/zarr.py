"""Chunks of a zarr array of format 3 as `.nic` files.

    zarr.create_array("photos.zarr", shape=(100, 512, 512, 3), chunks=(1, 512, 512, 3), dtype="uint8",
                      serializer=NicSerializer(quality=0.7), compressors=None)

What a chunk may be, and what it loses: `integrations.numcodecs`. zarr finds the codec by itself, from the
name "nic" in the store, once this package is installed."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from ..quality import DEFAULT_EFFORT, DEFAULT_QUALITY, DEFAULT_TUNE, parse_effort, parse_quality, parse_tune
from .numcodecs import decode_chunk, encode_chunk


@dataclass(frozen=True)
class NicSerializer(ArrayBytesCodec):  # type: ignore[misc]
    """``quality``, ``effort``, ``tune``: as for `pillow_nic.encode`."""

    quality: float = DEFAULT_QUALITY
    effort: int = DEFAULT_EFFORT
    tune: str = DEFAULT_TUNE

    is_fixed_size = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "quality", parse_quality(self.quality))
        object.__setattr__(self, "effort", parse_effort(self.effort))
        parse_tune(self.tune)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        return {"name": "nic", "configuration": asdict(self)}

    def validate(self, *, dtype: Any, **_: Any) -> None:
        """ValueError before anything is written."""
        if dtype.to_native_dtype() != np.uint8:
            raise ValueError(f"an array stored as .nic must be uint8, not {dtype.to_native_dtype()}")

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError("the size of a .nic file depends on the picture")

    async def _encode_single(self, chunk: NDBuffer, spec: ArraySpec) -> Buffer | None:
        data = await asyncio.to_thread(encode_chunk, chunk.as_numpy_array(), **asdict(self))
        return spec.prototype.buffer.from_bytes(data)

    async def _decode_single(self, data: Buffer, spec: ArraySpec) -> NDBuffer:
        pixels = await asyncio.to_thread(decode_chunk, data.to_bytes())
        return spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(spec.shape))
