"""`.nic` for imageio: importing this package lets imageio's Pillow plugin read and write the format.

    import imageio.v3 as iio
    import imageio_nic

    iio.imwrite("photo.nic", pixels, quality=0.5)
    pixels = iio.imread("photo.nic")

imageio reads and writes `.nic` files as soon as `pillow_nic` is imported, because it tries Pillow for what
it does not know. The entry made here sends it to Pillow at once, and `iio.imwrite("<bytes>", pixels,
extension=".nic")` works too.
"""

from __future__ import annotations

from imageio.config import FileExtension, extension_list, known_extensions

import pillow_nic

__all__ = ["register"]


def register() -> None:
    """Make the entry. Importing the package does it; again changes nothing."""
    pillow_nic.register()
    if ".nic" not in known_extensions:
        extension = FileExtension(extension=".nic", priority=["pillow"], name="NIC")
        known_extensions[".nic"] = [extension]
        extension_list.append(extension)


register()
