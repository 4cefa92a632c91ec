"""A file made on one device decodes on every other: the same symbols, pixels within a level."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import pixels, whole_photo
from tiny_model import random_network, save_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pillow_nic import (
    batch,
    codec,
    decoding,
    entropy_model,
    options,
    refinement,
    self_test,
    tile_coding,
    weights,
    workers,
)


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: nothing was tried on one")
def test_a_batch_stays_on_cuda() -> None:
    files = [codec.encode(whole_photo()[:200, i : i + 300], quality=0.2 + 0.1 * i) for i in range(6)]
    for picture, file in zip(batch.decode_batch(files, device="cuda", as_tensor=True), files, strict=True):
        assert (picture.shape, picture.dtype, picture.device.type) == ((3, 200, 300), torch.uint8, "cuda")
        difference = np.abs(
            picture.permute(1, 2, 0).cpu().numpy() - codec.decode(file, device="cuda").astype(int)
        )
        assert difference.max() <= 2
        assert (difference > 1).mean() <= 1e-5


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
    # Either rounds to bfloat16 in places of its own.
    assert (difference > 0).mean() < (0.05 if weights.has_bfloat16(torch.device("cpu")) else 1e-3)


# A GPU without a GPU: torch's device "meta" has shapes and no numbers. (FakeTensorMode's "cuda" cannot be
# indexed in builds of torch for the CPU, and does not mind a convolution whose weights are elsewhere.)

META = torch.device("meta")
COPY = torch.ops.aten.copy_.default
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.to.dtype_layout, COPY)


class OneDevice(TorchDispatchMode):
    """No operation but a copy may see tensors of two devices; what comes back from "meta" is 0."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.dim()]
        devices = {t.device.type for t in tensors}
        if func not in MOVES:
            assert len(devices) < 2, f"{func} of tensors on {sorted(devices)}"
        elif (kwargs or {}).get("device", args[0].device).type == "cpu" and "meta" in devices:
            assert func is not COPY
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def on_meta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[weights.Model]:
    """The only model there is, on "meta"; everything is computed in the calling thread and watched."""
    network = random_network()
    model = weights.read(save_weights(tmp_path / "tiny.safetensors", network), "tiny", torch.device("cpu"))
    model = replace(model, network=network.to(META), device=META)

    def load(name: str, device: torch.device) -> weights.Model:
        assert (name, device) == ("tiny", META)
        return model

    monkeypatch.setattr(weights, "load", load)
    monkeypatch.setattr(weights, "pick_device", lambda device=None: torch.device(device or META))
    monkeypatch.setattr(workers._thread, "is_worker", True, raising=False)
    for key, stages in refinement.STAGES.items():
        few = tuple(replace(stage, iterations=1) for stage in stages)
        monkeypatch.setitem(refinement.STAGES, key, few)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no "meta"
    with torch.no_grad(), OneDevice():
        yield model


def made(mode: str = "RGB", effort: int = 1) -> bytes:
    return codec.encode(pixels(mode, (203, 150)), effort=effort, model="tiny", layers=2)


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(("mode", "effort"), [("L", 0), ("RGBA", options.TOP_EFFORT)])
def test_no_tensor_is_left_on_another_device(mode: str, effort: int) -> None:
    data = made(mode, effort)
    planes = () if mode == "L" else (len(mode),)
    assert codec.decode(data).shape == (150, 203, *planes)
    assert codec.decode(data, layers=1, fast=True, region=(20, 30, 90, 50)).shape == (20, 70, *planes)
    for factor in options.REDUCTIONS:
        assert codec.decode(data, reduce=factor).shape == (-(-150 // factor), -(-203 // factor), *planes)
    for picture in batch.decode_batch([data] * 3, as_tensor=True):
        assert (picture.shape, picture.device, picture.dtype) == ((len(mode), 150, 203), META, torch.uint8)


def test_no_tensor_of_what_is_not_decoded_either(on_meta: weights.Model) -> None:
    latent, bits = decoding.inspect(made())
    assert latent.shape == bits.shape == (32, 10, 13)
    assert self_test._picture(on_meta.network).shape == (3, 128, 128)


STRAYED = r"of tensors on \['cpu', 'meta'\]"


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(("place", "name"), [(weights.Model, "point"), (entropy_model, "checkerboard")])
def test_a_tensor_made_on_another_device_is_found(
    place: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, real = made(), getattr(place, name)
    monkeypatch.setattr(place, name, lambda *given: torch.zeros_like(real(*given), device="cpu"))
    with pytest.raises(AssertionError, match=STRAYED):
        codec.decode(data)


@pytest.mark.parametrize(
    "name", ["g_a.klt", "h_a.conv3", "features.conv1", "context.step_nets.2.head", "g_s.head"]
)
def test_a_weight_left_on_another_device_is_found(on_meta: weights.Model, name: str) -> None:
    codec.decode(made())
    layer = on_meta.network.get_submodule(name)
    layer.weight = torch.nn.Parameter(torch.zeros(layer.weight.shape), requires_grad=False)
    with pytest.raises(AssertionError, match=STRAYED):
        codec.decode(made())
