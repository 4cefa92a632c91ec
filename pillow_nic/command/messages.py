"""What the command says: problems, one line each, and texts in which no file name can do harm."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Controls, format characters (among them those that turn the direction of writing), line and paragraph
# separators; and surrogates, which stand for the bytes of a name that is not in the file system's encoding.
_ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


class UsageError(Exception):
    """What was asked for makes no sense; nothing has been done."""


class OutputError(OSError):
    """A file could not be written; the message names it."""


class StandardOutputError(Exception):
    """Standard output cannot be written, or nobody reads it any more: nothing is left to go on for."""


def printable(text: str) -> str:
    r"""The text with ``\n``, ``\x1b``, ``\u202e`` or ``\xff`` where a character would not be seen as such."""
    import unicodedata

    return "".join(_escape(c) if unicodedata.category(c) in _ESCAPED else c for c in text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that os.fsdecode could not read
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def source_name(source: Path | None) -> str:
    """An input in messages."""
    return "standard input" if source is None else printable(str(source))


def target_name(target: Path | None) -> str:
    """An output in messages."""
    return "standard output" if target is None else printable(str(target))


def say(line: str, file: IO[str] | None = None) -> None:
    """Print a line on stdout, or on that file. StandardOutputError."""
    # Without a file, print does nothing where stdout was closed by whoever started the command.
    with writing_stdout():
        print(representable(line, file or sys.stdout), file=file)


def representable(text: str, file: object) -> str:
    """The text with escapes for what the file's encoding lacks."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def writing_stdout() -> Iterator[None]:
    """StandardOutputError in place of OSError."""
    try:
        yield
    except OSError as error:
        raise StandardOutputError(f"cannot write standard output: {error.strerror}") from error


def complain(source: Path | None, problem: BaseException | str) -> int:
    """One line about an input on stderr, above the progress bar if there is one; 1, to be counted."""
    from tqdm import tqdm

    tqdm.write(f"nic: {source_name(source)}: {_reason(source, problem)}", file=sys.stderr)
    return 1


def _reason(source: Path | None, problem: BaseException | str) -> str:
    if isinstance(problem, OSError) and problem.strerror:
        # The input's name stands there already; another file's must be said.
        if problem.filename is None or problem.filename == str(source):
            return problem.strerror
        return f"{printable(str(problem.filename))}: {problem.strerror}"
    text = str(problem) or type(problem).__name__
    return printable(text.splitlines()[0])
