"""`nic bench --speed`: who takes turns with whom, what becomes of the seconds, and that no process stays."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import photo
from PIL import Image

import pillow_nic
from pillow_nic.bench import processes, speed, speed_report, speed_worker
from pillow_nic.bench.processes import THIS, Interpreter, WorkerError, busy, worker
from pillow_nic.bench.speed import Entrant, Quantity
from pillow_nic.command.main import main

ROOT = Path(pillow_nic.__file__).parents[1]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything as small as it can be."""
    for name, value in {
        "SIZE": (64, 48),
        "THUMBNAIL_OF": (400, 300),
        "SMALL": (32, 32),
        "SMALL_GRID": (2, 1),
        "AT_ONCE": 2,
        "PAUSE": 0,
    }.items():
        monkeypatch.setattr(speed, name, value)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIC_DEVICE", "")  # restored after --device, which sets it
    photo(size=(40, 24)).save("one.png")
    return tmp_path


def is_running(pid: int) -> bool:
    """Not even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ----------------------------------------------------------------------------------------- the whole command


def rows(text: str) -> dict[str, list[str]]:
    """Lines of the tables by their names."""
    found = (line.split("  ", 1) for line in text.splitlines() if "  " in line)
    return {name: rest.split() for name, rest in found}


def test_the_command(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Entrant, "first_decode", lambda *_: 6.0)
    monkeypatch.setattr(Interpreter, "seconds", lambda *_: 4.0)
    chosen = ["--codecs", "webp-m6", "--device", "cpu", "--large", "0.25", "--json", "out.json"]
    assert main(["bench", "one.png", "--speed", "2", *chosen]) == 0
    text = capsys.readouterr().out
    head, *tables = text.split("\n\n")
    lines = dict(line.split(": ", 1) for line in head.splitlines())
    assert lines["pictures"] == "one.png, repeated or cropped to 64x48"
    assert lines["large picture"].startswith("0.25 megapixels, ")
    assert lines["busy"].startswith("beside ")
    assert "NIC_DEVICE=cpu" in lines["environment"]
    assert f"pillow_nic {pillow_nic.__version__} in {ROOT / 'pillow_nic'}, torch " in lines["nic-visual-e1"]
    assert "tune=visual quality=0.5, " in lines["nic-visual-e1"]
    assert lines["webp-m6"].startswith("method=6 quality=")
    figures, inner, ratios = map(rows, tables)
    assert "(" in figures["encode, s/MP"][1]  # the best of two
    assert figures["import of torch by a process, s"] == ["4.000", "(4.000)", "-"]
    assert inner["first decode / import of torch"] == ["1.5", "-"]
    assert ratios["first decode of a process, s"] == ["1"]

    content = json.loads(Path("out.json").read_text(encoding="utf-8"))
    both = ["nic-visual-e1", "webp-m6"]
    assert list(content["entrants"]) == both
    for name, found in content["figures"].items():
        of_nic_alone = name == speed_report.IMPORT_TORCH
        if name == speed_report.BATCH:
            assert list(found) in ([], ["nic-visual-e1"])
        else:
            assert list(found) == (both[:1] if of_nic_alone else both), name
        assert {len(values) for values in found.values()} <= {1 if name.startswith("large") else 2}
        assert all(value > 0 for values in found.values() for value in values)
    assert 100 < content["figures"][speed_report.DECODE_MEMORY]["nic-visual-e1"][0] < 2000
    assert 5 < content["figures"][speed_report.DECODE_MEMORY]["webp-m6"][0] < 100
    medians = {name: np.median(content["figures"][speed_report.DECODE][name]) for name in both}
    ratio = content["ratios"]["to nic-visual-e1"][speed_report.DECODE]["webp-m6"]
    assert ratio == pytest.approx(medians["webp-m6"] / medians["nic-visual-e1"])


def test_two_versions(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the same one twice."""
    every, wanted = speed.quantities, (speed_report.ENCODE, speed_report.DECODE)
    monkeypatch.setattr(speed, "quantities", lambda found: [q for q in every(found) if q.name in wanted])
    chosen = ["--codecs", "--device", "cpu", "--large", "0", "--json", "out.json", "--tunes", "psnr"]
    assert main(["bench", "one.png", "--speed", "1", "--against-version", str(ROOT), *chosen]) == 0
    content = json.loads(Path("out.json").read_text(encoding="utf-8"))
    new, old = content["entrants"].values()
    assert list(content["entrants"]) == ["nic-psnr-e1", "old nic-psnr-e1"]
    assert new == old  # bytes, model, versions
    for name in wanted:
        [new], [old] = content["figures"][name].values()
        assert content["ratios"]["new to old"][name] == {"nic-psnr-e1": pytest.approx(new / old)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--speed", "--plot", "a.png"], "--speed does not take --plot"),
        (["--large", "3"], "a comparison does not take --large"),
        (["--speed", "--against-version", "nowhere"], "nowhere is neither a Python interpreter nor a folder"),
        (["--speed", "--large", "-1"], "-1 is not a number from 0 to 1000"),
        (["none.png", "--speed", "--large", "1e9"], "1e9 is not a number from 0 to 1000"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(speed, "worker", lambda *_: pytest.fail("started"))
    try:
        code: Any = main(["bench", "one.png", *arguments])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------------- rounds and ratios


class Fake(Entrant):
    """Who says how long everything took."""

    def __new__(cls, name: str, *seconds: float) -> Any:
        entrant = object.__new__(cls)
        entrant.__dict__.update(name=name, seconds=iter(seconds), old="")
        return entrant

    def __init__(self, *_: Any) -> None:
        pass


def test_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    @contextmanager
    def busy(count: int) -> Iterator[None]:
        happened.append(f"{count} busy")
        yield
        happened.append("quiet")

    def run(entrant: Any) -> float | None:
        happened.append(entrant.name)
        return next(entrant.seconds, None)

    monkeypatch.setattr(speed, "busy", busy)
    measured = [
        Quantity("one, s/MP", run, 2.0),
        Quantity("two, pictures/s", run, 8, busy=True),
        Quantity("three, s", lambda entrant: run(entrant) if entrant.name == "a" else None),
    ]
    a, b = Fake("a", 9, 9, 9, 1, 2, 3, 3, 4, 5), Fake("b", 9, 9, 6, 4, 8, 2)
    figures = speed.rounds([a, b], measured, 2, 3)
    assert happened == ["a", "b", "3 busy", "a", "b", "quiet", "a"] * 3
    assert figures == {
        "one, s/MP": {"a": [0.5, 1.5], "b": [3, 4]},
        "two, pictures/s": {"a": [4, 2], "b": [2, 4]},
        "three, s": {"a": [3, 5]},
    }


def test_ratios_are_of_medians() -> None:
    figures: speed_report.Figures = {name: {} for pair in speed_report.INNER_RATIOS.values() for name in pair}
    figures[speed_report.DECODE] = {"new": [1, 2, 30], "old": [4, 4, 1], "other": [1]}
    figures[speed_report.DECODE_BUSY] = {"new": [5, 5, 5], "old": [9, 8, 7], "other": [1]}
    figures[speed_report.IMPORT_TORCH] = {"new": [1, 2]}
    figures[speed_report.FIRST] = {"new": [3, 3], "other": [1]}
    inner = speed_report.inner_ratios(figures)
    assert inner["decode: busy / quiet"] == {"new": 2.5, "old": 2, "other": 1}
    assert inner["first decode / import of torch"] == {"new": 2}
    assert inner["thumbnail / full decode"] == {}
    to_new = speed_report.ratios_between(figures, [("old", "new"), ("other", "new")])
    assert to_new[speed_report.DECODE] == {"old": 2, "other": 0.5}
    assert speed_report.ratios_between(figures, [("new", "old")])[speed_report.DECODE] == {"new": 0.5}


def test_tiled(tmp_path: Path) -> None:
    for name, size in (("red", (5, 3)), ("blue", (4, 2))):
        Image.new("RGB", size, name).save(tmp_path / f"{name}.png")
    found = np.asarray(speed.tiled([tmp_path / "red.png", tmp_path / "blue.png"], (11, 5)))
    assert found.shape == (5, 11, 3)
    red, blue = "r", "b"
    first = red * 5 + blue * 4 + red * 2
    second = blue * 4 + red * 5 + blue * 2
    expected = [first, first, second, second, first]
    assert ["".join("r" if r else "b" for r, _, _ in row) for row in found] == expected
    assert not found[..., 1].any()


# ---------------------------------------------------------------------------------------------- the worker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """In which everything takes 2 seconds."""
    ticks = itertools.accumulate(itertools.cycle((7, 2)))
    monkeypatch.setattr(speed_worker, "perf_counter", lambda: next(ticks))


@pytest.mark.usefixtures("clock")
def test_the_actions(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = {"quality": 0.5, "tune": "psnr"}
    assert speed_worker.encode("one.png", "one", "NIC", save) == 2
    assert speed_worker.convert("one.png", "two", "NIC", save) == 2
    pixels = np.asarray(Image.open("one.png"))
    expected = pillow_nic.encode(pixels, **save)
    assert Path("one").read_bytes() == Path("two").read_bytes() == expected
    for action in (speed_worker.decode, speed_worker.thumbnail, speed_worker.load):
        assert action("one") == 2
    for several in (speed_worker.loop, speed_worker.at_once):
        assert several(["one", "two"]) == 2
    batches: list[list[bytes]] = []
    monkeypatch.setattr(pillow_nic, "decode_batch", batches.append, raising=False)
    assert speed_worker.batch(["one", "two"]) == 2
    assert batches == [[expected, expected]]
    monkeypatch.setattr(pillow_nic, "decode_batch", None)
    assert speed_worker.batch(["one", "two"]) is None
    assert speed_worker.about("one")["model"].startswith("nic-2 (")

    Path("cut").write_bytes(expected[:-1])  # they really decode
    for action in (speed_worker.decode, speed_worker.load):
        with pytest.raises(OSError, match=r"\bcut\b|truncated|ends"):
            action("cut")
    for several in (speed_worker.loop, speed_worker.at_once):
        with pytest.raises(OSError, match=r"\bcut\b|truncated|ends"):
            several(["one", "cut"])


def test_peak_memory_is_that_of_the_picture(here: Path) -> None:
    Image.new("RGB", (10, 10)).save("small.ppm")
    Image.new("RGB", (5000, 5000)).save("large.ppm")
    ballast = np.ones(150_000_000, np.uint8)  # of the parent, which must not count
    peaks = []
    for file in ("small.ppm", "large.ppm"):
        with worker("pillow", THIS, "PIL") as alone:
            assert alone.ask("load", file=file) > 0
            peaks.append(alone.ask("peak_memory"))
    assert ballast.all()
    assert 5e6 < peaks[0] < 100e6
    assert 95e6 < peaks[1] - peaks[0] < 200e6  # four bytes for each of Pillow's pixels


def test_a_worker_that_fails(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with worker("mine", THIS, "PIL") as alone:
        with pytest.raises(WorkerError, match=r"^mine: decode failed, exit code 1$"):
            alone.ask("decode", file="none.png")
        with pytest.raises(WorkerError, match=r"^mine: load failed, exit code 1$"):
            alone.ask("load", file="one.png")
    assert "none.png" in capfd.readouterr().err
    assert not is_running(alone.process.pid)


def test_who_fails_at_the_large_picture_is_left_out(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("own").mkdir()
    photo(size=(40, 24)).save("large.ppm")
    with worker("idle", THIS, "PIL") as idle:
        good, bad = (
            Entrant(format, format, {}, "PIL", THIS, idle, Path("own")) for format in ("WEBP", "MPEG")
        )
        figures, failed = speed.large([bad, good], Path("large.ppm"), 0.5)
    assert failed == {"MPEG": "MPEG: convert failed, exit code 1"}
    assert {name: list(found) for name, found in figures.items()} == {name: ["WEBP"] for name in figures}
    assert not list(Path("own").iterdir())


def test_the_first_decode_is_a_process(here: Path) -> None:
    photo(size=(40, 24)).save("one", "WEBP")
    with worker("idle", THIS, "PIL") as idle:
        entrant = Entrant("webp", "WEBP", {}, "PIL", THIS, idle, here)
        assert 0 < entrant.first_decode(Path("one.ppm")) < 60
        assert entrant.import_torch() is None
        Path("one").write_bytes(b"no picture")
        with pytest.raises(WorkerError):
            entrant.first_decode(Path("one.ppm"))


# ------------------------------------------------------------------------------------------ other processes


def test_busy_processes_end() -> None:
    with busy(2) as running:
        assert len(set(running)) == 2
        assert all(map(is_running, running))
    assert not any(map(is_running, running))


def test_busy_processes_end_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), busy(2) as running:
        raise KeyboardInterrupt
    assert not any(map(is_running, running))

    started = []
    start = processes._running

    def failing(*arguments: Any) -> Any:
        if started:
            raise OSError("no more processes")
        started.append(start(*arguments))
        return started[0]

    monkeypatch.setattr(processes, "_running", failing)
    with pytest.raises(OSError, match="no more"), busy(2):
        pytest.fail("begun")


def test_busy_processes_and_workers_end_with_a_process_that_is_killed() -> None:
    code = """
        import os, signal
        from pillow_nic.bench.processes import THIS, busy, worker

        with busy(2), worker("mine", THIS, "PIL"):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    # They have its stderr, which ends when the last of them does.
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (-9, b"")


def test_interpreters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    python = Interpreter.of(Path(sys.executable))
    assert python == Interpreter(sys.executable)
    assert "PYTHONPATH" not in python.environment
    (tmp_path / "pillow_nic").mkdir()
    checkout = Interpreter.of(tmp_path)
    assert checkout.executable == sys.executable
    assert checkout.environment["PYTHONPATH"] == os.pathsep.join((str(tmp_path), "elsewhere"))
    assert THIS.folder == ROOT
    for path in (tmp_path / "pillow_nic", tmp_path / "python", Path(__file__)):
        with pytest.raises(ValueError, match="is neither"):
            Interpreter.of(path)
