"""`.nic` for imageio: importing this package makes `imageio.v3` and `imageio.v2` know the format.

    import imageio.v3 as iio
    import imageio_nic

    iio.imwrite("photo.nic", pixels, quality=0.5)
    pixels = iio.imread("photo.nic")
    first_look = iio.imread("photo.nic", layers=1)

`imageio_nic.plugin.NicPlugin` lists all options. The plugin's name is "nic", for `plugin="nic"` (v3) and
`format="nic"` (v2). For bytes and file objects, which have no file name, give `extension=".nic"` (v3) or
`format="nic"` (v2): imageio asks Pillow first otherwise. Pillow reads the picture too, because `pillow_nic`
is imported here, but knows none of the options.
"""

from __future__ import annotations

from imageio.config import FileExtension, PluginConfig, extension_list, known_extensions, known_plugins

import pillow_nic

__all__ = ["register", "unregister"]

# imageio imports the plugin with the first .nic file.
_PLUGIN = PluginConfig(
    name="nic", class_name="NicPlugin", module_name="imageio_nic.plugin", install_name="pillow-nic"
)
_EXTENSION = FileExtension(name="Neural image codec", extension=".nic", priority=["nic", "pillow"])


def register() -> None:
    """Make the entries, and those of Pillow. Importing the package does it; again changes nothing."""
    pillow_nic.register()
    known_plugins["nic"] = _PLUGIN
    formats = known_extensions.setdefault(".nic", [])
    if _EXTENSION not in formats:
        formats.append(_EXTENSION)
    if _EXTENSION not in extension_list:
        extension_list.append(_EXTENSION)


def unregister() -> None:
    """Take the entries out again and leave imageio as it was; files that are open can still be read.

    Pillow goes on knowing `.nic`, and imageio through Pillow, until `pillow_nic.unregister()`."""
    if known_plugins.get("nic") is _PLUGIN:
        del known_plugins["nic"]
    formats = known_extensions.get(".nic", [])
    if _EXTENSION in formats:
        formats.remove(_EXTENSION)
        if not formats:
            del known_extensions[".nic"]
    if _EXTENSION in extension_list:
        extension_list.remove(_EXTENSION)


register()
