"""What a file costs is bounded by what its header declares, and what is declared is checked first."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pictures import photo, pixels, whole_photo
from PIL import Image

from pillow_nic import codec, container, decoding, tile_coding, weights
from pillow_nic.command.layer_plot import plot
from pillow_nic.container import Container
from pillow_nic.errors import BitstreamError, UnsupportedModelError
from pillow_nic.header import Header
from pillow_nic.options import DecodeOptions, EncodeOptions


def tiled(picture: codec.Pixels, tile_log2: int) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "TILE_LOG2", tile_log2)
        return codec.encode(picture, device="cpu", threads=1)


def cpu_seconds(action: Callable[[], object]) -> float:
    """The least of two, as other work on the machine only adds to it."""
    times = []
    for _ in range(2):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize("shape", [(600, 600), (3072, 1)])
def test_tiles_of_no_size_cost_much_more_than_a_writers(shape: tuple[int, int]) -> None:
    picture = np.resize(whole_photo(), (*shape, 3))
    seconds = {}
    for tile_log2 in range(7, 11):
        with suppress(ValueError):  # not allowed
            data = tiled(picture, tile_log2)
            seconds[tile_log2] = cpu_seconds(partial(codec.decode, data, device="cpu", threads=1))
    assert len(seconds) >= 3
    assert max(seconds.values()) < 3 * seconds[codec.TILE_LOG2]


class Watched(io.BytesIO):
    """Notes how far it was read."""

    furthest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.furthest = max(self.furthest, self.tell())
        return data


@pytest.mark.parametrize("change", ["groups", "width", "model", "hash"])
def test_what_the_model_has_not_is_refused_before_the_lengths_are_read(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = container.read_info(codec.encode(pixels(size=(64, 64))))[0]
    header = replace(header, width=1 << 14, height=1 << 12, tile_log2=8)
    header = {
        "groups": replace(header, layer_ends=tuple(range(1, 33))),
        "width": replace(header, width_index=200),
        "model": replace(header, model="other"),
        "hash": replace(header, model_hash=b"hash"),
    }[change]
    streams = [[b"\1"] * header.tiles for _ in range(header.layers)]
    data = container.dump(Container(header, {}, streams))

    def refuse(*_: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(container, "_take_lengths", refuse)
    file = Watched(data)
    for action in (
        lambda: codec.decode(data),
        lambda: decoding.inspect(data),
        lambda: Image.open(file).load(),
    ):
        with pytest.raises((BitstreamError, UnsupportedModelError), match="model"):
            action()
    assert file.furthest < 100


def test_a_thin_picture_counts_as_wide_as_a_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    data = codec.encode(pixels(size=(200, 1)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 200)
    codec.decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 200 // 2 - 1)
    with Image.open(io.BytesIO(data)) as im, pytest.raises(Image.DecompressionBombError):
        im.load()


@pytest.mark.parametrize("action", [codec.decode, decoding.inspect, plot])
def test_too_many_pixels(action: Callable[[bytes], object], monkeypatch: pytest.MonkeyPatch) -> None:
    data = codec.encode(pixels(size=(80, 60)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80 * 60 // 2 - 1)
    monkeypatch.setattr(weights, "load", None)
    with pytest.raises(Image.DecompressionBombError):
        action(data)


def extreme(change: Callable[[tile_coding.TileSymbols], Any], delta: int, rate_point: int) -> bytes:
    """A sound file of one tile, with other symbols."""
    model = weights.load(device=torch.device("cpu"))
    picture = pixels(size=(64, 48))
    header: Header = codec.header_for(model, picture, EncodeOptions())
    header = replace(header, delta=delta, rate_point=rate_point, layer_ends=(header.groups,))
    tile = codec.symbols_of(model, picture, header, EncodeOptions(effort=0))[0]
    tile = replace(tile, symbols=tile.symbols.astype(np.int32))
    change(tile)
    return container.dump(Container(header, {}, tile_coding.write_layers(model, [tile], header)))


def largest(tile: tile_coding.TileSymbols) -> None:
    tables = weights.load(device=torch.device("cpu")).tables
    tile.symbols[tables.sizes[tile.indices] > 0] = tile_coding.MAX_SYMBOL


@pytest.mark.parametrize(("delta", "rate_point"), [(0, 0), (8, 10000), (-8, 20000)])
def test_symbols_of_no_picture_are_not_shown(delta: int, rate_point: int) -> None:
    data = extreme(largest, delta, rate_point)
    with pytest.raises(BitstreamError, match="tile 1: its symbols give a latent out of range"):
        codec.decode(data)
    with pytest.raises(BitstreamError, match="out of range"), Image.open(io.BytesIO(data)) as im:
        im.load()


def test_not_a_number_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    data = codec.encode(photo())
    monkeypatch.setattr(tile_coding, "code_strips", lambda *arguments: arguments[-1].fill_(torch.nan))
    with pytest.raises(BitstreamError, match="out of range"):
        codec.decode_bytes(data, DecodeOptions())
