"""Find a model's weights, check them, and load them once per process and device (safetensors only)."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from . import self_test, workers
from .entropy_tables import PRECISION, Tables
from .errors import UnsupportedModelError, WeightsError
from .hyper_prior import IntegerHyperPrior
from .integer_net import RATE_POINT_BITS, IntegerHyperSynthesis
from .network import Network, NetworkConfig
from .options import TUNES, EncodeOptions

DEFAULT_MODEL = TUNES[EncodeOptions.tune]
HASH_BYTES = 4
COST_REACH = 255
ESCAPE_BITS = 20  # of a symbol where the table codes nothing
ESCAPE_CLASS_BITS = 4.6  # how many bits an escaped value has, one of 24 numbers
_FOLDERS = (Path(__file__).parent / "_weights", Path(__file__).parent.parent / "weights")

_lock = threading.Lock()
_models: dict[tuple[str, str], Model] = {}


def _after_fork() -> None:
    """A forked child must not wait for a lock that a thread of its parent held."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True, eq=False)
class Model:
    """One set of weights, ready to run: the float network on ``device``, and the integer networks and tables
    on the CPU."""

    name: str
    hash: bytes
    network: Network
    integer_net: IntegerHyperSynthesis
    tables: Tables
    hyper_prior: IntegerHyperPrior
    device: torch.device
    width_limits: tuple[int, ...]
    """For each width the highest rate point at which encoding with it costs no rate; −1 for none."""
    groups_by_reduction: dict[int, tuple[int, ...]]
    """For each reduction of the size, at each rate point of the network, how many groups show in the
    picture."""

    def reduced_groups(self, factor: int, rate_point: int) -> int:
        """How many groups show in a picture that is reduced by the factor."""
        counts = self.groups_by_reduction[factor]
        low = rate_point * (len(counts) - 1) >> RATE_POINT_BITS
        return max(counts[low : low + 2])

    @property
    def config(self) -> NetworkConfig:
        return self.network.config

    def point(self, *rate_points: int) -> torch.Tensor:
        """The rate points as the float networks see them: in 0 … rate_points − 1, shape (n,) on ``device``,
        or (1,) if all are the same, which is faster. Asked for the same ones again, it gives the same tensor,
        by which the networks know them."""
        rate_points = rate_points[:1] if len({*rate_points}) == 1 else rate_points
        last = self._points.get("last")
        if last is None or last[0] != rate_points:
            most = self.config.rate_points - 1
            points = [rate_point * most / (1 << RATE_POINT_BITS) for rate_point in rate_points]
            with torch.inference_mode(False):  # gradients may pass it
                last = rate_points, torch.tensor(points, dtype=torch.float32, device=self.device)
            self._points["last"] = last
        return last[1]

    @cached_property
    def _points(self) -> dict[str, tuple[tuple[int, ...], torch.Tensor]]:
        return {}

    @cached_property
    def symbol_costs(self) -> torch.Tensor:
        """Bits of the symbols −COST_REACH … COST_REACH in each latent table: (tables, 2·COST_REACH + 1) on
        ``device``; for the encoder's choices only."""
        reached = np.arange(-COST_REACH, COST_REACH + 1)
        costs = np.full((len(self.tables), reached.size), ESCAPE_BITS, np.float32)
        for number in range(len(self.tables)):
            frequencies, lo = self.tables.table(number)
            if not frequencies.size:  # codes nothing: 0 is free
                costs[number, COST_REACH] = 0
                continue
            bits = PRECISION - np.log2(frequencies)
            symbols = np.arange(frequencies.size - 1) - lo
            beyond = np.maximum(np.maximum(symbols[0] - reached, reached - symbols[-1]), 1)
            costs[number] = bits[0] + ESCAPE_CLASS_BITS + np.floor(np.log2(2 * beyond))
            inside = np.abs(symbols) <= COST_REACH
            costs[number, symbols[inside] + COST_REACH] = bits[1:][inside]
        return torch.from_numpy(costs).to(self.device)


def pick_device(device: str | None = None) -> torch.device:
    """``device``, else $NIC_DEVICE, else CUDA, MPS or the CPU, whichever is there first. ValueError for one
    that is not there.

    A forked worker whose parent has used CUDA cannot use it: it gets the CPU.
    """
    name = device or os.environ.get("NIC_DEVICE") or None
    forked = torch.cuda._is_in_bad_fork()
    if name is None:
        if torch.cuda.is_available() and not forked:
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}: use cpu, cuda, cuda:N or mps") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(chosen.type, False):
        raise ValueError(f"device {name!r} is not available here")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not available here: {torch.cuda.device_count()} CUDA devices")
    return torch.device("cpu") if chosen.type == "cuda" and forked else chosen


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by instructions of its own, and faster than in float32: a CPU
    with AVX-512 BF16 or AMX. The environment's NIC_PRECISION, bfloat16 or float32, says otherwise; ValueError
    for anything else there."""
    named = os.environ.get("NIC_PRECISION")
    if named not in (None, "", "bfloat16", "float32"):
        raise ValueError(f"NIC_PRECISION must be bfloat16 or float32, not {named!r}")
    if named:
        return named == "bfloat16"
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # what this release of torch has of them
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)


def available_models() -> list[str]:
    """Names of the models that are installed."""
    return sorted({file.stem for folder in _FOLDERS for file in folder.glob("*.safetensors")})


def find(name: str) -> Path:
    """The weights file of a model; UnsupportedModelError names what is installed."""
    for folder in _FOLDERS:
        file = folder / f"{name}.safetensors"
        if file.parent == folder and file.is_file():
            return file
    raise UnsupportedModelError(
        f"model {name!r} is not installed (installed: {', '.join(available_models()) or 'none'})"
    )


def load(name: str = DEFAULT_MODEL, device: torch.device | None = None) -> Model:
    """The model of that name on that device; read once per process and device, safe from many threads."""
    device = device or pick_device()
    key = (name, str(device))
    model = _models.get(key)
    if model is None:
        with _lock:
            model = _models.get(key) or _models.setdefault(key, _read(find(name), name, device))
    return model


def use(file: Path, device: torch.device) -> Model:
    """Read a weights file and make it the model of its name in this process, whatever is installed."""
    model = _read(file, file.stem, device)
    with _lock:
        _models[(file.stem, str(device))] = model
    return model


def _read(file: Path, name: str, device: torch.device) -> Model:
    # On a thread of the pool, where nothing that the caller has set reaches.
    return workers.call(lambda: read(file, name, device))


@torch.inference_mode(False)
def read(file: Path, name: str, device: torch.device) -> Model:
    """Read and check a weights file. WeightsError for whatever is wrong with it."""
    try:
        digest = hashlib.sha256(file.read_bytes()).digest()[:HASH_BYTES]
        with safe_open(file, "pt") as f:
            config = NetworkConfig.from_json(f.metadata()["network"])
            limits = tuple(int(limit) for limit in json.loads(f.metadata()["width_limits"]))
            reduced = {int(k): tuple(v) for k, v in json.loads(f.metadata()["reduced_groups"]).items()}
            tensors: dict[str, torch.Tensor] = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
        network = Network(config, start=False)
        state = {
            k.removeprefix("network."): v.float() for k, v in tensors.items() if k.startswith("network.")
        }
        network.load_state_dict(state, assign=True)
    except (OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{file.name}: {error}") from error
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    arrays = {k: v.numpy() for k, v in tensors.items() if not k.startswith("network.")}
    integer_net = IntegerHyperSynthesis(_part(arrays, "integer."))
    tables = Tables.from_arrays(arrays, "tables.")
    hyper_prior = IntegerHyperPrior(_part(arrays, "hyper_prior."), config.hyper_channels)
    if len(tables) != integer_net.table_rows * integer_net.table_columns:
        raise WeightsError(f"{file.name}: {len(tables)} tables do not fit the integer network")
    channels = integer_net.gain.shape[1], integer_net.hyper_inverse.shape[1]
    if channels != (config.latent_channels, config.hyper_channels):
        raise WeightsError(f"{file.name}: the integer part is not for this network's channels")
    if len(limits) != len(config.widths):
        raise WeightsError(f"{file.name}: {len(limits)} limits for {len(config.widths)} widths")
    network.eval().requires_grad_(False)
    try:
        self_test.check(network, integer_net, hyper_prior, _part(arrays, "self_test."))
    except (KeyError, WeightsError) as error:
        raise WeightsError(f"{file.name}: {error}") from error
    if has_bfloat16(device):
        network.g_a.precision = network.g_s.precision = torch.bfloat16
    return Model(name, digest, network, integer_net, tables, hyper_prior, device, limits, reduced)


def _part(arrays: dict[str, np.ndarray[Any, Any]], prefix: str) -> dict[str, np.ndarray[Any, Any]]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
