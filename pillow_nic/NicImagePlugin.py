"""Pillow's plugin for `.nic`: open, load, verify and save.

`Image.open` reads the header and the metadata. Before the pixels are loaded, `im.layers = n` asks for the
first n layers only (None, the default, for all). `im.info` holds `layers` (how many the file has),
`quality` (the float that the file's rate point stands for), `model`, and as far as the file has them
`icc_profile`, `exif`, `xmp`, `dpi` and `comment`. `im.verify()` checks the structure and every checksum of
the file without decoding a pixel.

`Image.save` takes
    quality      float from 0 to 1 (default 0.5), or an int from 2 to 100 read as a percentage
    effort       0 or 1 (default): 1 chooses symbols for rate and distortion together
    layers       how many layers to write (default: as the model likes)
    width        the width of the network to encode with, 1 for the narrowest (default: chosen by the quality)
    icc_profile, exif, xmp, dpi, comment
                 metadata (default: what `im.info` holds; None or b"" leaves it out)
and checks all of them and the picture's mode before it writes a byte. (Pillow itself opens the target
before it calls a plugin: it removes a new file again when the save fails; an existing one is empty by then.)

The environment variable NIC_DEVICE names the device ("cpu", "cuda", "mps", …); without it, the best there is.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import IO, Any

from PIL import Image, ImageFile

from . import container
from .errors import BitstreamError, TruncatedError
from .metadata import Metadata
from .quality import DEFAULT_EFFORT, DEFAULT_QUALITY, TOP_RATE_POINT, parse_effort, parse_quality

# Bytes that Pillow reads at a time. With each block the decoder looks whether the file is whole.
_BLOCK = 1 << 20


class NicImageFile(ImageFile.ImageFile):
    format = "NIC"
    format_description = "Neural image codec"

    _layers: int | None = None

    def _open(self) -> None:
        assert self.fp is not None
        self._start = self.fp.tell()
        if self.fp.read(len(container.SIGNATURE)) != container.SIGNATURE:
            raise SyntaxError("not a NIC file")
        self.fp.seek(self._start)
        header, chunks = container.read_info(self.fp)
        self._all_layers = header.layers
        self._mode = header.mode
        self._size = header.width, header.height
        self.info.update(Metadata.from_chunks(chunks).to_info())
        self.info["layers"] = header.layers
        self.info["quality"] = header.rate_point / TOP_RATE_POINT
        self.info["model"] = header.model
        self.decodermaxblock = _BLOCK
        self._lock = threading.Lock()
        self._plan()

    def _plan(self) -> None:
        # A plain tuple: ImageFile._Tile came with Pillow 11.
        args = (self._layers or self._all_layers,)
        self.tile = [("nic", (0, 0, *self.size), self._start, args)]  # type: ignore[list-item]

    @property
    def layers(self) -> int | None:
        """How many layers `load()` decodes, None for all; to be set before the pixels are loaded."""
        return self._layers

    @layers.setter
    def layers(self, layers: int | None) -> None:
        if (_count("layers", layers) or 1) > self._all_layers:
            raise ValueError(f"layers must be from 1 to the {self._all_layers} of this file, not {layers}")
        if not self.tile:
            raise ValueError("layers must be set before the pixels are loaded")
        self._layers = layers
        self._plan()

    def load(self) -> Any:
        if not self.tile:
            return super().load()
        # ImageFile.load() has no lock: threads that share a lazy image would take the file's blocks in turns.
        with self._lock:
            if self.tile and self.fp is None:
                raise OSError("cannot load this image: its file has been closed")
            return super().load()

    def verify(self) -> None:
        if self.fp is None:
            raise RuntimeError("verify must be called directly after open")
        try:
            self.fp.seek(self._start)
            container.verify(self.fp.read())
        finally:
            super().verify()


class NicDecoder(ImageFile.PyDecoder):
    """Collects the bytes of the layers that are wanted and decodes them once."""

    def init(self, args: tuple[Any, ...]) -> None:
        # ImageFile.Parser makes a decoder as soon as it has the header, so nothing is loaded here.
        self._layers: int = args[0]
        self._data = bytearray()
        self._rendered = False

    def decode(self, buffer: Any) -> tuple[int, int]:
        # Everything is consumed: Pillow would copy again with every block what is not.
        self._data += buffer
        if not self._complete():
            return len(buffer), 0
        self._render(partial=False)
        return -1, 0

    def cleanup(self) -> None:
        # After the last block, also when load() is about to raise "image file is truncated".
        if not self._rendered and ImageFile.LOAD_TRUNCATED_IMAGES:
            self._render(partial=True)

    def _complete(self) -> bool:
        try:
            return len(container.layer_offsets(self._data)) >= self._layers
        except TruncatedError:
            return False

    def _render(self, *, partial: bool) -> None:
        from . import codec  # loads torch

        self._rendered = True
        pixels = codec.decode(bytes(self._data), layers=self._layers, partial=partial)
        if pixels.shape[:2] != (self.state.ysize, self.state.xsize):
            raise BitstreamError("the file has changed since it was opened")
        self.set_as_raw(pixels.tobytes())


def encode_image(im: Image.Image, options: Mapping[str, Any]) -> bytes:
    """The bytes of a `.nic` file for a Pillow image; `options` as for `Image.save`, all checked first."""
    quality = parse_quality(options.get("quality", DEFAULT_QUALITY))
    layers, width = (_count(name, options.get(name)) for name in ("layers", "width"))
    effort = parse_effort(options.get("effort", DEFAULT_EFFORT))
    if min(im.size) == 0:
        raise ValueError("cannot write empty image as NIC")
    metadata = Metadata.from_save(im.info, options)

    import numpy as np

    from . import colour

    pixels = np.asarray(colour.to_storage(im))

    from . import codec  # loads torch, which takes seconds: only when nothing above has raised

    return codec.encode(pixels, quality=quality, effort=effort, layers=layers, width=width, metadata=metadata)


def save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """Pillow's save hook."""
    fp.write(encode_image(im, im.encoderinfo))


def _count(name: str, value: Any) -> int | None:
    """An option that is a positive int or None."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"{name} must be a positive int or None, not {value!r}")


Image.register_decoder("nic", NicDecoder)
