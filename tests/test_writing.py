"""Files are written whole or not at all: short writes, full disks, what was there before."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from pictures import photo, saved

import imageio_nic  # noqa: F401 # registers the format
from pillow_nic import writing
from pillow_nic.command import files
from pillow_nic.command.files import Output
from pillow_nic.writing import replace_file, write_all

DATA = bytes(range(256)) * 9


class Raw(io.RawIOBase):
    """Takes so many bytes at once; with None nothing, as a socket whose buffer is full."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int | None:  # type: ignore[override]
        if self.most is None:
            return None
        part = bytes(data)[: self.most]
        self.written += part
        return len(part)


@pytest.mark.parametrize("most", [1, 100, len(DATA), len(DATA) + 1])
def test_a_writer_that_takes_a_part_gets_the_rest(most: int) -> None:
    file = Raw(most)
    write_all(file, DATA)  # type: ignore[arg-type]
    assert bytes(file.written) == DATA


@pytest.mark.parametrize(("most", "error"), [(None, BlockingIOError), (0, OSError)])
def test_a_writer_that_takes_nothing(most: int | None, error: type[OSError]) -> None:
    with pytest.raises(error, match="the last 2304 bytes"):
        write_all(Raw(most), DATA)  # type: ignore[arg-type]


def test_a_writer_that_says_nothing_has_taken_all() -> None:
    taken: list[bytes] = []

    class Silent:
        write = staticmethod(taken.append)

    write_all(Silent(), DATA)  # type: ignore[arg-type]
    assert taken == [DATA]


def test_raw_writers_of_pillow_and_imageio() -> None:
    im, files_ = photo(size=(64, 48)), [Raw(50), Raw(50)]
    expected = saved(im)
    im.save(files_[0], "NIC")  # type: ignore[arg-type]
    iio.imwrite(files_[1], np.array(im), extension=".nic")  # type: ignore[call-overload]
    assert [bytes(file.written) for file in files_] == [expected] * 2


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may become longer, as where the disk is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "imageio": iio.imwrite,
    "replace_file": lambda path, _: replace_file(path, DATA),
    "nic -f": lambda path, _: Output(path, force=True).write(DATA),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_what_was_there(
    write: Callable[[Path, np.ndarray], object], tmp_path: Path
) -> None:
    path, pixels = tmp_path / "a.nic", np.array(photo())
    path.write_bytes(b"old")
    with disk_of(100), pytest.raises(OSError, match="too large"):
        write(path, pixels)
    assert path.read_bytes() == b"old"
    with disk_of(100), pytest.raises(OSError, match="too large"):
        write(tmp_path / "new.nic", pixels)
    assert [file.name for file in tmp_path.iterdir()] == ["a.nic"]
    write(path, pixels)
    assert len(path.read_bytes()) > 100


def test_what_is_replaced_is_on_the_disk_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("sync"), sync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), replace(*names)))
    path = tmp_path / "a"
    Output(path).write(b"first")
    assert "sync" not in done
    for write in (Output(path, force=True).write, lambda data: replace_file(path, data)):
        done.clear()
        write(b"second")
        assert done == ["sync", "replace"]


@pytest.mark.skipif(os.name == "nt", reason="no such permissions and links")
def test_permissions_and_links_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "a.nic", tmp_path / "link.nic"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path.name)
    iio.imwrite(link, np.array(photo(size=(32, 32))))
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert iio.imread(path).shape == (32, 32, 3)


@pytest.mark.skipif(os.name == "nt", reason="no such device")
def test_devices_and_locked_folders_are_written_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file(Path("/dev/null"), DATA)
    assert not Path("/dev/null").is_file()

    def locked(*_: object) -> None:
        raise PermissionError

    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(writing, "write_new", locked)
    replace_file(path, DATA)
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("links", [True, False])
def test_of_two_runs_the_second_does_not_replace(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where the file was not there yet when the second one looked."""
    path = tmp_path / "a"
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "not supported")))
    else:
        write_new = files.write_new

        def other_first(*args: Any) -> None:
            write_new(*args)
            path.write_bytes(b"other")

        monkeypatch.setattr(files, "write_new", other_first)
        with pytest.raises(FileExistsError, match="exists"):
            Output(path).write(b"mine")
        monkeypatch.setattr(files, "write_new", write_new)
        path.unlink()
    Output(path).write(b"first")
    Output(path).write(b"first")  # the same bytes are the same result
    with pytest.raises(FileExistsError, match="exists"):
        Output(path).write(b"second")
    assert path.read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
