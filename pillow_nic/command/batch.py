"""The command's work on many files: which there are, where the results go, doing them all, and the report."""

from __future__ import annotations

import argparse
import filecmp
import glob
import os
import secrets
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any

from PIL import Image

from . import processes

# What Pillow's plugins raise for a file that is not what it should be; a NicError for a file is an OSError.
FILE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)

Job = tuple[Path, Path]  # source and target


@dataclass(frozen=True)
class Done:
    """What came of one job."""

    nic_bytes: int
    other_bytes: int  # of the picture's file on the other side
    pixels: int
    psnr: float | None = None
    remark: str | None = None  # for the user


@dataclass(frozen=True)
class Output:
    """The file that a job writes."""

    target: Path
    force: bool = False  # replace one that exists
    run: str = ""  # in the names of all unfinished files of one run of the command

    def write(self, fill: Callable[[IO[bytes]], Any]) -> None:
        """Let `fill` fill a file beside the target and rename it, so that no half file is ever found there.

        FileExistsError if there is a file by now, unless it has the same bytes. Those can be this job's own:
        when a worker dies before it can say that it is done, the job runs again."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: of two workers with one job, both may live when the network is cut between them.
        unfinished = self.target.with_name(f".nic-{self.run}-{secrets.token_hex(8)}")
        try:
            with open(unfinished, "xb") as file:
                fill(file)
            if not self.force and self.target.exists():
                if not filecmp.cmp(unfinished, self.target, shallow=False):
                    raise FileExistsError(f"{self.target} exists (-f replaces it)")
            else:
                os.replace(unfinished, self.target)
        finally:
            with suppress(FileNotFoundError):
                unfinished.unlink()


Action = Callable[[Path, Output], Done]


# ----------------------------------------------------------------------------------------- files and folders


def find_sources(args: argparse.Namespace, suffixes: Collection[str]) -> list[Job]:
    """The files that the inputs mean, each with its place below the folder that was named."""
    found: list[Job] = []
    for name in args.inputs:
        path = Path(name)
        if path.is_dir():
            inside = sorted(path.rglob("*") if args.recursive else path.iterdir())
            files = [(file, file.relative_to(path)) for file in inside if file.suffix.lower() in suffixes]
        elif not path.exists() and glob.has_magic(name):  # Windows shells leave globs to the program
            hits = map(Path, sorted(glob.glob(name, recursive=True)))
            files = [(file, Path(file.name)) for file in hits]
        else:
            found.append((path, Path(path.name)))
            continue
        files = [pair for pair in files if pair[0].is_file()]
        if not files:
            args.usage_error(f"no files to work on in {name}")
        found += files
    return list(dict.fromkeys(found))


def find_jobs(args: argparse.Namespace, suffixes: Collection[str], new_suffix: str) -> list[Job]:
    """Pairs of source and target."""
    sources = find_sources(args, suffixes)
    if args.output is None:
        targets = [source.with_suffix(new_suffix) for source, _ in sources]
    else:
        output = Path(args.output)
        several = len(sources) > 1 or Path(args.inputs[0]).is_dir()
        if several or output.is_dir() or args.output.endswith(("/", os.sep)):
            if output.is_file():
                args.usage_error(f"{output} is a file, and the output of several files must be a folder")
            targets = [output / place.with_suffix(new_suffix) for _, place in sources]
        else:
            targets = [output]
    chosen: dict[Path, Path] = {}
    for (source, _), target in zip(sources, targets, strict=True):
        if target in chosen:
            args.usage_error(f"{chosen[target]} and {source} would both become {target}")
        chosen[target] = source
    return [(source, target) for target, source in chosen.items()]


# ---------------------------------------------------------------------------------------------- doing them


def work(jobs: list[Job], action: Action, args: argparse.Namespace) -> int:
    """Do every job, go on after a failure, and say at last what came out; 0, or 1 if some failed."""
    from tqdm import tqdm

    skipped = [job for job in jobs if args.skip_existing and job[1].exists()]
    jobs = [job for job in jobs if not (args.skip_existing and job[1].exists())]
    done: list[Done] = []
    # disable=None: no bar unless stderr is a terminal
    silent = None if len(jobs) > 1 else True
    results = tqdm(_results(jobs, action, args), total=len(jobs), unit="file", leave=False, disable=silent)
    for (source, _), result in results:
        if isinstance(result, Done):
            done.append(result)
            if result.remark:
                complain(source, result.remark)
        elif isinstance(result, FILE_ERRORS):
            complain(source, result)
        else:
            raise result
    failed = len(jobs) - len(done)
    print(_summary(done, failed, len(skipped)))
    return int(failed > 0)


def _results(
    jobs: list[Job], action: Action, args: argparse.Namespace
) -> Iterator[tuple[Job, Done | Exception]]:
    """Each job with what came of it. A file that exists is a failure here, before anything runs: a job that
    runs again after its worker's death must not take its own result for somebody else's."""
    refused = {job: refusal for job in jobs if (refusal := _refusal(job, args.force))}
    jobs = [job for job in jobs if job not in refused]
    run = secrets.token_hex(4)
    one = partial(_one, action, args.force, run)
    if not jobs or (not args.ray and (args.jobs in (None, 1) or len(jobs) == 1)):
        return chain(refused.items(), ((job, one(Path(), job)) for job in jobs))
    if args.ray:
        try:
            from . import ray_cluster

            ray_cluster.connect(args.ray)
        except ImportError as error:
            args.usage_error(f"--ray needs Ray Data, pip install 'pillow-nic[ray]': {error}")
        except (ConnectionError, ValueError, RuntimeError) as error:
            args.usage_error(f"--ray {args.ray}: {error}")
        # Paths mean the same on every machine once they are absolute; a worker has one thread, as Ray has it.
        start = partial(_start_worker, 1)
        several = ray_cluster.run(jobs, partial(one, Path.cwd()), args.jobs, start)
    else:
        start = partial(_start_worker, max(1, (os.cpu_count() or 1) // args.jobs))
        several = processes.run(jobs, partial(one, Path()), args.jobs, start)
    return chain(refused.items(), _swept(several, {target.parent for _, target in jobs}, run))


def _refusal(job: Job, force: bool) -> OSError | None:
    source, target = job
    try:
        if target.exists() and source.exists() and target.samefile(source):
            return FileExistsError(f"{target} is the input itself")
        if target.exists() and not force:
            return FileExistsError(f"{target} exists (-f replaces it)")
    except OSError as error:
        return error
    return None


def _one(action: Action, force: bool, run: str, folder: Path, job: Job) -> Done | Exception:
    """One job, its paths below the folder unless they are absolute; what is wrong with its files is an
    answer, not the end of the others."""
    try:
        return action(folder / job[0], Output(folder / job[1], force, run))
    except FILE_ERRORS as error:
        return error


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _swept(
    results: Iterator[tuple[Job, Done | Exception]], folders: Iterable[Path], run: str
) -> Iterator[tuple[Job, Done | Exception]]:
    """The results; after them, the unfinished files of workers that died are gone."""
    try:
        yield from results
    finally:
        for folder in folders:
            for unfinished in folder.glob(f".nic-{run}-*"):
                unfinished.unlink(missing_ok=True)


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


def complain(source: Path, problem: BaseException | str) -> int:
    """One line on stderr, above the progress bar if there is one; 1, to be counted."""
    from tqdm import tqdm

    reason = isinstance(problem, OSError) and problem.strerror  # without the file's name, which stands there
    text = reason or str(problem) or type(problem).__name__
    tqdm.write(f"nic: {source}: {text.splitlines()[0]}", file=sys.stderr)
    return 1
