"""What tests share: pieces of one photograph, how far two pictures are apart, and a fresh Python."""

from __future__ import annotations

import io
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PHOTO = Path(__file__).parent / "data" / "photo.png"


@cache
def _photo() -> Image.Image:
    with Image.open(PHOTO) as im:
        return im.convert("RGB")


def photo(
    mode: str = "RGB", size: tuple[int, int] = (208, 144), corner: tuple[int, int] = (60, 60)
) -> Image.Image:
    """A piece of the photograph, by default larger than what is stored in a single layer; its alpha, if the
    mode has one, is a gradient."""
    left, top = corner
    im = _photo().crop((left, top, left + size[0], top + size[1]))
    if mode.endswith("A"):
        im.putalpha(Image.linear_gradient("L").resize(size))
    return im.convert(mode)


def pixels(
    mode: str = "RGB", size: tuple[int, int] = (208, 144), corner: tuple[int, int] = (60, 60)
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """:func:`photo` as an array."""
    return np.array(photo(mode, size, corner))


def whole_photo() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """384×512×3."""
    return pixels(size=_photo().size, corner=(0, 0))


def saved(im: Image.Image, **options: Any) -> bytes:
    """The bytes of a `.nic` file."""
    file = io.BytesIO()
    im.save(file, "NIC", **options)
    return file.getvalue()


def psnr(first: Any, second: Any) -> float:
    """Of two pictures or arrays of equal shape, in dB."""
    difference = np.asarray(first, float) - np.asarray(second, float)
    return float(10 * np.log10(255**2 / np.square(difference).mean()))


def python_says(code: str) -> str:
    """What a program in a Python of its own prints; it must end well."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()
