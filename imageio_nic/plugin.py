"""imageio's plugin for `.nic`, straight on `pillow_nic.codec`: read, iterate, write, properties, metadata.

A file holds one image. `imread(path)` gives it as uint8 H×W (grey), H×W×2 (grey, alpha), H×W×3 or H×W×4; an
index of None or 0 means it, `...` gives it with a first axis of length 1, and any other index is a
ValueError. `imiter(path)` gives one frame per layer, from the base to the full picture, all of the full size.

What is wrong with a file is an OSError (`pillow_nic.BitstreamError`, `TruncatedError`,
`UnsupportedModelError`, `WeightsError`), a bad option or array a ValueError or TypeError, and a picture
larger than Pillow's `Image.MAX_IMAGE_PIXELS` allows a DecompressionBombWarning or -Error, as in Pillow. Data
that do not start with the signature are left to imageio's other plugins. A file object is read from where it
stands and need not be seekable; `layers=` reads no more of it than those layers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import EllipsisType
from typing import IO, Any, Unpack

import numpy as np
from imageio.core.request import URI_BYTES, URI_FILENAME, InitializationError, IOMode, Request
from imageio.core.v3_plugin_api import ImageProperties, PluginV3
from PIL import Image, ImageOps

from pillow_nic import container
from pillow_nic.binary import read_block
from pillow_nic.header import SIGNATURE, Header
from pillow_nic.metadata import Metadata
from pillow_nic.options import (
    TOP_RATE_POINT,
    DecodeKeywords,
    SaveKeywords,
    chosen_for_decode,
    chosen_for_save,
)
from pillow_nic.writing import replace_file, write_all

Array = np.ndarray[Any, Any]

_MILLIMETRES = 25.4  # in an inch


class NicPlugin(PluginV3):
    """One resource that imageio has opened; ``iio.imopen(path, "r", plugin="nic")`` gives it."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._written = False
        self._tape: _Tape | None = None
        if request.mode.io_mode == IOMode.write:
            if (request.extension or ".nic").lower() != ".nic":
                raise InitializationError(f"the NIC plugin writes .nic files, not {request.extension}")
            return
        file = request.get_file()
        head = bytes(read_block(file, len(SIGNATURE)))
        if head != SIGNATURE:
            with suppress(OSError, AttributeError):  # so that the next plugin finds what this one found
                file.seek(-len(head), 1)
            raise InitializationError("not a NIC file")
        self._tape = _Tape(file, head)

    def read(
        self,
        *,
        index: int | EllipsisType | None = None,
        mode: str | None = None,
        rotate: bool = False,
        **keywords: Unpack[DecodeKeywords],
    ) -> Array:
        """Decode the picture: uint8 H×W, H×W×2, H×W×3 or H×W×4, with a first axis of 1 for ``index=...``.

        ``mode``: converted to this mode of Pillow's, for example "RGB" or "L", as ``Image.convert`` does,
        so that other modes can have other types and shapes. ``rotate``: turned as the orientation in its
        EXIF says. The others are the fields of ``pillow_nic.options.DecodeOptions``. ValueError for
        values out of range, TypeError for unknown options, OSError for damaged data."""
        _check_index(index)
        header, metadata = self._info
        options = chosen_for_decode("imread", keywords)
        header.wanted(options.layers)
        Image._decompression_bomb_check((header.width, header.height))
        from pillow_nic import codec, decoding  # loads torch

        tape = self._tape_to(decoding.layers_needed(header, options))
        pixels = codec.decode_bytes(tape.data, options)
        if mode is not None or rotate:
            pixels = _transform(pixels, mode, metadata.exif if rotate else None)
        return pixels[np.newaxis] if index is ... else pixels

    def iter(self, *, layers: int | None = None, partial: bool = False, **options: Any) -> Iterator[Array]:
        """One frame per layer, from the base to the full picture, or to the first ``layers`` of them.

        Frame k is ``read(layers=k)``, decoded from the start; ``options`` are those of :meth:`read`. A frame
        comes as soon as the file has been read so far. Of a cut file come the whole layers, then
        TruncatedError; with ``partial`` the frames just end."""
        for count in range(1, self._info[0].wanted(layers) + 1):
            tape = self._tape_to(count)
            if partial and 0 < tape.counter.update(tape.data) < count:
                return
            yield self.read(layers=count, **options)

    def write(
        self, ndimage: Any, *, is_batch: bool | None = None, **keywords: Unpack[SaveKeywords]
    ) -> bytes | None:
        """Encode one image; the bytes of the file for the target "<bytes>", else None.

        ``ndimage``: uint8 or bool (stored as 0 and 255), H×W or H×W×1 (grey), H×W×2 (grey, alpha), H×W×3 or
        H×W×4; or a list or, with a further first axis, an array of exactly one of these. ``is_batch`` says
        whether the first axis counts images; without it, it does in 4 dimensions, and in 3 if the last one
        is longer than 4. The options are those of ``Image.save``, unknown ones among them: see
        ``pillow_nic.NicImagePlugin``.

        ValueError or TypeError for what cannot be stored, and OSError for a full disk: a file that exists is
        then left as it is. A second image is a ValueError."""
        if self._tape is not None:
            raise ValueError("this file is open for reading")
        if self._written:
            raise ValueError("a NIC file holds one image, and this one has been written")
        options = chosen_for_save(keywords)
        metadata = Metadata.from_save({}, keywords)
        from pillow_nic import codec, colour  # loads torch

        pixels = colour.as_pixels(_one_image(ndimage, is_batch))
        data = codec.encode_pixels(pixels, options, metadata, keywords.get("progress"))
        if self.request._uri_type == URI_FILENAME:
            replace_file(Path(self.request.filename), data)
        else:
            write_all(self.request.get_file(), data)
        self._written = True
        return data if self.request._uri_type == URI_BYTES else None

    def properties(self, index: int | EllipsisType | None = None) -> ImageProperties:
        """Shape and type of what :meth:`read` gives, from the header alone.

        ``spacing``: if the file says its dpi, millimetres from pixel to pixel along the rows' and columns'
        axes, and 1.0 along the others. ``n_images`` is 1 for ``index=...``: layers are not counted."""
        _check_index(index)
        header, metadata = self._info
        channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[header.mode]
        first = (1,) if index is ... else ()
        spacing = None
        if metadata.dpi is not None:
            x, y = metadata.dpi
            spacing = (*map(float, first), _MILLIMETRES / y, _MILLIMETRES / x, *(1.0 for _ in channels))
        return ImageProperties(
            shape=(*first, header.height, header.width, *channels),
            dtype=np.dtype(np.uint8),
            n_images=1 if index is ... else None,
            is_batch=index is ...,
            spacing=spacing,
        )

    def metadata(
        self, index: int | EllipsisType | None = None, exclude_applied: bool = True
    ) -> dict[str, Any]:
        """What the file says, without decoding a pixel: ``mode``, ``layers``, ``quality`` (the float that
        its rate point stands for), ``model``, and as far as it has them ``icc_profile``, ``exif``, ``xmp``,
        ``dpi`` and ``comment`` as Pillow's ``im.info`` has them.

        It is the same for every frame of :meth:`iter`, so that ``index`` may be the number of one. Nothing
        is applied to the pixels unless asked for, so ``exclude_applied`` excludes nothing."""
        header, metadata = self._info
        if not (isinstance(index, int) and 0 <= index < header.layers):
            _check_index(index)
        return {
            "mode": header.mode,
            "layers": header.layers,
            "quality": header.rate_point / TOP_RATE_POINT,
            "lossless": header.lossless,
            "model": header.model,
            **metadata.to_info(),
        }

    @cached_property
    def _info(self) -> tuple[Header, Metadata]:
        tape = self._readable()
        tape.position = 0
        header, chunks = container.read_info(tape)
        return header, Metadata.from_chunks(chunks)

    def _tape_to(self, layers: int) -> _Tape:
        """The tape, read as far as so many layers reach, or to the file's end."""
        tape = self._readable()
        tape.counter.read(tape.file, tape.data, layers)
        return tape

    def _readable(self) -> _Tape:
        if self._tape is None:
            raise ValueError("this file is open for writing")
        return self._tape


class _Tape:
    """A file's bytes from where it stood, kept as they are read, because not every file can go back."""

    def __init__(self, file: IO[bytes], head: bytes) -> None:
        self.data = bytearray(head)
        self.counter = container.LayerCounter()
        self.position = 0
        self.file = file

    def read(self, size: int, /) -> bytes:
        """What ``container.read_info`` asks for, from the position on."""
        end = self.position + size
        while len(self.data) < end and (block := read_block(self.file, end - len(self.data))):
            self.data += block
        piece = bytes(self.data[self.position : end])
        self.position += len(piece)
        return piece


def _check_index(index: object) -> None:
    if index is not None and index is not ... and index != 0:
        raise ValueError(f"a NIC file holds one image: its index is 0, None or ..., not {index!r}")


def _one_image(ndimage: Any, is_batch: bool | None) -> Array:
    """The only image; ValueError for several."""
    images = ndimage if isinstance(ndimage, list | tuple) else np.asarray(ndimage)
    if is_batch is None:
        is_batch = (
            not isinstance(images, np.ndarray)
            or images.ndim > 3
            or (images.ndim == 3 and images.shape[2] > 4)
        )
    if is_batch:
        if len(images) != 1:
            raise ValueError(f"a NIC file holds one image, not {len(images)}")
        images = images[0]
    return np.asarray(images)


def _transform(pixels: Array, mode: str | None, exif: bytes | None) -> Array:
    """The pixels as Pillow turns them upright by their EXIF, if it is given, and converts them."""
    image = Image.fromarray(pixels)
    if exif is not None:
        image.info["exif"] = exif
        # EXIF came with somebody else's file: what cannot be read says nothing of an orientation.
        with suppress(SyntaxError, struct.error, ValueError, TypeError, KeyError):
            image = ImageOps.exif_transpose(image)
    if mode is not None:
        image = image.convert(mode)
    return np.array(image)
