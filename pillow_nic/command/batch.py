"""The command's work on many files: each job done, here, in several processes or on a cluster; the report."""

from __future__ import annotations

import os
import secrets
import signal
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from PIL import Image

from ..writing import behind_links, is_special
from .files import Job, Output
from .messages import UsageError, complain, say, target_name

# What Pillow's plugins raise for a file that is not what it should be; a NicError for a file is an OSError.
FILE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)
# Warnings that are for the user; the others are for programmers.
_WARNINGS = (UserWarning, RuntimeWarning)


@dataclass(frozen=True)
class Running:
    """How the jobs are done."""

    force: bool = False  # replace files that exist
    skip_existing: bool = False  # leave them
    workers: int | None = None
    ray: str | None = None  # the address of a cluster


@dataclass(frozen=True)
class Done:
    """What came of one job."""

    nic_bytes: int
    other_bytes: int  # of the picture's file on the other side
    pixels: int
    psnr: float | None = None
    remarks: tuple[str, ...] = ()  # for the user


Action = Callable[[Path | None, Output], Done]


# ------------------------------------------------------------------------------------------------ doing them


def work(jobs: list[Job], unreadable: list[OSError], action: Action, running: Running) -> int:
    """Do every job, go on after a failure, and say at last what came out; 0, or 1 if something failed.

    ``unreadable``: the folders that cannot be read, failures already."""
    from tqdm import tqdm

    # The summary must not get into a picture.
    report = sys.stderr if any(job.target is None for job in jobs) else sys.stdout
    skipped = {job for job in jobs if running.skip_existing and _is_finished(job.target)}
    jobs = [job for job in jobs if job not in skipped]
    for error in unreadable:
        complain(Path(error.filename), error)
    failed = len(unreadable)
    done: list[Done] = []
    # disable=None: no bar unless stderr is a terminal
    silent = None if len(jobs) > 1 else True
    try:
        with _ending_in_order(), closing(_results(jobs, action, running)) as results:
            for job, result in tqdm(results, total=len(jobs), unit="file", leave=False, disable=silent):
                if isinstance(result, Done):
                    done.append(result)
                    for remark in result.remarks:
                        complain(job.source, remark)
                elif isinstance(result, FILE_ERRORS):
                    failed += complain(job.source, result)
                else:
                    raise result
    except (KeyboardInterrupt, SystemExit):
        say(f"nic: interrupted: {_summary(done, failed, len(skipped))}", sys.stderr)
        raise
    say(_summary(done, failed, len(skipped)), report)
    return int(failed > 0)


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Who ends the command with SIGTERM or SIGHUP finds no unfinished files and no lost processes."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    ours = []
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
        # nohup has SIGHUP ignored.
        ours = [number for number in numbers if number and signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, leave)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _results(
    jobs: list[Job], action: Action, running: Running
) -> Generator[tuple[Job, Done | Exception], None, None]:
    """Each job with what came of it. A file that exists is a failure here, before anything runs: a job that
    runs again after its worker's death must not take its own result for somebody else's."""
    refused = {job: refusal for job in jobs if (refusal := _refusal(job, running.force))}
    yield from refused.items()
    jobs = [job for job in jobs if job not in refused]
    run = secrets.token_hex(4)
    one = partial(_one, action, running.force, run)
    if not jobs or (not running.ray and (running.workers in (None, 1) or len(jobs) == 1)):
        for job in jobs:
            yield job, one(Path(), job)
        return
    if running.ray:
        cluster = _cluster(jobs, running.ray)
        # Paths mean the same on every machine once they are absolute; a worker has one thread, as Ray has it.
        start = partial(_start_worker, 1)
        several = cluster(jobs, partial(one, Path.cwd()), running.workers, start)
    else:
        from . import processes

        assert running.workers is not None
        start = partial(_start_worker, max(1, (os.cpu_count() or 1) // running.workers))
        several = processes.run(jobs, partial(one, Path()), running.workers, start)
    try:
        yield from several
    finally:  # the unfinished files of workers that died
        for folder in {behind_links(job.target).parent for job in jobs if job.target is not None}:
            for unfinished in folder.glob(f".nic-{run}-*"):
                unfinished.unlink(missing_ok=True)


def _cluster(jobs: list[Job], address: str) -> Callable[..., Iterator[tuple[Job, Done | Exception]]]:
    """What runs jobs on the Ray cluster there. UsageError if there is none."""
    if any(job.source is None or job.target is None for job in jobs):
        raise UsageError("--ray does not work on standard input or output")
    try:
        from . import ray_cluster

        ray_cluster.connect(address)
    except ImportError as error:
        raise UsageError(f"--ray needs Ray Data, pip install 'pillow-nic[ray]': {error}") from error
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"--ray {address}: {error}") from error
    return ray_cluster.run


def _is_finished(target: Path | None) -> bool:
    return target is not None and target.exists() and not is_special(target)


def _refusal(job: Job, force: bool) -> OSError | None:
    source, target = job.source, job.target
    if target is None:
        return None
    try:
        if not target.exists():
            return None
        if source is not None and source.exists() and target.samefile(source):
            return FileExistsError(f"{target_name(target)} is the input itself")
        if target.is_dir():
            return FileExistsError(f"{target_name(target)} is a folder")
        if not force and not is_special(target):
            return FileExistsError(f"{target_name(target)} exists (-f replaces it)")
    except OSError as error:
        return error
    return None


def _one(action: Action, force: bool, run: str, folder: Path, job: Job) -> Done | Exception:
    """One job, its paths below the folder unless they are absolute; what is wrong with its files is an
    answer, not the end of the others, and so is what Python's warnings say."""
    source, target = (path and folder / path for path in (job.source, job.target))
    try:
        with warnings.catch_warnings(record=True) as caught:
            for category in _WARNINGS:
                warnings.simplefilter("always", category)
            done = action(source, Output(target, force, run))
    except FILE_ERRORS as error:
        return error
    said = dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, _WARNINGS))
    return replace(done, remarks=(*done.remarks, *said))


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


# --------------------------------------------------------------------------------------------- the report


def _summary(done: Sequence[Done], failed: int, skipped: int) -> str:
    """Files, bytes of the .nic files, bits per pixel, and how many times larger the other files are."""
    parts = [f"{len(done)} file{'' if len(done) == 1 else 's'}"]
    if done:
        size = sum(one.nic_bytes for one in done)
        parts += [
            f"{size} bytes",
            f"{8 * size / sum(one.pixels for one in done):.4f} bpp",
            f"ratio {sum(one.other_bytes for one in done) / size:.2f}",
        ]
        psnr = [one.psnr for one in done if one.psnr is not None]
        if psnr:
            parts.append(f"PSNR {sum(psnr) / len(psnr):.2f} dB")
    if skipped:
        parts.append(f"{skipped} skipped")
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts)
