"""The command `nic`: its arguments. What these ask for is done by the modules beside this one."""
# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from .. import __version__
from ..options import TARGETS, DecodeOptions, EncodeOptions
from .messages import OutputError, StandardOutputError, UsageError, printable, representable, writing_stdout

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from .batch import Running
    from .files import Inputs

    Commands = argparse._SubParsersAction["_Parser"]


def main(argv: Sequence[str] | None = None, prog: str = "nic") -> int:
    """Run the command; 0 if all went well, 1 if something failed, 2 (through SystemExit) for wrong usage, 130
    after Ctrl-C, 141 if nobody reads its output to the end."""
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv, prog)
        finally:  # after --help, too: at Python's end nobody can say any more what goes wrong
            if sys.stdout is not None:
                with writing_stdout():
                    sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except StandardOutputError as error:
        # Python would try again at its end to write what could not be written, and complain.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
        if isinstance(error.__cause__, BrokenPipeError):
            return 141
        print(f"nic: {error}", file=sys.stderr)
        return 1


def _run(argv: Sequence[str], prog: str) -> int:
    if argv[:1] == ["bench"]:
        from ..bench.main import main as bench

        return bench(argv[1:])
    parser = _parser(prog)
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    args = parser.parse_args(argv)
    if getattr(args, "device", None):
        os.environ["NIC_DEVICE"] = args.device
    try:
        return int(args.run(args))
    except UsageError as error:
        args.usage_error(str(error))
    except OutputError as error:
        print(f"nic: {error}", file=sys.stderr)
    return 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))  # it quotes arguments as they are

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if file is not sys.stdout or file is None:
            super()._print_message(representable(message, file), file)
            return
        with writing_stdout():  # argparse itself says nothing when it cannot write
            file.write(representable(message, file))


# ------------------------------------------------------------------------------------------------ arguments


def _parser(prog: str = "nic") -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [OPTIONS] COMMAND ...",
        description="Encode pictures as .nic files; decode, describe and truncate these.",
        epilog=f"{prog} COMMAND --help says more.",
    )
    parser.add_argument("--version", action="version", version=f"nic {__version__}")
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND", prog=prog)
    _add_encode(commands)
    _add_decode(commands)
    _add_truncate(commands)
    _add_info(commands)
    # _run() hands its arguments to bench/, which is not loaded for anything else.
    commands.add_parser(
        "bench", help="measure rate, distortion and speed, beside other codecs", add_help=False
    )
    _add_hook(commands)
    return parser


def _add_encode(commands: Commands) -> None:
    encode = commands.add_parser(
        "encode",
        usage="%(prog)s [OPTIONS] INPUT [INPUT ...]",
        help="pictures that Pillow reads -> .nic",
        description="Encode pictures in any format that Pillow reads as .nic files.",
    )
    encode.set_defaults(run=_encode, usage_error=encode.error)
    _add_files(encode, "beside the input")
    _add_options(encode, EncodeOptions, "-q")
    encode.add_argument(
        "--psnr", action="store_true", help="also decode what was encoded, and report its PSNR"
    )
    _add_running(encode)


def _encode(args: argparse.Namespace) -> int:
    from . import actions

    try:
        with _warnings_as_lines():
            options = EncodeOptions.chosen(vars(args))
    except ValueError as error:
        raise UsageError(str(error)) from None
    return actions.encode(_inputs(args), args.output, _running(args), options, with_psnr=args.psnr)


def _add_decode(commands: Commands) -> None:
    decode = commands.add_parser(
        "decode",
        usage="%(prog)s [OPTIONS] INPUT [INPUT ...]",
        help=".nic -> PNG, or another format that Pillow writes",
        description="Decode .nic files to PNG, or to the format that --format or the output's name says.",
    )
    decode.set_defaults(run=_decode, usage_error=decode.error)
    _add_files(decode, "beside the input")
    add = decode.add_argument
    add(
        "--format",
        type=_suffix,
        metavar="NAME",
        help="write this format: png, jpg, webp, tiff … (default: png)",
    )
    add(
        "-q",
        "--quality",
        type=_percent,
        metavar="N",
        help="quality of the JPEG, WebP or AVIF file, 0 to 100 as Pillow takes it (default: Pillow's)",
    )
    _add_options(decode, DecodeOptions)
    _add_running(decode)


def _decode(args: argparse.Namespace) -> int:
    from . import actions

    options = DecodeOptions.chosen(vars(args))
    form = actions.Format(args.format, args.quality)
    return actions.decode(_inputs(args), args.output, _running(args), options, form)


def _add_truncate(commands: Commands) -> None:
    truncate = commands.add_parser(
        "truncate",
        usage="%(prog)s [OPTIONS] INPUT [INPUT ...]",
        help=".nic -> a smaller .nic of its first layers",
        description="Cut .nic files after their first layers, without decoding or encoding anything.",
    )
    truncate.set_defaults(run=_truncate, usage_error=truncate.error)
    _add_files(truncate, "none")
    truncate.add_argument(
        "--layers",
        type=_count,
        required=True,
        metavar="N",
        help="keep the first N layers, or all if there are fewer",
    )
    _add_running(truncate)


def _truncate(args: argparse.Namespace) -> int:
    from . import actions

    return actions.truncate(_inputs(args), args.output, _running(args), args.layers)


def _add_info(commands: Commands) -> None:
    info = commands.add_parser(
        "info",
        usage="%(prog)s [OPTIONS] INPUT [INPUT ...]",
        help="what .nic files hold",
        description="Describe .nic files: picture, size, model, layers, metadata. Every checksum is checked.",
    )
    info.set_defaults(run=_info, usage_error=info.error)
    _add_inputs(info)
    info.add_argument("--json", action="store_true", help="print one JSON object per file, one per line")
    info.add_argument(
        "--plot", metavar="PNG", help="paint one file's layers: pictures, bits, channels of the latent"
    )
    info.add_argument("-f", "--force", action="store_true", help="replace an existing plot")


def _info(args: argparse.Namespace) -> int:
    from .info import Form, info

    return info(_inputs(args), Form(args.json, args.plot, args.force))


def _add_hook(commands: Commands) -> None:
    from .. import hook

    install = commands.add_parser(
        "install-hook",
        help="make .nic known in every Python process of this environment",
        description="Make .nic known in every Python process of this environment that imports Pillow or "
        "imageio. The docstring of pillow_nic.hook explains how it works, and its drawbacks.",
    )
    install.set_defaults(run=_install)
    remove = commands.add_parser("remove-hook", help="undo install-hook", description=f"Delete {hook.NAME}.")
    remove.set_defaults(run=_remove)


def _install(args: argparse.Namespace) -> int:
    from . import hook_file

    return hook_file.install()


def _remove(args: argparse.Namespace) -> int:
    from . import hook_file

    return hook_file.remove()


# ----------------------------------------------------------------------------- arguments of several commands


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="files, folders, quoted globs, or - for standard input"
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="include subfolders")


def _inputs(args: argparse.Namespace) -> Inputs:
    from .files import Inputs

    return Inputs(tuple(args.inputs), args.recursive)


def _add_files(parser: argparse.ArgumentParser, otherwise: str) -> None:
    _add_inputs(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUTPUT",
        help=f"a file, a folder for several files, or - for standard output (default: {otherwise}; standard "
        "output for standard input)",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("-f", "--force", action="store_true", help="replace existing files")
    existing.add_argument(
        "--skip-existing",
        action="store_true",
        help="skip files that exist, for example to resume an interrupted run",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-j", "--jobs", type=_count, metavar="N", help="work in N processes (default: 1)")
    add(
        "--ray",
        metavar="ADDRESS",
        help="work on a Ray cluster: its address, auto for the one that is running, or local for one on this "
        "machine; in N workers with -j N (default: one per GPU, or per CPU if there is none)",
    )


def _running(args: argparse.Namespace) -> Running:
    from .batch import Running

    return Running(args.force, args.skip_existing, args.jobs, args.ray)


# ----------------------------------------------------------------------------------------------- conversions


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _percent(text: str) -> int:
    if not text.isdecimal() or int(text) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 100")
    return int(text)


def _suffix(text: str) -> str:
    return "." + text.lower().removeprefix(".")


def _bytes(text: str) -> int:
    """A number of bytes: 200000, 200k, 1.5MB, 64KiB. ValueError for what is none."""
    number, unit = text, 1
    for letter, power in (("k", 1), ("m", 2)):
        head, found, tail = text.lower().partition(letter)
        if found and tail in ("", "b", "i", "ib"):
            number, unit = head, (1024 if "i" in tail else 1000) ** power
    return int(number) if unit == 1 else int(float(number) * unit)


_SIZE = _bytes, "BYTES"
# From the types of options: how they are read, and what stands for them in the help.
_READERS: dict[str, tuple[Callable[[str], object], str]] = {
    "float": (lambda text: int(text) if text.isdecimal() else float(text), "N"),
    "int": (int, "N"),
    "str": (str, "NAME"),
    "tuple[int, int, int, int]": (lambda text: tuple(map(int, text.split(","))), "LEFT,TOP,RIGHT,BOTTOM"),
}


def _add_options(
    parser: argparse.ArgumentParser, options: type[EncodeOptions | DecodeOptions], *short: str
) -> None:
    """All options, the first with a short name as well."""
    flags = list(short)
    one = parser.add_mutually_exclusive_group()
    for option in fields(options):
        add = (one if option.name in ("quality", *TARGETS) else parser).add_argument
        flags.append("--" + option.name.replace("_", "-"))
        sentence = options.sentence(option.name).replace("%", "%%")
        kind = str(option.type).removesuffix(" | None")
        if kind == "bool":
            add(*flags, action="store_true", help=sentence)
        else:
            read, metavar = _SIZE if option.name == "target_size" else _READERS[kind]
            check = partial(_check, options, option.name, read)
            # Without a default: a quality that is given is told from one that is not.
            add(*flags, type=check, default=argparse.SUPPRESS, metavar=metavar, help=sentence)
        flags.clear()


def _check(
    options: type[EncodeOptions | DecodeOptions], name: str, read: Callable[[str], object], text: str
) -> object:
    try:
        value = read(text)
    except ValueError:
        value = text  # which the option's own check refuses, in its own words
    try:
        with _warnings_as_lines():
            return getattr(options.chosen({name: value}), name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        yield
    for remark in remarks:
        print(f"nic: {remark.message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
