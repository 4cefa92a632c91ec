"""A neural image format for Pillow: importing this package makes `Image.open` and `Image.save` know `.nic`.

    import pillow_nic
    from PIL import Image

    Image.open("photo.png").save("photo.nic", quality=0.3)
    Image.open("photo.nic").show()

Without Pillow's classes: `encode(array, quality=0.5)` gives the bytes of a file, `decode(data)` the array and
`read_header(data)` what stands in the header; `decode_batch(files)` decodes many at once.
"""

from __future__ import annotations

import mimetypes
from typing import IO, TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from PIL import ImageFile

    from .batch import decode_batch
    from .binary import Source
    from .codec import decode, encode
    from .errors import BitstreamError, NicError, TruncatedError, UnsupportedModelError, WeightsError
    from .header import Header
    from .NicImagePlugin import NicImageFile
    from .preload import warm_up

__version__ = "0.1.0"

__all__ = [
    "BitstreamError",
    "NicError",
    "NicImageFile",
    "TruncatedError",
    "UnsupportedModelError",
    "WeightsError",
    "decode",
    "decode_batch",
    "encode",
    "read_header",
    "register",
    "truncate",
    "unregister",
    "warm_up",
]

_MIME = "image/x-nic"

_LAZY = {
    "encode": "codec",
    "decode": "codec",
    "decode_batch": "batch",
    "warm_up": "preload",
    "BitstreamError": "errors",
    "NicError": "errors",
    "TruncatedError": "errors",
    "UnsupportedModelError": "errors",
    "WeightsError": "errors",
    "NicImageFile": "NicImagePlugin",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to load: only who encodes or decodes shall wait for it.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def read_header(source: Source) -> Header:
    """The header of a `.nic` file given as bytes, path or binary file; needs neither torch nor numpy.

    `header.layer_offsets[k - 1]` is where layer k ends: the bytes before it, sent or stored alone, decode
    with `layers=k`. The first kilobytes of a file are enough; if they are not, `layer_offsets` is empty and
    `header.needed` says how many bytes to have before looking again. BitstreamError (an OSError) for what is
    no `.nic` file; for the beginning of one that ends in its header, TruncatedError, which has `needed`, too.
    """
    from .binary import whole
    from .container import parse_header

    return parse_header(whole(source))


def truncate(source: Source, layers: int) -> bytes:
    """A `.nic` file of the first `layers` layers, made without decoding: it decodes to the same pixels as
    `decode(source, layers=layers)`. ValueError if there are not so many; BitstreamError for damaged data.
    """
    from .binary import whole
    from .container import truncate

    return truncate(whole(source), layers)


# Pillow's hooks. They load the plugin with the first .nic file that is opened or saved: what it imports,
# PIL.ImageFile and dataclasses, would take most of the 10 ms that this package may add to PIL.Image's.


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(b"\x89NIC\r\n\x1a\n")


def _open(fp: IO[bytes], filename: str | bytes) -> ImageFile.ImageFile:
    from .NicImagePlugin import NicImageFile

    return NicImageFile(fp, filename)


def _save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    from .NicImagePlugin import save

    save(im, fp, filename)


def register() -> None:
    """Make Pillow open and save `.nic` files, and mimetypes know them. Importing the package does it; again
    changes nothing."""
    Image.register_open("NIC", _open, _accept)
    Image.register_save("NIC", _save)
    Image.register_extension("NIC", ".nic")
    Image.register_mime("NIC", _MIME)
    if mimetypes.inited:
        mimetypes.add_type(_MIME, ".nic")
    else:  # add_type() would read the system's tables, which takes longer than all of this package
        mimetypes.types_map[".nic"] = _MIME


def unregister() -> None:
    """Take `.nic` out of Pillow again; images that are open already can still be loaded."""
    if "NIC" in Image.ID:
        Image.ID.remove("NIC")
    for registry, key in (
        (Image.OPEN, "NIC"),
        (Image.SAVE, "NIC"),
        (Image.EXTENSION, ".nic"),
        (Image.MIME, "NIC"),
    ):
        registry.pop(key, None)


register()
