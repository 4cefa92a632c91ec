"""Pillow's plugin for `.nic`: open, load, verify and save.

`Image.open` reads the header and the metadata. Before the pixels are loaded, `im.layers = n` asks for the
first n layers only (None, the default, for all): the file is read to 64 kB behind them at most; and
`im.fast = True` for the narrowest network that fits the layers, less exact and less work; `im.region = (left,
top, right, bottom)` for a part of the picture; `im.draft(None, size)`, which `thumbnail()` calls, for a
reduced one. `im.info` holds
`layers` (how many the file has), `quality` (the float that the file's rate point stands for), `model`,
`lossless` (whether every pixel is as it was given), and as far as the file has them `icc_profile`, `exif`,
`xmp`, `dpi` and `comment`. `im.verify()` checks the
structure and every checksum of the file without decoding a pixel.

A cut file raises TruncatedError (an OSError) that says how many layers are whole; with
`ImageFile.LOAD_TRUNCATED_IMAGES` they are shown. `ImageFile.Parser` shows the first layer as soon as it has
come and sharpens with each that follows.

`Image.save` takes the fields of `options.EncodeOptions`, `progress` as `pillow_nic.encode` does, and
`icc_profile`, `exif`, `xmp`, `dpi` and `comment` (default: what `im.info` holds; None or b"" leaves it out).
It checks all of them and the
picture's mode before it writes a byte. (Pillow itself opens the target before it calls a plugin: it
removes a new file again when the save fails; an existing one is empty by then.) Options of other formats
are ignored, as `Image.save` documents; a misspelt one is a warning.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import IO, Any

from PIL import Image, ImageFile

from . import container
from .binary import whole
from .errors import BitstreamError
from .header import SIGNATURE, region_inside
from .metadata import Metadata
from .options import REDUCTIONS, TOP_RATE_POINT, DecodeOptions, chosen_for_save
from .writing import write_all


class NicImageFile(ImageFile.ImageFile):
    format = "NIC"
    format_description = "Neural image codec"
    n_frames = 1
    is_animated = False

    _options = DecodeOptions()

    def _open(self) -> None:
        assert self.fp is not None
        self._start = self.fp.tell()
        if self.fp.read(len(SIGNATURE)) != SIGNATURE:
            raise SyntaxError("not a NIC file")
        self.fp.seek(self._start)
        if type(self.fp) is io.BytesIO:
            container.check_reaches(memoryview(self.fp.getvalue())[self._start :])
        header, chunks = container.read_info(self.fp)
        self._header = header
        self._mode = header.mode
        self.info.update(Metadata.from_chunks(chunks).to_info())
        self.info["layers"] = header.layers
        self.info["quality"] = header.rate_point / TOP_RATE_POINT
        self.info["model"] = header.model
        self.info["lossless"] = header.lossless
        # One for each process: a forked child must not wait for what a thread of its parent held.
        self._locks: dict[int, threading.Lock] = {}
        self._plan()

    def _plan(self) -> None:
        """Size and tile for what is to be decoded."""
        left, top, right, bottom = self._options.region or (0, 0, self._header.width, self._header.height)
        factor = self._options.reduce
        self._size = -(-(right - left) // factor), -(-(bottom - top) // factor)
        # A plain tuple: ImageFile._Tile came with Pillow 11.
        args = (self._header.wanted(self._options.layers),)
        self.tile = [("nic", (0, 0, *self.size), self._start, args)]  # type: ignore[list-item]

    def _choose(self, **chosen: Any) -> None:
        options = replace(self._options, **chosen)
        self._header.wanted(options.layers)
        region_inside(options.region, self._header)
        if not self._is_lazy:
            raise ValueError(f"{', '.join(chosen)} must be set before the pixels are loaded")
        self._options = options
        self._plan()

    @property
    def _is_lazy(self) -> bool:
        return bool(self.tile) and self.tile[0][0] == "nic"

    @property
    def layers(self) -> int | None:
        """How many layers `load()` decodes, None for all; to be set before the pixels are loaded."""
        return self._options.layers

    @layers.setter
    def layers(self, layers: int | None) -> None:
        self._choose(layers=layers)

    @property
    def fast(self) -> bool:
        """Whether `load()` uses the narrowest network that fits the layers; to be set before the pixels are
        loaded."""
        return self._options.fast

    @fast.setter
    def fast(self, fast: bool) -> None:
        self._choose(fast=fast)

    @property
    def region(self) -> tuple[int, int, int, int] | None:
        """The part that `load()` decodes, (left, top, right, bottom) in pixels of the file, None for all; to
        be set before the pixels are loaded. The image then has its size."""
        return self._options.region

    @region.setter
    def region(self, region: tuple[int, int, int, int] | None) -> None:
        self._choose(region=region)

    def draft(
        self, mode: str | None, size: tuple[int, int] | None
    ) -> tuple[str, tuple[int, int, float, float]] | None:
        """Let `load()` decode at 1/2, 1/4, 1/8 or 1/16 of the size, the smallest of these that is not
        smaller than ``size``; `thumbnail()` calls this. As for other formats the answer is the mode, which
        does not change, and the box of the picture in the new size; None once it is loaded, or reduced
        already."""
        if not self._is_lazy or self._options.reduce > 1 or size is None:
            return None
        width, height = self.size
        most = min(width / max(size[0], 1), height / max(size[1], 1))
        factor = max(factor for factor in REDUCTIONS if factor <= max(most, 1))
        self._choose(reduce=factor)
        return self.mode, (0, 0, width / factor, height / factor)

    def load(self) -> Any:
        if not self.tile:
            return super().load()
        # ImageFile.load() has no lock: threads that share a lazy image would decode it in turns.
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if self._is_lazy:
                self._decode()
            return super().load()

    def _decode(self) -> None:
        """Leave the pixels to ImageFile.load() as a raw tile in memory, in place of the file."""
        if self.fp is None:
            raise OSError("cannot load this image: its file has been closed")
        from . import codec, decoding  # loads torch

        options = replace(self._options, partial=ImageFile.LOAD_TRUNCATED_IMAGES)
        pixels = codec.decode_bytes(self._read(decoding.layers_needed(self._header, options)), options)
        if pixels.shape[:2] != self.size[::-1]:
            raise BitstreamError("the file has changed since it was opened")
        before = self.fp if self._exclusive_fp else None
        # One argument: with three, Pillow would map the file of that name into memory, not these pixels.
        tile = [("raw", (0, 0, *self.size), 0, (self.mode,))]
        # At once: after an interrupt between two assignments, the pixels would be read as a file, or the
        # file as pixels.
        vars(self).update(fp=io.BytesIO(pixels.tobytes()), _exclusive_fp=True, tile=tile)
        if before is not None:
            before.close()

    def _read(self, layers: int) -> bytes:
        """The file as far as so many layers reach, or to its end."""
        assert self.fp is not None
        data = bytearray()
        container.LayerCounter().read(_ReadAt(self.fp, self._start), data, layers)
        return bytes(data)

    def verify(self) -> None:
        if self.fp is None:
            raise RuntimeError("verify must be called directly after open")
        try:
            self.fp.seek(self._start)
            container.verify(whole(self.fp))
        finally:
            super().verify()


class _ReadAt:
    """Reads a file from a place on. Of a file of the system not by its position, which processes that were
    forked share: each would move it under the others."""

    def __init__(self, file: IO[bytes], position: int) -> None:
        self._file, self._position = file, position
        of_the_system = type(file) is io.BufferedReader and type(file.raw) is io.FileIO
        self._descriptor = file.fileno() if of_the_system and hasattr(os, "pread") else None
        file.seek(position)

    def read(self, size: int, /) -> bytes:
        if self._descriptor is None:
            return self._file.read(size)
        data = os.pread(self._descriptor, size, self._position)
        self._position += len(data)
        return data


class NicDecoder(ImageFile.PyDecoder):
    """What ImageFile.Parser feeds: shows the first layers as soon as they have come, then sharpens."""

    def init(self, args: tuple[Any, ...]) -> None:
        # Parser makes a decoder as soon as it has the header, so nothing is loaded here.
        self._layers: int = args[0]
        self._data = bytearray()
        self._counter = container.LayerCounter()
        self._shown = 0

    def decode(self, buffer: Any) -> tuple[int, int]:
        # Everything is consumed: Pillow would copy again with every block what is not.
        self._data += buffer
        layers = min(self._counter.update(self._data), self._layers)
        if layers > self._shown:
            from . import codec  # loads torch

            pixels = codec.decode_bytes(self._data, DecodeOptions(layers))
            if pixels.shape[:2] != (self.state.ysize, self.state.xsize):
                raise BitstreamError("the file has changed since it was opened")
            self.set_as_raw(pixels.tobytes())
            self._shown = layers
        return (-1 if layers == self._layers else len(buffer)), 0


def encode_image(im: Image.Image, keywords: Mapping[str, Any]) -> bytes:
    """The bytes of a `.nic` file for a Pillow image; `keywords` as for `Image.save`, all checked first."""
    options = chosen_for_save(keywords)
    if min(im.size) == 0:
        raise ValueError("cannot write empty image as NIC")
    metadata = Metadata.from_save(im.info, keywords)

    from . import colour

    pixels = colour.pixels_of(im)

    from . import codec  # loads torch, which takes seconds: only when nothing above has raised

    return codec.encode_pixels(pixels, options, metadata, keywords.get("progress"))


def save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """Pillow's save hook."""
    write_all(fp, encode_image(im, im.encoderinfo))


Image.register_decoder("nic", NicDecoder)
