"""Many files at once: what decode gives, in order; which of them run together; whose error it is."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import pixels

import pillow_nic
from pillow_nic import batch, codec, container, decoding
from pillow_nic.options import DecodeOptions


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """Of several sizes, modes, qualities, models and numbers of layers; most have a companion of their
    shape."""
    made = [
        pillow_nic.encode(pixels(mode, (150, 90), (9 * number, 0)), quality=quality, layers=layers)
        for number, (mode, quality, layers) in enumerate(
            (mode, quality, layers)
            for mode in ("RGB", "LA", "L", "RGBA")
            for quality, layers in ((0.7, 3), (0.9, None))
        )
    ]
    made += [pillow_nic.encode(pixels(size=(150, 90)), quality=0.8, layers=2, tune="psnr")]
    made += [pillow_nic.encode(pixels(size=(500, 380), corner=(0, 0)), layers=2)]
    made += [pillow_nic.encode(pixels(size=(150, 90)), quality=0.6, network_width=2, layers=2)]
    return [*made, made[0]]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"layers": 1},
    {"layers": 2, "fast": True},
    {"reduce": 4},
    {"region": (17, 5, 140, 70)},
    {"threads": 1},
    {"threads": 3},
]


@pytest.mark.parametrize("chosen", OPTIONS, ids=str)
def test_the_pixels_are_those_of_decode(files: list[bytes], chosen: dict[str, Any]) -> None:
    layered = files if "layers" not in chosen else [f for f in files if pillow_nic.read_header(f).layers > 1]
    arrays = pillow_nic.decode_batch(layered, **chosen)
    tensors = pillow_nic.decode_batch(layered, as_tensor=True, **chosen)
    assert len(arrays) == len(tensors) == len(layered)
    for array, tensor, file in zip(arrays, tensors, layered, strict=True):
        expected = codec.decode(file, **chosen)
        assert array.shape == expected.shape
        assert np.abs(array.astype(int) - expected).max() <= 1
        first = tensor.permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(first[..., 0] if array.ndim == 2 else first, array)


def test_tensors_are_like_any_other(files: list[bytes]) -> None:
    """Of no inference mode, and with memory of their own, which a worker process would send."""
    for tensor in pillow_nic.decode_batch(files[:4], as_tensor=True):
        assert tensor.dtype == torch.uint8
        assert tensor.is_contiguous()
        assert not tensor.is_inference()
        assert tensor.untyped_storage().nbytes() == tensor.numel()
        tensor.add_(1)


def test_files_from_anywhere(files: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "x.nic"
    path.write_bytes(files[1])
    decoded = pillow_nic.decode_batch(source for source in (files[0], path, str(path), io.BytesIO(files[0])))
    for first, second in ((0, 3), (1, 2)):
        np.testing.assert_array_equal(decoded[first], decoded[second])
    assert pillow_nic.decode_batch([]) == []


def jobs(
    files: list[bytes], threads: int, side: int = 96, **chosen: Any
) -> tuple[list[int], list[list[int]]]:
    options = DecodeOptions(device="cpu", **chosen)
    return batch._jobs([decoding.choose(file, options) for file in files], options, threads, side)


def of_size(width: int, height: int, **options: Any) -> bytes:
    """A file of that size that is quickly made."""
    return pillow_nic.encode(np.zeros((height, width), np.uint8), effort=0, quality=0.01, **options)


def test_which_files_run_together(files: list[bytes]) -> None:
    small, middle, large = of_size(256, 256), of_size(640, 512), of_size(1552, 1552)
    assert jobs([small] * 8, 1) == ([], [[0, 2, 4, 6], [1, 3, 5, 7]])  # not more than 512×512 pixels
    assert jobs([small] * 8, 3) == ([], [[0, 3, 6], [1, 4, 7], [2, 5]])  # an even load
    assert jobs([small] * 2, 3) == ([], [[0], [1]])
    assert jobs([middle, small, middle, small], 2) == ([], [[0], [2], [1], [3]])
    assert jobs([middle, small], 3) == ([0], [[1]])  # all threads for each larger one where there are few
    assert jobs([large, small, large], 1) == ([0, 2], [[1]])  # more than a piece
    assert jobs([large] * 4, 1, region=(0, 0, 256, 256)) == ([], [[0, 1, 2, 3]])
    # Rate points and numbers of layers may differ; size, mode, model and network width may not.
    alike = [files[0], files[1], pillow_nic.truncate(files[0], 1)]
    assert jobs(alike, 1) == ([], [[0, 1, 2]])
    others = [files[0], files[2], files[8], files[10], of_size(150, 91)]
    assert jobs(others, 1) == ([], [[number] for number in range(5)])


def damaged(file: bytes, damage: Callable[[bytes], bytes]) -> bytes:
    """With damage to the first stream that its checksum does not show."""
    parsed = container.parse(file)
    parsed.streams[0][0] = damage(parsed.streams[0][0])
    return container.dump(parsed)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_damaged_file_is_named(files: list[bytes], threads: int, tmp_path: Path) -> None:
    path = tmp_path / "broken.nic"
    path.write_bytes(damaged(files[1], lambda stream: stream + b"more"))
    for source, name in ((path, rf"files\[2\] \({path}\)"), (path.read_bytes(), r"files\[2\]")):
        with pytest.raises(pillow_nic.BitstreamError, match=f"^{name}: stream of layer 1, tile 1: "):
            pillow_nic.decode_batch([files[0], files[0], source, files[0]], threads=threads)
    flipped = bytearray(files[0])
    flipped[-1] ^= 1
    with pytest.raises(pillow_nic.BitstreamError, match=r"^files\[1\]: stream of layer 3.*CRC"):
        pillow_nic.decode_batch([files[0], flipped], threads=threads)
    with pytest.raises(pillow_nic.TruncatedError, match=r"^files\[0\]: ") as caught:
        pillow_nic.decode_batch([files[0][:20]], threads=threads)
    assert caught.value.needed > 20


def test_what_is_no_file_is_named(files: list[bytes], tmp_path: Path) -> None:
    for wrong, kind, message in (
        (5, TypeError, r"^files\[1\]: "),
        (b"GIF89a", pillow_nic.BitstreamError, r"^files\[1\]: .*not a NIC file"),
        (
            tmp_path / "missing.nic",
            FileNotFoundError,
            r"^\[Errno 2\] files\[1\] \(.*missing\.nic\): No such ",
        ),
    ):
        with pytest.raises(kind, match=message):
            pillow_nic.decode_batch([files[0], wrong])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"^files\[1\]: region .* not inside 150x90 pixels"):
        pillow_nic.decode_batch([of_size(300, 200), files[0]], region=(0, 0, 200, 200))
    with pytest.raises(TypeError, match=r"^decode_batch\(\) has no option 'quality'$"):
        pillow_nic.decode_batch(files, quality=1)  # type: ignore[call-overload]


def test_one_file_is_no_batch(files: list[bytes], tmp_path: Path) -> None:
    for one in (files[0], memoryview(files[0]), "photo.nic", tmp_path / "photo.nic", io.BytesIO(files[0])):
        with pytest.raises(TypeError, match=r"decode_batch\(\) takes several files, .* decode\(\) takes one"):
            pillow_nic.decode_batch(one)  # type: ignore[call-overload]


def test_a_batch_takes_less_processor_time_than_a_loop() -> None:
    files = [pillow_nic.encode(pixels(size=(256, 256), corner=(9 * i, 5 * i))) for i in range(8)]

    def loop() -> None:
        for file in files:
            pillow_nic.decode(file, threads=1)

    def together() -> None:
        pillow_nic.decode_batch(files, threads=1)

    def seconds(action: Callable[[], None]) -> float:
        start = time.process_time()
        action()
        return time.process_time() - start

    times = [(seconds(loop), seconds(together)) for _ in range(5)]
    slow, fast = map(min, zip(*times, strict=True))
    assert fast < slow
