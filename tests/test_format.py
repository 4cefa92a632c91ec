"""FORMAT.md is enough to write a reader: its Python, put together here and run on golden files, gives what
the package decodes. Of the package only the container is used, which test_container.py checks by the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pictures import pixels
from safetensors import safe_open
from tiny_model import random_network, save_weights
from torch.nn import functional

import pillow_nic
from pillow_nic import codec, container, weights
from pillow_nic.entropy import SymbolWriter
from pillow_nic.entropy_tables import Table, Tables

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "pillow_nic" / "FORMAT.md").read_text(encoding="utf-8")
CODE = compile(
    "\n\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)), "FORMAT.md", "exec"
)


class PageReader:
    """A reader of one file: the page's Python, with the functions that the page describes in words."""

    def __init__(self, data: bytes, folder: Path = ROOT / "weights") -> None:
        self.file = container.parse(data)
        self.header = header = self.file.header
        with safe_open(folder / f"{header.model}.safetensors", "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.network = json.loads(file.metadata()["network"])
        self.groups, slices = (
            [slice(*pair) for pair in pairwise([0, *accumulate(self.network[name])])]
            for name in ("groups", "slices")
        )
        self.model = SimpleNamespace(
            hyper_inverse=self.array("integer.hyper_inverse"),
            gain=self.array("integer.gain"),
            exp2=self.array("integer.exp2"),
            tables=self.array("integer.tables"),
            layers=self.layers("integer"),
            prior=self.layers("hyper_prior"),
        )
        self.page: dict[str, Any] = {
            "conv": self.conv,
            "leaky": lambda x: functional.leaky_relu(x, 0.1),
            "shuffle": functional.pixel_shuffle,
            "lerp": self.lerp,
            "join": lambda *parts: torch.cat(parts),
            "clamp": torch.clamp,
            "patches": self.patches,
            **{key: self.network[key] for key in ("checkerboard", "ranks", "blocks_8", "blocks_16")},
            "channels_of_slices": slices,
            "shares": [width["share"] for width in self.network["widths"]],
        }
        exec(CODE, self.page)

    def array(self, name: str) -> Any:
        return self.tensors[name].tolist()

    def layers(self, network: str) -> list[SimpleNamespace]:
        return [self.layer(f"{network}.{i}") for i in range(self.array(f"{network}.layers")[0])]

    def layer(self, prefix: str) -> SimpleNamespace:
        kernel, _, shuffle = self.array(f"{prefix}.geometry")
        vectors = {name: self.array(f"{prefix}.{name}") for name in ("weight", "bias", "shift")}
        return SimpleNamespace(kernel=kernel, shuffle=shuffle, **vectors)

    def tables(self, prefix: str) -> list[tuple[list[int], int]]:
        frequencies = self.array(f"{prefix}.frequencies")
        parts = pairwise(self.array(f"{prefix}.offsets"))
        return [
            (frequencies[a:b], low) for (a, b), low in zip(parts, self.array(f"{prefix}.lows"), strict=True)
        ]

    def conv(self, name: str, x: torch.Tensor, out: int | None = None) -> torch.Tensor:
        weight = self.tensors[f"network.{name}.weight"].float()[:out, : len(x)]
        bias = self.tensors.get(f"network.{name}.bias")
        bias = bias if bias is None else bias[:out]
        return functional.conv2d(x[None], weight, bias, padding=weight.shape[2] // 2)[0]

    def lerp(self, name: str, k: int | None = None) -> torch.Tensor:
        table = self.tensors[f"network.{name}"]
        table = table if k is None else table[k]
        position = self.header.rate_point * (len(table) - 1) / 2**16
        row = min(int(position), len(table) - 2)
        mixed = table[row] * (1 - (position - row)) + table[row + 1] * (position - row)
        return mixed[:, None, None]

    def patches(self, y: torch.Tensor) -> torch.Tensor:
        weighted = y * self.tensors["network.g_s.deviation"][: len(y), None, None]
        patch = torch.einsum(
            "chw,coab->ohawb", weighted, self.tensors["network.g_s.klt.weight"].float()[: len(y)]
        )
        return patch.reshape(3, 16 * y.shape[1], 16 * y.shape[2])

    def tile(self, number: int, height: int, width: int) -> torch.Tensor:
        """ŷ of one tile, from the streams of all layers."""
        hyper = (self.network["hyper_channels"], -(-height // 4), -(-width // 4))
        symbols, group = [], 0
        for layer, end in zip(self.file.streams, self.header.layer_ends, strict=True):
            stream = self.page["Stream"](layer[number])
            if group == 0:
                tables = self.tables("hyper_prior.tables")
                found = self.page["hyper_latent"](stream, *hyper, self.header.rate_point, tables, self.model)
                z = np.array(found)
                arguments = (self.header.rate_point, self.header.delta, self.model)
                indices = np.array(self.page["table_indices"](z.tolist(), *arguments))[:, :height, :width]
            for channel in self.groups[group:end]:
                part = indices[channel]
                flat = self.page["read_segment"](stream, part.ravel().tolist(), self.tables("tables"))
                symbols.append(torch.tensor(flat, dtype=torch.float32).reshape(part.shape))
            assert (stream.state, stream.words) == (0, [])
            group = end
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        self.page["even"] = ((rows + columns) % 2 == 0).float()
        self.page["cut"] = lambda x: x[:, :height, :width]
        symbols.append(torch.zeros(self.groups[-1].stop - self.groups[group - 1].stop, height, width))
        total = self.groups[self.network["widths"][self.header.width_index]["groups"] - 1].stop
        return self.page["latent"](torch.cat(symbols), torch.from_numpy(z).float(), self.header.delta, total)

    def pixels(self) -> np.ndarray:
        header = self.header
        side = header.tile_size // 16
        height, width = -(-header.height // 16), -(-header.width // 16)
        rows, number = [], 0
        for top in range(0, height, side):
            row = []
            for left in range(0, width, side):
                row.append(self.tile(number, min(side, height - top), min(side, width - left)))
                number += 1
            rows.append(torch.cat(row, 2))
        colours = self.page["synthesis"](torch.cat(rows, 1), header.width_index + 1)
        shown = (colours.clamp(0, 1) * 255).round()[:, : header.height, : header.width]
        return (shown.mean(0).round() if header.mode.startswith("L") else shown.permute(1, 2, 0)).numpy()


def quick(x: list[list[list[int]]], layer: SimpleNamespace) -> list[list[list[int]]]:
    """The page's sums by torch: integers in float64."""
    shape = len(layer.bias), len(x), layer.kernel, layer.kernel
    weight, bias = torch.tensor(layer.weight).reshape(shape).double(), torch.tensor(layer.bias).double()
    total = functional.conv2d(torch.tensor(x).double()[None], weight, bias, padding=layer.kernel // 2)
    return total[0].long().tolist()


@pytest.mark.parametrize("name", ["smallest", "width-2", "layers-3", "grey-alpha", "tiles"])
@torch.inference_mode()
def test_a_reader_made_of_the_page(name: str) -> None:
    data = (ROOT / "tests" / "golden" / weights.DEFAULT_MODEL / f"{name}.nic").read_bytes()
    expected = pillow_nic.decode(data, device="cpu").astype(int)
    if name == "grey-alpha":
        expected = expected[..., 0]
    reader = PageReader(data)
    if name == "tiles":  # six of them take their time in plain Python
        reader.page["sums"] = quick
    assert np.abs(reader.pixels() - expected).max() <= 1


@pytest.mark.parametrize("delta", [0, -9])
@torch.inference_mode()
def test_any_step_of_any_model(delta: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Δ is 0 in what the package writes; the model is a tiny one with random parameters."""
    save_weights(tmp_path / "tiny.safetensors", random_network())
    monkeypatch.setattr(weights, "_FOLDERS", (tmp_path,))
    monkeypatch.setattr(weights, "_models", {})
    make = codec.header_for
    monkeypatch.setattr(codec, "header_for", lambda *arguments: replace(make(*arguments), delta=delta))
    data = codec.encode(
        pixels(size=(70, 90)), quality=0.4, model="tiny", layers=2, network_width=2, device="cpu"
    )
    reader = PageReader(data, tmp_path)
    expected = codec.decode(data, device="cpu").astype(int)
    assert len(np.unique(expected)) > 50
    assert np.abs(reader.pixels() - expected).max() <= 1


def test_escapes_and_silent_tables() -> None:
    page: dict[str, Any] = {}
    exec(CODE, page)
    rows = [([1, 65534, 1], 0), ([], 0), ([100, 20000, 25000, 20436], 1)]
    tables = Tables.join(Table(np.array(frequencies, np.uint16), low) for frequencies, low in rows)
    rng = np.random.default_rng(5)
    indices = rng.integers(0, 3, 200)
    symbols = np.where(indices == 1, 0, rng.integers(-1, 3, 200) * 10 ** rng.integers(0, 6, 200))
    writer = SymbolWriter()
    writer.put(symbols, indices, tables)
    stream = page["Stream"](writer.getvalue())
    assert page["read_segment"](stream, indices.tolist(), rows) == symbols.tolist()
    assert (stream.state, stream.words) == (0, [])
