"""Many jobs in several processes, of which each may fail and some may die."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkerDiedError(OSError):
    """A job's process ended without an answer: killed, or out of memory."""


def run(
    jobs: Sequence[Job], action: Callable[[Job], Result], workers: int, start: Callable[[], None]
) -> Iterator[tuple[Job, Result | Exception]]:
    """Each job with what ``action`` returned or raised for it, in the order in which they end.

    ``action`` and ``start``, which each process calls first, must be picklable. When a process dies, the jobs
    that it can have been busy with run again one by one, each in a process of its own; the one that kills
    that, too, gets a WorkerDiedError, and the others go on."""
    pending = list(jobs)
    while pending:
        left = yield from _run_pool(pending, action, workers, start)
        # A pool hands out a few jobs more than it has processes, in order.
        suspects, pending = left[: 2 * workers + 1], left[2 * workers + 1 :]
        for job in suspects:
            for _ in (yield from _run_pool([job], action, 1, start)):
                yield job, WorkerDiedError("its process died, again")


def _run_pool(
    jobs: list[Job], action: Callable[[Job], Result], workers: int, start: Callable[[], None]
) -> Generator[tuple[Job, Result | Exception], None, list[Job]]:
    """Run the jobs; returns those that have no answer because a process died."""
    left: list[Job] = []
    # Not forked: the parent may have started threads, of torch's or its own.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, start) as pool:
        waiting: dict[Future[Result], Job] = {}
        try:
            for job in jobs:
                waiting[pool.submit(action, job)] = job
        except BrokenProcessPool:
            left = jobs[len(waiting) :]
        died: list[Job] = []
        try:
            for future in as_completed(list(waiting)):
                job = waiting.pop(future)
                if isinstance(error := future.exception(), BrokenProcessPool):
                    died.append(job)
                elif isinstance(error, Exception):
                    yield job, error
                else:
                    yield job, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    order = {id(job): number for number, job in enumerate(jobs)}
    return sorted(died + left, key=lambda job: order[id(job)])
