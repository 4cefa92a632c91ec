"""The command's jobs: what is written, what is refused, and what a worker's death leaves."""

from __future__ import annotations

import os
import signal
import warnings
from functools import partial
from pathlib import Path

import pytest

from pillow_nic.command import batch, processes
from pillow_nic.command.batch import Done, Running
from pillow_nic.command.files import Job, Output


def copy(source: Path | None, output: Output) -> Done:
    assert source is not None
    data = source.read_bytes()
    output.write(data)
    return Done(len(data), len(data), 1)


def copy_and_die_once(traces: Path, source: Path, output: Output) -> Done:
    """The first attempt at a job does all of it, but can tell nobody."""
    done = copy(source, output)
    if not (trace := traces / source.name).exists():
        trace.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return done


def die_while_writing(source: Path, output: Output) -> Done:
    if source.name == "bad":  # the new file is written, and not yet in its place
        os.link = lambda *names: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    return copy(source, output)


def start(threads: int) -> None:
    """In place of what loads torch."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(batch, "_start_worker", start)
    for name in ("in", "out", "traces"):
        (tmp_path / name).mkdir()
    return tmp_path


def several(here: Path, names: str) -> list[Job]:
    for name in names.split():
        (here / "in" / name).write_bytes(name.encode())
    return [Job(here / "in" / name, here / "out" / name) for name in names.split()]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("options", [{}, {"force": True}, {"skip_existing": True}])
def test_a_job_that_was_done_when_its_worker_died_counts_once(
    here: Path, options: dict[str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    todo = several(here, "a b c d")
    action = partial(copy_and_die_once, here / "traces")
    for name in "bcd":
        (here / "traces" / name).touch()  # these do not die
    assert batch.work(todo, [], action, Running(workers=2, **options)) == 0
    assert capsys.readouterr() == ("4 files, 4 bytes, 8.0000 bpp, ratio 1.00\n", "")
    assert files(here / "out") == {name: name.encode() for name in "abcd"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_worker_that_dies_leaves_no_half_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    todo = several(here, "a bad c")
    assert batch.work(todo, [], die_while_writing, Running(workers=2)) == 1
    out, err = capsys.readouterr()
    assert out.endswith(", 1 failed\n")
    assert err == f"nic: {here / 'in' / 'bad'}: its process died twice\n"
    assert files(here / "out") == {"a": b"a", "c": b"c"}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_exists_is_refused_before_anything_runs(
    here: Path, workers: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "run", lambda todo, one, count, start: ((job, one(job)) for job in todo))
    todo = several(here, "a b c")
    (here / "out" / "b").write_bytes(b"old")
    assert (
        batch.work([*todo, Job(here / "in" / "a", here / "in" / "a")], [], copy, Running(workers=workers))
        == 1
    )
    out, err = capsys.readouterr()
    assert out == "2 files, 2 bytes, 8.0000 bpp, ratio 1.00, 2 failed\n"
    assert err.splitlines() == [
        f"nic: {here / 'in' / 'b'}: {here / 'out' / 'b'} exists (-f replaces it)",
        f"nic: {here / 'in' / 'a'}: {here / 'in' / 'a'} is the input itself",
    ]
    assert files(here / "out") == {"a": b"a", "b": b"old", "c": b"c"}
    assert batch.work(todo, [], copy, Running(workers=workers, skip_existing=True)) == 0
    assert capsys.readouterr().out == "0 files, 3 skipped\n"
    assert batch.work(todo, [], copy, Running(workers=workers, force=True)) == 0
    assert files(here / "out")["b"] == b"b"


def test_remarks_are_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    todo = several(here, "a")
    assert (
        batch.work(todo, [], lambda source, output: Done(1, 1, 1, remarks=("odd",)), Running(workers=1)) == 0
    )
    assert capsys.readouterr().err == f"nic: {here / 'in' / 'a'}: odd\n"


def test_a_folder_that_cannot_be_read_is_a_failure(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem = PermissionError(13, "Permission denied", "in/locked")
    assert batch.work(several(here, "a"), [problem], copy, Running()) == 1
    out, err = capsys.readouterr()
    assert out == "1 file, 1 bytes, 8.0000 bpp, ratio 1.00, 1 failed\n"
    assert err == "nic: in/locked: Permission denied\n"
    assert batch.work([], [problem], copy, Running()) == 1


def test_each_warning_is_a_remark_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def warn(source: Path | None, output: Output) -> Done:
        for text in ("odd", "odd", "odder"):
            warnings.warn(text, UserWarning, stacklevel=1)
        return Done(1, 1, 1)

    assert batch.work(several(here, "a b"), [], warn, Running()) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in lines] == [
        f"{here / 'in' / name}: {text}" for name in "ab" for text in ("odd", "odder")
    ]
