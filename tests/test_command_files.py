"""The command's files: which are found, where results go, and what becomes of what is there already."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pillow_nic.command.files import Inputs, Job, Output, Source, find_jobs, find_sources
from pillow_nic.command.messages import OutputError, UsageError, printable

posix = pytest.mark.skipif(os.name == "nt", reason="files as POSIX has them")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def nobody() -> Iterator[None]:
    """Permissions mean nothing to root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# ------------------------------------------------------------------------------------------------- sources


def test_what_is_below_a_folder(here: Path) -> None:
    (here / "in/b/c").mkdir(parents=True)
    (here / "in/b.nic").mkdir()
    for name in ("in/z.nic", "in/a.NIC", "in/a.png", "in/b/c/d.nic"):
        (here / name).touch()
    (here / "in/link.nic").symlink_to("z.nic")
    (here / "in/dangling.nic").symlink_to("nowhere")
    flat = [Source(Path("in", name), Path(name)) for name in ("a.NIC", "link.nic", "z.nic")]
    deep = Source(Path("in/b/c/d.nic"), Path("b/c/d.nic"))
    assert find_sources(Inputs(("in",)), {".nic"}) == (flat, [])
    assert find_sources(Inputs(("in",), True), {".nic"}) == ([flat[0], deep, *flat[1:]], [])
    # The same file twice is one.
    assert find_sources(Inputs(("in", "./in/", "in/z.nic")), {".nic"})[0][:3] == flat


@posix
def test_folders_that_cannot_be_read_are_named(here: Path) -> None:
    (here / "in/locked").mkdir(parents=True)
    (here / "in/listed").mkdir()
    for name in ("in/a.nic", "in/locked/b.nic", "in/listed/c.nic"):
        (here / name).touch()
    here.chmod(0o755)
    (here / "in/locked").chmod(0)
    (here / "in/listed").chmod(0o444)
    try:
        with nobody():
            sources, unreadable = find_sources(Inputs(("in",), True), {".nic"})
            # Whoever opens the second will hear why it cannot be read.
            assert [source.path for source in sources] == [Path("in/a.nic"), Path("in/listed/c.nic")]
            assert [error.filename for error in unreadable] == ["in/locked"]
            assert isinstance(unreadable[0], PermissionError)
            sources, unreadable = find_sources(Inputs(("in/locked",)), {".nic"})
            assert sources == []
            assert len(unreadable) == 1
    finally:
        (here / "in/locked").chmod(0o700)
        (here / "in/listed").chmod(0o700)


def test_a_name_with_glob_characters_that_exists_is_no_glob(here: Path) -> None:
    for name in ("[1].nic", "1.nic"):
        (here / name).touch()
    (here / "*.nic").symlink_to("nowhere")  # is there, whatever it leads to
    for name in ("[1].nic", "*.nic"):
        assert find_sources(Inputs((name,)), {".nic"})[0] == [Source(Path(name), Path(name))]
    assert [s.path for s in find_sources(Inputs(("?.nic",)), {".nic"})[0]] == [Path("1.nic")]


# ------------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("names", "output", "expected"),
    [
        ("a.png", None, "a.nic"),
        ("in/a.png", None, "in/a.nic"),
        ("a.png", "b", "b"),
        ("a.png", "new/", "new/a.nic"),
        ("a.png", "in", "in/a.nic"),
        ("in", "out", "out/x.nic"),
        ("-", "b.nic", "b.nic"),
    ],
)
def test_where_the_result_goes(here: Path, names: str, output: str | None, expected: str) -> None:
    (here / "in").mkdir()
    (here / "in/x.png").touch()
    inputs = Inputs(tuple(names.split()))
    sources, _ = find_sources(inputs, {".png"})
    (job,) = find_jobs(sources, inputs, output, ".nic")
    assert job.target == Path(expected)


@pytest.mark.parametrize("output", [None, "-"])
def test_from_standard_input_to_standard_output(here: Path, output: str | None) -> None:
    inputs = Inputs(("-",))
    sources, _ = find_sources(inputs, {".png"})
    assert find_jobs(sources, inputs, output, ".nic") == [Job(None, None)]
    (here / "-").touch()
    inputs = Inputs(("./-",))
    sources, _ = find_sources(inputs, {".png"})
    assert find_jobs(sources, inputs, None, ".nic") == [Job(Path("-"), Path("-.nic"))]


@pytest.mark.parametrize(
    ("names", "output", "problem"),
    [
        (["a.png", "in/a.png"], "out", "a.png and in/a.png would both become out/a.nic"),
        (["a.png", "b.png"], "a.png", "a.png is not a folder"),
        (["a.png", "b.png"], "fifo", "fifo is not a folder"),
        (
            ["a.png", "b.png"],
            "x.nic",
            r"x\.nic is the name of one file: several need a folder \(x\.nic/ is one\)",
        ),
        (["in"], "x.JPG", r"x\.JPG is the name of one file: several need a folder \(x\.JPG/ is one\)"),
        (["a.png", "b.png"], "-", "standard output takes one file"),
        (["-", "a.png"], "out", r"standard input \(-\) must be the only input"),
        (["-"], "in", "in is a folder: give a file's name for standard input"),
        (["a.png"], "", "the name of the output is empty"),
        ([""], "out", "the name of an input is empty"),
        (["in", "empty\n"], "out", r"no files to work on in empty\\n"),
        (["*.gif"], "out", r"no files to work on in \*\.gif"),
    ],
)
@posix
def test_what_makes_no_sense(here: Path, names: list[str], output: str, problem: str) -> None:
    for folder in ("in", "empty\n"):
        (here / folder).mkdir()
    for name in ("a.png", "b.png", "in/a.png"):
        (here / name).touch()
    os.mkfifo("fifo")
    inputs = Inputs(tuple(names))
    with pytest.raises(UsageError, match=f"^{problem}$"):
        find_jobs(find_sources(inputs, {".png"})[0], inputs, output, ".nic")


def test_a_folder_may_have_the_name_of_a_picture(here: Path) -> None:
    (here / "x.jpg").mkdir()
    inputs = Inputs(("a.png", "b.png"))
    sources, _ = find_sources(inputs, {".png"})
    for output in ("x.jpg", "new.jpg/", "new.v2"):
        jobs = find_jobs(sources, inputs, output, ".nic")
        assert [job.target for job in jobs] == [Path(output, "a.nic"), Path(output, "b.nic")]


# ------------------------------------------------------------------------------------------------- writing


def test_an_output_is_whole_or_not_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = here / "new" / "a"
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", lambda *names: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Output(target).write(b"half")
    assert files(here / "new") == {}
    Output(target).write(b"whole")
    assert files(here / "new") == {"a": b"whole"}


def test_a_file_that_somebody_else_made_meanwhile_is_not_replaced(here: Path) -> None:
    target = here / "a"
    target.write_bytes(b"somebody else's")
    with pytest.raises(FileExistsError, match="-f replaces it"):
        Output(target).write(b"mine")
    assert files(here) == {"a": b"somebody else's"}
    Output(target).write(b"somebody else's")
    Output(target, force=True).write(b"mine")
    assert files(here) == {"a": b"mine"}


@posix
@pytest.mark.parametrize("mode", [0o600, 0o444, 0o755])
def test_permissions_are_kept(here: Path, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    target = here / "a"
    target.write_bytes(b"old")
    target.chmod(mode)
    if not os.geteuid():
        os.chown(target, 12345, 54321)
    before = target.stat()
    seen = []
    replace = os.replace
    monkeypatch.setattr(
        os, "replace", lambda new, old: (seen.append(os.stat(new).st_mode), replace(new, old))
    )
    Output(target, force=True).write(b"new")
    after = target.stat()
    assert target.read_bytes() == b"new"
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert seen == [before.st_mode]  # there was no moment in which others could read it


@posix
def test_a_new_file_has_the_permissions_of_any_new_file(here: Path) -> None:
    before = os.umask(0o027)
    try:
        Output(here / "a").write(b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((here / "a").stat().st_mode) == 0o640


@posix
def test_a_symlink_stays_and_its_file_is_written(here: Path) -> None:
    for name in ("real", "new"):
        (here / name).mkdir()
    (here / "real/a").write_bytes(b"old")
    (here / "real/a").chmod(0o604)
    (here / "second").symlink_to("real/a")
    (here / "first").symlink_to(here / "second")
    with pytest.raises(FileExistsError, match=r"first exists \(-f replaces it\)$"):
        Output(here / "first").write(b"mine")
    Output(here / "first", force=True).write(b"mine")
    assert (here / "first").is_symlink()
    assert (here / "second").is_symlink()
    assert files(here / "real") == {"a": b"mine"}
    assert stat.S_IMODE((here / "real/a").stat().st_mode) == 0o604
    (here / "dangling").symlink_to("new/b")
    Output(here / "dangling").write(b"mine")
    assert files(here / "new") == {"b": b"mine"}
    assert (here / "dangling").is_symlink()
    (here / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match=r"^cannot write .*loop: Too many levels"):
        Output(here / "loop").write(b"mine")


@posix
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["fifo", "link"])
def test_a_fifo_is_written_through(here: Path, name: str, force: bool) -> None:
    os.mkfifo("fifo")
    (here / "link").symlink_to("fifo")
    got = []
    reader = threading.Thread(target=lambda: got.append((here / "fifo").read_bytes()), daemon=True)
    reader.start()
    Output(here / name, force).write(b"x" * 100_000)
    reader.join(60)
    assert got == [b"x" * 100_000]
    assert (here / "fifo").is_fifo()
    assert sorted(path.name for path in here.iterdir()) == ["fifo", "link"]


def outcome(action: Callable[[], None]) -> str:
    with pytest.raises(OutputError) as caught:
        action()
    return str(caught.value)


@posix
def test_an_error_names_the_output(here: Path) -> None:
    (here / "file").touch()
    (here / "locked").mkdir()
    (here / "folder").mkdir()
    here.chmod(0o755)
    (here / "locked").chmod(0o555)
    with nobody():
        said = outcome(lambda: Output(Path("locked/a\nb")).write(b"x"))
        assert said == r"cannot write locked/a\nb: Permission denied"
        assert outcome(lambda: Output(Path("locked/new/b")).write(b"x")).startswith("cannot write locked/new")
    assert outcome(lambda: Output(Path("file/b")).write(b"x")) == "cannot write file/b: Not a directory"
    assert outcome(lambda: Output(Path("file/a/b")).write(b"x")) == "cannot write file/a/b: Not a directory"
    said = outcome(lambda: Output(Path("folder"), force=True).write(b"x"))
    assert said == "cannot write folder: Is a directory"
    said = outcome(lambda: Output(Path("/dev/full")).write(b"x"))
    assert said == "cannot write /dev/full: No space left on device"
    assert sorted(path.name for path in here.iterdir()) == ["file", "folder", "locked"]


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"plain name.png", "plain name.png"),
        ("Köln 東京 \u3000.png".encode(), "Köln 東京 \u3000.png"),
        (b"a\nb\t\x1b[31m\x7f", r"a\nb\t\x1b[31m\x7f"),
        ("\u202egnp.exe\u2028\x85".encode(), r"\u202egnp.exe\u2028\x85"),
        (b"\xff\xc3(", r"\xff\xc3("),
        ("👩‍🚀".encode(), "👩\\u200d🚀"),
        (b"C:\\new", r"C:\new"),
    ],
)
@posix
def test_names_are_harmless(name: bytes, expected: str) -> None:
    assert printable(os.fsdecode(name)) == expected
