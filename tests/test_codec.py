"""The whole pipeline on the installed model: sizes, modes, layers, tiles, damage; not how good it is."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pictures import psnr
from PIL import Image
from tiny_model import random_network

from pillow_nic import codec, colour, container, decoding, exact, tile_coding, weights
from pillow_nic.codec import decode, encode
from pillow_nic.container import Container
from pillow_nic.errors import BitstreamError, TruncatedError, UnsupportedModelError
from pillow_nic.header import Header
from pillow_nic.metadata import Metadata
from pillow_nic.network import AnalysisTransform, Network, NetworkConfig, SynthesisTransform
from pillow_nic.options import TUNES
from pillow_nic.tiling import Window

Pixels = codec.Pixels


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIC_DEVICE", "cpu")
        yield


@pytest.fixture(scope="module")
def model() -> weights.Model:
    return weights.load(device=torch.device("cpu"))


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Pixels:
    """Waves, hard edges and noise: something in every channel of the latent."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([127 + 80 * np.sin(x / (17 + 9 * c) + y / (31 - 5 * c)) for c in range(channels)], -1)
    edges = 60 * ((x // 23 + y // 29) % 2 - 0.5)[..., None]
    return np.clip(waves + edges + random.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def small() -> bytes:
    return encode(picture(40, 24), quality=0.2)


@pytest.fixture(scope="module")
def layered() -> bytes:
    return encode(picture(70, 90), quality=1.0, layers=8)


def changed(data: bytes, **fields: Any) -> bytes:
    """The file with other header fields and every CRC right."""
    parsed = container.parse(data)
    return container.dump(Container(replace(parsed.header, **fields), parsed.chunks, parsed.streams))


# -------------------------------------------------------------------------------------------- sizes and modes


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 3),
        (1, 100, 3),
        (100, 1, 3),
        (17, 33, 3),
        (64, 64, 3),
        (16, 65, 3),
        (50, 60),
        (1, 1),
        (50, 60, 2),
        (33, 47, 4),
    ],
)
@pytest.mark.parametrize("quality", [0.0, 0.6, 1.0])
def test_shape_comes_back(shape: tuple[int, ...], quality: float) -> None:
    pixels = picture(shape[0], shape[1], (*shape, 1)[2]).reshape(shape)
    data = encode(pixels, quality=quality, graphics="never")
    header = container.read_info(data)[0]
    assert (header.height, header.width) == shape[:2]
    assert header.mode == {(): "L", (2,): "LA", (3,): "RGB", (4,): "RGBA"}[shape[2:]]
    assert header.rate_point == round(quality * 65535)
    assert (header.model, header.delta, header.layers) == ("nic-2-visual", 0, 1)
    decoded = decode(data)
    assert decoded.shape == shape
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("tune", TUNES)
def test_decoded_picture_is_that_picture(tune: str) -> None:
    pixels = picture(64, 80)
    # far below what any model reaches: this says which picture it is, not how good
    assert psnr(decode(encode(pixels, quality=1.0, tune=tune)), pixels) > 20
    assert psnr(decode(encode(pixels, quality=0.0, tune=tune)), pixels) > 12
    assert psnr(decode(encode(255 - pixels, quality=1.0, tune=tune)), pixels) < 12


def test_model_by_its_name() -> None:
    pixels = picture(24, 32)
    assert encode(pixels, model="nic-2") == encode(pixels, tune="psnr")
    with pytest.raises(UnsupportedModelError, match="model 'nic-9' is not installed"):
        encode(pixels, model="nic-9")


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 2)])
def test_grey_is_coded_as_three_equal_colours_and_stays_grey(shape: tuple[int, ...]) -> None:
    pixels = picture(30, 40, (*shape, 1)[2]).reshape(shape)
    data = encode(pixels, quality=0.7)
    decoded = decode(data)
    assert decoded.shape == shape
    # what the same streams say in colour, with the channels' mean taken by hand
    parsed = container.parse(data)
    colours = decode(container.dump(Container(replace(parsed.header, mode="RGB"), {}, parsed.streams)))
    np.testing.assert_array_equal(decoded.reshape(30, 40, -1)[..., 0], np.rint(colours.mean(2)))


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_lossless(channels: int) -> None:
    pixels = picture(37, 50, channels)
    alphas = np.random.default_rng(1).integers(0, 256, (37, 50)), np.full((37, 50), 255), np.eye(37, 50) * 255
    for alpha in alphas:
        pixels[..., -1] = alpha
        np.testing.assert_array_equal(decode(encode(pixels, quality=0.0))[..., -1], pixels[..., -1])


def test_colours_that_cannot_be_seen_do_not_count() -> None:
    pixels = picture(40, 40, 4)
    pixels[..., 3] = 255
    pixels[10:30, 5:25, 3] = 0
    other = pixels.copy()
    other[10:30, 5:25, :3] = np.random.default_rng(2).integers(0, 256, (20, 20, 3))
    assert encode(pixels) == encode(other)


def test_small_files_have_little_overhead() -> None:
    data = encode(picture(64, 64))
    streams = container.parse(data).streams
    assert len(data) - sum(len(stream) for layer in streams for stream in layer) < 64


def test_same_bytes_every_time() -> None:
    pixels = picture(50, 70)
    assert encode(pixels) == encode(pixels)
    assert encode(pixels) != encode(pixels, quality=0.51)


@pytest.mark.parametrize(
    "view", [lambda p: p[::-1], lambda p: p[:, ::2], lambda p: p.transpose(1, 0, 2), np.asfortranarray]
)
def test_views_of_arrays(view: Callable[[Pixels], Pixels]) -> None:
    for channels in (3, 4):
        pixels = view(picture(40, 50, channels))
        assert encode(pixels) == encode(np.ascontiguousarray(pixels))


def test_pixels_are_left_alone() -> None:
    for channels in (1, 2, 3, 4):
        pixels = picture(20, 20, channels).squeeze()
        before = pixels.copy()
        pixels.setflags(write=False)
        encode(pixels)
        np.testing.assert_array_equal(pixels, before)


def test_metadata_and_bytes_behind_the_file(small: bytes) -> None:
    data = encode(picture(16, 16), comment=b"hello", xmp="<x/>")
    assert Metadata.from_chunks(container.read_info(data)[1]) == Metadata(comment=b"hello", xmp=b"<x/>")
    assert decode(data).shape == (16, 16, 3)
    np.testing.assert_array_equal(decode(small + b"tail"), decode(small))


# --------------------------------------------------------------------------------------------- layers, widths


def test_decoding_the_first_layers(layered: bytes) -> None:
    assert container.read_info(layered)[0].layer_ends == (1, 2, 3, 4, 5, 6, 7, 8)
    ends = container.parse_header(layered).layer_offsets
    decoded = [decode(layered, layers=k) for k in range(1, 9)]
    for k, pixels in enumerate(decoded, 1):
        assert pixels.shape == (70, 90, 3)
        # a file cut behind a layer, or within the next one, is the same picture
        np.testing.assert_array_equal(decode(layered[: ends[k - 1]], partial=True), pixels)
        if k < 8:
            np.testing.assert_array_equal(decode(layered[: ends[k] - 1], partial=True), pixels)
            assert not np.array_equal(decoded[k], pixels)
    np.testing.assert_array_equal(decoded[-1], decode(layered))


def test_layers_say_the_same_as_one_layer(layered: bytes) -> None:
    whole = encode(picture(70, 90), quality=1.0, layers=1)
    assert container.read_info(whole)[0].layer_ends == (8,)
    np.testing.assert_array_equal(decode(whole), decode(layered))
    assert len(whole) < len(layered) < len(whole) + 7 * 12


@pytest.mark.parametrize(
    ("layers", "ends"), [(1, (8,)), (2, (1, 8)), (5, (1, 2, 3, 4, 8)), (8, (1, 2, 3, 4, 5, 6, 7, 8))]
)
def test_number_of_layers(layers: int, ends: tuple[int, ...]) -> None:
    data = encode(picture(48, 48), quality=1.0, layers=layers)
    assert container.read_info(data)[0].layer_ends == ends


def test_larger_pictures_have_all_layers_by_default() -> None:
    assert container.read_info(encode(picture(128, 128), quality=1.0))[0].layers == 1
    assert container.read_info(encode(picture(128, 129), quality=1.0))[0].layers == 8


def test_layers_that_would_be_tiny_are_joined() -> None:
    def streams(*sizes: int) -> list[list[bytes]]:
        return [[bytes(size), bytes(size)] for size in sizes]

    join, ends = tile_coding._join_layers, (1, 2, 3, 7)
    assert join(ends, streams(160, 500, 160, 1000)) == ends
    assert join(ends, streams(160, 159, 1, 1000)) == (1, 3, 7)
    assert join(ends, streams(10, 160, 160, 10)) == (2, 7)
    assert join(ends, streams(160, 160, 10, 10)) == (1, 7)
    assert join(ends, streams(160, 160, 0, 0)) == (1, 2)
    assert join(ends, streams(10, 10, 10, 10)) == (7,)
    assert join(ends, streams(0, 0, 0, 0)) == (7,)

    pixels = picture(150, 200)
    joined, apart = encode(pixels, quality=0.3), encode(pixels, quality=0.3, layers=8)
    assert 1 <= container.parse_header(joined).layers < container.parse_header(apart).layers
    assert len(joined) < len(apart)
    np.testing.assert_array_equal(decode(joined), decode(apart))


def test_layers_that_would_be_empty_are_not_written(model: weights.Model) -> None:
    data = encode(np.full((32, 32, 3), 128, np.uint8), quality=0.0, layers=8)
    parsed = container.parse(data)
    assert parsed.header.layers < 8
    assert any(parsed.streams[-1])
    assert decode(data).shape == (32, 32, 3)
    assert decode(data, layers=1).shape == (32, 32, 3)


def test_every_prefix_is_the_picture_of_its_layers() -> None:
    data = encode(picture(20, 33), quality=0.6, layers=8)
    header = container.parse_header(data)
    assert header.layers >= 5
    decoded = [decode(data, layers=k) for k in range(1, header.layers + 1)]
    for length in range(len(data)):
        prefix = data[:length]
        whole = sum(end <= length for end in header.layer_offsets)
        if not whole:
            with pytest.raises(TruncatedError):
                decode(prefix, partial=True)
            continue
        with pytest.raises(TruncatedError, match=f"{whole} of {header.layers} layers are whole"):
            decode(prefix)
        np.testing.assert_array_equal(decode(prefix, partial=True), decoded[whole - 1])
    for k, pixels in enumerate(decoded, 1):
        np.testing.assert_array_equal(decode(container.truncate(data, k)), pixels)


def test_fast_uses_the_narrowest_network_that_fits(layered: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    real = decoding._synthesise

    def noting(model: weights.Model, latent: decoding.Latent, headers: list[Header], *more: Any) -> Any:
        index = headers[0].width_index
        used.append(index)
        assert latent.strips[0].shape[1] == model.config.group_ends[model.config.widths[index].groups - 1]
        return real(model, latent, headers, *more)

    monkeypatch.setattr(decoding, "_synthesise", noting)
    for layers in range(1, 9):
        decode(layered, layers=layers, fast=True)
        decode(layered, layers=layers)
    decode(encode(picture(48, 60), quality=0.8, network_width=2, layers=3), layers=1, fast=True)
    assert used == [*(0, 3) * 6, 2, 3, 3, 3, 0]


def test_inspect_accounts_for_the_bytes(layered: bytes) -> None:
    latent, bits = decoding.inspect(layered)
    assert latent.shape == bits.shape == (320, 5, 6)
    streams = [layer[0] for layer in container.parse(layered).streams]
    ends = (0, 10, 16, 48, 72, 96, 144, 192, 320)
    for first, last, stream in zip(ends, ends[1:], streams, strict=False):
        counted = bits[first:last].sum() / 8
        assert counted <= 1.01 * len(stream) + 4  # whole words; rare symbols are counted like ±15
        if first:  # the first stream has the hyper-latent too
            assert counted > 0.9 * len(stream) - 8
    assert (decoding.inspect(container.truncate(layered, 2))[1][16:] == 0).all()


@pytest.mark.parametrize(("width", "groups"), [(1, 6), (2, 6), (3, 7), (4, 8)])
def test_every_width(width: int, groups: int) -> None:
    pixels = picture(48, 60)
    data = encode(pixels, quality=0.8, network_width=width)
    header = container.read_info(data)[0]
    assert (header.width_index, header.groups) == (width - 1, groups)
    assert decode(data).shape == pixels.shape
    with pytest.raises(ValueError, match=f"layers must be a whole number from 1 to {groups}"):
        encode(pixels, network_width=width, layers=groups + 1)


@pytest.mark.parametrize(("width", "groups"), [(1, 6), (3, 7)])
def test_a_narrow_file_is_written_by_the_whole_writer(layered: bytes, width: int, groups: int) -> None:
    """Its streams are the first of a full file's; only the reader is a smaller one."""
    narrow = encode(picture(70, 90), quality=1.0, network_width=width, layers=groups)
    assert container.parse(narrow).streams == container.parse(layered).streams[:groups]
    np.testing.assert_array_equal(decode(narrow), decode(layered, layers=groups, fast=True))


def test_automatic_width(model: weights.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The narrowest whose limit the quality does not pass and that has room for the layers asked for."""
    limited = replace(model, width_limits=(13107, -1, 32767, 65535))
    monkeypatch.setattr(weights, "load", lambda *_: limited)

    def width_index(quality: float, **options: int) -> int:
        return container.parse_header(encode(picture(32, 32), quality=quality, **options)).width_index

    assert [width_index(q) for q in (0.0, 0.2, 0.21, 0.49, 0.51, 1.0)] == [0, 0, 2, 2, 3, 3]
    assert [width_index(0.0, layers=n) for n in (1, 6, 7, 8)] == [0, 0, 2, 3]
    assert width_index(0.0, network_width=4) == 3


def test_step_exponent_reaches_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, make = picture(64, 64), codec.header_for

    def coded(delta: int) -> bytes:
        monkeypatch.setattr(codec, "header_for", lambda *options: replace(make(*options), delta=delta))
        return encode(pixels, quality=0.7)

    coarse, middle, fine = coded(8), coded(0), coded(-8)
    assert len(coarse) < len(middle) < len(fine)
    for data in (coarse, fine):
        assert psnr(decode(data), decode(middle)) > 20


# ------------------------------------------------------------------------------------------------------ tiles


def header_for(model: weights.Model, height: int, width: int, tile_log2: int) -> Header:
    config = model.config
    last, ends = len(config.widths) - 1, (len(config.groups),)
    return Header("RGB", width, height, 40000, 0, last, ends, tile_log2, model.name, model.hash)


@pytest.fixture(scope="module")
def restless(model: weights.Model) -> weights.Model:
    """The shipped architecture with random parameters, whose non-linear paths reach as far as they can."""
    return replace(model, network=random_network(model.config, spread=1.0))


@pytest.fixture(scope="module")
def tiny(model: weights.Model) -> weights.Model:
    """Another architecture, with other halos; only its transforms can be used."""
    return replace(model, network=random_network(spread=1.0))


def transformed(model: weights.Model, pixels: Pixels, side: int) -> tuple[torch.Tensor, np.ndarray]:
    """The latent of pixels, and what the synthesis makes of it, in pieces of so many positions a side."""
    header = header_for(model, *pixels.shape[:2], 9)
    latent = codec._analyse(model, pixels, header, 2, side)
    everything = Window(*(range(length) for length in latent.shape[2:]))
    canvas = torch.empty(decoding.painted_shape(header, everything, 1), dtype=torch.uint8)
    whole = decoding.Latent({0: latent}, latent.shape[2])
    decoding._synthesise(model, whole, [header], everything, [canvas], 1, 2, side)
    return latent, canvas.numpy().astype(int)


@pytest.mark.parametrize("which", ["model", "restless", "tiny"])
def test_transforms_know_nothing_of_pieces(which: str, request: pytest.FixtureRequest) -> None:
    chosen: weights.Model = request.getfixturevalue(which)
    pixels = picture(300, 270)
    latent, seamless = transformed(chosen, pixels, 64)
    assert len(np.unique(seamless)) > 50
    for side in (8, 13):
        same, tiled = transformed(chosen, pixels, side)
        torch.testing.assert_close(same, latent, atol=1e-4 * latent.abs().max().item(), rtol=0)
        assert np.abs(tiled - seamless).max() <= 1


REGIONS = [(0, 0, 250, 200), (10, 20, 11, 21), (130, 7, 249, 170), (64, 64, 128, 128), (249, 199, 250, 200)]


@pytest.fixture(scope="module")
def tiled_file() -> bytes:
    """200×250 pixels with alpha in tiles of 64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "TILE_LOG2", 6)
        alpha = np.random.default_rng(5).integers(1, 255, (200, 250), np.uint8)
        return encode(np.dstack([picture(200, 250), alpha]), quality=0.6, layers=3)


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("layers", [1, None])
def test_region(tiled_file: bytes, region: tuple[int, int, int, int], layers: int | None) -> None:
    left, top, right, bottom = region
    expected = decode(tiled_file, layers=layers)[top:bottom, left:right]
    found = decode(tiled_file, layers=layers, region=region)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found[..., 3], expected[..., 3])
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_region_decodes_no_tiles_elsewhere(tiled_file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    real = decoding.decode_tile

    def noting(model: Any, files: Any, number: int, *more: Any) -> torch.Tensor:
        decoded.append(number)
        return real(model, files, number, *more)

    monkeypatch.setattr(decoding, "decode_tile", noting)
    decode(tiled_file, region=(0, 0, 16, 16))  # and a halo of 96 pixels: 2×2 of the 4×4 tiles
    assert sorted(decoded) == [0, 1, 4, 5]


@pytest.mark.parametrize(
    "region", [(0, 0, 0, 9), (0, 9, 9, 9), (-1, 0, 9, 9), (0, 0, 251, 9), (0, 0, 9, 201)]
)
def test_region_outside(tiled_file: bytes, region: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="is empty or not inside 250x200 pixels"):
        decode(tiled_file, region=region)


def test_halos_by_hand(restless: weights.Model, tiny: weights.Model) -> None:
    networks = (Network(NetworkConfig(), start=False), restless.network, tiny.network)
    halos = [(network.g_a.reach, network.g_s.reach) for network in networks]
    # one position for each 3×3 convolution at 1/16, half a one for each at 1/8; the synthesis has one more
    assert halos == [(3 + 2, 3 + 3), (3 + 2, 3 + 3), (1 + 1, 1 + 2)]


@pytest.mark.parametrize("which", ["restless", "tiny"])
def test_halo_is_no_larger_than_it_must_be(
    which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One position less and the pieces show: the test above would notice.
    chosen: weights.Model = request.getfixturevalue(which)
    pixels = picture(280, 130)
    latent, seamless = transformed(chosen, pixels, 64)
    analysis, synthesis = chosen.network.g_a.reach, chosen.network.g_s.reach
    with monkeypatch.context() as patch:
        patch.setattr(AnalysisTransform, "reach", analysis - 1)
        other = transformed(chosen, pixels, 8)[0]
        assert (other - latent).abs().max() > 1e-3 * latent.abs().max()
    monkeypatch.setattr(SynthesisTransform, "reach", synthesis - 1)
    assert np.abs(transformed(chosen, pixels, 8)[1] - seamless).max() > 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"target_psnr": 30}, {"graphics": "always"}])
def test_large_pillow_images_are_never_an_array_as_a_whole(
    mode: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for a target's judge, they become arrays piece by piece, and the same file."""
    im = Image.fromarray(np.repeat(np.repeat(picture(50, 60) & 0xC0, 4, 0), 4, 1)).convert(mode)
    expected = encode(im, **options)
    monkeypatch.setattr(colour, "LARGE", im.width * im.height - 1)
    monkeypatch.setattr(exact, "tile_log2", lambda *size: exact.TILE_LOG2)
    asked: list[tuple[slice, slice]] = []

    class Watched(colour.ImagePixels):
        def __getitem__(self, place: tuple[slice, slice]) -> Any:
            asked.append(place)
            return super().__getitem__(place)

    monkeypatch.setattr(colour, "ImagePixels", Watched)
    monkeypatch.setattr(codec, "ImagePixels", Watched)
    assert encode(im, **options) == expected
    assert asked


@pytest.mark.parametrize("options", [{}, {"layers": 3}])  # the first are too small, and joined
@pytest.mark.parametrize("has_text", [False, True])
def test_symbols_of_large_pictures_are_held_as_streams(
    has_text: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And read from them where they are asked for again: the same file."""
    pixels = picture(256, 256)
    if has_text:
        pixels[:96] = np.repeat(np.repeat(picture(24, 64) & 0xC0, 4, 0), 4, 1)
    monkeypatch.setattr(codec, "TILE_LOG2", 6)
    expected = encode(pixels, **options)
    file = container.parse(expected)
    share = exact.share(file.header, file.chunks, file.exact)
    assert 0 < share < 1 if has_text else share == 0
    monkeypatch.setattr(colour, "LARGE", pixels.size // 3 - 1)
    monkeypatch.setattr(exact, "tile_log2", lambda *size: exact.TILE_LOG2)
    read: list[int] = []
    read_symbols = tile_coding.read_symbols

    def watched(*arguments: Any) -> Any:
        read.append(arguments[3])
        return read_symbols(*arguments)

    monkeypatch.setattr(tile_coding, "read_symbols", watched)
    assert encode(pixels, **options) == expected
    assert set(read) == (set(range(16)) if has_text or not options else set())


@pytest.mark.parametrize("options", [{}, {"reduce": 4}, {"region": (20, 30, 131, 190)}, {"layers": 2}])
@pytest.mark.parametrize("tile_log2", [6, 7])
def test_decoding_in_bands(tile_log2: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(200, 150, 4)
    monkeypatch.setattr(codec, "TILE_LOG2", tile_log2)
    data = encode(pixels, quality=0.5, layers=3)
    whole = decode(data, **options)
    monkeypatch.setattr(decoding, "BAND", 8)
    decoded, rows = [], []
    decode_tile, decode_latent = decoding.decode_tile, decoding._decode_latent

    def tile(*arguments: Any) -> torch.Tensor:
        decoded.append(arguments[2])
        return decode_tile(*arguments)

    def latent(*arguments: Any) -> decoding.Latent:
        found = decode_latent(*arguments)
        rows.append(sum(strip.shape[2] for strip in found.strips.values()))
        return found

    monkeypatch.setattr(decoding, "decode_tile", tile)
    monkeypatch.setattr(decoding, "_decode_latent", latent)
    banded = decode(data, **options)
    assert len(decoded) == len(set(decoded))  # none twice
    assert len(rows) > 1
    assert all(count <= 2 * max(8, 1 << tile_log2 >> 4) + 8 for count in rows)
    assert (np.abs(banded.astype(int) - whole) > 1).sum() == 0
    assert (banded != whole).mean() < 0.01


def test_the_latent_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(200, 150)
    monkeypatch.setattr(codec, "TILE_LOG2", 6)
    whole = encode(pixels, quality=0.5)
    monkeypatch.setattr(codec, "BAND", 4)
    sizes: list[int] = []
    analyse = codec._analyse

    def watched(*arguments: Any) -> torch.Tensor:
        y = analyse(*arguments)
        sizes.append(y.shape[2])
        return y

    monkeypatch.setattr(codec, "_analyse", watched)
    data = encode(pixels, quality=0.5)
    assert sizes == [4, 4, 4, 1]
    # The same but for the last bits of the transform's floats.
    assert abs(len(data) - len(whole)) <= 8
    assert (np.abs(decode(data).astype(int) - decode(whole)) > 1).mean() < 0.001


@pytest.mark.parametrize(("largest", "kind"), [(2**15 - 1, np.int16), (2**15, np.int32)])
def test_symbols_are_kept_in_few_bytes(largest: int, kind: type) -> None:
    for sign in (1, -1):
        symbols = torch.zeros(1, 2, 3, 3)
        symbols[0, 1, 2, 0] = sign * largest
        kept = tile_coding.as_integers(symbols)
        assert kept.dtype == kind
        assert kept[1, 2, 0] == sign * largest


def test_picture_of_several_tiles(model: weights.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(1100, 1050)
    data = encode(pixels, quality=0.5)
    header = container.read_info(data)[0]
    assert header.tile_grid == (2, 2)
    tiled = decode(data)
    assert tiled.shape == pixels.shape
    monkeypatch.setattr(codec, "TILE_LOG2", 11)
    one = encode(pixels, quality=0.5)
    assert container.read_info(one)[0].tiles == 1
    whole = decode(one)
    # Latents of tiles are coded apart: near a border their means, and so their rounding, differ; no more.
    assert abs(psnr(tiled, pixels) - psnr(whole, pixels)) < 0.05
    assert abs(len(data) / len(one) - 1) < 0.02
    error = np.square(tiled.astype(float) - pixels).mean(2)
    border = np.zeros(error.shape, bool)
    border[1016:1032] = border[:, 1016:1032] = True
    assert error[border].mean() < 1.3 * error[~border].mean()
    inside = np.s_[:592, :592]  # out of reach of what differs at the borders, but for a rounding on the edge
    assert (np.abs(tiled[inside].astype(int) - whole[inside]) > 1).mean() < 0.01


def test_tiles_with_layers_and_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "TILE_LOG2", 6)
    pixels = picture(70, 140, 4)
    data = encode(pixels, quality=1.0, layers=3)
    parsed = container.parse(data)
    assert parsed.header.tile_grid == (3, 2)
    assert [len(layer) for layer in parsed.streams] == [6, 6, 6]
    for layers in (1, 2, 3):
        decoded = decode(data, layers=layers)
        assert decoded.shape == pixels.shape
        np.testing.assert_array_equal(decoded[..., 3], pixels[..., 3])
    assert psnr(decode(data)[..., :3], pixels[..., :3]) > 15


# ---------------------------------------------------------------------------------------- devices and threads


def drifted(network: Network) -> Network:
    """The network as another device computes it: every number off by about a float's last bits."""
    network = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.mul_(1 + 3e-7 * torch.randn(parameter.shape, generator=generator))
    return network


def test_float_drift_of_the_decoder_is_invisible(
    model: weights.Model, monkeypatch: pytest.MonkeyPatch, layered: bytes
) -> None:
    expected = decode(layered)
    monkeypatch.setattr(weights, "load", lambda *_: replace(model, network=drifted(model.network)))
    assert np.abs(decode(layered).astype(int) - expected).max() <= 1


def test_many_threads(layered: bytes) -> None:
    pixels, expected = picture(70, 90), decode(layered)
    outcomes: list[bool] = []

    def work(number: int) -> None:
        if number % 2:
            outcomes.append(np.array_equal(decode(layered), expected))
        else:
            outcomes.append(encode(pixels, quality=1.0, layers=8) == layered)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 6


# ----------------------------------------------------------------------------------------------------- damage


def test_every_truncation_is_noticed(small: bytes) -> None:
    for size in range(len(small)):
        with pytest.raises(OSError, match=r"\S") as caught:
            decode(small[:size])
        assert isinstance(caught.value, BitstreamError), size
        with pytest.raises(TruncatedError):
            decode(small[:size], partial=True)


def test_every_truncation_of_a_layered_file_is_noticed(layered: bytes) -> None:
    for size in (*range(0, len(layered), 97), len(layered) - 1):
        with pytest.raises(TruncatedError):
            decode(layered[:size])


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_is_noticed(small: bytes, mask: int) -> None:
    for position in range(len(small)):
        damaged = bytearray(small)
        damaged[position] ^= mask
        with pytest.raises(OSError, match=r"\S"):
            decode(bytes(damaged))


@pytest.mark.parametrize(
    "data", [b"", b"\x89", b"Just a text file called x.nic\n" * 9, b"\x89PNG\r\n\x1a\n" + bytes(90)]
)
def test_other_files(data: bytes) -> None:
    with pytest.raises(BitstreamError):
        decode(data)


def test_stream_that_its_writer_could_not_have_made(small: bytes) -> None:
    parsed = container.parse(small)
    (stream,) = parsed.streams[0]
    for other in (b"", stream[:-1], stream[:-4], stream + b"\1\2\3\4", stream + b"\0", b"\xff" * 400):
        forged = container.dump(Container(parsed.header, parsed.chunks, [[other]]))
        with pytest.raises(BitstreamError):
            decode(forged)


def test_file_for_another_model(small: bytes) -> None:
    with pytest.raises(UnsupportedModelError, match=r"model 'nic-9' is not installed"):
        decode(changed(small, model="nic-9"))
    with pytest.raises(UnsupportedModelError, match=r"of hash 00010203"):
        decode(changed(small, model_hash=b"\0\1\2\3"))


@pytest.mark.parametrize(
    "fields", [{"width_index": 6}, {"width_index": 0}, {"layer_ends": (9,)}, {"layer_ends": (32,)}]
)
def test_file_that_its_model_cannot_have_made(small: bytes, fields: dict[str, object]) -> None:
    with pytest.raises(BitstreamError, match="header: width"):
        decode(changed(small, **fields))


# ---------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "quality", [-0.01, 1.01, 1.99, 101, -1, float("nan"), float("inf"), True, "0.5", None]
)
def test_bad_quality_before_anything(quality: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "load", None)
    with pytest.raises(ValueError, match="quality"):
        encode(picture(16, 16), quality=quality)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((8, 8, 3), np.float32),
        ((8, 8, 3), np.uint16),
        ((8, 8), np.int8),
        ((8,), np.uint8),
        ((8, 8, 5), np.uint8),
        ((2, 8, 8, 3), np.uint8),
    ],
)
def test_bad_pixels_before_anything(
    shape: tuple[int, ...], dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "load", None)
    with pytest.raises(ValueError, match="pixels"):
        encode(np.zeros(shape, dtype))


@pytest.mark.parametrize("shape", [(0, 8, 3), (8, 0), (0, 0, 4)])
def test_no_pixels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        encode(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers must be a whole number from 1, not 0"),
        ({"layers": 9}, "layers must be a whole number from 1 to 8, not 9"),
        ({"layers": -1}, "layers"),
        ({"layers": 7, "network_width": 2}, "layers must be a whole number from 1 to 6, not 7"),
        ({"network_width": 0}, "network_width must be a whole number from 1, not 0"),
        ({"network_width": 5}, "network_width must be a whole number from 1 to 4, not 5"),
        ({"device": "quantum"}, "unknown device 'quantum'"),
    ],
)
def test_bad_options_before_any_network_runs(
    options: dict[str, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "_analyse", None)
    with pytest.raises(ValueError, match=message):
        encode(picture(16, 16), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"layers": 2.5}, {"layers": "2"}, {"network_width": 1.5}])
def test_options_of_another_type(options: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode(picture(16, 16), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("layers", [0, -1, 2, 99])
def test_layers_that_the_file_does_not_have(small: bytes, layers: int) -> None:
    with pytest.raises(ValueError, match="layers"):
        decode(small, layers=layers)


def test_decoding_on_a_device_that_is_not_there(small: bytes) -> None:
    with pytest.raises(ValueError, match="unknown device 'quantum'"):
        decode(small, device="quantum")


def test_fifteen_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "TILE_LOG2", 9)
    rows, columns = np.mgrid[:1500, :2500]
    planes = rows * 255 // 1499, columns * 255 // 2499, (rows + columns) // 32 % 256
    pixels = np.stack(planes, 2).astype(np.uint8)
    data = encode(pixels, quality=0.2, network_width=1, graphics="never")
    assert container.parse(data).header.tiles == 15
    decoded = decode(data)
    assert decoded.shape == pixels.shape
    assert psnr(pixels, decoded) > 20
