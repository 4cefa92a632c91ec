"""What the command does with each file: encode, decode, truncate."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from .. import container
from ..NicImagePlugin import encode_image
from ..options import DecodeOptions, EncodeOptions
from ..writing import is_special
from .batch import Done, Running, work
from .files import Inputs, Output, find_jobs, find_sources, opened, read
from .messages import UsageError, target_name

# Formats that Pillow recognises but does not decode itself: not meant when a folder is named.
_NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Formats in which Pillow writes with a quality from 0 to 100.
_WITH_QUALITY = ("JPEG", "WEBP", "AVIF")


# ---------------------------------------------------------------------------------------------------- encode


@dataclass(frozen=True)
class Encoding:
    """What to do with one file; an object, so that it can be sent to another process."""

    options: EncodeOptions
    with_psnr: bool
    bar: bool = False  # while one file takes long

    def __call__(self, source: Path | None, output: Output) -> Done:
        file, size = opened(source)
        with file, _picture(file) as im:
            frames = getattr(im, "n_frames", 1)
            remarks = (f"only the first of its {frames} frames is stored",) if frames > 1 else ()
            with self._progress() as progress:
                data = encode_image(im, {**self.options.given(), "progress": progress})
            psnr = _psnr(im, data, self.options.device) if self.with_psnr else None
        output.write(data)
        return Done(len(data), size, im.width * im.height, psnr, remarks)

    @contextmanager
    def _progress(self) -> Iterator[Callable[[float], None] | None]:
        """Moves a bar, if there is to be one; it goes at the end."""
        if not self.bar:
            yield None
            return
        from tqdm import tqdm  # whose lock would be left behind by a process that is ended

        # disable=None: no bar unless stderr is a terminal
        with tqdm(total=100, leave=False, disable=None, bar_format="{l_bar}{bar}| {elapsed}") as bar:
            yield lambda done: bar.update(int(100 * done) - bar.n) and None


def encode(
    inputs: Inputs, output: str | None, running: Running, options: EncodeOptions, *, with_psnr: bool
) -> int:
    """Pictures that Pillow reads → .nic; 0, or 1 if something failed. UsageError."""
    formats = Image.registered_extensions()
    readable = Image.OPEN.keys() - _NO_PICTURES - {"NIC"}
    sources, unreadable = find_sources(inputs, {end for end in formats if formats[end] in readable})
    jobs = find_jobs(sources, inputs, output, ".nic")
    for job in jobs:
        _must_be_nic(job.target)
    # Bars of several processes would write over each other.
    bar = options.effort > 1 and running.ray is None and running.workers in (None, 1)
    return work(jobs, unreadable, Encoding(options, with_psnr, bar), running)


def _picture(file: Any) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError:  # its message names the file, which will stand there anyway
        raise OSError("not a picture that Pillow can read") from None


def _must_be_nic(target: Path | None) -> None:
    """UsageError for the name of a picture in another format."""
    known = Image.registered_extensions()
    if target is not None and known.get(target.suffix.lower(), "NIC") != "NIC" and not is_special(target):
        raise UsageError(f"the result is a .nic file: {target_name(target)} is the name of another format")


def _psnr(im: Image.Image, data: bytes, device: str | None) -> float:
    """PSNR in dB over the colours of all pixels that are not wholly transparent."""
    import numpy as np

    from .. import codec, colour, distortion

    before, alpha = colour.split_alpha(np.asarray(colour.to_storage(im)))
    after, _ = colour.split_alpha(codec.decode(data, device=device))
    return distortion.psnr(before, after, alpha)


# ---------------------------------------------------------------------------------------------------- decode


@dataclass(frozen=True)
class Format:
    """What decoded pictures are written as."""

    suffix: str | None = None  # ".jpg", or None: what the output's name says, else PNG
    quality: int | None = None  # of that format


@dataclass(frozen=True)
class Decoding:
    """What to do with one file; an object, so that it can be sent to another process."""

    options: DecodeOptions
    format: Format

    def __call__(self, source: Path | None, output: Output) -> Done:
        data = read(source)
        try:
            picture = Image.open(io.BytesIO(data), formats=["NIC"])
        except UnidentifiedImageError:
            raise OSError("not a NIC file") from None
        from .. import codec  # loads torch

        im = Image.fromarray(codec.decode_bytes(data, self.options))
        im.info = picture.info
        name = _format_name(output.target, self.format)
        options = _metadata_options(im, name)
        if self.format.quality is not None:
            options["quality"] = self.format.quality
        file = io.BytesIO()
        im.save(file, name, **options)
        output.write(file.getvalue())
        return Done(len(data), len(file.getvalue()), picture.width * picture.height)


def decode(
    inputs: Inputs, output: str | None, running: Running, options: DecodeOptions, format: Format
) -> int:
    """.nic → another format; 0, or 1 if something failed. UsageError."""
    known = Image.registered_extensions()
    if format.suffix is not None and known.get(format.suffix) not in _writable():
        raise UsageError(f"--format: Pillow does not write {format.suffix[1:]!r}")
    sources, unreadable = find_sources(inputs, {".nic"})
    jobs = find_jobs(sources, inputs, output, format.suffix or ".png")
    for job in jobs:
        name = _format_name(job.target, format)
        if format.quality is not None and name not in _WITH_QUALITY:
            raise UsageError(f"-q is for {', '.join(_WITH_QUALITY)}, and {name} has no such quality")
    return work(jobs, unreadable, Decoding(options, format), running)


def _writable() -> set[str]:
    Image.init()
    return {*Image.SAVE} - {"NIC"}


def _format_name(target: Path | None, format: Format) -> str:
    """Pillow's name of the format for that output. UsageError if it has none, or the two contradict."""
    known = Image.registered_extensions()
    wanted = None if format.suffix is None else known[format.suffix]
    if target is None or is_special(target):
        return wanted or "PNG"
    named = known.get(target.suffix.lower())
    if wanted is not None and named in (None, wanted):
        return wanted
    if named not in _writable():
        what = target.suffix or "files without a suffix"
        raise UsageError(f"Pillow does not write {what}: {target_name(target)} (--format says what it is)")
    if wanted is not None:
        raise UsageError(f"{target_name(target)} is the name of a {named} file, and --format says {wanted}")
    assert named is not None
    return named


def _metadata_options(im: Image.Image, format_name: str) -> dict[str, Any]:
    """What makes Pillow write the metadata of a `.nic` file into a file of another format."""
    kept = ("icc_profile", "exif", "xmp", "dpi", "comment")
    options: dict[str, Any] = {key: im.info[key] for key in kept if key in im.info}
    if format_name == "PNG":  # has texts by name instead
        texts = PngImagePlugin.PngInfo()
        if "xmp" in options:
            texts.add_itxt("XML:com.adobe.xmp", options["xmp"].decode("utf-8", "replace"))
        if "comment" in options:
            texts.add_itxt("Comment", options["comment"].decode("utf-8", "replace"))
        options["pnginfo"] = texts
    return options


# -------------------------------------------------------------------------------------------------- truncate


@dataclass(frozen=True)
class Truncating:
    """What to do with one file; an object, so that it can be sent to another process."""

    layers: int

    def __call__(self, source: Path | None, output: Output) -> Done:
        whole = read(source)
        data = container.truncate(whole, min(self.layers, container.parse_header(whole).layers))
        output.write(data)
        header = container.parse_header(data)
        return Done(len(data), len(whole), header.width * header.height)


def truncate(inputs: Inputs, output: str | None, running: Running, layers: int) -> int:
    """.nic → .nic of the first layers; 0, or 1 if something failed. UsageError."""
    if output is None and inputs.names != ("-",):
        raise UsageError("say with -o where the result goes")
    sources, unreadable = find_sources(inputs, {".nic"})
    jobs = find_jobs(sources, inputs, output, ".nic")
    for job in jobs:
        _must_be_nic(job.target)
    return work(jobs, unreadable, Truncating(layers), running)
