"""The command `nic`: encode, decode and describe files and folders."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from .. import __version__, container
from ..metadata import Metadata
from ..NicImagePlugin import NicImageFile, encode_image
from ..options import TOP_EFFORT, TOP_RATE_POINT, TUNES, DecodeOptions, EncodeOptions
from .batch import FILE_ERRORS, Done, Output, complain, find_jobs, find_sources, work

# Formats that Pillow recognises but does not decode itself: not meant when a folder is named.
_NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if all went well, 1 if some file failed, 2 (through SystemExit) for wrong usage."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] == ["bench"]:
            from ..bench.main import main as bench

            return bench(argv[1:])
        args = _parser().parse_args(argv)
        if getattr(args, "device", None):
            os.environ["NIC_DEVICE"] = args.device
        return int(args.run(args))
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nic", description="Pictures to .nic files and back.")
    parser.add_argument("--version", action="version", version=f"nic {__version__}")
    commands = parser.add_subparsers(required=True, metavar="encode | decode | info | truncate | bench")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders or quoted globs")
    common.add_argument("-r", "--recursive", action="store_true", help="folders with all that is below them")

    writing = argparse.ArgumentParser(add_help=False, parents=[common])
    writing.add_argument(
        "-o", "--output", metavar="OUTPUT", help="a file, or a folder for several (default: beside the input)"
    )
    existing = writing.add_mutually_exclusive_group()
    existing.add_argument("-f", "--force", action="store_true", help="replace files that exist")
    existing.add_argument(
        "--skip-existing", action="store_true", help="leave them, to go on where a run was interrupted"
    )
    writing.add_argument("-j", "--jobs", type=_positive, metavar="N", help="in N processes (default: 1)")
    writing.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="on the Ray cluster there (auto: the one that runs; local: one for this run), "
        "in N workers (default: one per GPU, else per CPU)",
    )
    writing.add_argument("--device", help=EncodeOptions.sentence("device"))

    encode = commands.add_parser("encode", parents=[writing], help="pictures that Pillow reads -> .nic")
    encode.add_argument(
        "-q",
        "--quality",
        type=_quality,
        default=EncodeOptions.quality,
        help=EncodeOptions.sentence("quality"),
    )
    encode.add_argument(
        "--effort",
        type=int,
        choices=range(TOP_EFFORT + 1),
        default=EncodeOptions.effort,
        help=EncodeOptions.sentence("effort"),
    )
    encode.add_argument(
        "--tune",
        choices=TUNES,
        default=EncodeOptions.tune,
        help=EncodeOptions.sentence("tune"),
    )
    encode.add_argument("--layers", type=int, help=EncodeOptions.sentence("layers"))
    encode.add_argument("--network-width", type=int, help=EncodeOptions.sentence("network_width"))
    encode.add_argument("--psnr", action="store_true", help="decode what was encoded and say its PSNR")
    encode.set_defaults(run=_encode, usage_error=encode.error)

    decode = commands.add_parser("decode", parents=[writing], help=".nic -> PNG, or what -o says")
    decode.add_argument("--layers", type=int, help=DecodeOptions.sentence("layers"))
    decode.add_argument("--fast", action="store_true", help=DecodeOptions.sentence("fast"))
    decode.set_defaults(run=_decode, usage_error=decode.error)

    truncate = commands.add_parser(
        "truncate", parents=[writing], help=".nic -> a smaller .nic of its first layers, without re-encoding"
    )
    truncate.add_argument("--layers", type=int, required=True, help="how many to keep at most")
    truncate.set_defaults(run=_truncate, usage_error=truncate.error)

    info = commands.add_parser("info", parents=[common], help="what stands in .nic files")
    info.add_argument(
        "--plot", metavar="PNG", help="paint one file's layers: pictures, bits, latent channels"
    )
    info.set_defaults(run=_info, usage_error=info.error)

    # main() hands its arguments to bench/, which is not loaded for anything else.
    commands.add_parser("bench", help="rate, distortion and speed, beside other codecs", add_help=False)
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _quality(text: str) -> float:
    try:
        return EncodeOptions(quality=float(text)).quality
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is neither 0 to 1 nor 2 to 100") from None


# --------------------------------------------------------------------------------------------- the commands


@dataclass(frozen=True)
class _Encoding:
    """What to do with one file; an object, so that it can be sent to another process."""

    options: Mapping[str, Any]
    with_psnr: bool

    def __call__(self, source: Path, output: Output) -> Done:
        with Image.open(source) as im:
            frames = getattr(im, "n_frames", 1)
            remark = f"only the first of its {frames} frames is stored" if frames > 1 else None
            data = encode_image(im, self.options)
            psnr = _psnr(im, data) if self.with_psnr else None
        output.write(lambda file: file.write(data))
        return Done(len(data), source.stat().st_size, im.width * im.height, psnr, remark)


def _encode(args: argparse.Namespace) -> int:
    options = {name: getattr(args, name) for name in ("quality", "effort", "tune", "layers", "network_width")}
    formats = Image.registered_extensions()
    readable = Image.OPEN.keys() - _NO_PICTURES - {"NIC"}
    jobs = find_jobs(args, {suffix for suffix in formats if formats[suffix] in readable}, ".nic")
    return work(jobs, _Encoding(options, args.psnr), args)


@dataclass(frozen=True)
class _Decoding:
    layers: int | None
    fast: bool

    def __call__(self, source: Path, output: Output) -> Done:
        with Image.open(source) as im:
            if not isinstance(im, NicImageFile):
                raise OSError("not a NIC file")
            im.layers = self.layers
            im.fast = self.fast
            im.load()
        name = Image.registered_extensions()[output.target.suffix.lower()]
        output.write(lambda file: im.save(file, name, **_metadata_options(im, name)))
        return Done(source.stat().st_size, output.target.stat().st_size, im.width * im.height)


def _decode(args: argparse.Namespace) -> int:
    formats = Image.registered_extensions()
    jobs = find_jobs(args, {".nic"}, ".png")
    for _, target in jobs:
        if formats.get(target.suffix.lower()) not in Image.SAVE:
            args.usage_error(f"Pillow does not write {target.suffix or 'files without a suffix'}: {target}")
    return work(jobs, _Decoding(args.layers, args.fast), args)


@dataclass(frozen=True)
class _Truncating:
    layers: int

    def __call__(self, source: Path, output: Output) -> Done:
        whole = source.read_bytes()
        data = container.truncate(whole, min(self.layers, container.parse_header(whole).layers))
        output.write(lambda file: file.write(data))
        header = container.parse_header(data)
        return Done(len(data), len(whole), header.width * header.height)


def _truncate(args: argparse.Namespace) -> int:
    if args.output is None:
        args.usage_error("say with -o where the result shall go")
    if args.layers < 1:
        args.usage_error("--layers must be at least 1")
    return work(find_jobs(args, {".nic"}, ".nic"), _Truncating(args.layers), args)


def _info(args: argparse.Namespace) -> int:
    failed = 0
    sources = find_sources(args, {".nic"})
    if args.plot and len(sources) > 1:
        args.usage_error("--plot takes one file")
    for source, _ in sources:
        try:
            data = source.read_bytes()
            print(source, *_describe(data), sep="\n  ")
            if args.plot:
                from .layer_plot import plot  # loads torch

                Output(Path(args.plot), force=True).write(partial(plot(data).save, format="PNG"))
        except FILE_ERRORS as error:
            failed += complain(source, error)
    return int(failed > 0)


def _describe(data: bytes) -> Iterable[str]:
    file = container.parse(data)
    header = file.header
    offsets = container.parse_header(data).layer_offsets
    size = offsets[-1]
    columns, rows = header.tile_grid
    yield f"picture   {header.width}x{header.height} {header.mode}"
    yield f"size      {size} bytes, {8 * size / header.width / header.height:.4f} bpp"
    quality = header.rate_point / TOP_RATE_POINT
    yield f"quality   {quality:.4f} (rate point {header.rate_point}, delta {header.delta})"
    yield f"model     {header.model} ({header.model_hash.hex()}), encoded at width {header.width_index + 1}"
    yield f"tiles     {header.tiles} ({columns}x{rows}), each up to {header.tile_size} pixels wide and high"
    start = 0
    for layer, (streams, end) in enumerate(zip(file.streams, header.layer_ends, strict=True)):
        lengths = [len(stream) for stream in streams]
        streams_text = f", streams of {' '.join(map(str, lengths))}" if len(lengths) > 1 else ""
        groups = f"group {end}" if end - start == 1 else f"groups {start + 1} to {end}"
        place = f"ends at byte {offsets[layer]}"
        yield f"layer {layer + 1:<3} {sum(lengths)} bytes, {groups}, {place}{streams_text}"
        start = end
    for tag, payload in file.chunks.items():
        yield f"chunk {tag} {len(payload)} bytes"
    if dpi := Metadata.from_chunks(file.chunks).dpi:
        yield f"dpi       {dpi[0]:g} x {dpi[1]:g}"


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


def _psnr(im: Image.Image, data: bytes) -> float:
    """PSNR in dB over the colours of all pixels that are not wholly transparent."""
    import numpy as np

    from .. import codec, colour

    before, alpha = colour.split_alpha(np.asarray(colour.to_storage(im)))
    after, _ = colour.split_alpha(codec.decode(data))
    error = np.square(before.astype(np.float32) - after).mean(axis=2)
    if alpha is not None:
        error = error[alpha > 0]
    mse = float(error.mean(dtype=np.float64)) if error.size else 0.0
    return 10 * math.log10(255**2 / mse) if mse else math.inf


if __name__ == "__main__":
    sys.exit(main())
