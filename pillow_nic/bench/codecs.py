"""What is measured: `.nic`, and other codecs through the libraries that a user of Pillow has."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import PIL
from PIL import Image, features

from ..options import TUNES, EncodeOptions
from .metrics import extra, metric_of

if TYPE_CHECKING:  # the command takes its options from here without waiting for torch
    from ..decoding import Pixels
    from ..weights import Model

SPEED_CODECS = ("avif-444-s6", "jxl-e7", "webp-m6")  # beside which --speed measures when nobody says which
QUALITIES = [i / 8 for i in range(9)]


class Codec(Protocol):
    """What can be measured: pixels to file bytes and back. ``format`` is Pillow's name for it; ``save``: the
    options of all points; ``ladder``: those of each."""

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def save(self) -> Mapping[str, Any]: ...
    @property
    def ladder(self) -> Sequence[Mapping[str, Any]]: ...
    def load(self) -> None: ...
    def encode(self, pixels: Pixels, param: Mapping[str, Any]) -> bytes: ...
    def decode(self, data: bytes) -> Pixels: ...


@dataclass(frozen=True)
class Nic:
    """`.nic` at one tune and effort; None leaves device and network width to the codec."""

    tune: str = EncodeOptions.tune
    effort: int = EncodeOptions.effort
    device: str | None = None
    network_width: int | None = None
    qualities: Sequence[float] = field(default_factory=lambda: QUALITIES)

    @property
    def name(self) -> str:
        return f"nic-{self.tune}-e{self.effort}"

    @property
    def format(self) -> str:
        return "NIC"

    @property
    def save(self) -> Mapping[str, Any]:
        return {"tune": self.tune, "effort": self.effort, "network_width": self.network_width}

    @property
    def ladder(self) -> Sequence[Mapping[str, Any]]:
        return [{"quality": quality} for quality in self.qualities]

    @property
    def metric(self) -> str:
        """What the model was trained for."""
        return metric_of(self.tune)

    @property
    def model(self) -> Model:
        from .. import weights

        return weights.load(TUNES[self.tune], weights.pick_device(self.device))

    def load(self) -> None:
        _ = self.model

    def encode(self, pixels: Pixels, param: Mapping[str, Any]) -> bytes:
        from .. import codec

        return codec.encode(pixels, device=self.device, **self.save, **param)

    def decode(self, data: bytes) -> Pixels:
        from .. import codec

        return codec.decode(data, device=self.device)

    def __str__(self) -> str:
        import torch

        model = self.model
        width = self.network_width or len(model.config.widths)
        return (
            f"{self.name}: {model.name} ({model.hash.hex()}) at effort {self.effort}, width {width} of "
            f"{len(model.config.widths)}, on {model.device}, torch threads: {torch.get_num_threads()}"
        )


# --------------------------------------------------------------------------------------------- other codecs


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
    def module(self) -> str:
        """Importing it is all that a new process needs to know the format."""
        module = self.plugin[0] if self.plugin else "PIL"
        return "pillow_heif.HeifImagePlugin" if module == "pillow_heif" else module

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
