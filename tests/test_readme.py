"""What the README shows: every Python block runs, and its commands are those of the program."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from pillow_nic.bench.main import arguments as bench_arguments
from pillow_nic.command.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

python_blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
shell_blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
bench_lines = re.findall(r"^    (nic bench .*?)(?: *#.*)?$", README, re.MULTILINE)
nic_lines = re.findall(r"^    (nic (?:encode|decode|info|truncate) .*?)(?: *#.*)?$", README, re.MULTILINE)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests/data/photo.png", "photo.png")
    return tmp_path


@pytest.mark.parametrize("number", range(len(python_blocks)))
def test_python_block(number: int, here: Path) -> None:
    exec(compile(python_blocks[number], f"README.md, python block {number}", "exec"), {"__name__": "readme"})


def test_the_first_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "tests/data").mkdir(parents=True)
    (here / "photo.png").rename("tests/data/photo.png")
    commands = [command.split() for command in re.split(r"&&", shell_blocks[0])]
    nic = [arguments for command, *arguments in commands if command == "nic"]
    assert [arguments[0] for arguments in nic] == ["encode", "decode"]
    for arguments in nic:
        assert main(arguments) == 0
    first, _ = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"1 file, \d+ bytes, \d\.\d+ bpp, ratio \d+\.\d+, PSNR \d\d\.\d\d dB", first)


def test_the_second_command_runs_the_tests() -> None:
    # .ci/run runs this block as it stands.
    assert len(shell_blocks) == 2
    assert re.search(r"pip install '\.\[test\]' && pytest$", shell_blocks[1].strip())


def test_the_examples_of_the_command(here: Path) -> None:
    (here / "pictures").mkdir()
    shutil.copy("photo.png", "pictures/one.png")
    shutil.copy("photo.png", "two.jpg")
    assert len(nic_lines) == 8
    for line in nic_lines:
        assert main(shlex.split(line)[1:]) == 0, line


def test_the_options_of_the_benchmark() -> None:
    assert len(bench_lines) == 7
    for line in bench_lines:
        assert bench_arguments(shlex.split(line)[2:]).folder.name in ("kodak", "photo.png")
