"""bfloat16 in the non-linear paths, where a processor has it: what files and pictures may differ by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pictures import whole_photo

from pillow_nic import codec, weights
from pillow_nic.options import TUNES

CPU = torch.device("cpu")


@pytest.fixture(params=sorted(TUNES.values()))
def model(request: pytest.FixtureRequest) -> Iterator[str]:
    """The model's name, its copies as this machine has them put back at the end."""
    before = dict(weights._models)
    yield request.param
    weights._models.clear()
    weights._models.update(before)


def loaded(precision: str, name: str, monkeypatch: pytest.MonkeyPatch) -> weights.Model:
    monkeypatch.setenv("NIC_PRECISION", precision)
    return weights.use(weights.find(name), CPU)


@pytest.mark.parametrize("quality", [0.1, 0.5, 0.9])
def test_pictures_are_at_most_a_level_apart(
    model: str, quality: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, files, decoded = whole_photo()[:192, :256], {}, {}
    for precision in ("float32", "bfloat16"):
        network = loaded(precision, model, monkeypatch).network
        assert network.g_a.precision == network.g_s.precision == getattr(torch, precision)
        files[precision] = codec.encode(pixels, quality=quality, model=model)
    assert len(files["bfloat16"]) == pytest.approx(len(files["float32"]), rel=0.01, abs=8)
    for precision in ("float32", "bfloat16"):
        loaded(precision, model, monkeypatch)
        decoded[precision] = [codec.decode(data).astype(int) for data in files.values()]
        decoded[precision] += [codec.decode(data, reduce=2).astype(int) for data in files.values()]
    levels = [np.abs(one - other).max() for one, other in zip(*decoded.values(), strict=True)]
    assert max(levels) == 1  # 0 would say that nothing was computed in bfloat16
    first, second = (np.square(picture - pixels).mean() for picture in decoded["float32"][:2])
    assert first == pytest.approx(second, rel=0.02)


def test_only_a_processor_with_the_instructions_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIC_PRECISION", raising=False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not weights.has_bfloat16(CPU)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert weights.has_bfloat16(CPU)
    assert not weights.has_bfloat16(torch.device("cuda"))


def test_a_release_of_torch_that_does_not_say_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIC_PRECISION", raising=False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not weights.has_bfloat16(CPU)


def test_a_precision_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIC_PRECISION", "half")
    with pytest.raises(ValueError, match="NIC_PRECISION must be bfloat16 or float32, not 'half'"):
        weights.has_bfloat16(CPU)
