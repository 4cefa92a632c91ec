"""A file made on one device decodes on every other: the same symbols, pixels within a level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import whole_photo

from pillow_nic import codec, tile_coding, weights


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: nothing was tried on one")
@pytest.mark.parametrize("quality", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("maker", "reader"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_files_cross_between_cpu_and_cuda(maker: str, reader: str, quality: float) -> None:
    pixels = whole_photo()
    data = codec.encode(pixels, quality=quality, device=maker)
    for layers in (1, None):
        here = codec.decode(data, layers=layers, device=maker).astype(int)
        there = codec.decode(data, layers=layers, device=reader)
        difference = np.abs(here - there)
        assert difference.max() <= 2
        assert (difference > 1).mean() <= 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: nothing was tried on one")
def test_symbols_are_decoded_on_the_cpu_whatever_the_device() -> None:
    pixels = whole_photo()
    data = codec.encode(pixels, quality=0.5, device="cuda")
    parsed = codec.container.parse(data)
    streams = [layer[0] for layer in parsed.streams]
    models = (weights.load(device=torch.device(device)) for device in ("cpu", "cuda"))
    read = [tile_coding.read_symbols(model, streams, parsed.header, 0, (24, 32)) for model in models]
    for a, b in zip(*read, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    data = codec.encode(whole_photo()[:200, :300], quality=0.5, device="cpu")
    expected = codec.decode(data, device="cpu").astype(int)
    torch.set_num_threads(threads)
    try:
        difference = np.abs(codec.decode(data, device="cpu") - expected)
    finally:
        torch.set_num_threads(before)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")  # what flags() itself sets back
@pytest.mark.parametrize("enabled", [False, True])
def test_with_and_without_onednn(enabled: bool) -> None:
    data = codec.encode(whole_photo()[:200, :300], quality=0.5, device="cpu")
    expected = codec.decode(data, device="cpu").astype(int)
    with torch.backends.mkldnn.flags(enabled=enabled):
        difference = np.abs(codec.decode(data, device="cpu") - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
