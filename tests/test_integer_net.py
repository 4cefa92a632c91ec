"""The integer hyper-synthesis: close to the float one, exact, and refused when it would not be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController
from tiny_model import CONFIG, integer_arrays, random_network

from pillow_nic.errors import WeightsError
from pillow_nic.integer_net import (
    ACTIVATION_MAX,
    EXACT,
    INPUT_MAX,
    LOG_MAX,
    OFFSET_MAX,
    Array,
    IntegerConv,
    IntegerHyperSynthesis,
    interpolate,
)
from pillow_nic.network import Network
from pillow_nic.training.quantise import fixed_log2

NETWORK = random_network(spread=1.0)
POINTS = (0, 1, 9999, 21845, 40000, 65535)


@pytest.fixture
def arrays() -> dict[str, Array]:
    return {k: v.copy() for k, v in integer_arrays(NETWORK).items()}


@pytest.fixture(scope="module")
def integer_net() -> IntegerHyperSynthesis:
    return IntegerHyperSynthesis(integer_arrays(NETWORK))


def random_symbols(seed: int = 0, reach: float = 12, shape: tuple[int, int] = (5, 4)) -> Array:
    random = np.random.default_rng(seed)
    return np.rint(random.normal(0, reach, (CONFIG.hyper_channels, *shape))).astype(np.int32)


# -------------------------------------------------------------------------------------- against the float net


def float_rows(symbols: Array, rate_point: int, delta: int) -> tuple[Array, Array]:
    """Row and column before rounding, from the float network that the integers were made of."""
    point = torch.tensor([rate_point * (CONFIG.rate_points - 1) / 65536])
    inverse = torch.exp2(NETWORK.hyper_gain(point)[1])[:, :, None, None]
    scale, skew = NETWORK.h_s(torch.from_numpy(symbols).float()[None] * inverse)
    gain = NETWORK.gain(point)[0][:, :, None, None]
    rows = (scale + gain - delta / 8 - np.log2(0.12)) * 4
    return rows[0].clamp(0, 47).numpy(), (skew * 4 + 3)[0].clamp(0, 6).numpy()


@pytest.mark.parametrize("rate_point", POINTS)
@pytest.mark.parametrize("delta", [0, -8, 5])
def test_rows_are_those_of_the_float_network(
    integer_net: IntegerHyperSynthesis, rate_point: int, delta: int
) -> None:
    symbols = random_symbols(rate_point)
    indices = integer_net.table_indices(symbols, rate_point, delta, CONFIG.latent_channels).astype(int)
    rows, columns = float_rows(symbols, rate_point, delta)
    assert indices.shape == rows.shape == (CONFIG.latent_channels, 20, 16)
    assert indices.min() >= 0
    assert indices.max() < 48 * 7
    for integer, exact in ((indices // 7, rows), (indices % 7, columns)):
        assert len(np.unique(integer)) > 4  # the comparison says something
        error = np.abs(integer - exact)
        # Rounding to a row is 0.5 at most; the steps of the input and of the activations add a little.
        assert error.max() < 0.5 + 0.25
        assert error.mean() < 0.25 + 0.02
        assert (np.rint(exact) == integer).mean() > 0.93


def test_a_narrow_width_asks_for_the_first_channels(integer_net: IntegerHyperSynthesis) -> None:
    symbols = random_symbols(3)
    full = integer_net.table_indices(symbols, 30000, 0, CONFIG.latent_channels)
    for channels in CONFIG.group_ends:
        np.testing.assert_array_equal(integer_net.table_indices(symbols, 30000, 0, channels), full[:channels])


def test_a_step_exponent_moves_every_row_by_the_same(integer_net: IntegerHyperSynthesis) -> None:
    symbols = random_symbols(4)
    rows = [integer_net.table_indices(symbols, 30000, delta, 16).astype(int) // 7 for delta in (0, 4, -6)]
    inner = (rows[0] > 4) & (rows[0] < 43)
    # eighths of an octave of the step, quarters of an octave a row
    np.testing.assert_array_equal(rows[1][inner], rows[0][inner] - 2)
    np.testing.assert_array_equal(rows[2][inner], rows[0][inner] + 3)


# ---------------------------------------------------------------------------------------------- against int64


def floors(layer: IntegerConv, x: Array, offset: Array | float = 0.0) -> Array:
    return layer.floors(layer.prepared(x.astype(np.float32)), x.shape[2], slice(0, x.shape[1]), offset=offset)


def int64_floors(layer: IntegerConv, x: Array, offset: Array | int = 0) -> Array:
    """(W·x + b + offset) >> s in plain integers, tap by tap."""
    x = x.astype(np.int64)
    channels, height, width = x.shape
    k, margin = layer.kernel, layer.kernel // 2
    weight = layer.weight.astype(np.int64).reshape(-1, channels, k, k)
    padded = np.zeros((channels, height + 2 * margin, width + 2 * margin), np.int64)
    padded[:, margin : margin + height, margin : margin + width] = x
    sums = np.zeros((len(weight), height, width), np.int64)
    for row in range(k):
        for column in range(k):
            window = padded[:, row : row + height, column : column + width]
            sums += np.einsum("oc,chw->ohw", weight[:, :, row, column], window)
    sums += (layer.bias.astype(np.int64) + offset)[:, None, None]
    return sums >> layer.shift.astype(np.int64)[:, None, None]


def int64_conv(layer: IntegerConv, x: Array) -> Array:
    """One layer in plain integers."""
    y = np.clip(int64_floors(layer, x), 0, ACTIVATION_MAX)
    if not layer.shuffle:
        return y
    _, height, width = y.shape
    shuffled = np.empty((len(y) // 4, 2 * height, 2 * width), np.int64)
    for c in range(len(shuffled)):
        for i in range(4):
            shuffled[c, i // 2 :: 2, i % 2 :: 2] = y[4 * c + i]
    return shuffled


def int64_table_indices(net: IntegerHyperSynthesis, symbols: Array, rate_point: int, delta: int) -> Array:
    x = net.hyper_input(symbols, rate_point).astype(np.int64)
    *others, head = net.layers
    for layer in others:
        x = int64_conv(layer, x)
    channels = len(head.bias) // 2
    offset = interpolate(net.gain, rate_point) - 8 * delta - net.scale_zero  # 1/64 octaves
    shift = head.shift[:channels].astype(np.int64)
    offsets = np.concatenate([offset << (shift - net.scale_log2), np.zeros(channels, np.int64)])
    y = int64_floors(head, x, offsets)
    return np.clip(y[:channels], 0, 47) * 7 + np.clip(y[channels:] + 3, 0, 6)


@pytest.mark.parametrize("rate_point", POINTS)
@pytest.mark.parametrize("reach", [2, 1e5])
def test_float32_is_exact(integer_net: IntegerHyperSynthesis, rate_point: int, reach: float) -> None:
    symbols = random_symbols(rate_point, reach)
    indices = integer_net.table_indices(symbols, rate_point, -3, CONFIG.latent_channels)
    np.testing.assert_array_equal(indices, int64_table_indices(integer_net, symbols, rate_point, -3))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 5), (5, 1), (3, 3), (7, 4), (4, 7)])
def test_every_layer_is_exact_at_its_bounds(
    integer_net: IntegerHyperSynthesis, shape: tuple[int, int]
) -> None:
    random = np.random.default_rng(5)
    assert {layer.kernel for layer in integer_net.layers} == {1, 3}
    for layer in integer_net.layers:
        channels = layer.weight.shape[1] // layer.kernel**2
        low = 0 if layer is not integer_net.layers[0] else -layer.input_max
        for x in (
            random.integers(low, layer.input_max + 1, (channels, *shape)),
            random.choice([low, layer.input_max], (channels, *shape)),
            np.full((channels, *shape), layer.input_max),
        ):
            np.testing.assert_array_equal(floors(layer, x), int64_floors(layer, x))
            np.testing.assert_array_equal(layer(x.astype(np.float32)), int64_conv(layer, x))


def test_sums_at_the_edge_of_the_exact_range() -> None:
    # 864 odd products and a sum just below 2**24: a float32 that had to round anything would show it.
    random = np.random.default_rng(6)
    weight = np.full((4, 96 * 9), 37, np.int16)
    weight[1] *= random.choice([-1, 1], 96 * 9).astype(np.int16)
    weight[3] *= -1
    bias = np.array([EXACT - 1 - 37 * 511 * 96 * 9] * 4, np.int32)
    bias[3] *= -1
    layer = IntegerConv(weight, bias, np.array([1, 1, 13, 1], np.int32), 3, 511, False)
    layer.check("edge")
    assert layer.worst_sum() == EXACT - 1
    for x in (np.full((96, 5, 5), 511), random.choice([-511, 511, 509], (96, 5, 5))):
        np.testing.assert_array_equal(floors(layer, x), int64_floors(layer, x))
    with pytest.raises(WeightsError, match="edge: a partial sum may reach 16777216"):
        replace(layer, bias=bias + 1).check("edge")


@pytest.mark.parametrize("sign", [-1, 1])
def test_offsets_at_the_edge_of_the_exact_range(sign: int) -> None:
    # What the head adds to its outputs counts as well: up to so many rows, in steps of 1/16 of one.
    most = (OFFSET_MAX >> 4) + 1
    weight = np.full((2, 96), 201 * sign, np.int16)
    edge = EXACT - 1 - 201 * 511 * 96 - (most << 10)
    layer = IntegerConv(
        weight, np.array([edge, 0], np.int32) * sign, np.array([10, 5], np.int32), 1, 511, False
    )
    layer.check("head", most)
    assert layer.worst_sum(most) == EXACT - 1
    for sixteenths in (16 * most, 16 * most - 1, 7):
        for x in (np.full((96, 3, 1), 511), np.random.default_rng(7).integers(0, 512, (96, 3, 1))):
            offset = np.full((2, 1), sign * sixteenths / 16)
            expected = int64_floors(layer, x, sign * (sixteenths << (layer.shift.astype(np.int64) - 4)))
            np.testing.assert_array_equal(floors(layer, x, offset), expected)
    with pytest.raises(WeightsError, match="head: a partial sum may reach"):
        layer.check("head", most + 1)


@pytest.mark.parametrize("gain", [-LOG_MAX, LOG_MAX])
@pytest.mark.parametrize("delta", [-128, 127])
@pytest.mark.parametrize("scale_zero", [-LOG_MAX, LOG_MAX])
def test_offsets_at_the_extremes_of_gain_and_step(
    arrays: dict[str, Array], gain: int, delta: int, scale_zero: int
) -> None:
    arrays["gain"][:, ::2] = gain
    arrays["gain"][:, 1::2] += 3
    arrays["tables"][3] = scale_zero
    net, symbols = IntegerHyperSynthesis(arrays), random_symbols(3)
    indices = net.table_indices(symbols, 30000, delta, CONFIG.latent_channels)
    np.testing.assert_array_equal(indices, int64_table_indices(net, symbols, 30000, delta))
    assert len(np.unique(indices % 7)) == 7  # no offset has reached the columns


def test_export_uses_the_exact_bits(integer_net: IntegerHyperSynthesis) -> None:
    """As far as a power of two goes, unless the weights' own 15 bits are fewer."""
    assert max(integer_net.bits_used()) < 24
    for layer in integer_net.layers:
        offset = (OFFSET_MAX >> integer_net.scale_log2) + 1 if layer is integer_net.layers[-1] else 0
        for output in range(len(layer.bias)):
            one = slice(output, output + 1)
            alone = replace(layer, weight=layer.weight[one], bias=layer.bias[one], shift=layer.shift[one])
            assert alone.worst_sum(offset) > 0.45 * EXACT or np.abs(alone.weight).max() > 16000


def scaled_network(factor: float) -> Network:
    """With large weights and biases and an output that is always zero in the first layers."""
    network = random_network(spread=1.5)
    with torch.no_grad():
        network.h_s.conv1.weight.mul_(factor)
        network.h_s.conv2.bias.fill_(1e3)
        for parameter in network.h_s.up1.parameters():
            parameter[3].zero_()
    return network


def test_large_weights_can_be_exported() -> None:
    net = IntegerHyperSynthesis(integer_arrays(scaled_network(30)))
    symbols = random_symbols(1)
    np.testing.assert_array_equal(
        net.table_indices(symbols, 12345, 0, CONFIG.latent_channels),
        int64_table_indices(net, symbols, 12345, 0),
    )


def test_weights_that_are_too_large_are_not_exported() -> None:
    with pytest.raises(WeightsError, match="layer 0: weights are too large"):
        integer_arrays(scaled_network(1e3))
    network = random_network()
    with torch.no_grad():
        network.h_s.conv1.weight[2, 3, 1, 1] = 6000  # 16 bits would hold a part of it
    with pytest.raises(WeightsError, match="layer 0: weights are too large"):
        integer_arrays(network)
    with torch.no_grad():
        network.h_s.conv1.weight[2, 3, 1, 1] = 0
        network.h_s.head.weight[1, 1] = 1e5
    with pytest.raises(WeightsError, match="layer 5: weights are too large"):
        integer_arrays(network)


# ------------------------------------------------------------------------------------------- malformed arrays


def set_to(name: str, index: Any, value: Any) -> Callable[[dict[str, Array]], None]:
    def change(arrays: dict[str, Array]) -> None:
        arrays[name][index] = value

    return change


def retype(name: str, dtype: type) -> Callable[[dict[str, Array]], None]:
    def change(arrays: dict[str, Array]) -> None:
        arrays[name] = arrays[name].astype(dtype)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to("2.weight", 0, 32767), "layer 2: a partial sum may reach"),
        (set_to("0.bias", 1, EXACT), "layer 0: a partial sum may reach"),
        (set_to("5.bias", 1, -(2**31)), "layer 5: a partial sum may reach"),
        (set_to("1.geometry", 1, 1 << 20), "layer 1: a partial sum may reach"),
        (set_to("4.shift", 0, 0), "layer 4: a shift"),
        (set_to("4.shift", 1, 25), "layer 4: a shift"),
        (set_to("5.shift", 1, 3), "layer 5: shifts do not leave room for the gains"),
        (set_to("5.shift", 0, 24), "layer 5: a partial sum may reach"),
        (set_to("gain", (0, 0), LOG_MAX + 1), "gain"),
        (set_to("hyper_inverse", (1, 2), -LOG_MAX - 1), "gain"),
        (set_to("exp2", 3, 1 << 15), "2\\*\\*"),
        (set_to("exp2", 0, (1 << 14) - 1), "2\\*\\*"),
        (lambda a: a.update(exp2=a["exp2"][:-1]), "2\\*\\*"),
        (retype("0.weight", np.int32), "layer 0: no int16 weights"),
        (retype("0.weight", np.float32), "layer 0: no int16 weights"),
        (retype("0.bias", np.int64), "layer 0: bias and shift are not int32"),
        (retype("2.shift", np.int16), "layer 2: bias and shift are not int32"),
        (set_to("2.geometry", 0, 5), "layer 2: no int16 weights of a 1×1 or 3×3 kernel"),
        (set_to("5.geometry", 2, 1), "the last layer must be a 1×1 convolution without a shuffle"),
        (lambda a: a.update({"1.geometry": a["1.geometry"][:2]}), "not enough values to unpack"),
        (lambda a: a.update({"0.weight": a["0.weight"][:, :-1]}), "layer 0: weights are not for"),
        (lambda a: a.update({"0.weight": a["0.weight"].ravel()}), "integer network"),
        (lambda a: a.update(tables=a["tables"][:3]), "integer network"),
        (lambda a: a.update(layers=np.array([7], np.int32)), "6.weight"),
    ],
)
def test_what_would_not_be_exact_is_refused(
    arrays: dict[str, Array], change: Callable[[dict[str, Array]], None], message: str
) -> None:
    change(arrays)
    with pytest.raises(WeightsError, match=message):
        IntegerHyperSynthesis(arrays)


def names() -> list[str]:
    return sorted(integer_arrays(NETWORK))


@pytest.mark.parametrize("name", names())
def test_a_missing_array_is_named(arrays: dict[str, Array], name: str) -> None:
    del arrays[name]
    with pytest.raises(WeightsError, match=name.split(".")[-1]):
        IntegerHyperSynthesis(arrays)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(set_to("gain", (0, 0), -(2**15)), id="a gain whose magnitude int16 cannot hold"),
        pytest.param(set_to("2.geometry", 1, 100), id="activations beyond the next layer's bound"),
        pytest.param(set_to("0.geometry", 1, 100), id="input beyond the first layer's bound"),
        pytest.param(set_to("1.geometry", 0, 0), id="kernel of side 0"),
        pytest.param(set_to("tables", 0, 0), id="no rows"),
        pytest.param(set_to("tables", 1, 0), id="no columns"),
        pytest.param(set_to("tables", 2, -1), id="a row of less than a step"),
        pytest.param(set_to("tables", 2, 7), id="a row of more than an octave"),
        pytest.param(set_to("tables", 3, LOG_MAX + 1), id="row 0 beyond the logarithms"),
        pytest.param(lambda a: a.update(layers=np.array([0], np.int32)), id="no layers"),
        pytest.param(lambda a: a.update({"1.bias": a["1.bias"][:-1]}), id="bias too short"),
        pytest.param(lambda a: a.update({"2.shift": a["2.shift"][:1]}), id="one shift for all"),
        pytest.param(lambda a: a.update({"1.weight": a["1.weight"][:, :-1]}), id="channels that do not fit"),
        pytest.param(lambda a: a.update(gain=a["gain"][:1]), id="one rate point"),
        pytest.param(lambda a: a.update(gain=a["gain"][:, :-1]), id="gains for too few channels"),
        pytest.param(lambda a: a.update(gain=a["gain"][:, :0]), id="no gains"),
        pytest.param(retype("gain", np.float32), id="gains in float"),
        pytest.param(
            lambda a: a.update(hyper_inverse=a["hyper_inverse"][:, :-1]), id="too few inverse gains"
        ),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(
    arrays: dict[str, Array], change: Callable[[dict[str, Array]], None]
) -> None:
    change(arrays)
    with pytest.raises(WeightsError):
        IntegerHyperSynthesis(arrays)


# --------------------------------------------------------------------------------------------- the rate point


def test_interpolation_by_example() -> None:
    table = np.array([[0, -640, 7], [64, 640, 8], [128, -640, -2048]], np.int16)
    assert interpolate(table, 0).tolist() == [0, -640, 7]
    assert interpolate(table, 1 << 15).tolist() == [64, 640, 8]
    assert interpolate(table, 1 << 14).tolist() == [32, 0, 8]  # 7.5: halves round up
    assert interpolate(table, 3 << 14).tolist() == [96, 0, -1020]
    assert interpolate(table, 1 << 13).tolist() == [16, -320, 7]
    # the last rate point lies half a step of 2**-15 before the end
    assert interpolate(table, 65535).tolist() == [128, -640, -2048]
    assert interpolate(np.array([[-3], [-4]], np.int16), 1 << 15).tolist() == [-3]  # −3.5


@given(st.lists(st.integers(-LOG_MAX, LOG_MAX), min_size=2, max_size=9), st.integers(0, 65535))
def test_interpolation_is_exact_rational_arithmetic(column: list[int], rate_point: int) -> None:
    point = Fraction(rate_point * (len(column) - 1), 65536)
    low = floor(point)
    exact = column[low] + (column[low + 1] - column[low]) * (point - low)
    got = interpolate(np.array(column, np.int16)[:, None], rate_point)
    assert got.tolist() == [floor(exact + Fraction(1, 2))]


def test_fixed_log2() -> None:
    assert fixed_log2(np.array([0, 1, -0.5, 1 / 64, 0.3, 99, -99])).tolist() == [
        0,
        64,
        -32,
        1,
        19,
        2048,
        -2048,
    ]


# ------------------------------------------------------------------------------------------ the input's gains


def with_inverse(exponents: list[int]) -> IntegerHyperSynthesis:
    """A network with one rate-point-independent inverse gain per hyper-latent channel, in 1/64 octaves."""
    net = IntegerHyperSynthesis(integer_arrays(NETWORK))
    net.hyper_inverse = np.array([exponents] * 2, np.int16)
    return net


def exact_input(net: IntegerHyperSynthesis, symbol: int, exponent: int) -> int:
    gain = Fraction(int(net.exp2[exponent % 64]), 1 << 14) * Fraction(2) ** (exponent // 64)
    rounded = floor(symbol * gain * 8 + Fraction(1, 2))
    return max(-INPUT_MAX, min(INPUT_MAX, rounded))


@settings(max_examples=300)
@given(
    st.integers(-LOG_MAX, LOG_MAX) | st.integers(-256, 256),
    st.lists(st.integers(-(1 << 20), 1 << 20) | st.integers(-40, 40), min_size=1, max_size=8),
    st.integers(0, 65535),
)
def test_hyper_input_is_exact_rational_arithmetic(exponent: int, symbols: list[int], rate_point: int) -> None:
    net = with_inverse([exponent])
    got = net.hyper_input(np.array([[symbols]], np.int32), rate_point)
    assert got.dtype == np.float32
    assert got.ravel().tolist() == [exact_input(net, s, exponent) for s in symbols]


def test_hyper_input_by_example() -> None:
    net = with_inverse([0, 64, -64, -192, -256, 32])
    symbols = np.array([[[-64, -63, -3, -1, 0, 1, 3, 63, 64]]] * 6)
    assert net.hyper_input(symbols, 31000)[:, 0].tolist() == [
        [-511, -504, -24, -8, 0, 8, 24, 504, 511],
        [-511, -511, -48, -16, 0, 16, 48, 511, 511],
        [-256, -252, -12, -4, 0, 4, 12, 252, 256],
        [-64, -63, -3, -1, 0, 1, 3, 63, 64],
        [-32, -31, -1, 0, 0, 1, 2, 32, 32],  # halves round up
        [-511, -511, -34, -11, 0, 11, 34, 511, 511],
    ]


@pytest.mark.parametrize("exponent", [LOG_MAX, LOG_MAX - 1, 704, 705, 703, 640, -LOG_MAX, -LOG_MAX + 1])
def test_hyper_input_at_extreme_gains(exponent: int) -> None:
    net = with_inverse([exponent])
    symbols = [-(1 << 20), -1, 0, 1, 1 << 20]
    got = net.hyper_input(np.array([[symbols]]), 65535).ravel().tolist()
    assert got == [exact_input(net, s, exponent) for s in symbols]
    assert got == ([-511, -511, 0, 511, 511] if exponent > 0 else [0, 0, 0, 0, 0])


def test_powers_of_two_are_right(integer_net: IntegerHyperSynthesis) -> None:
    np.testing.assert_allclose(integer_net.exp2 / 2**14, 2 ** (np.arange(64) / 64), rtol=2**-15)


# ----------------------------------------------------------------------------------------------- independence


@pytest.fixture
def _hostile_torch() -> Iterator[None]:
    """Settings that make torch's own results coarser or another type."""
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.set_flush_denormal(True)
    yield
    torch.set_default_dtype(dtype)
    torch.set_float32_matmul_precision(precision)
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("_hostile_torch")
def test_what_is_set_in_torch_changes_nothing(integer_net: IntegerHyperSynthesis) -> None:
    symbols = random_symbols(8)
    expected = int64_table_indices(integer_net, symbols, 50000, 2)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), torch.device("meta"):
        indices = integer_net.table_indices(symbols, 50000, 2, CONFIG.latent_channels)
    np.testing.assert_array_equal(indices, expected)


def test_numpy_keeps_its_threads(integer_net: IntegerHyperSynthesis, monkeypatch: pytest.MonkeyPatch) -> None:
    """One inside, as many as before outside, also after an error and after many threads at once."""
    blas = ThreadpoolController().select(internal_api="openblas")

    def threads() -> list[int]:
        return [library["num_threads"] for library in blas.info() if "numpy" in library["filepath"]]

    before = threads()
    seen: list[list[int]] = []
    inner = IntegerHyperSynthesis._table_indices

    def noting(self: IntegerHyperSynthesis, *arguments: Any) -> Array:
        seen.append(threads())
        return inner(self, *arguments)

    monkeypatch.setattr(IntegerHyperSynthesis, "_table_indices", noting)
    symbols = np.zeros((CONFIG.hyper_channels, 3, 2), np.int32)
    integer_net.table_indices(symbols, 5, 0, 8)
    assert seen == [[1] * len(before)]
    with pytest.raises(ValueError, match="operands"):
        integer_net.table_indices(symbols[:-1], 5, 0, 8)
    assert threads() == before
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(integer_net.table_indices, symbols, 5, 0, 8) for _ in range(40)]
        assert {call.result().shape for call in calls} == {(8, 12, 8)}
        # threadpoolctl 3.8 obeys the thread that asked first for as long as it lives.
        integer_net.table_indices(symbols, 5, 0, 8)
    assert threads() == before
    assert seen == [[1] * len(before)] * 43


@pytest.mark.parametrize(
    "layout", [np.asfortranarray, lambda x: x[:, ::-1][:, ::-1], lambda x: x.astype(np.int64)]
)
def test_memory_layout_of_the_symbols_changes_nothing(
    integer_net: IntegerHyperSynthesis, layout: Callable[[Array], Array]
) -> None:
    symbols = random_symbols(9)
    np.testing.assert_array_equal(
        integer_net.table_indices(layout(symbols), 50000, 2, CONFIG.latent_channels),
        integer_net.table_indices(symbols, 50000, 2, CONFIG.latent_channels),
    )


def test_a_part_of_the_picture_far_away_changes_nothing(integer_net: IntegerHyperSynthesis) -> None:
    # Different shapes take different ways through BLAS; away from the border the indices must be the same.
    symbols = random_symbols(10, shape=(16, 16))
    whole = integer_net.table_indices(symbols, 50000, 0, 32)
    part = integer_net.table_indices(symbols[:, :9, :11], 50000, 0, 32)
    np.testing.assert_array_equal(part[:, :24, :32], whole[:, :24, :32])


def test_module_needs_no_torch() -> None:
    code = "import sys, pillow_nic.integer_net; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_activations_use_nine_bits(integer_net: IntegerHyperSynthesis) -> None:
    x = integer_net.hyper_input(random_symbols(2), 30000)
    for layer in integer_net.layers[:-1]:
        x = layer(x)
        assert x.min() == 0
        assert 100 < x.max() <= ACTIVATION_MAX
