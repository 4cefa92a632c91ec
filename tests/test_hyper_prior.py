"""The hyper-latent's prior: what it predicts, that both sides predict the same, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import whole_photo
from tiny_model import CONFIG, prior_arrays, random_network

from pillow_nic import codec, weights
from pillow_nic.entropy import SymbolReader, SymbolWriter, table_bits
from pillow_nic.entropy_model import two_piece_gaussian_bits
from pillow_nic.entropy_tables import MAX_SYMBOL
from pillow_nic.errors import BitstreamError, WeightsError
from pillow_nic.hyper_prior import FRACTIONS, MEAN_MAX, IntegerHyperPrior, passes
from pillow_nic.integer_net import Array
from pillow_nic.network import LOG2_LEAST
from pillow_nic.options import TUNES, EncodeOptions
from pillow_nic.training import export
from pillow_nic.training.loss import TrainingModel, _hyper_bits

NETWORK = random_network(spread=1.0)
CHANNELS = CONFIG.hyper_channels
ARRAYS = prior_arrays(NETWORK)
PRIOR = IntegerHyperPrior(ARRAYS, CHANNELS)
POINTS = (0, 12345, 40000, 65535)


def noise(height: int, width: int, reach: float = 3.0, seed: int = 1) -> Array:
    random = np.random.default_rng(seed)
    return np.rint(random.normal(0, reach, (CHANNELS, height, width))).astype(np.int32)


def written(symbols: Array, rate_point: int) -> bytes:
    writer = SymbolWriter()
    PRIOR.put(writer, PRIOR.segments(symbols, rate_point))
    return writer.getvalue()


def read(data: bytes, shape: tuple[int, int, int], rate_point: int) -> Array:
    reader = SymbolReader(data)
    symbols = PRIOR.get(reader, shape, rate_point)
    reader.finish()
    return symbols


# --------------------------------------------------------------------------------------------------- passes


def test_passes() -> None:
    order = sum(number * mask for number, mask in enumerate(passes(3, 4), 1))
    assert order.tolist() == [[1, 3, 1, 3], [3, 2, 3, 2], [1, 3, 1, 3]]
    assert [len(passes(*size)) for size in ((1, 1), (1, 2), (2, 1), (2, 2))] == [1, 2, 2, 3]


@given(st.integers(1, 9), st.integers(1, 9))
def test_every_position_is_in_one_pass(height: int, width: int) -> None:
    assert (sum(mask.astype(int) for mask in passes(height, width)) == 1).all()


# ---------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("rate_point", POINTS)
def test_integers_say_what_the_float_network_says(rate_point: int) -> None:
    symbols, known = noise(7, 8), np.random.default_rng(2).random((7, 8)) < 0.5
    indices, whole = PRIOR.predict(symbols, known, rate_point)
    row, mean = indices // FRACTIONS, whole * FRACTIONS + indices % FRACTIONS
    point = torch.tensor([rate_point * (CONFIG.rate_points - 1) / 65536])
    with torch.no_grad():
        mu, log2_scale = NETWORK.hyper_prior(
            torch.from_numpy(symbols)[None].float(), torch.from_numpy(known)[None, None].float(), point
        )
    rows = (4 * (log2_scale[0].double().numpy() - np.log2(0.12))).clip(0, 39)
    assert np.abs(row - rows).max() < 1
    assert np.abs(mean - 8 * mu[0].double().numpy()).max() < 1
    assert len(np.unique(row)) > 3  # it does predict
    assert len(np.unique(mean)) > 20


def test_what_is_not_known_is_not_looked_at() -> None:
    symbols, known = noise(6, 6), passes(6, 6)[0]
    other = np.where(known, symbols, noise(6, 6, 50.0, 3))
    for one, two in zip(PRIOR.predict(symbols, known, 9), PRIOR.predict(other, known, 9), strict=True):
        np.testing.assert_array_equal(one, two)


def test_neighbours_and_the_rate_point_count() -> None:
    known = passes(5, 5)[0]
    first = PRIOR.predict(noise(5, 5), known, 30000)[0]
    assert (first != PRIOR.predict(noise(5, 5, seed=2), known, 30000)[0]).any()
    assert (first != PRIOR.predict(noise(5, 5), known, 60000)[0]).any()


def test_extreme_symbols_stay_within_bounds() -> None:
    symbols = np.resize(np.array([MAX_SYMBOL, -MAX_SYMBOL, 64, -64], np.int32), (CHANNELS, 4, 5))
    indices, whole = PRIOR.predict(symbols, np.ones((4, 5), bool), 65535)
    assert indices.max() < len(PRIOR.tables)
    assert np.abs(whole).max() <= MEAN_MAX // FRACTIONS + 1
    same = PRIOR.predict(np.clip(symbols, -64, 64), np.ones((4, 5), bool), 65535)[0]
    np.testing.assert_array_equal(indices, same)


# --------------------------------------------------------------------------------------------- both sides


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 65535), st.sampled_from([0.0, 0.3, 4.0, 1e4]))
def test_round_trip(height: int, width: int, rate_point: int, reach: float) -> None:
    symbols = noise(height, width, reach)
    np.testing.assert_array_equal(read(written(symbols, rate_point), symbols.shape, rate_point), symbols)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 65535))
def test_any_bytes_end_in_an_error_or_in_symbols(data: bytes, rate_point: int) -> None:
    shape = (CHANNELS, 3, 4)
    try:
        symbols = read(data, shape, rate_point)
    except BitstreamError:
        return
    assert np.abs(symbols).max() <= MAX_SYMBOL + 64
    assert written(symbols, rate_point) == data


# ------------------------------------------------------------------------------------------ what it is worth


@pytest.mark.parametrize("tune", TUNES)
def test_known_neighbours_save_a_tenth(tune: str) -> None:
    """Of the bits of a photograph's last pass, against what they cost if nothing were known."""
    model = weights.load(TUNES[tune], torch.device("cpu"))
    picture, options = whole_photo(), EncodeOptions(0.3, tune=tune)
    header = codec.header_for(model, picture, options)
    (tile,) = codec.symbols_of(model, picture, header, options)
    last = passes(*tile.hyper.shape[1:])[-1]

    def bits(known: Array) -> float:
        indices, whole = model.hyper_prior.predict(tile.hyper, known, header.rate_point)
        return table_bits((tile.hyper - whole)[:, last], indices[:, last], model.hyper_prior.tables)

    assert bits(~last) < 0.9 * bits(np.zeros_like(last))


# -------------------------------------------------------------------------------------------- wrong weights


def with_fewer_tables(arrays: dict[str, Array]) -> None:
    arrays["tables.lows"], arrays["tables.offsets"] = (
        arrays["tables.lows"][:-1],
        arrays["tables.offsets"][:-1],
    )
    arrays["tables.frequencies"] = arrays["tables.frequencies"][: arrays["tables.offsets"][-1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("1.shift"), "1.shift"),
        (lambda a: a.pop("tables.lows"), "lows"),
        (lambda a: a.update(layers=np.array([0], np.int32)), "no layers"),
        (lambda a: a["0.weight"].fill(32767), "partial sum"),
        (lambda a: a["0.geometry"].__setitem__(1, 63), "bounds"),
        (lambda a: a.update({"1.weight": a["1.weight"][:, 1:]}), "weights are not for"),
        (with_fewer_tables, "are not rows of 8"),
    ],
)
def test_wrong_arrays_are_refused(change: Callable[[dict[str, Array]], object], message: str) -> None:
    arrays = {key: value.copy() for key, value in ARRAYS.items()}
    change(arrays)
    with pytest.raises(WeightsError, match=message):
        IntegerHyperPrior(arrays, CHANNELS)


def test_a_prior_for_other_channels_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"weights are not for 9 channels"):
        IntegerHyperPrior(ARRAYS, CHANNELS + 1)


def test_a_silent_table_is_refused() -> None:
    arrays = {key: value.copy() for key, value in ARRAYS.items()}
    offsets = arrays["tables.offsets"]
    size = offsets[1]
    arrays["tables.frequencies"] = arrays["tables.frequencies"][size:]
    arrays["tables.offsets"] = np.concatenate([[0], offsets[1:] - size]).astype(np.int32)
    arrays["tables.lows"][0] = 0
    with pytest.raises(WeightsError, match="are not rows of 8"):
        IntegerHyperPrior(arrays, CHANNELS)


def test_rounded_symbols_count_on_no_narrower_scale_than_the_tables_have() -> None:
    model = TrainingModel(CONFIG)
    model.network = random_network().requires_grad_()
    prior, symbols, point = model.network.hyper_prior, torch.ones(1, CHANNELS, 3, 4), torch.tensor([1.0])
    with torch.no_grad():
        prior.head.weight.zero_()
        prior.head.bias[:CHANNELS] = -500  # log₂ σ
        prior.head.bias[CHANNELS:] = 0.75  # μ
    bits = _hyper_bits(model, symbols, symbols, point)
    z = torch.full_like(symbols, 0.25)
    expected = two_piece_gaussian_bits(z, torch.full_like(z, LOG2_LEAST), torch.zeros_like(z)).sum()
    torch.testing.assert_close(bits, expected[None])
    (gradient,) = torch.autograd.grad(bits.sum(), prior.head.bias)
    assert (gradient[:CHANNELS] > 0).all()
    assert abs(LOG2_LEAST - np.log2(export.SIGMA_MIN)) < 0.1
    noisy = _hyper_bits(model, symbols - 0.25, symbols, point)  # as in training
    (gradient,) = torch.autograd.grad(noisy.sum(), prior.head.bias)
    assert noisy < 0.01
    assert gradient.isfinite().all()
