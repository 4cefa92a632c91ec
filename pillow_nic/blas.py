"""OpenBLAS, with which numpy multiplies: its threads, while the integer networks run."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@cache
def _blas() -> list[Any]:
    """The OpenBLAS libraries of the process."""
    return ThreadpoolController().select(internal_api="openblas").lib_controllers


def _set_blas_threads(counts: Iterable[int]) -> None:
    for library, count in zip(_blas(), counts, strict=True):
        # From 3.8 on threadpoolctl obeys only the thread that asked first, and that one may be any here.
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)
        library.set_num_threads(count)
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


class CallingThread:
    """Keeps OpenBLAS, numpy's usual library, on the calling thread, while anyone is inside.

    Its other threads spin for some 25 ms after a product and take their cores from what runs next: with two
    cores a decode took 40 % longer, at the narrowest width 85 %. Beside busy processes each product waits
    for its turn, 20 ms. The limit is the process's, so the first who enters sets it and the last who leaves
    takes it back."""

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.before = [library.num_threads for library in _blas()]
                _set_blas_threads([1] * len(self.before))
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                _set_blas_threads(self.before)


_held = CallingThread()


def _after_fork() -> None:
    """A forked child must not wait for a lock that a thread of its parent held."""
    global _held
    if _held.inside:
        _set_blas_threads(_held.before)
    _held = CallingThread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def calling_thread() -> CallingThread:
    """To be entered by whoever multiplies: ``with calling_thread(): …``"""
    return _held
