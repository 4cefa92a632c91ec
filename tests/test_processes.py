"""Threads and processes: fork, spawn, DataLoader workers, pickles, many files at once, memory over time."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from pictures import photo, saved
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import pillow_nic
from pillow_nic import NicImagePlugin, codec, container


def decoded(data: bytes) -> bytes:
    """Runs in workers, too."""
    with Image.open(io.BytesIO(data)) as im:
        return im.tobytes()


def encoded(shift: int) -> bytes:
    return saved(photo(corner=(shift, 60)))


def off(first: bytes, second: bytes) -> int:
    """Worst difference in levels: another number of threads may add up in another order."""
    a, b = (np.frombuffer(data, np.uint8).astype(int) for data in (first, second))
    return int(np.abs(a - b).max())


class Files(Dataset[np.ndarray]):
    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        import pillow_nic  # noqa: F401  # registers the format in a spawned worker

        return np.array(Image.open(io.BytesIO(self.files[index])))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_parent_that_has_used_the_codec(method: str) -> None:
    # Large enough for torch to use its threads, which a fork does not take along.
    picture = photo(size=(512, 300), corner=(0, 60))
    data = saved(picture)
    exact = [photo(mode, (512, 300), (0, 60)) for mode in ("RGB", "RGBA")]
    files = [saved(im, lossless=True) for im in exact]
    expected = decoded(data)
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.map_async(decoded, [data] * 4).get(timeout=120)
        assert pool.map_async(decoded, files).get(timeout=120) == [im.tobytes() for im in exact]
        files = pool.map_async(encoded, [0, 40]).get(timeout=120)
    assert max(off(result, expected) for result in results) <= 1
    for shift, file in zip((0, 40), files, strict=True):
        assert off(decoded(file), decoded(encoded(shift))) <= 8  # a symbol may have gone the other way


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader(method: str) -> None:
    files = [encoded(20 * i) for i in range(4)]
    loader = DataLoader(
        Files(files), batch_size=2, num_workers=2, multiprocessing_context=method, timeout=120
    )
    batches = np.concatenate([batch.numpy() for batch in loader])
    assert batches.shape == (4, 144, 208, 3)
    for got, file in zip(batches, files, strict=True):
        assert off(got.tobytes(), decoded(file)) <= 1


def test_an_opened_image_goes_to_another_process() -> None:
    data = saved(photo())
    with multiprocessing.get_context("fork").Pool(1) as pool:
        sizes = pool.map_async(Image.Image.tobytes, [Image.open(io.BytesIO(data))]).get(timeout=120)
    assert sizes == [decoded(data)]
    again = pickle.loads(pickle.dumps(Image.open(io.BytesIO(data))))
    assert again.tobytes() == decoded(data)


def test_eight_images_in_eight_threads() -> None:
    images = [photo(corner=(20 * i, 60)) for i in range(8)]
    files = [saved(im) for im in images]
    expected = [decoded(file) for file in files]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(saved, images)) == files
        assert list(pool.map(decoded, files)) == expected


def test_memory_does_not_grow() -> None:
    data = saved(photo(size=(32, 32)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a picture only waits for the others

    def peak() -> float:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6

    for _ in range(200):
        decoded(data)
    before = peak()
    for _ in range(800):
        decoded(data)
    torch.set_num_threads(threads)
    assert peak() - before < 10


def test_opening_and_not_loading_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "x.nic"
    path.write_bytes(saved(photo(size=(64, 48))))
    for _ in range(3000):  # more than a process may have files open
        Image.open(path).close()
        pillow_nic.read_header(path.read_bytes())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_loads_what_a_thread_of_its_parent_was_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.nic"
    path.write_bytes(saved(photo(size=(64, 48))))
    expected = decoded(path.read_bytes())
    real, inside, leave = codec.decode_bytes, threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        inside.set()
        assert leave.wait(100)
        return real(*args)

    monkeypatch.setattr(codec, "decode_bytes", slow)
    im = Image.open(path)
    thread = threading.Thread(target=im.load)
    thread.start()
    assert inside.wait(100)
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends this process if it hangs
        codec.decode_bytes = real
        os._exit(0 if im.tobytes() == expected else 1)
    leave.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert im.tobytes() == expected


@pytest.mark.skipif(not hasattr(os, "pread"), reason="this system has one position for each file")
def test_forked_processes_that_move_a_files_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.nic"
    path.write_bytes(saved(photo(size=(300, 200), corner=(0, 0)), quality=0.99))
    assert path.stat().st_size > 2 * io.DEFAULT_BUFFER_SIZE
    expected = decoded(path.read_bytes())
    with open(path, "rb") as file:
        im = Image.open(file)
        update = container.LayerCounter.update

        def moved(*args: Any) -> int:
            os.lseek(file.fileno(), 3, os.SEEK_SET)  # as another process does
            return update(*args)

        monkeypatch.setattr(container.LayerCounter, "update", moved)
        assert im.tobytes() == expected


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no forkserver")
def test_forkserver() -> None:
    data = saved(photo(size=(64, 48)))
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        results = pool.map_async(decoded, [data] * 3).get(timeout=200)
    assert max(off(result, decoded(data)) for result in results) <= 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such timers on this system")
def test_an_interrupt_inside_a_decode_and_then_another_decode() -> None:
    data = saved(photo(size=(512, 384), corner=(0, 0)))
    expected = decoded(data)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for number in range(12):
            im = Image.open(io.BytesIO(data))
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.005 * (number + 1))
                im.load()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
                assert decoded(data) == expected
            # The same image loads, or says what is the matter; it does not hang, nor show something else.
            assert im.tobytes() == expected
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_an_interrupt_at_every_step_of_a_load(tmp_path: Path) -> None:
    path = tmp_path / "x.nic"
    path.write_bytes(saved(photo(size=(64, 48))))
    expected = decoded(path.read_bytes())
    ours = {NicImagePlugin.NicImageFile.load.__code__, NicImagePlugin.NicImageFile._decode.__code__}

    def interrupted_at(number: int) -> bool:
        left = number

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            if frame.f_code not in ours:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                left -= 1
                if not left:
                    raise KeyboardInterrupt
            return trace

        with Image.open(path) as im:
            before = sys.gettrace()
            sys.settrace(trace)
            try:
                im.load()
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(before)
            assert im.tobytes() == expected
        return not left

    assert sum(1 for _ in itertools.takewhile(interrupted_at, itertools.count(1))) > 50
