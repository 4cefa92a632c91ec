"""The pool of threads: each with one thread inside of torch, and nobody else's settings touched."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from pictures import whole_photo

import pillow_nic
from pillow_nic import workers


def default_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.fixture
def _new_pool() -> None:
    """As in a process that has not computed yet."""
    workers._after_fork()


@pytest.mark.usefixtures("_new_pool")
@pytest.mark.parametrize("threads", [1, 3])
def test_the_callers_threads_stay_as_they_are(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        inside = workers.each(lambda _: torch.get_num_threads(), range(4), 2)
        assert inside == [1] * 4
        assert torch.get_num_threads() == threads
        assert default_of_a_new_thread() == threads
    finally:
        torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert workers.each(slow_first, range(9), 3) == [n * n for n in range(9)]
    assert workers.each(slow_first, [], 3) == []


def test_so_many_threads_work_at_once_and_no_more() -> None:
    meeting = threading.Barrier(3)

    def name(_: int) -> str:
        meeting.wait(30)
        return threading.current_thread().name

    assert len(set(workers.each(name, range(6), 3))) == 3
    alone = workers.each(lambda _: threading.current_thread().name, range(6), 1)
    assert len(set(alone)) == 1


def test_an_exception_ends_the_work_and_reaches_the_caller() -> None:
    begun = []

    def fail(item: int) -> None:
        begun.append(item)
        raise ZeroDivisionError(item)

    with pytest.raises(ZeroDivisionError):
        workers.each(fail, range(1000), 2)
    assert len(begun) <= 2
    assert workers.each(lambda item: item, range(3), 2) == [0, 1, 2]


@pytest.mark.parametrize("within", [False, True])
def test_an_interruption_reaches_an_item_in_work(within: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, wait = threading.Event(), workers._wait
    given_up: list[bool] = []

    def long(_: int) -> None:
        if within:
            workers.each_within(str, range(3))
        begun.set()
        deadline = time.monotonic() + 60
        while not workers.given_up() and time.monotonic() < deadline:
            time.sleep(0.001)
        given_up.append(workers.given_up())

    def interrupted(futures: list[Future[None]]) -> None:
        if threading.current_thread() is threading.main_thread() and not begun.is_set():
            begun.wait(60)
            raise KeyboardInterrupt
        wait(futures)

    monkeypatch.setattr(workers, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.each(long, [0], 2)
    assert given_up == [True]
    assert workers.each(lambda _: workers.given_up(), range(3), 2) == [False] * 3


def test_a_failure_reaches_an_item_in_work() -> None:
    begun = threading.Event()

    def fail_or_wait(item: int) -> None:
        if item == 0:
            begun.wait(60)
            raise ZeroDivisionError
        begun.set()
        deadline = time.monotonic() + 60
        while not workers.given_up():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    with pytest.raises(ZeroDivisionError):
        workers.each(fail_or_wait, range(2), 2)


def test_nested_work_is_done_by_the_thread_that_asks() -> None:
    def inner(_: int) -> str:
        return threading.current_thread().name

    for names in workers.each(lambda _: workers.each(inner, range(3), 3), range(4), 2):
        assert len(set(names)) == 1


def test_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIC_THREADS", raising=False)
    most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert 1 <= workers.processors() <= most
    assert workers.thread_count() == min(workers.processors(), torch.get_num_threads())
    assert workers.thread_count(5) == 5
    monkeypatch.setenv("NIC_THREADS", "3")
    assert workers.thread_count() == 3
    assert workers.thread_count(2) == 2
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("NIC_THREADS", wrong)
        with pytest.raises(ValueError, match="NIC_THREADS must be a whole number from 1"):
            workers.thread_count()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_bound_to_one_processor_has_one_thread() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert workers.processors() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_any_number_of_threads_gives_the_same_bytes_and_pixels() -> None:
    pixels = whole_photo()
    data = pillow_nic.encode(pixels, threads=1)
    assert pillow_nic.encode(pixels, threads=3) == data
    decoded = pillow_nic.decode(data, threads=1)
    assert np.abs(pillow_nic.decode(data, threads=3).astype(int) - decoded).max() <= 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_a_pool_of_its_own() -> None:
    workers.each(lambda item: item, range(4), 2)
    child = os.fork()
    if child == 0:
        right = workers.each(lambda item: item + 1, range(4), 2) == [1, 2, 3, 4]
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_work_within_work_is_helped_by_threads_without_items() -> None:
    meeting = threading.Barrier(3)

    def inner(_: int) -> str:
        meeting.wait(30)
        return threading.current_thread().name

    def outer(_: int) -> list[str]:
        return workers.each_within(inner, range(3))

    assert len(set(workers.each(outer, [0], 3)[0])) == 3


def test_work_within_work_is_helped_by_threads_that_have_finished() -> None:
    meeting, alone = threading.Barrier(2), threading.Event()

    def outer(item: int) -> int:
        if item == 0:
            alone.wait(30)
            return 0
        for _ in range(1000):  # until the other thread has nothing to do any more
            names = workers.each_within(lambda _: threading.current_thread().name, range(2))
            alone.set()
            time.sleep(0.001)
            if len(set(names)) == 2:
                break
        return len(workers.each_within(lambda _: meeting.wait(30), range(2)))

    assert workers.each(outer, [0, 1], 2) == [0, 2]


def test_work_within_work_is_done_by_one_thread_where_none_is_left() -> None:
    def inner(_: int) -> str:
        return threading.current_thread().name

    for names in workers.each(lambda _: workers.each_within(inner, range(3)), range(4), 2):
        assert len(set(names)) == 1
    assert workers.each_within(inner, range(2)) == [threading.current_thread().name] * 2


def test_work_within_work_ends_with_the_first_exception() -> None:
    begun = []

    def fail(item: int) -> None:
        begun.append(item)
        raise ZeroDivisionError(item)

    with pytest.raises(ZeroDivisionError):
        workers.each(lambda _: workers.each_within(fail, range(1000)), [0], 3)
    assert len(begun) <= 3
    assert workers.each(lambda item: workers.each_within(str, range(item)), [3], 3) == [["0", "1", "2"]]


def test_many_callers_with_work_within_work_never_wait_for_each_other() -> None:
    def caller(_: int) -> list[list[int]]:
        return workers.each(lambda n: workers.each_within(lambda k: k + n, range(5)), [1], 4)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(caller, range(400))) == [[[1, 2, 3, 4, 5]]] * 400
