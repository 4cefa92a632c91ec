"""Answers for bytes that come to a file whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO, Any


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write to a binary file that somebody has opened, a raw one, too, whose ``write()`` may take a part
    only. OSError if it takes no more; BlockingIOError if it would have to be waited for."""
    while True:
        count: Any = file.write(data)
        if count is None and isinstance(file, io.RawIOBase):
            raise BlockingIOError(errno.EAGAIN, f"cannot write the last {len(data)} bytes without waiting")
        if not isinstance(count, int) or count >= len(data):  # some writers say nothing
            return
        if count <= 0:
            raise OSError(errno.EIO, f"the last {len(data)} bytes were not written")
        data = data[count:]


def replace_file(target: Path, data: bytes) -> None:
    """Write a file. If that fails, what was there before is still there.

    Where nothing can be created beside it, it is overwritten as it stands; so are FIFOs and devices."""
    import secrets  # not needed to save through Pillow

    target = behind_links(target)
    if not is_special(target):
        unfinished = target.with_name(f".nic-{secrets.token_hex(8)}")
        try:
            write_new(unfinished, data, target)
            os.replace(unfinished, target)
            return
        except PermissionError:
            pass
        finally:
            with suppress(OSError):
                unfinished.unlink()
    target.write_bytes(data)


def write_new(path: Path, data: bytes, old: Path | None) -> None:
    """Create a file. If it is to take the place of an old one, it has its permissions, and is on the disk
    when this returns: a power failure must not leave neither."""
    with open(path, "xb") as file:
        replaces = old is not None and _take_over_permissions(path, old)
        file.write(data)
        if replaces:
            file.flush()
            os.fsync(file.fileno())


def behind_links(target: Path) -> Path:
    """The file that is written for a target: of a symlink, the one that it leads to."""
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def is_special(path: Path) -> bool:
    """Whether it is a FIFO, a device, a socket: nothing that could be replaced or finished already."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _take_over_permissions(new: Path, old: Path) -> bool:
    """Owner, as far as that is allowed, and mode; before there is anything to read in the new file. Whether
    there is an old one."""
    try:
        known = old.stat()
    except FileNotFoundError:
        return False
    if hasattr(os, "chown"):
        with suppress(PermissionError):
            os.chown(new, known.st_uid, known.st_gid)
    new.chmod(stat.S_IMODE(known.st_mode))
    return True
