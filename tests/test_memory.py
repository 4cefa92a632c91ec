"""Out of memory: smaller pieces, then the CPU, then an OSError; nothing is torn down or left half done."""

from __future__ import annotations

import copy
import errno
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import pixels

from pillow_nic import batch, codec, colour, container, decoding, memory, weights
from pillow_nic.command.main import main

CUDA = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
OTHERS = [
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.93 GB)"),
]


def without_memory() -> Exception:
    """What this torch says on the CPU."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    return caught.value


@pytest.mark.parametrize("error", [CUDA, *OTHERS, MemoryError("no"), without_memory()], ids=repr)
def test_errors_that_mean_memory(error: Exception) -> None:
    assert memory.ran_out(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), ValueError("out of memory"), OSError()])
def test_errors_that_do_not(error: Exception) -> None:
    assert not memory.ran_out(error)
    for device in ("cpu", "cuda"):
        with pytest.raises(type(error)) as caught:
            memory.within_memory(torch.device(device), "x", lambda *_: raise_(error))
        assert caught.value is error


def raise_(error: Exception) -> Any:
    raise error


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the default device a "GPU" that has no memory for transforms of more latent positions than so
    many; it computes on the CPU."""
    real = weights.load

    def set_limit(most: int) -> None:
        def limited(transform: Any, scale: int) -> None:
            forward = transform.forward

            def checked(x: torch.Tensor, *more: Any) -> torch.Tensor:
                if x.shape[0] * x.shape[2] * x.shape[3] > most * scale:
                    raise CUDA
                return forward(x, *more)

            transform.forward = checked

        def load(name: str, device: torch.device) -> weights.Model:
            model = real(name, torch.device("cpu"))
            if device.type == "cpu":
                return model
            network = copy.deepcopy(model.network)
            limited(network.g_s, 1)
            limited(network.g_a, 256)
            return replace(model, network=network)

        monkeypatch.setattr(weights, "load", load)
        monkeypatch.setattr(weights, "pick_device", lambda device=None: torch.device(device or "cuda:0"))

    return set_limit


PIECES, CPU = "out of memory on cuda:0: smaller pieces instead", "out of memory on cuda:0: the CPU instead"


def messages(seen: list[warnings.WarningMessage]) -> list[str]:
    assert all(warning.category is RuntimeWarning for warning in seen)
    return [str(warning.message) for warning in seen]


@pytest.mark.parametrize(("most", "expected"), [(10**6, []), (1600, [PIECES]), (10, [PIECES, CPU])])
def test_less_at_once_then_the_cpu(most: int, expected: list[str], limit: Callable[[int], None]) -> None:
    image = np.tile(pixels(size=(400, 300)), (2, 2, 1))  # 38×50 positions, of which a small piece has 32×32
    data = codec.encode(image, device="cpu")
    right = codec.decode(data, device="cpu").astype(int)
    limit(most)
    with warnings.catch_warnings(record=True, action="always") as seen:
        encoded = codec.encode(image, threads=1)
    assert messages(seen) == expected
    # Of a piece of another size the last bits are others, and with bfloat16 that is many symbols.
    errors = [
        np.square(picture - image.astype(int)).mean()
        for picture in (codec.decode(encoded, device="cpu"), right)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)
    with warnings.catch_warnings(record=True, action="always") as seen:
        decoded = codec.decode(data, threads=1)
    assert messages(seen) == expected
    assert np.abs(decoded - right).max() <= 1


@pytest.mark.parametrize(("most", "expected"), [(4 * 13 * 13, [PIECES]), (10, [PIECES, CPU])])
def test_a_batch_with_less_at_once(most: int, expected: list[str], limit: Callable[[int], None]) -> None:
    files = [codec.encode(pixels(size=(208, 208), corner=(8 * i, 0)), device="cpu") for i in range(8)]
    right = [codec.decode(file, device="cpu").astype(int) for file in files]
    limit(most)
    with warnings.catch_warnings(record=True, action="always") as seen:
        decoded = batch.decode_batch(files, threads=1)
    assert messages(seen) == expected
    for found, wanted in zip(decoded, right, strict=True):
        assert np.abs(found - wanted).max() <= 1


@pytest.mark.parametrize("error", [MemoryError(), without_memory()], ids=["numpy", "torch"])
def test_the_cpu_has_not_enough_either(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    data = codec.encode(pixels(size=(90, 40)), device="cpu")
    for module, name in ((codec, "_analyse"), (decoding, "_synthesise")):
        monkeypatch.setattr(module, name, lambda *_: raise_(error))
    for action, what in (
        (lambda: codec.decode(data, device="cpu"), "decode 90×40 pixels"),
        (lambda: codec.encode(pixels(size=(90, 40)), device="cpu"), "encode 90×40 pixels"),
        (lambda: batch.decode_batch([data] * 3, device="cpu"), "decode 3 files"),
    ):
        with pytest.raises(OSError, match=f"not enough memory to {what}") as caught:
            action()
        assert caught.value.errno == errno.ENOMEM
        assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), without_memory()], ids=["numpy", "torch"])
@pytest.mark.parametrize("where", ["fill_transparent", "encode_alpha", "decode_alpha", "parse", "dump"])
def test_whatever_runs_out(where: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = pixels("RGBA", size=(60, 40))
    data = codec.encode(picture, device="cpu")
    module = colour if hasattr(colour, where) else container
    monkeypatch.setattr(module, where, lambda *_, **__: raise_(error))
    encodes = where in ("fill_transparent", "encode_alpha", "dump")
    with pytest.raises(OSError, match=r"not enough memory to (en|de)code") as caught:
        codec.encode(picture, device="cpu") if encodes else codec.decode(data, device="cpu")
    assert caught.value.errno == errno.ENOMEM
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), without_memory()], ids=["numpy", "torch"])
def test_one_file_of_a_folder(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, width in (("a", 40), ("large", 90), ("z", 40)):
        (tmp_path / f"{name}.nic").write_bytes(codec.encode(pixels(size=(width, 40)), device="cpu"))
    synthesise = decoding._synthesise

    def limited(model: Any, latent: decoding.Latent, *more: Any) -> Any:
        return raise_(error) if latent.strips[0].shape[3] > 3 else synthesise(model, latent, *more)

    monkeypatch.setattr(decoding, "_synthesise", limited)
    assert main(["decode", str(tmp_path), "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("2 files,")
    assert out.endswith(", 1 failed\n")
    assert err == f"nic: {tmp_path / 'large.nic'}: not enough memory to decode 90×40 pixels\n"
    assert {file.name for file in tmp_path.glob("*.png")} == {"a.png", "z.png"}
