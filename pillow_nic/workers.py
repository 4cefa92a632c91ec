"""The threads that compute: a small pool, each thread with one thread inside of torch.

torch's own way is one team of OpenMP threads that meet at a barrier after every operation, and spin there.
On a machine that is busy with other work that takes several times as long as it should. Here work is cut into
pieces of bounded size instead, each of which one thread computes from end to end.

Nothing of the caller's is changed: what `torch.set_num_threads` says in other threads stays as it was, and
is the most that the pool uses. A forked child makes a pool of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0
_thread = threading.local()


def _after_fork() -> None:
    """A forked child has none of its parent's threads, and must not wait for a lock that one of them held."""
    global _lock, _pool, _size
    _lock, _pool, _size = threading.Lock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def processors() -> int:
    """How many processors this process may use: its affinity, and the quota of its control group."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        count = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such group, or no quota in it: "max"
        return count


def thread_count(threads: int | None = None) -> int:
    """How many threads compute: ``threads``, else the environment's NIC_THREADS, else as many as there are
    processors for this process, but no more than torch's own setting in the calling thread (which is 1 in a
    worker of DataLoader, say). ValueError for what is no such number."""
    if threads is not None:
        return threads
    if named := os.environ.get("NIC_THREADS"):
        if not (named.isdecimal() and int(named)):
            raise ValueError(f"NIC_THREADS must be a whole number from 1, not {named!r}")
        return int(named)
    return min(processors(), torch.get_num_threads())


def each(action: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """``action`` of every item, in inference mode, on so many threads; its results in the order of the items.
    After an exception no further item is begun, and it is raised once those in work are done; one that takes
    long asks `given_up`. An action that calls this again gets its own thread; `each_within` is for those that
    have pieces of their own."""
    listed = list(items)
    if not listed or getattr(_thread, "is_worker", False):
        return [action(item) for item in listed]
    running = min(threads, len(listed))
    work = _Work(action, listed, _Idle(threads - running))
    futures: list[Future[None]] = []
    try:
        futures += (_pool_of(running).submit(work) for _ in range(running))
        _wait(futures)
    except BaseException:  # KeyboardInterrupt: leave nothing running behind the caller's back
        work.stop.set()
        _wait(futures)
        raise
    return work.finished(futures)


def each_within(action: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """As `each`, for an action of `each`: on its own thread, helped by those that `each` was granted and has
    no items for, or none any more."""
    listed = list(items)
    idle: _Idle | None = getattr(_thread, "idle", None)
    stop: threading.Event | None = getattr(_thread, "stop", None)
    helpers = 0 if idle is None else idle.take(len(listed) - 1)
    if idle is None or not helpers:
        return [action(item) for item in listed]
    work = _Work(action, listed, None)
    futures = [_pool_of(helpers + 1).submit(work) for _ in range(helpers)]
    try:
        work()
    finally:
        # One that still waits for its thread, in a pool that others have filled, is not waited for.
        begun = [future for future in futures if not future.cancel()]
        _wait(begun)
        idle.give(helpers)
        _thread.idle, _thread.stop = idle, stop
    return work.finished(begun)


def given_up() -> bool:
    """Whether the work of which the calling thread does an item has failed, or was interrupted: what comes of
    the item does not matter any more."""
    stop: threading.Event | None = getattr(_thread, "stop", None)
    return stop is not None and stop.is_set()


def _wait(futures: list[Future[None]]) -> None:
    """Until all are done. concurrent.futures has a condition written in Python for this, which an interrupt
    at the wrong moment leaves without its lock."""
    done: SimpleQueue[Future[None]] = SimpleQueue()
    for future in futures:
        future.add_done_callback(done.put)
    left = len(futures)
    while left:
        # A signal that comes just before a wait, and any on Windows, is heard of only after that wait.
        with suppress(Empty):
            done.get(timeout=0.2)
            left -= 1


class _Idle:
    """How many threads of an `each` have nothing to do."""

    def __init__(self, count: int) -> None:
        self.count, self.lock = count, threading.Lock()

    def take(self, most: int) -> int:
        """Some of them, ``most`` at most, which are to be given back."""
        with self.lock:
            taken = max(min(self.count, most), 0)
            self.count -= taken
        return taken

    def give(self, count: int) -> None:
        with self.lock:
            self.count += count


class _Work(Generic[Item, Result]):
    """Items that threads take one after another, helped by those that are idle."""

    def __init__(self, action: Callable[[Item], Result], items: list[Item], idle: _Idle | None) -> None:
        self.action, self.items, self.idle = action, items, idle
        self.waiting = iter(range(len(items)))  # next() of it is atomic
        self.results: list[Result | None] = [None] * len(items)
        self.stop = threading.Event()

    def __call__(self) -> None:
        _thread.idle, _thread.stop = self.idle, self.stop
        try:
            with torch.inference_mode():
                for index in self.waiting:
                    if self.stop.is_set():
                        return
                    self.results[index] = self.action(self.items[index])
        except BaseException:
            self.stop.set()
            raise
        if self.idle is not None:
            self.idle.give(1)

    def finished(self, futures: list[Future[None]]) -> list[Result]:
        for future in futures:
            future.result()
        return self.results  # type: ignore[return-value]


def call(action: Callable[[], Result]) -> Result:
    """``action`` in inference mode, on a thread of the pool."""
    return each(lambda _: action(), [None], 1)[0]


def _pool_of(threads: int) -> ThreadPoolExecutor:
    """The pool of the process, with as many threads as it has processors, or more if so many are asked
    for."""
    global _pool, _size
    with _lock:
        if _pool is None or _size < threads:
            _size = max(threads, processors())
            _pool = _new_pool(_size)
        return _pool


def _new_pool(size: int) -> ThreadPoolExecutor:
    defaults: list[int] = []
    everyone = threading.Barrier(size + 1)

    def begin() -> None:
        _thread.is_worker = True
        defaults.append(torch.get_num_threads())
        everyone.wait()
        torch.set_num_threads(1)  # for this thread, and as the default of those that torch has not seen yet
        everyone.wait()

    pool = ThreadPoolExecutor(size, "pillow-nic", begin)
    for _ in range(size):
        pool.submit(int)
    everyone.wait()
    everyone.wait()
    # A thread of its own gives the default back, so that the caller's thread is not touched.
    restore = threading.Thread(target=torch.set_num_threads, args=(max(defaults),))
    restore.start()
    restore.join()
    return pool
