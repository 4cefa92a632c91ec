"""Pillow's plugin for `.nic`: open, load, verify and save.

`Image.open` reads the header and the metadata. Before the pixels are loaded, `im.layers = n` asks for the
first n layers only (None, the default, for all): the file is read to 64 kB behind them at most; and
`im.fast = True` for the narrowest network that fits the layers, less exact and less work. `im.info` holds
`layers` (how many the file has), `quality` (the float that the file's rate point stands for), `model`, and
as far as the file has them `icc_profile`, `exif`, `xmp`, `dpi` and `comment`. `im.verify()` checks the
structure and every checksum of the file without decoding a pixel.

A cut file raises TruncatedError (an OSError) that says how many layers are whole; with
`ImageFile.LOAD_TRUNCATED_IMAGES` they are shown. `ImageFile.Parser` shows the first layer as soon as it has
come and sharpens with each that follows.

`Image.save` takes the fields of `options.EncodeOptions`, and `icc_profile`, `exif`, `xmp`, `dpi` and
`comment` (default: what `im.info` holds; None or b"" leaves it out). It checks all of them and the
picture's mode before it writes a byte. (Pillow itself opens the target before it calls a plugin: it
removes a new file again when the save fails; an existing one is empty by then.) Options of other formats
are ignored, as `Image.save` documents; a misspelt one is a warning, and `lossless=True` a ValueError.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from typing import IO, Any

from PIL import Image, ImageFile

from . import container
from .errors import BitstreamError
from .header import SIGNATURE
from .metadata import Metadata
from .options import TOP_RATE_POINT, DecodeOptions, chosen_for_save


class NicImageFile(ImageFile.ImageFile):
    format = "NIC"
    format_description = "Neural image codec"
    n_frames = 1
    is_animated = False

    _layers: int | None = None
    _fast = False

    def _open(self) -> None:
        assert self.fp is not None
        self._start = self.fp.tell()
        if self.fp.read(len(SIGNATURE)) != SIGNATURE:
            raise SyntaxError("not a NIC file")
        self.fp.seek(self._start)
        header, chunks = container.read_info(self.fp)
        self._header = header
        self._mode = header.mode
        self._size = header.width, header.height
        self.info.update(Metadata.from_chunks(chunks).to_info())
        self.info["layers"] = header.layers
        self.info["quality"] = header.rate_point / TOP_RATE_POINT
        self.info["model"] = header.model
        self._lock = threading.Lock()
        self._plan()

    def _plan(self) -> None:
        # A plain tuple: ImageFile._Tile came with Pillow 11.
        args = (self._header.wanted(self._layers),)
        self.tile = [("nic", (0, 0, *self.size), self._start, args)]  # type: ignore[list-item]

    @property
    def layers(self) -> int | None:
        """How many layers `load()` decodes, None for all; to be set before the pixels are loaded."""
        return self._layers

    @layers.setter
    def layers(self, layers: int | None) -> None:
        wanted = self._header.wanted(layers)
        self._must_not_be_loaded("layers")
        self._layers = None if layers is None else wanted
        self._plan()

    @property
    def fast(self) -> bool:
        """Whether `load()` uses the narrowest network that fits the layers; to be set before the pixels are
        loaded."""
        return self._fast

    @fast.setter
    def fast(self, fast: bool) -> None:
        self._must_not_be_loaded("fast")
        self._fast = bool(fast)

    def _must_not_be_loaded(self, what: str) -> None:
        if not self.tile or self.tile[0][0] != "nic":
            raise ValueError(f"{what} must be set before the pixels are loaded")

    def load(self) -> Any:
        if not self.tile:
            return super().load()
        # ImageFile.load() has no lock: threads that share a lazy image would decode it in turns.
        with self._lock:
            if self.tile:
                self._decode()
            return super().load()

    def _decode(self) -> None:
        """Leave the pixels to ImageFile.load() as a raw tile in memory, in place of the file."""
        if self.fp is None:
            raise OSError("cannot load this image: its file has been closed")
        data = self._read()
        from . import codec  # loads torch

        options = DecodeOptions(self._layers, self._fast, partial=ImageFile.LOAD_TRUNCATED_IMAGES)
        pixels = codec.decode_bytes(data, options)
        if pixels.shape[:2] != self.size[::-1]:
            raise BitstreamError("the file has changed since it was opened")
        if self._exclusive_fp:
            self.fp.close()
        self.fp = io.BytesIO(pixels.tobytes())
        self._exclusive_fp = True
        self.tile = [("raw", (0, 0, *self.size), 0, (self.mode, 0, 1))]  # type: ignore[list-item]

    def _read(self) -> bytes:
        """The file as far as the wanted layers reach, or to its end."""
        assert self.fp is not None
        self.fp.seek(self._start)
        data = bytearray()
        container.LayerCounter().read(self.fp, data, self._header.wanted(self._layers))
        return bytes(data)

    def verify(self) -> None:
        if self.fp is None:
            raise RuntimeError("verify must be called directly after open")
        try:
            self.fp.seek(self._start)
            container.verify(self.fp.read())
        finally:
            super().verify()


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

    import numpy as np

    from . import colour

    pixels = np.asarray(colour.to_storage(im))

    from . import codec  # loads torch, which takes seconds: only when nothing above has raised

    return codec.encode_pixels(pixels, options, metadata)


def save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """Pillow's save hook."""
    fp.write(encode_image(im, im.encoderinfo))


Image.register_decoder("nic", NicDecoder)
