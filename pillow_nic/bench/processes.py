"""The processes that `nic bench --speed` starts: none outlives the block that started it, nor, as each ends
with its standard input, this process, however that may end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

WORKER = Path(__file__).with_name("speed_worker.py")

_BUSY = """
import os, sys, threading

def end():
    sys.stdin.read()
    os._exit(0)

threading.Thread(target=end).start()
print(flush=True)
while True:
    pass
"""


class WorkerError(ChildProcessError):
    """A process has failed, and said why on stderr."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that has pillow_nic. ``folder``: where to find it first; None: where the interpreter itself
    finds it, whatever PYTHONPATH says here."""

    executable: str
    folder: Path | None = None

    @classmethod
    def of(cls, path: Path) -> Interpreter:
        """An interpreter's own version, or that of a checkout, which this interpreter runs. ValueError if it
        is neither."""
        if (path / "pillow_nic").is_dir():
            return cls(sys.executable, path.absolute())
        if path.is_file() and os.access(path, os.X_OK):
            return cls(str(path.absolute()))
        raise ValueError(f"{path} is neither a Python interpreter nor a folder with pillow_nic in it")

    @property
    def environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        inherited = environment.pop("PYTHONPATH", "")
        if self.folder:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(self.folder), inherited)))
        return environment

    def command(self, *arguments: str) -> list[str]:
        return [self.executable, "-P", *arguments]  # -P: not what lies beside the program or in this folder

    def seconds(self, *arguments: str) -> float:
        """Of a process from its start to its end."""
        start = perf_counter()
        done = subprocess.run(self.command(*arguments), env=self.environment, check=False)
        seconds = perf_counter() - start
        if done.returncode:
            raise WorkerError(f"{self.executable}: exit code {done.returncode}")
        return seconds


THIS = Interpreter(sys.executable, Path(__file__).parents[2])


@dataclass(frozen=True)
class Worker:
    """A running speed_worker.py."""

    name: str
    process: subprocess.Popen[bytes]

    def ask(self, action: str, **arguments: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"action": action, **arguments}).encode() + b"\n")
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise WorkerError(f"{self.name}: {action} failed, exit code {self.process.wait()}")
        return json.loads(answer)


@contextmanager
def worker(name: str, interpreter: Interpreter, module: str) -> Iterator[Worker]:
    """``module`` makes Pillow know the format."""
    with _running(interpreter.command(str(WORKER), module), interpreter.environment) as process:
        yield Worker(name, process)


@contextmanager
def busy(count: int) -> Iterator[list[int]]:
    """So many processes that count as fast as they can, all of them at work when the block begins; their
    ids."""
    with ExitStack() as stack:
        command = [sys.executable, "-I", "-S", "-c", _BUSY]
        running = [stack.enter_context(_running(command)) for _ in range(count)]
        for process in running:
            assert process.stdout
            process.stdout.readline()
        yield [process.pid for process in running]


@contextmanager
def _running(
    command: list[str], environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    # A process group of its own: Ctrl-C is for this process, which then ends the others. Without a buffer
    # nothing is left to write when the other end has gone.
    with subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        process_group=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
