"""The command's files: which there are, where the results go, how they are read and written.

A path of None is standard input, as a source, or standard output, as a target; on the command line both are
called ``-``."""

from __future__ import annotations

import errno
import filecmp
import glob
import io
import os
import secrets
import stat
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image

from ..binary import whole
from ..writing import behind_links, is_special, write_new
from .messages import OutputError, UsageError, source_name, target_name, writing_stdout

STANDARD = "-"


@dataclass(frozen=True)
class Inputs:
    """What was named on the command line: files, folders, globs or ``-``."""

    names: tuple[str, ...]
    recursive: bool = False  # folders with all that is below them


@dataclass(frozen=True)
class Source:
    """A file to work on."""

    path: Path | None
    place: Path  # below the folder that was named


@dataclass(frozen=True)
class Job:
    """A file to work on, and the file that comes of it."""

    source: Path | None
    target: Path | None


# -------------------------------------------------------------------------------------------- which there are


def find_sources(inputs: Inputs, suffixes: Collection[str]) -> tuple[list[Source], list[OSError]]:
    """The files that the inputs mean, and the folders among or below them that cannot be read.

    UsageError for a folder or glob without such files."""
    found: list[Source] = []
    unreadable: list[OSError] = []
    for name in inputs.names:
        if not name:
            raise UsageError("the name of an input is empty")  # of a shell's variable; Path("") is the folder
        path = Path(name)
        before = len(found) + len(unreadable)
        if name == STANDARD:
            found.append(Source(None, Path()))
        elif os.path.isdir(path):
            found += _files_in(path, inputs.recursive, suffixes, unreadable)
        elif not os.path.lexists(path) and glob.has_magic(name):  # Windows shells leave globs to the program
            hits = map(Path, sorted(glob.glob(name, recursive=True)))
            found += [Source(file, Path(file.name)) for file in hits if file.is_file()]
        else:
            found.append(Source(path, Path(path.name)))
        if before == len(found) + len(unreadable):
            raise UsageError(f"no files to work on in {source_name(path)}")
    return list(dict.fromkeys(found)), unreadable


def _files_in(
    top: Path, recursive: bool, suffixes: Collection[str], unreadable: list[OSError]
) -> list[Source]:
    files = []
    for folder, below, names in os.walk(top, onerror=unreadable.append):
        if not recursive:
            below.clear()
        files += [Path(folder, name) for name in names if Path(name).suffix.lower() in suffixes]
    return [Source(file, file.relative_to(top)) for file in sorted(files) if _may_be_a_file(file)]


def _may_be_a_file(path: Path) -> bool:
    """Whether it is one; True as well where that is a secret, so that the attempt to open it says so."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        return isinstance(error, PermissionError)


def find_jobs(sources: list[Source], inputs: Inputs, output: str | None, new_suffix: str) -> list[Job]:
    """Where the results go. UsageError if they cannot."""
    if any(source.path is None for source in sources) and len(sources) > 1:
        raise UsageError("standard input (-) must be the only input")
    if output == "":
        raise UsageError("the name of the output is empty")
    if output is None:
        jobs = [Job(s.path, s.path and s.path.with_suffix(new_suffix)) for s in sources]
    else:
        path = Path(output)
        several = len(sources) > 1 or os.path.isdir(inputs.names[0])
        is_folder = os.path.isdir(path) or output.endswith(("/", os.sep))
        if output == STANDARD or is_standard_output(path):
            if several:
                raise UsageError("standard output takes one file")
            jobs = [Job(source.path, None) for source in sources]
        elif several or is_folder:
            if os.path.lexists(path) and not os.path.isdir(path):
                raise UsageError(f"{target_name(path)} is not a folder")
            if not is_folder and path.suffix.lower() in Image.registered_extensions():
                name = target_name(path)
                raise UsageError(f"{name} is the name of one file: several need a folder ({name}/ is one)")
            if any(source.path is None for source in sources):
                raise UsageError(f"{target_name(path)} is a folder: give a file's name for standard input")
            jobs = [Job(source.path, path / source.place.with_suffix(new_suffix)) for source in sources]
        else:
            jobs = [Job(source.path, path) for source in sources]
    chosen: dict[Path | None, Path | None] = {}
    for job in jobs:
        if job.target in chosen:
            both = f"{source_name(chosen[job.target])} and {source_name(job.source)}"
            raise UsageError(f"{both} would both become {target_name(job.target)}")
        chosen[job.target] = job.source
    if None in chosen and sys.stdout is not None and sys.stdout.isatty():
        raise UsageError("the result is not written to a terminal: redirect it, or name a file with -o")
    return jobs


# --------------------------------------------------------------------------------------- reading and writing


def is_standard_output(path: Path) -> bool:
    """Whether a path, such as /dev/stdout, leads to where this process's standard output goes."""
    try:
        there, here = path.stat(), os.fstat(1)
    except OSError:
        return False
    # What goes to /dev/null may go there on two ways.
    return os.path.samestat(there, here) and (not stat.S_ISCHR(here.st_mode) or os.isatty(1))


def read(source: Path | None) -> bytes:
    """The whole file."""
    if source is not None:
        return source.read_bytes()
    if sys.stdin is None:
        raise OSError("closed")
    return bytes(whole(sys.stdin.buffer))


def opened(source: Path | None) -> tuple[IO[bytes], int]:
    """The file, to be read in any order, and its size."""
    if source is None or is_special(source):
        data = read(source)
        return io.BytesIO(data), len(data)
    return open(source, "rb"), source.stat().st_size


@dataclass(frozen=True)
class Output:
    """The file that a job writes."""

    target: Path | None
    force: bool = False  # replace one that exists
    run: str = ""  # in the names of all unfinished files of one run of the command

    def write(self, data: bytes) -> None:
        """Write the file.

        A FIFO or a device gets the bytes as they are. Any other file is written beside its place and then
        renamed, so that no half file is ever found there; it takes over the permissions of the one that it
        replaces. OutputError or StandardOutputError if something goes wrong. FileExistsError if there is a
        file by now, unless it has the same bytes. Those can be this job's own: when a worker dies before it
        can say that it is done, the job runs again."""
        if self.target is None:
            _write_standard_output(data)
            return
        try:
            if is_special(self.target):
                # Not "wb": where nothing is to be truncated, nothing may be created either.
                with open(os.open(self.target, os.O_WRONLY | getattr(os, "O_BINARY", 0)), "wb") as file:
                    file.write(data)
            else:
                self._write_beside(behind_links(self.target), data)
        except FileExistsError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"cannot write {target_name(self.target)}: {reason}") from error

    def _write_beside(self, target: Path, data: bytes) -> None:
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        with suppress(FileExistsError):  # a file in the way: what follows says "Not a directory"
            target.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: of two workers with one job, both may live when the network is cut between them.
        unfinished = target.with_name(f".nic-{self.run}-{secrets.token_hex(8)}")
        try:
            write_new(unfinished, data, target if self.force else None)
            if self.force:
                os.replace(unfinished, target)
            elif not _named(unfinished, target) and not filecmp.cmp(unfinished, target, shallow=False):
                raise FileExistsError(f"{target_name(self.target)} exists (-f replaces it)")
        finally:
            with suppress(OSError):
                unfinished.unlink()


def _named(new: Path, target: Path) -> bool:
    """Give the new file that name, too, or first of all, unless there is a file of that name."""
    try:
        os.link(new, target)
    except FileExistsError:
        return False
    except OSError:  # file systems without links
        if target.exists():
            return False
        os.replace(new, target)
    return True


def _write_standard_output(data: bytes) -> None:
    if sys.stdout is None:
        raise OutputError("cannot write standard output: it is closed")
    with writing_stdout():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
