"""Many jobs in several processes, of which each may fail and some may die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
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
    that, too, gets a WorkerDiedError, and the others go on. When this iterator is closed, or the program that
    reads it ends, however it does, the processes end at once."""
    pending = list(jobs)
    while pending:
        left = yield from _run_pool(pending, action, workers, start)
        # A pool hands out a few jobs more than it has processes, in order.
        suspects, pending = left[: 2 * workers + 1], left[2 * workers + 1 :]
        for job in suspects:
            for _ in (yield from _run_pool([job], action, 1, start)):
                yield job, WorkerDiedError("its process died twice")


def _run_pool(
    jobs: list[Job], action: Callable[[Job], Result], workers: int, start: Callable[[], None]
) -> Generator[tuple[Job, Result | Exception], None, list[Job]]:
    """Run the jobs; returns those that have no answer because a process died."""
    left: list[Job] = []
    # Not forked: the parent may have started threads, of torch's or its own.
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _start, (start,)) as pool:
        waiting: dict[Future[Result], Job] = {}
        died: list[Job] = []
        ended = False
        try:
            try:
                with _no_interrupts():
                    for job in jobs:
                        waiting[pool.submit(action, job)] = job
            except BrokenProcessPool:
                left = jobs[len(waiting) :]
            for future in as_completed(list(waiting)):
                job = waiting.pop(future)
                if isinstance(error := future.exception(), BrokenProcessPool):
                    died.append(job)
                elif isinstance(error, Exception):
                    yield job, error
                else:
                    yield job, future.result()
            ended = True
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if not ended:
                for process in multiprocessing.active_children():
                    if process not in others:
                        process.terminate()
    order = {id(job): number for number, job in enumerate(jobs)}
    return sorted(died + left, key=lambda job: order[id(job)])


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes that are started in here do not notice Ctrl-C before _start lets them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(start: Callable[[], None]) -> None:
    """In each process. Ctrl-C, which all processes of a terminal get, ends it without a traceback; so does
    the end of the process that wants the answers."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
