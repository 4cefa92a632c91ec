"""Effort 2 and 3: never worse than effort 1 by what they minimise, the same for any number of threads."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import photo, pixels, psnr, saved
from tiny_model import random_network, save_weights

import pillow_nic
from pillow_nic import codec, distortion, refinement, tile_coding, weights, workers
from pillow_nic.command.main import main
from pillow_nic.options import EncodeOptions
from pillow_nic.tiling import tiles


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, stages in refinement.STAGES.items():
        few = tuple(replace(stage, iterations=2) for stage in stages)
        monkeypatch.setitem(refinement.STAGES, key, few)


def rate_and_loss(
    picture: Any, data: bytes, quality: float, mixture: distortion.Mixture
) -> tuple[float, float]:
    """Bits of a file, and bits + λ·distortion of what it decodes to."""
    model = weights.load(pillow_nic.read_header(data).model, torch.device("cpu"))
    lmbda = float(model.config.lmbda(model.point(round(quality * 65535))))
    x, y = (
        torch.from_numpy(np.array(t)).permute(2, 0, 1)[None].float() / 255
        for t in (picture, pillow_nic.decode(data))
    )
    error = float(distortion.Distortion(mixture, x)(y)) * picture.shape[0] * picture.shape[1]
    return 8 * len(data), 8 * len(data) + lmbda * error


@pytest.mark.parametrize(("tune", "quality"), [("psnr", 0.5), ("ms-ssim", 0.3), ("visual", 0.4)])
def test_more_effort_loses_less(tune: str, quality: float) -> None:
    picture = pixels(size=(144, 112))
    files = [pillow_nic.encode(picture, effort=effort, tune=tune, quality=quality) for effort in (1, 2)]
    mixture = distortion.REFINED[tune]
    (bits, first), (_, second) = (rate_and_loss(picture, data, quality, mixture) for data in files)
    assert second < first - 0.02 * bits
    headers = [pillow_nic.read_header(data) for data in files]
    assert replace(headers[0], layer_offsets=()) == replace(headers[1], layer_offsets=())


def test_what_is_refined_for_ms_ssim_is_better_by_what_others_look_at() -> None:
    picture = pixels(size=(144, 112))
    files = [pillow_nic.encode(picture, effort=effort, tune="ms-ssim", quality=0.4) for effort in (1, 2)]
    mixture = distortion.MIXTURES["visual"]
    (bits, first), (_, second) = (rate_and_loss(picture, data, 0.4, mixture) for data in files)
    assert second < first - 0.05 * bits  # by the loss of training alone 0.02


@pytest.mark.usefixtures("quick")
def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "SIDE", 6)
    picture = pixels(size=(203, 150))
    files = {pillow_nic.encode(picture, effort=2, threads=threads) for threads in (1, 2, 3)}
    assert len(files) == 1
    assert pillow_nic.decode(files.pop()).shape == picture.shape


@pytest.mark.usefixtures("quick")
def test_without_a_gain_the_file_is_that_of_effort_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "RATE", 3.0)  # far too fast
    picture = pixels(size=(64, 48))
    assert pillow_nic.encode(picture, effort=2) == pillow_nic.encode(picture, effort=1)


def test_effort_3_keeps_what_effort_2_finds_if_that_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    astray = refinement.Stage(200, (1.0, 1.0), 1000.0)  # nothing but noise
    monkeypatch.setitem(refinement.STAGES, ("visual", 3), (*refinement.STAGES["visual", 2], astray))
    picture = pixels(size=(64, 48))
    files = [pillow_nic.encode(picture, effort=effort) for effort in (1, 2, 3)]
    assert files[0] != files[1] == files[2]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (17, 40)])
def test_every_mode_and_size(mode: str, size: tuple[int, int]) -> None:
    im = photo(mode, size)
    data = saved(im, effort=2, quality=0.4)
    decoded = pillow_nic.decode(data)
    assert decoded.shape[:2] == size[::-1]
    if mode.endswith("A"):
        assert np.array_equal(decoded[..., -1], np.array(im)[..., -1])
    difference = decoded.astype(int) - pillow_nic.decode(saved(im, quality=0.4))
    assert np.abs(difference).mean() < 10


@pytest.mark.usefixtures("quick")
def test_layers_widths_and_targets() -> None:
    picture = pixels(size=(64, 48))
    data = pillow_nic.encode(picture, effort=2, layers=2, network_width=3, target_size=600)
    header = pillow_nic.read_header(data)
    assert (header.layers, header.width_index) == (2, 2)
    assert 0.98 * 600 <= len(data) <= 600
    data = pillow_nic.encode(picture, effort=3, target_psnr=31, tune="psnr")
    assert 31 <= psnr(picture, pillow_nic.decode(data)) <= 31.1


def test_pieces_cover_each_tile_once() -> None:
    covered = np.zeros((70, 131), int)
    for place in tiles(70, 131, 64):
        for _, piece in refinement._pieces(refinement._Tile(place, None, None)):  # type: ignore[arg-type]
            covered[piece.own] += 1
            for span, whole in zip(piece, place, strict=True):
                assert (
                    whole.start <= span.outer_start <= span.start < span.stop <= span.outer_stop <= whole.stop
                )
                assert (span.outer_start - whole.start) % 2 == 0  # the phases of the checkerboard
                assert span.outer_start in (span.start - refinement.HALO, whole.start)
                assert span.outer_stop in (span.stop + refinement.HALO, whole.stop)
                assert span.stop - span.start <= refinement.SIDE
    assert (covered == 1).all()


# ------------------------------------------------------------------------------------- any network


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> weights.Model:
    monkeypatch.setattr(weights, "_models", {})
    return weights.use(save_weights(tmp_path / "tiny.safetensors", random_network()), torch.device("cpu"))


def test_the_true_loss_falls(tiny: weights.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "SIDE", 6)
    picture, options = (
        pixels(size=(160, 128)),
        EncodeOptions(quality=0.5, model="tiny", effort=2, tune="psnr"),
    )
    header = codec.header_for(tiny, picture, options)
    y = codec._analyse(tiny, picture, header, 1)
    start = codec.symbols_of(tiny, picture, header, replace(options, effort=1))
    end = codec.symbols_of(tiny, picture, header, options)
    task = refinement._Task(tiny, picture, y, header, options)
    place = next(tiles(8, 10, 64))

    def loss(symbols: list[tile_coding.TileSymbols]) -> float:
        known = workers.each(lambda _: task.known(place, symbols[0]), [0], 1)
        return task.loss(known, symbols, 1)

    assert loss(end) < loss(start)
    np.testing.assert_array_equal(end[0].hyper, start[0].hyper)
    np.testing.assert_array_equal(end[0].indices, start[0].indices)
    assert not end[0].symbols[tiny.tables.sizes[end[0].indices] == 0].any()


def test_the_estimated_bits_are_those_of_the_file(tiny: weights.Model) -> None:
    """Without noise and at a temperature near zero."""
    picture, options = pixels(size=(64, 80)), EncodeOptions(quality=0.4, model="tiny", effort=2)
    header = codec.header_for(tiny, picture, options)
    y = codec._analyse(tiny, picture, header, 1)
    (start,) = codec.symbols_of(tiny, picture, header, replace(options, effort=0))
    task = refinement._Task(tiny, picture, y, header, options)

    def bits() -> tuple[float, float]:
        tile = task.known(next(tiles(5, 4, 64)), start)
        zero, coded = task.tables(start.indices)
        coder = refinement._Annealing(tile.side, task.costs, task.reach, zero, coded, torch.Generator())
        coder.begin(y[:, : task.channels], 1e-3, 0.0)
        refinement.code_groups(tiny.network, tile.side.features, task.point, coder, header.groups)
        w = torch.from_numpy(start.symbols)[None].long()
        return float(coder.bits), float(task.costs[zero + w].sum())

    estimated, real = workers.call(bits)
    assert estimated == pytest.approx(real, rel=0.02)
    stream = tile_coding.write_layers(tiny, [start], replace(header, layer_ends=(header.groups,)))[0][0]
    assert 8 * len(stream) > real


# -------------------------------------------------------------------------------------- progress


@pytest.mark.usefixtures("quick")
def test_progress() -> None:
    told: list[float] = []
    picture = pixels(size=(64, 48))
    pillow_nic.encode(picture, effort=2, progress=told.append)
    assert told == [0.5, 1.0]
    told.clear()
    saved(photo(size=(64, 48)), effort=3, target_size=500, progress=told.append)
    assert told == sorted(told)
    assert len(told) % 4 == 0
    told.clear()
    pillow_nic.encode(picture, effort=1, progress=told.append)
    assert not told


@pytest.mark.usefixtures("quick")
def test_an_exception_ends_the_encoding() -> None:
    calls: list[str] = []

    def stop(done: float) -> None:
        calls.append(threading.current_thread().name)
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        pillow_nic.encode(pixels(size=(64, 48)), effort=2, progress=stop)
    assert len(calls) == 1


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell tells what it runs in the background to ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system has no such signals")
def test_an_interruption_ends_the_encoding_before_the_next_iteration(interruptible: None) -> None:
    told: list[float] = []

    def interrupt(done: float) -> None:
        told.append(done)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        deadline = time.monotonic() + 60
        while not workers.given_up():  # until the main thread has heard of it
            assert time.monotonic() < deadline
            time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        pillow_nic.encode(pixels(size=(64, 48)), effort=3, progress=interrupt)
    assert told == [0.25]


@pytest.mark.usefixtures("quick")
def test_nothing_of_the_callers_is_changed() -> None:
    picture = pixels(size=(64, 48))
    expected = pillow_nic.encode(picture, effort=2)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        assert pillow_nic.encode(picture, effort=2) == expected
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert pillow_nic.encode(picture, effort=2) == expected
    assert torch.equal(torch.random.get_rng_state(), before)
    model = weights.load(device=torch.device("cpu"))
    assert all(p.grad is None and not p.requires_grad for p in model.network.parameters())


@pytest.mark.usefixtures("quick")
def test_the_command_shows_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(size=(64, 48)).save(tmp_path / "a.png")
    shown: list[int] = []
    import tqdm

    class Bar(tqdm.tqdm):  # type: ignore[type-arg]
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **{**options, "disable": False, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            if self.total == 100:
                shown.append(int(n or 0))
            return super().update(n)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    assert main(["encode", str(tmp_path / "a.png"), "--effort", "2"]) == 0
    assert shown == [50, 50]
    data = (tmp_path / "a.nic").read_bytes()
    assert data == saved(photo(size=(64, 48)), effort=2)
