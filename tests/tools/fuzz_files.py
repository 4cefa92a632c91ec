"""Sound files that fuzz.py starts from: the golden files, or small ones of a tiny model."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageDraw

import pillow_nic
from pillow_nic import codec, weights
from pillow_nic.options import TUNES

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden"
sys.path.append(str(TESTS))
SMALLEST, LARGEST = "smallest", "photo"
"""Of one tile each; the second is for measuring what a pixel takes, and long to decode."""


def shipped() -> dict[str, bytes]:
    """Files of all models."""
    files = {
        str(file.relative_to(GOLDEN).with_suffix("")): file.read_bytes()
        for file in sorted(GOLDEN.glob("*/*.nic"))
    }
    return files | {
        SMALLEST: files.pop("nic-2/smallest"),
        LARGEST: files.pop("nic-2/photo"),
        "exact/some": _encoded(page(), quality=0.4),
        "exact/lossless": _encoded(page(), lossless=True),
    }


def tiny() -> dict[str, bytes]:
    """Files of tests/tiny_model.py, which is every model in this process from now on: pictures of 1 to 64
    pixels a side, decoded in milliseconds."""
    import tiny_model

    network = tiny_model.random_network()
    with tempfile.TemporaryDirectory() as folder:
        for name in TUNES.values():
            file = tiny_model.save_weights(Path(folder, f"{name}.safetensors"), network)
            weights.use(file, torch.device("cpu"))
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, shape, np.uint8))

    small = page().resize((48, 33))
    exif = Image.Exif()
    exif[0x0112] = 6
    metadata = {"exif": exif, "xmp": "<x/>", "comment": "é", "dpi": (72, 300), "icc_profile": bytes(200)}
    with Image.open(TESTS / "data" / "photo.png") as im:
        photo = im.convert("RGB")
    files = {
        SMALLEST: _encoded(noise(1, 1)),
        LARGEST: _encoded(photo.resize((512, 384)), graphics="never"),
        "rgb": _encoded(photo.resize((40, 64)), quality=0.3),
        "noise": _encoded(noise(17, 33, 3), quality=0.9),
        "rgba": _encoded(noise(16, 16, 4), quality=0.2),
        "grey": _encoded(noise(31, 16)),
        "grey-alpha": _encoded(noise(9, 50).convert("LA"), quality=0.4, network_width=1),
        "thin": _encoded(noise(1, 64, 3)),
        "one-layer": _encoded(noise(20, 20, 3), layers=1),
        "metadata": _encoded(noise(16, 16, 3), **metadata),
        "exact": _encoded(small, quality=0.4),
        "lossless": _encoded(small.convert("RGBA"), lossless=True),
    }
    with mock.patch.object(codec, "TILE_LOG2", 6):
        return files | {"tiles": _encoded(photo.resize((140, 100)), graphics="never")}


def page() -> Image.Image:
    """Text with a noisy corner: some of it is stored in exact cells."""
    im = Image.new("RGB", (120, 90), "white")
    ImageDraw.Draw(im).multiline_text((3, 3), "exact cells\n" * 5, fill="navy")
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    im.paste(Image.fromarray(noise), (64, 50))
    return im


def _encoded(im: Image.Image, **options: object) -> bytes:
    return pillow_nic.encode(im, **options)  # type: ignore[arg-type]
