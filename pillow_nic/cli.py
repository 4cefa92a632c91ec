"""The command `nic`: encode, decode and describe files and folders."""

from __future__ import annotations

import argparse
import glob
import math
import os
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from PIL import Image, PngImagePlugin

from . import __version__, container, parallel
from .metadata import Metadata
from .NicImagePlugin import NicImageFile, encode_image
from .quality import DEFAULT_EFFORT, DEFAULT_QUALITY, TOP_EFFORT, TOP_RATE_POINT, parse_quality

# What Pillow's plugins raise for a file that is not what it should be; a NicError for a file is an OSError.
_FILE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)

# Formats that Pillow recognises but does not decode itself: not meant when a folder is named.
_NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


_Job = tuple[Path, Path]  # source and target


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if all went well, 1 if some file failed, 2 (through SystemExit) for wrong usage."""
    args = _parser().parse_args(argv)
    if getattr(args, "device", None):
        os.environ["NIC_DEVICE"] = args.device
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nic", description="Pictures to .nic files and back.")
    parser.add_argument("--version", action="version", version=f"nic {__version__}")
    commands = parser.add_subparsers(required=True, metavar="encode | decode | info | truncate")

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
    writing.add_argument(
        "-j", "--jobs", type=_positive, default=1, metavar="N", help="in N processes (default: 1)"
    )
    writing.add_argument(
        "--device", help="cpu, cuda, mps … (default: the environment's NIC_DEVICE, else the best there is)"
    )

    encode = commands.add_parser("encode", parents=[writing], help="pictures that Pillow reads -> .nic")
    encode.add_argument(
        "-q",
        "--quality",
        type=_quality,
        default=DEFAULT_QUALITY,
        help="0 to 1, or 2 to 100 percent (default: %(default)s)",
    )
    encode.add_argument(
        "--effort",
        type=int,
        choices=range(TOP_EFFORT + 1),
        default=DEFAULT_EFFORT,
        help="default: %(default)s",
    )
    encode.add_argument("--layers", type=int, help="how many layers to write (default: as the model likes)")
    encode.add_argument("--width", type=int, help="network width, 1 for the narrowest (default: by quality)")
    encode.add_argument("--psnr", action="store_true", help="decode what was encoded and say its PSNR")
    encode.set_defaults(run=_encode, usage_error=encode.error)

    decode = commands.add_parser("decode", parents=[writing], help=".nic -> PNG, or what -o says")
    decode.add_argument("--layers", type=int, help="decode the first layers only (default: all)")
    decode.add_argument("--fast", action="store_true", help="with the narrowest network that fits the layers")
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
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _quality(text: str) -> float:
    try:
        try:
            return parse_quality(int(text))
        except ValueError:
            return parse_quality(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is neither 0 to 1 nor an int from 2 to 100") from None


# --------------------------------------------------------------------------------------------- the commands


@dataclass(frozen=True)
class _Encoding:
    """What to do with one file; an object, so that it can be sent to another process."""

    options: Mapping[str, Any]
    force: bool
    with_psnr: bool

    def __call__(self, source: Path, target: Path) -> _Done:
        with Image.open(source) as im:
            if (frames := getattr(im, "n_frames", 1)) > 1:
                _complain(source, f"only the first of its {frames} frames is stored")
            data = encode_image(im, self.options)
            psnr = _psnr(im, data) if self.with_psnr else None
        _write(target, self.force, lambda file: file.write(data))
        return _Done(len(data), source.stat().st_size, im.width * im.height, psnr)


def _encode(args: argparse.Namespace) -> int:
    options = {"quality": args.quality, "effort": args.effort, "layers": args.layers, "width": args.width}
    formats = Image.registered_extensions()
    readable = Image.OPEN.keys() - _NO_PICTURES - {"NIC"}
    jobs = _jobs(args, {suffix for suffix in formats if formats[suffix] in readable}, ".nic")
    return _work(jobs, _Encoding(options, args.force, args.psnr), args)


@dataclass(frozen=True)
class _Decoding:
    layers: int | None
    fast: bool
    force: bool

    def __call__(self, source: Path, target: Path) -> _Done:
        with Image.open(source) as im:
            if not isinstance(im, NicImageFile):
                raise OSError("not a NIC file")
            im.layers = self.layers
            im.fast = self.fast
            im.load()
        name = Image.registered_extensions()[target.suffix.lower()]
        _write(target, self.force, lambda file: im.save(file, name, **_metadata_options(im, name)))
        return _Done(source.stat().st_size, target.stat().st_size, im.width * im.height)


def _decode(args: argparse.Namespace) -> int:
    formats = Image.registered_extensions()
    jobs = _jobs(args, {".nic"}, ".png")
    for _, target in jobs:
        if formats.get(target.suffix.lower()) not in Image.SAVE:
            args.usage_error(f"Pillow does not write {target.suffix or 'files without a suffix'}: {target}")
    return _work(jobs, _Decoding(args.layers, args.fast, args.force), args)


@dataclass(frozen=True)
class _Truncating:
    layers: int
    force: bool

    def __call__(self, source: Path, target: Path) -> _Done:
        whole = source.read_bytes()
        data = container.truncate(whole, min(self.layers, container.parse_header(whole).layers))
        _write(target, self.force, lambda file: file.write(data))
        header = container.parse_header(data)
        return _Done(len(data), len(whole), header.width * header.height)


def _truncate(args: argparse.Namespace) -> int:
    if args.output is None:
        args.usage_error("say with -o where the result shall go")
    if args.layers < 1:
        args.usage_error("--layers must be at least 1")
    return _work(_jobs(args, {".nic"}, ".nic"), _Truncating(args.layers, args.force), args)


def _info(args: argparse.Namespace) -> int:
    failed = 0
    sources = _sources(args, {".nic"})
    if args.plot and len(sources) > 1:
        args.usage_error("--plot takes one file")
    for source, _ in sources:
        try:
            data = source.read_bytes()
            print(source, *_describe(data), sep="\n  ")
            if args.plot:
                from .plot import plot  # loads torch

                _write(Path(args.plot), True, partial(plot(data).save, format="PNG"))
        except _FILE_ERRORS as error:
            failed += _complain(source, error)
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


# ----------------------------------------------------------------------------------------- files and folders


def _sources(args: argparse.Namespace, suffixes: Collection[str]) -> list[_Job]:
    """The files that the inputs mean, each with its place below the folder that was named."""
    found: list[_Job] = []
    for name in args.inputs:
        path = Path(name)
        if path.is_dir():
            inside = sorted(path.rglob("*") if args.recursive else path.iterdir())
            files = [(file, file.relative_to(path)) for file in inside if file.suffix.lower() in suffixes]
        elif not path.exists() and glob.has_magic(name):  # Windows shells leave globs to the program
            hits = map(Path, sorted(glob.glob(name, recursive=True)))
            files = [(file, Path(file.name)) for file in hits]
        else:
            found.append((path, Path(path.name)))
            continue
        files = [pair for pair in files if pair[0].is_file()]
        if not files:
            args.usage_error(f"no files to work on in {name}")
        found += files
    return list(dict.fromkeys(found))


def _jobs(args: argparse.Namespace, suffixes: Collection[str], new_suffix: str) -> list[_Job]:
    """Pairs of source and target."""
    sources = _sources(args, suffixes)
    if args.output is None:
        targets = [source.with_suffix(new_suffix) for source, _ in sources]
    else:
        output = Path(args.output)
        several = len(sources) > 1 or Path(args.inputs[0]).is_dir()
        if several or output.is_dir() or args.output.endswith(("/", os.sep)):
            if output.is_file():
                args.usage_error(f"{output} is a file, and the output of several files must be a folder")
            targets = [output / place.with_suffix(new_suffix) for _, place in sources]
        else:
            targets = [output]
    chosen: dict[Path, Path] = {}
    for (source, _), target in zip(sources, targets, strict=True):
        if target in chosen:
            args.usage_error(f"{chosen[target]} and {source} would both become {target}")
        chosen[target] = source
    return [(source, target) for target, source in chosen.items()]


@dataclass(frozen=True)
class _Done:
    nic_bytes: int
    other_bytes: int  # of the picture's file on the other side
    pixels: int
    psnr: float | None = None


def _work(jobs: list[_Job], action: Callable[[Path, Path], _Done], args: argparse.Namespace) -> int:
    """Do every job, go on after a failure, and say at last what came out."""
    from tqdm import tqdm

    skipped = [job for job in jobs if args.skip_existing and job[1].exists()]
    jobs = [job for job in jobs if not (args.skip_existing and job[1].exists())]
    one = partial(_one, action, args.force)
    if args.jobs > 1 and len(jobs) > 1:
        threads = max(1, (os.cpu_count() or 1) // args.jobs)
        results = parallel.run(jobs, one, args.jobs, partial(_start_worker, threads))
    else:
        results = ((job, one(job)) for job in jobs)
    done: list[_Done] = []
    # disable=None: no bar unless stderr is a terminal
    silent = None if len(jobs) > 1 else True
    for (source, _), result in tqdm(results, total=len(jobs), unit="file", leave=False, disable=silent):
        if isinstance(result, _Done):
            done.append(result)
        elif isinstance(result, _FILE_ERRORS):
            _complain(source, result)
        else:
            raise result
    failed = len(jobs) - len(done)
    print(_summary(done, failed, len(skipped)))
    return int(failed > 0)


def _one(action: Callable[[Path, Path], _Done], force: bool, job: _Job) -> _Done | Exception:
    """One job; what is wrong with its files is an answer, not the end of the others."""
    source, target = job
    try:
        if target.exists() and source.exists() and target.samefile(source):
            raise FileExistsError(f"{target} is the input itself")
        if target.exists() and not force:
            raise FileExistsError(f"{target} exists (-f replaces it)")
        return action(source, target)
    except _FILE_ERRORS as error:
        return error


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _summary(done: Sequence[_Done], failed: int, skipped: int) -> str:
    """Files, bytes of the .nic files, bits per pixel, and how many times larger the other files are."""
    parts = [f"{len(done)} file{'' if len(done) == 1 else 's'}"]
    if done:
        size = sum(one.nic_bytes for one in done)
        parts += [
            f"{size} bytes",
            f"{8 * size / sum(one.pixels for one in done):.4f} bpp",
            f"ratio {sum(one.other_bytes for one in done) / size:.2f}",
        ]
        psnr = [one.psnr for one in done if one.psnr is not None]
        if psnr:
            parts.append(f"PSNR {sum(psnr) / len(psnr):.2f} dB")
    if skipped:
        parts.append(f"{skipped} skipped")
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts)


def _complain(source: Path, problem: BaseException | str) -> int:
    """One line on stderr, above the progress bar if there is one; 1, to be counted."""
    from tqdm import tqdm

    reason = isinstance(problem, OSError) and problem.strerror  # without the file's name, which stands there
    text = reason or str(problem) or type(problem).__name__
    tqdm.write(f"nic: {source}: {text.splitlines()[0]}", file=sys.stderr)
    return 1


def _write(target: Path, force: bool, write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a file beside the target and rename it, so that no half file is ever found there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(unfinished, "xb") as file:
            write(file)
        if not force and target.exists():  # made by somebody else meanwhile
            raise FileExistsError(f"{target} exists (-f replaces it)")
        os.replace(unfinished, target)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


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

    from . import codec, colour

    before, alpha = colour.split_alpha(np.asarray(colour.to_storage(im)))
    after, _ = colour.split_alpha(codec.decode(data))
    error = np.square(before.astype(np.float32) - after).mean(axis=2)
    if alpha is not None:
        error = error[alpha > 0]
    mse = float(error.mean(dtype=np.float64)) if error.size else 0.0
    return 10 * math.log10(255**2 / mse) if mse else math.inf


if __name__ == "__main__":
    sys.exit(main())
