"""What `.nic` is compared with: other codecs, through the libraries that a user of Pillow has, and published
curves.

Curves come from an anchors file: {"images": [names], "metrics": {name: implementation}, "codecs": {name:
{"points": [...]}}}, a point being {"bpp", "psnr", "ms_ssim", "ssimulacra2"}, means over the images.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL
from PIL import Image, features

from .metrics import METRICS, extra

if TYPE_CHECKING:
    from ..codec import Pixels

Point = dict[str, Any]  # of an anchors file

# Asked of an anchors file when nobody says what: the best classic codecs, which no library for Pillow has.
PUBLISHED = ("bpg-444", "vtm")

# --------------------------------------------------------------------------- codecs that are measured here


@dataclass(frozen=True)
class PillowCodec:
    """A codec behind `Image.save`. ``save``: its settings at every point; ``ladder``: the options that differ
    from point to point. ``feature``: what Pillow must have been built with; ``plugin``: or the module and the
    distribution that bring the format."""

    name: str
    format: str
    save: Mapping[str, Any]
    ladder: Sequence[Mapping[str, Any]]
    feature: str = ""
    plugin: tuple[str, str] | None = None

    def load(self) -> None:
        """Make Pillow know the format. ModuleNotFoundError or OSError if a library is not there."""
        if self.plugin:
            module = extra(*self.plugin)
            if hasattr(module, "register_heif_opener"):
                module.register_heif_opener()
        elif not features.check(self.feature):
            raise OSError(f"{self.name}: this Pillow ({PIL.__version__}) was built without {self.feature}")

    @property
    def library(self) -> str:
        """With its version, and that of the encoder where it can be known."""
        if not self.plugin:
            return f"Pillow {PIL.__version__}, {self.feature} {features.version(self.feature)}"
        from importlib.metadata import version  # slow to load

        module, distribution = self.plugin
        text = f"{distribution} {version(distribution)}"
        if module == "pillow_heif":
            text += ", " + extra(module).libheif_info()["HEIF"]
        return text

    def encode(self, pixels: Pixels, param: Mapping[str, Any]) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, self.format, **self.save, **param)
        return file.getvalue()

    def decode(self, data: bytes) -> Pixels:
        import numpy as np

        with Image.open(io.BytesIO(data)) as im:
            return np.array(im.convert("RGB"))

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.save.items())
        return f"{self.name}: {self.format}, {options} ({self.library})"


def _ladder(option: str, *values: Any) -> tuple[dict[str, Any], ...]:
    return tuple({option: value} for value in values)


_AVIF = _ladder("quality", 8, 16, 26, 36, 46, 58, 72, 88)
_JPEG2000_RATES = 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2.5  # bpp
_HEIC = {"chroma": 444, "enc_params": {"preset": "slow", "tune": "psnr", "chroma": 444}}

# Each at its best settings that are not too slow, with as many points as its curve needs.
CODECS = {
    codec.name: codec
    for codec in (
        PillowCodec(
            "jpeg-420",
            "JPEG",
            {"subsampling": "4:2:0", "optimize": True},
            _ladder("quality", 5, 10, 20, 30, 40, 55, 70, 80, 88, 94),
            "jpg",
        ),
        PillowCodec(
            "jpeg2000",
            "JPEG2000",
            {"quality_mode": "rates", "irreversible": True, "mct": 1},
            _ladder("quality_layers", *([24 / bpp] for bpp in _JPEG2000_RATES)),
            "jpg_2000",
        ),
        PillowCodec(
            "webp-m6", "WEBP", {"method": 6}, _ladder("quality", 0, 5, 15, 30, 45, 60, 75, 85, 92), "webp"
        ),
        PillowCodec(
            "avif-444-s6-psnr",
            "AVIF",
            {"subsampling": "4:4:4", "speed": 6, "advanced": {"tune": "psnr"}},
            _AVIF,
            "avif",
        ),
        PillowCodec("avif-444-s6", "AVIF", {"subsampling": "4:4:4", "speed": 6}, _AVIF, "avif"),
        PillowCodec(
            "heic-444-psnr",
            "HEIF",
            _HEIC,
            _ladder("quality", 6, 11, 16, 21, 26, 31, 36, 41, 46, 56, 66),
            plugin=("pillow_heif", "pillow-heif"),
        ),
        PillowCodec(
            "jxl-e7",
            "JXL",
            {"effort": 7},
            _ladder("quality", 1, 10, 20, 35, 55, 70, 83, 93),
            plugin=("pillow_jxl", "pillow-jxl-plugin"),
        ),
    )
}

# ---------------------------------------------------------------------------------------- published curves


def load_published(
    file: Path, pictures: Sequence[Path], against: Sequence[str] | None = None, measured: Sequence[str] = ()
) -> dict[str, list[Point]]:
    """The chosen codecs of an anchors file; of the default ones, those that it has.

    One that is ``measured`` here, too, gets the file's name behind its own. SSIMULACRA2 is left out unless
    the file says that it is of the implementation that is used here. ValueError if a codec is not there or
    the file is of other pictures.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    if {Path(name).stem for name in content["images"]} != {path.stem for path in pictures}:
        raise ValueError(f"{file.name} is of other pictures than these: a BD-rate would mean nothing")
    codecs: dict[str, Any] = content["codecs"]
    if missing := [name for name in against or () if name not in codecs]:
        raise ValueError(f"{file.name} has no {', '.join(missing)}, but {', '.join(codecs)}")
    alike = content.get("metrics", {}).get("ssimulacra2") == METRICS["ssimulacra2"].implementation
    skipped = () if alike else ("ssimulacra2",)
    return {
        f"{name} ({file.stem})" if name in measured else name: [
            {key: value for key, value in point.items() if key not in skipped}
            for point in codecs[name]["points"]
        ]
        for name in against or PUBLISHED
        if name in codecs
    }
