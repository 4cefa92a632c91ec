"""Answers for every option of encode and decode, once: default, check, sentence; and quality ↔ rate point.

Pillow, imageio, the command, the array functions, numcodecs and zarr pass their keywords on to the two
classes here. A new option is a field of one of them, a line in the keywords for type checkers (a test
compares them) and a line in docs/. Standard library only.
"""

from __future__ import annotations

import math
import numbers
import operator
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self, TypedDict

if TYPE_CHECKING:
    from PIL import Image

# What the weights were trained for, and the model that was: its name in a file says which.
TUNES = {"visual": "nic-2-visual", "ms-ssim": "nic-2-ms", "psnr": "nic-2"}
TOP_EFFORT = 3
TARGETS = ("target_size", "target_bpp", "target_psnr", "target_ssim")
GRAPHICS = ("auto", "always", "never")
REDUCTIONS = (1, 2, 4, 8, 16)

# The header holds a 16-bit integer: everything that decides a probability starts from it, never from a float.
TOP_RATE_POINT = 65535

_LIBRARIES = ("PIL", "imageio", "imageio_nic", "pillow_nic")  # not the caller whom a warning means


def rate_point(quality: float) -> int:
    """The header's 16-bit integer for a quality in [0, 1]."""
    return round(quality * TOP_RATE_POINT)


Progress = Callable[[float], object]
"""Is told how much of a long work is done, 0 to 1."""


# ------------------------------------------------------------------------------------------------- checks


def whole_number(name: str, value: object, least: int, most: int | None = None) -> int:
    """A Python or numpy integer as int; ValueError, which names the range, for everything else."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        number = int(value)
        if least <= number and (most is None or number <= most):
            return number
    end = "" if most is None else f" to {most}"
    raise ValueError(f"{name} must be a whole number from {least}{end}, not {value!r}")


def _quality(name: str, value: object) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number: Any = value  # type checkers know of no order among numbers.Real
        if 0 <= number <= 1:
            if number == 1 and isinstance(value, numbers.Integral):
                _warn(f"{name}={value} is the best quality, as 1.0 is; 1 percent is {name}=0.01")
            return float(number)
        if 2 <= number <= 100:
            return float(number / 100)
    raise ValueError(f"{name} must be a number from 0 to 1 or from 2 to 100 (percent), not {value!r}")


def _effort(name: str, value: object) -> int:
    return whole_number(name, value, 0, TOP_EFFORT)


def _tune(name: str, value: object) -> str:
    if isinstance(value, str) and value in TUNES:
        return value
    raise ValueError(f"{name} must be {' or '.join(map(repr, TUNES))}, not {value!r}")


def _graphics(name: str, value: object) -> str:
    if isinstance(value, str) and value in GRAPHICS:
        return value
    raise ValueError(f"{name} must be {', '.join(map(repr, GRAPHICS))}, not {value!r}")


def _count(name: str, value: object) -> int | None:
    return None if value is None else whole_number(name, value, 1)


def _target(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
        if 0 < number < math.inf:
            return number
    raise ValueError(f"{name} must be a number greater than 0, not {value!r}")


def _similarity(name: str, value: Any) -> float | None:
    target = _target(name, value)
    if target == 1:
        raise ValueError(f"{name}=1 is the picture without any loss, which .nic does not reach")
    return target


def _text(name: str, value: object) -> str | None:
    return None if value is None else str(value)


def _flag(name: str, value: object) -> bool:
    return bool(value)


def _reduce(name: str, value: object) -> int:
    if whole_number(name, value, 1, 16) in REDUCTIONS:
        return int(value)  # type: ignore[call-overload]
    raise ValueError(f"{name} must be one of {', '.join(map(str, REDUCTIONS))}, not {value!r}")


def _region(name: str, value: Any) -> tuple[int, int, int, int] | None:
    if value is None:
        return None
    try:
        left, top, right, bottom = map(operator.index, value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (left, top, right, bottom) in pixels, not {value!r}") from None
    return left, top, right, bottom


def _exclusive(names: list[str]) -> ValueError:
    return ValueError(f"{' and '.join(names)} exclude each other: give one")


def _warn(message: str) -> None:
    """A UserWarning that shows the line from which Pillow, imageio or this package was called."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


# ------------------------------------------------------------------------------------------------ options


def _option(default: object, check: Callable[[str, Any], object], sentence: str) -> Any:
    return field(default=default, metadata={"check": check, "sentence": sentence})


@dataclass(frozen=True)
class _Options:
    """ValueError when it is made with a value out of range."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = option.metadata["check"](option.name, getattr(self, option.name))
            object.__setattr__(self, option.name, value)

    @classmethod
    def names(cls) -> list[str]:
        return [option.name for option in fields(cls)]

    @classmethod
    def sentence(cls, name: str) -> str:
        """What the option means, and its default: the text of the command's help and of the docstrings."""
        option = next(option for option in fields(cls) if option.name == name)
        plain = option.default is None or option.default is False
        return str(option.metadata["sentence"]) + ("" if plain else f" (default: {option.default})")

    @classmethod
    def described(cls) -> str:
        """All options, for a docstring."""
        return "\n".join(f"    {name}: {cls.sentence(name)}" for name in cls.names())

    def given(self) -> dict[str, Any]:
        """The options that are not at their defaults and have an effect, as keywords."""
        options = [option for option in fields(self) if option.name not in self.idle()]
        values = {option.name: (getattr(self, option.name), option.default) for option in options}
        return {name: value for name, (value, default) in values.items() if value != default}

    @classmethod
    def chosen(cls, keywords: Mapping[str, Any]) -> Self:
        """The options among the keywords."""
        chosen = cls(**{name: keywords[name] for name in cls.names() if name in keywords})
        for name in chosen.idle():
            _warn(f"{name} means nothing to a lossless file, and is ignored")
        return chosen

    def idle(self) -> tuple[str, ...]:
        """Options that are given and without effect."""
        return ()


@dataclass(frozen=True)
class EncodeOptions(_Options):
    """How a picture is encoded; ValueError for values out of range."""

    quality: float = _option(0.5, _quality, "a number from 0 to 1, or from 2 to 100 read as percent")
    effort: int = _option(
        1,
        _effort,
        "0 rounds to the nearest symbol, 1 weighs rate against distortion, 2 and 3 search for smaller files, "
        "and take much longer; decoding takes the same time",
    )
    tune: str = _option(
        "visual",
        _tune,
        '"visual" for what people see, "ms-ssim" for that metric, "psnr" for the least squared error',
    )
    graphics: str = _option(
        "auto",
        _graphics,
        '"auto" stores text, screens and drawings lossless where that pays at the quality, "always" at every '
        'quality, "never" nowhere',
    )
    lossless: bool = _option(
        False, _flag, "keep every pixel as it is; excludes targets, and ignores the other options of encoding"
    )
    layers: int | None = _option(
        None, _count, "how many layers to write (default: up to 8; 1 up to 128×128 pixels)"
    )
    network_width: int | None = _option(
        None,
        _count,
        "width of the network that will decode the file, 1 for the narrowest (default: the full width, or a "
        "narrower one if that costs no bytes)",
    )
    model: str | None = _option(None, _text, "the name of an installed model (default: that of the tune)")
    device: str | None = _option(
        None, _text, "cpu, cuda, mps … (default: the environment's NIC_DEVICE, else the best there is)"
    )
    threads: int | None = _option(
        None,
        _count,
        "how many threads compute (default: the environment's NIC_THREADS, else one for each processor)",
    )
    target_size: int | None = _option(
        None, _count, "instead of a quality: at most so many bytes, metadata included (default: none)"
    )
    target_bpp: float | None = _option(
        None, _target, "instead of a quality: at most so many bits of the file per pixel (default: none)"
    )
    target_psnr: float | None = _option(
        None, _target, "instead of a quality: at least that PSNR of the colours, in dB (default: none)"
    )
    target_ssim: float | None = _option(
        None,
        _similarity,
        "instead of a quality: at least that MS-SSIM of the colours; above 1 in dB, "
        "-10 log10(1 - MS-SSIM) (default: none)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [f"{name}=" for name in TARGETS if getattr(self, name) is not None]
        if len(given) > 1 or (given and self.quality != EncodeOptions.quality):
            raise _exclusive(given if len(given) > 1 else ["quality=", *given])
        if given and self.lossless:
            raise _exclusive(["lossless=", *given])

    @classmethod
    def chosen(cls, keywords: Mapping[str, Any]) -> Self:
        options = super().chosen(keywords)
        if options.target is not None and "quality" in keywords:
            raise _exclusive(["quality=", f"{options.target}="])
        return options

    @property
    def target(self) -> str | None:
        """The name of the target that is set."""
        return next((name for name in TARGETS if getattr(self, name) is not None), None)

    @property
    def loss(self) -> str:
        """The tune whose loss the model was trained for."""
        return next((tune for tune, model in TUNES.items() if model == self.model), self.tune)

    def idle(self) -> tuple[str, ...]:
        return ("quality",) if self.lossless and self.quality != EncodeOptions.quality else ()


@dataclass(frozen=True)
class DecodeOptions(_Options):
    """How a picture is decoded; ValueError for values out of range."""

    layers: int | None = _option(None, _count, "decode only the first N layers (default: all)")
    fast: bool = _option(
        False, _flag, "use the narrowest network that has these layers: less exact, less work"
    )
    region: tuple[int, int, int, int] | None = _option(
        None, _region, "decode only the pixels inside (left, top, right, bottom) (default: all)"
    )
    reduce: int = _option(
        1,
        _reduce,
        "2, 4, 8 or 16: decode at 1/2, 1/4, 1/8 or 1/16 of the size, sides rounded up, for less work",
    )
    partial: bool = _option(False, _flag, "of a truncated file, decode the layers that are whole")
    device: str | None = _option(None, _text, EncodeOptions.sentence("device"))
    threads: int | None = _option(None, _count, EncodeOptions.sentence("threads"))


# ------------------------------------------------------------------- keywords: for type checkers, and unknown


class EncodeKeywords(TypedDict, total=False):
    quality: float
    effort: int
    tune: str
    graphics: str
    lossless: bool
    layers: int | None
    network_width: int | None
    model: str | None
    device: str | None
    threads: int | None
    target_size: int | None
    target_bpp: float | None
    target_psnr: float | None
    target_ssim: float | None


class SaveKeywords(EncodeKeywords, total=False):
    """With the metadata (`metadata.py`), and what is told how far the encoding is (`codec.encode`)."""

    progress: Progress | None
    icc_profile: bytes | None
    exif: bytes | Image.Exif | None
    xmp: bytes | str | None
    dpi: float | tuple[float, float] | None
    comment: bytes | str | None


class DecodeKeywords(TypedDict, total=False):
    layers: int | None
    fast: bool
    region: tuple[int, int, int, int] | None
    reduce: int
    partial: bool
    device: str | None
    threads: int | None


def chosen_for_decode(function: str, keywords: Mapping[str, Any]) -> DecodeOptions:
    """The options that a function was called with; TypeError for one that is not known."""
    refuse_unknown(function, keywords, DecodeKeywords.__annotations__)
    return DecodeOptions(**keywords)


def refuse_unknown(function: str, keywords: Iterable[str], known: Collection[str]) -> None:
    """TypeError for the first keyword that a function does not know, with the one that it comes near."""
    for name in keywords:
        if name not in known:
            near = _near_name(name, known)
            raise TypeError(f"{function}() has no option {name!r}" + (f": is it {near!r}?" if near else ""))


def chosen_for_save(keywords: Mapping[str, Any]) -> EncodeOptions:
    """The options among the keywords of a save in Pillow or imageio, where one set of keywords often serves
    several formats: what is not known is ignored, but a UserWarning names the option that a misspelt one
    comes near."""
    known = SaveKeywords.__annotations__
    for name in keywords:
        # "mode", which imageio's other plugins take, is no misspelling of "model".
        if name not in known and name != "mode" and (near := _near_name(name, known)):
            _warn(f"there is no option {name!r}, and it is ignored: is it {near!r}?")
    return EncodeOptions.chosen(keywords)


def _near_name(name: str, known: Iterable[str]) -> str | None:
    """The option that is spelt nearly so."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name.lower(), known, 1, 0.85)), None)
