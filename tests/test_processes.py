"""Threads and processes: fork, spawn, DataLoader workers, pickles, many files at once, memory over time."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import photo, saved
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import pillow_nic


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
    data = saved(photo(size=(512, 300), corner=(0, 60)))
    expected = decoded(data)
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.map_async(decoded, [data] * 4).get(timeout=120)
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
