"""Willow, and with it Wagtail, reads `.nic`: `registry.register_plugin(pillow_nic.integrations.willow)`.

Importing this module makes Willow recognise the files; registering it, as Willow's own plugins are, lets
Pillow open them, so that every operation of Willow's Pillow plugin works on them. Willow writes a fixed list
of formats, to which `.nic` cannot be added. In Wagtail, "nic" must also be in `WAGTAILIMAGES_EXTENSIONS`.
"""

from __future__ import annotations

from typing import IO

import filetype
from PIL import Image
from willow.image import INITIAL_IMAGE_CLASSES, ImageFile
from willow.plugins.pillow import PillowImage

from .. import _accept


class NicImageFile(ImageFile):  # type: ignore[misc] # willow has no types
    """A `.nic` file, its checksums checked: a damaged one is an OSError when Willow opens it, which is when
    Wagtail's form expects to hear of it."""

    format_name = "nic"
    mime_type = "image/x-nic"

    def __init__(self, f: IO[bytes]) -> None:
        super().__init__(f)
        f.seek(0)
        with Image.open(f) as im:
            im.verify()
        f.seek(0)


class _NicType(filetype.Type):  # type: ignore[misc] # nor has filetype
    """What tells Willow whether a file is one, by its first bytes."""

    def __init__(self) -> None:
        super().__init__(mime=NicImageFile.mime_type, extension=NicImageFile.format_name)

    def match(self, buf: bytes | bytearray | None) -> bool:
        return buf is not None and _accept(bytes(buf[:16]))


willow_image_classes = [NicImageFile]
willow_converters = [(NicImageFile, PillowImage, PillowImage.open)]

if NicImageFile.format_name not in INITIAL_IMAGE_CLASSES:
    filetype.add_type(_NicType())
    INITIAL_IMAGE_CLASSES[NicImageFile.format_name] = NicImageFile
