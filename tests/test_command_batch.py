"""The command's jobs: what is written, what is refused, and what a worker's death leaves."""

from __future__ import annotations

import os
import signal
from argparse import Namespace
from functools import partial
from pathlib import Path

import pytest

from pillow_nic.command import batch
from pillow_nic.command.batch import Done, Output


def copy(source: Path, output: Output) -> Done:
    data = source.read_bytes()
    output.write(lambda file: file.write(data))
    return Done(len(data), len(data), 1)


def copy_and_die_once(traces: Path, source: Path, output: Output) -> Done:
    """The first attempt at a job does all of it, but can tell nobody."""
    done = copy(source, output)
    if not (trace := traces / source.name).exists():
        trace.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return done


def die_while_writing(source: Path, output: Output) -> Done:
    if source.name == "bad":
        output.write(lambda file: (file.write(b"half"), file.flush(), os.kill(os.getpid(), signal.SIGKILL)))
    return copy(source, output)


def start(threads: int) -> None:
    """In place of what loads torch."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(batch, "_start_worker", start)
    for name in ("in", "out", "traces"):
        (tmp_path / name).mkdir()
    return tmp_path


def several(here: Path, names: str) -> list[batch.Job]:
    for name in names.split():
        (here / "in" / name).write_bytes(name.encode())
    return [(here / "in" / name, here / "out" / name) for name in names.split()]


def arguments(processes: int, **others: object) -> Namespace:
    return Namespace(**{"skip_existing": False, "force": False, "jobs": processes, "ray": None, **others})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_output_is_whole_or_not_there(here: Path) -> None:
    target = here / "new" / "a"
    with pytest.raises(ZeroDivisionError):
        Output(target).write(lambda file: (file.write(b"half"), 1 / 0))
    assert files(here / "new") == {}
    Output(target).write(lambda file: file.write(b"whole"))
    assert files(here / "new") == {"a": b"whole"}


def test_a_file_that_somebody_else_made_meanwhile_is_not_replaced(here: Path) -> None:
    target = here / "a"
    target.write_bytes(b"somebody else's")
    with pytest.raises(FileExistsError, match="-f replaces it"):
        Output(target).write(lambda file: file.write(b"mine"))
    assert target.read_bytes() == b"somebody else's"
    Output(target).write(lambda file: file.write(b"somebody else's"))
    Output(target, force=True).write(lambda file: file.write(b"mine"))
    assert target.read_bytes() == b"mine"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("options", [{}, {"force": True}, {"skip_existing": True}])
def test_a_job_that_was_done_when_its_worker_died_counts_once(
    here: Path, options: dict[str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    todo = several(here, "a b c d")
    action = partial(copy_and_die_once, here / "traces")
    for name in "bcd":
        (here / "traces" / name).touch()  # these do not die
    assert batch.work(todo, action, arguments(2, **options)) == 0
    assert capsys.readouterr() == ("4 files, 4 bytes, 8.0000 bpp, ratio 1.00\n", "")
    assert files(here / "out") == {name: name.encode() for name in "abcd"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_worker_that_dies_leaves_no_half_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    todo = several(here, "a bad c")
    assert batch.work(todo, die_while_writing, arguments(2)) == 1
    out, err = capsys.readouterr()
    assert out.endswith(", 1 failed\n")
    assert err == f"nic: {here / 'in' / 'bad'}: its process died, again\n"
    assert files(here / "out") == {"a": b"a", "c": b"c"}


@pytest.mark.parametrize("processes", [1, 2])
def test_what_exists_is_refused_before_anything_runs(
    here: Path, processes: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        batch.processes, "run", lambda todo, one, workers, start: ((job, one(job)) for job in todo)
    )
    todo = several(here, "a b c")
    (here / "out" / "b").write_bytes(b"old")
    assert batch.work([*todo, (here / "in" / "a", here / "in" / "a")], copy, arguments(processes)) == 1
    out, err = capsys.readouterr()
    assert out == "2 files, 2 bytes, 8.0000 bpp, ratio 1.00, 2 failed\n"
    assert err.splitlines() == [
        f"nic: {here / 'in' / 'b'}: {here / 'out' / 'b'} exists (-f replaces it)",
        f"nic: {here / 'in' / 'a'}: {here / 'in' / 'a'} is the input itself",
    ]
    assert files(here / "out") == {"a": b"a", "b": b"old", "c": b"c"}
    assert batch.work(todo, copy, arguments(processes, skip_existing=True)) == 0
    assert capsys.readouterr().out == "0 files, 3 skipped\n"
    assert batch.work(todo, copy, arguments(processes, force=True)) == 0
    assert files(here / "out")["b"] == b"b"


def test_remarks_are_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    todo = several(here, "a")
    assert batch.work(todo, lambda source, output: Done(1, 1, 1, remark="odd"), arguments(1)) == 0
    assert capsys.readouterr().err == f"nic: {here / 'in' / 'a'}: odd\n"
