"""Weights: which device, which file, what a broken one raises, and that a model is read once."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_model import CONFIG, METADATA, random_network, save_weights, weights_tensors

from pillow_nic import weights
from pillow_nic.errors import NicError, UnsupportedModelError, WeightsError
from pillow_nic.integer_net import IntegerConv
from pillow_nic.options import TUNES
from pillow_nic.weights import available_models, find, load, pick_device, read

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder with weights, and nothing loaded from it yet."""
    monkeypatch.setattr(weights, "_FOLDERS", (tmp_path / "none", tmp_path))
    monkeypatch.setattr(weights, "_models", {})
    return tmp_path


# ---------------------------------------------------------------------------------------------------- devices


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend to be a machine with so many CUDA devices and so on."""
    monkeypatch.delenv("NIC_DEVICE", raising=False)

    def pretend(cuda: int = 0, mps: bool = False, bad_fork: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: bad_fork)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    pretend()
    return pretend


def test_best_device_is_picked(machine: Callable[..., None]) -> None:
    assert pick_device() == CPU
    machine(mps=True)
    assert pick_device().type == "mps"
    machine(cuda=1, mps=True)
    assert pick_device().type == "cuda"


def test_environment_and_argument(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(cuda=2)
    monkeypatch.setenv("NIC_DEVICE", "cpu")
    assert pick_device() == CPU
    assert pick_device("cuda:1") == torch.device("cuda:1")  # the argument goes first
    monkeypatch.setenv("NIC_DEVICE", "cuda")
    assert pick_device("cpu") == CPU
    assert pick_device().type == "cuda"
    monkeypatch.setenv("NIC_DEVICE", "")
    assert pick_device().type == "cuda"


@pytest.mark.parametrize("name", ["quantum", "cuda:x", "gpu", "CPU:", "meta", "xla", "cuda", "mps", "cuda:1"])
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_device_that_is_not_there(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    machine()
    if how == "environment":
        monkeypatch.setenv("NIC_DEVICE", name)
    with pytest.raises(ValueError, match=f"device '{name}'"):
        pick_device(name if how == "argument" else None)


def test_cuda_device_of_a_number_that_is_not_there(machine: Callable[..., None]) -> None:
    machine(cuda=2)
    with pytest.raises(ValueError, match="'cuda:2' is not available here: 2 CUDA devices"):
        pick_device("cuda:2")


def test_forked_worker_of_a_parent_that_uses_cuda_gets_the_cpu(machine: Callable[..., None]) -> None:
    machine(cuda=1, bad_fork=True)
    assert pick_device() == CPU
    assert pick_device("cuda") == CPU


# ------------------------------------------------------------------------------------------------------ files


def test_every_tune_has_a_model_of_at_most_20_mb() -> None:
    assert available_models() == sorted(TUNES.values())
    for model in TUNES.values():
        assert find(model).stat().st_size <= 20e6


def test_model_of_a_file(folder: Path) -> None:
    network = random_network()
    file = save_weights(folder / "tiny.safetensors", network)
    assert available_models() == ["tiny"]
    assert find("tiny") == file
    model = load("tiny", CPU)
    assert (model.name, model.config, model.device) == ("tiny", CONFIG, CPU)
    assert model.hash == hashlib.sha256(file.read_bytes()).digest()[:4]
    assert not model.network.training
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key
        assert not value.requires_grad
    assert len(model.tables) == 48 * 7
    assert len(model.hyper_prior.tables) == 40 * 8
    assert model.integer_net.gain.shape == (CONFIG.rate_points, CONFIG.latent_channels)


def test_half_precision_weights_run_in_single_precision(folder: Path) -> None:
    network = random_network()
    for parameter in network.parameters():
        parameter.data = parameter.data.half().float()
    tensors = {k: v.half() if v.dim() == 4 else v for k, v in weights_tensors(network).items()}
    save_file(tensors, folder / "half.safetensors", METADATA)
    assert {v.dtype for v in load("half", CPU).network.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("name", ["nic-9", "", "../tiny", "sub/tiny", "tiny.safetensors", "TINY\0"])
def test_model_that_is_not_installed(folder: Path, name: str) -> None:
    save_weights(folder / "tiny.safetensors", random_network())
    (folder / "sub").mkdir()
    save_weights(folder / "sub" / "tiny.safetensors", random_network())
    with pytest.raises(UnsupportedModelError, match=r"is not installed \(installed: tiny\)"):
        find(name)


def test_no_models_at_all(folder: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'nic-2-visual' is not installed \(installed: none\)"):
        load()
    assert issubclass(UnsupportedModelError, OSError)


def without(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[name]

    return change


def cut(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name][:-1].contiguous()

    return change


def too_steep(tensors: dict[str, torch.Tensor]) -> None:
    tensors["integer.2.weight"][0] = 32767


@pytest.mark.parametrize(
    "change",
    [
        without("network.g_a.klt.weight"),
        without("network.g_s.deviation"),
        cut("network.gain.log2_gain"),
        cut("network.context.step_nets.0.conv2.bias"),
        lambda t: t.update({"network.g_b.weight": torch.zeros(1)}),
        without("integer.3.shift"),
        without("integer.layers"),
        too_steep,
        without("tables.offsets"),
        cut("tables.frequencies"),
        without("hyper_prior.tables.lows"),
        without("hyper_prior.1.bias"),
        lambda t: t["hyper_prior.layers"].zero_(),
        without("integer.exp2"),
        without("self_test.indices"),
        lambda t: t["self_test.indices"].add_(1),
        lambda t: t["self_test.picture"].bitwise_xor_(4),
        cut("self_test.picture"),
    ],
)
def test_wrong_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = weights_tensors(random_network())
    change(tensors)
    save_file(tensors, folder / "wrong.safetensors", METADATA)
    with pytest.raises(WeightsError):
        load("wrong", CPU)
    assert weights._models == {}


def test_a_device_that_computes_something_else_is_found_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_weights(folder / "tiny.safetensors", random_network())
    convolve = torch.nn.functional.conv2d

    def broken(*arguments: Any, **options: Any) -> torch.Tensor:
        return convolve(*arguments, **options) * 1.5

    with monkeypatch.context() as patch:
        patch.setattr("torch.nn.functional.conv2d", broken)
        with pytest.raises(WeightsError, match=r"self-test: cpu decodes a picture that is \d+ levels off"):
            load("tiny", CPU)
    with monkeypatch.context() as patch:
        floors = IntegerConv.floors
        patch.setattr(IntegerConv, "floors", lambda *arguments: floors(*arguments) + np.float32(1))
        with pytest.raises(WeightsError, match="self-test: the integer networks give other table indices"):
            load("tiny", CPU)
    assert load("tiny", CPU).name == "tiny"


@pytest.mark.parametrize(
    "fault", ["more rows than tables", "a hyper table too few", "a prior for fewer channels"]
)
def test_parts_that_do_not_fit_together(folder: Path, fault: str) -> None:
    tensors = weights_tensors(random_network())
    if fault == "more rows than tables":
        tensors["integer.tables"][0] = 49
    elif fault == "a hyper table too few":
        tables = "hyper_prior.tables."
        tensors[f"{tables}lows"] = tensors[f"{tables}lows"][:-1].clone()
        tensors[f"{tables}offsets"] = tensors[f"{tables}offsets"][:-1].clone()
        last = int(tensors[f"{tables}offsets"][-1])
        tensors[f"{tables}frequencies"] = tensors[f"{tables}frequencies"][:last].clone()
    else:
        for part in ("weight", "bias", "shift"):
            tensors[f"hyper_prior.1.{part}"] = tensors[f"hyper_prior.1.{part}"][:-2].clone()
    save_file(tensors, folder / "wrong.safetensors", METADATA)
    with pytest.raises(WeightsError):
        load("wrong", CPU)


def wrong_config(**changes: object) -> dict[str, str]:
    return METADATA | {"network": json.dumps(json.loads(CONFIG.to_json()) | changes)}


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"net": "1"},
        {"network": "{"},
        {"network": "[]"},
        {"network": "{}"},
        wrong_config(depth=3),
        wrong_config(groups=[8, 8]),
        wrong_config(groups="8"),
        wrong_config(hyper_channels=7),
        wrong_config(widths=[1]),
        wrong_config(widths=[]),
        {"network": METADATA["network"]},
        METADATA | {"width_limits": "[65535]"},
        METADATA | {"width_limits": "none"},
    ],
)
def test_wrong_configuration(folder: Path, metadata: dict[str, str] | None) -> None:
    save_file(weights_tensors(random_network()), folder / "wrong.safetensors", metadata)
    with pytest.raises(WeightsError, match=r"wrong\.safetensors: "):
        load("wrong", CPU)


@pytest.mark.parametrize("size", [0, 7, 8, 100, 5000, -1])
def test_truncated_file(folder: Path, size: int) -> None:
    file = save_weights(folder / "cut.safetensors", random_network())
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(WeightsError, match=r"cut\.safetensors: "):
        load("cut", CPU)


@pytest.mark.parametrize("data", [b"not weights at all", b"\xff" * 64, bytes(64), b"<html>404</html>"])
def test_file_of_another_kind(folder: Path, data: bytes) -> None:
    (folder / "other.safetensors").write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        load("other", CPU)
    assert isinstance(caught.value, NicError)
    assert isinstance(caught.value, OSError)


def test_missing_file() -> None:
    with pytest.raises(WeightsError, match="none"):
        read(Path("/none/none.safetensors"), "none", CPU)


# ------------------------------------------------------------------------------------------------------- once


def test_eight_racing_threads_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(folder / "tiny.safetensors", random_network())
    reads, start = [], threading.Barrier(8)

    def slow_read(file: Path, name: str, device: torch.device) -> weights.Model:
        reads.append(file)
        time.sleep(0.05)
        return read(file, name, device)

    monkeypatch.setattr(weights, "read", slow_read)
    models: list[weights.Model] = []

    def race() -> None:
        start.wait()
        models.append(load("tiny", CPU))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1
    assert len(models) == 8
    assert len({id(model) for model in models}) == 1
    assert load("tiny", CPU) is models[0]


def test_failure_does_not_stay(folder: Path) -> None:
    with pytest.raises(UnsupportedModelError):
        load("tiny", CPU)
    file = save_weights(folder / "tiny.safetensors", random_network())
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    with pytest.raises(WeightsError):
        load("tiny", CPU)
    file.write_bytes(whole)
    assert load("tiny", CPU).name == "tiny"


def test_models_stay_apart(folder: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        save_weights(folder / f"{name}.safetensors", random_network(seed=seed))
    assert load("one", CPU).hash != load("two", CPU).hash
    assert load("one", CPU) is not load("two", CPU)
    one, two = (load(name, CPU).integer_net.gain for name in ("one", "two"))
    assert not np.array_equal(one, two)


def test_default_device_is_that_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(folder / "tiny.safetensors", random_network())
    monkeypatch.setenv("NIC_DEVICE", "cpu")
    assert load("tiny") is load("tiny", CPU)
    monkeypatch.setenv("NIC_DEVICE", "nowhere")
    with pytest.raises(ValueError, match="unknown device 'nowhere'"):
        load("tiny")
