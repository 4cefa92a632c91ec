"""Entropy coding: exact bytes, round trips, hostile streams, and the integer tables behind them."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import constriction
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from pillow_nic import entropy
from pillow_nic.entropy import SymbolReader, SymbolWriter, table_bits
from pillow_nic.entropy_tables import MAX_SYMBOL, TOTAL, Table, Tables
from pillow_nic.errors import BitstreamError, WeightsError
from pillow_nic.training.tables import gaussian_pmf, gaussian_tables, table_from_pmf

Segment = tuple[np.ndarray, np.ndarray, Tables]


def by_hand(*tables: tuple[list[int], int]) -> Tables:
    return Tables.join([Table(np.array(f, np.uint16), lo) for f, lo in tables])


# silent, peaked, flat, away from 0
HAND = by_hand(([], 0), ([36, 500, 64000, 1000], 1), ([16] + [1365] * 48, 24), ([1, 40000, 25535], -5))
GAUSSIAN = gaussian_tables(48, 7)


def write(*segments: Segment) -> bytes:
    writer = SymbolWriter()
    for segment in segments:
        writer.put(*segment)
    return writer.getvalue()


def read(data: bytes, *segments: tuple[np.ndarray, Tables]) -> list[np.ndarray]:
    reader = SymbolReader(data)
    symbols = [reader.get(indices, tables) for indices, tables in segments]
    reader.finish()
    return symbols


def example() -> Segment:
    """48 symbols of all four tables, with an escape to either side; plain arithmetic, the same for ever."""
    i = np.arange(48)
    indices = (i * 7 // 3 % 4).astype(np.uint16)
    symbols = np.choose(indices, [0 * i, i % 3 - 1, i - 24, 5 + i % 2]).astype(np.int32)
    symbols[np.flatnonzero(indices == 1)[2]] = -300
    symbols[np.flatnonzero(indices == 2)[1]] = 25
    return symbols, indices, HAND


def random_segment(count: int, seed: int, tables: Tables = GAUSSIAN) -> Segment:
    """Symbols drawn from the tables themselves; what the escape's share draws is put just outside."""
    random = np.random.default_rng(seed)
    rows = np.minimum(np.abs(random.normal(0, 12, count)), 47).astype(int)
    indices = (rows * 7 + random.integers(0, 7, count)).astype(np.uint16) % len(tables)
    symbols = np.zeros(count, np.int32)
    for number in np.unique(indices):
        frequencies, lo = tables.table(number)
        if frequencies.size:
            where = np.flatnonzero(indices == number)
            quantiles = random.integers(0, TOTAL, where.size)
            symbols[where] = np.searchsorted(np.cumsum(frequencies), quantiles, side="right") - 1 - lo
    return symbols, indices, tables


# ---- the format


def reference_decode(data: bytes, indices: list[int], tables: Tables) -> list[int]:
    """One segment by the module docstring alone, in Python's own integers."""
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    state = 0
    while words and state < 1 << 32:
        state = state << 32 | words.pop()

    def pop(starts: list[int]) -> int:
        nonlocal state
        quantile = state & 0xFFFFFF
        code = max(i for i, start in enumerate(starts) if start <= quantile)
        width = [*starts, 1 << 24][code + 1] - starts[code]
        state = (state >> 24) * width + quantile - starts[code]
        if state < 1 << 32 and words:
            state = state << 32 | words.pop()
        return code

    def uniform(size: int) -> int:
        return pop([(1 << 24) // size * i for i in range(size)])

    order = sorted((i for i in range(len(indices)) if tables.sizes[indices[i]]), key=lambda i: indices[i])
    codes = {}
    for i in order:
        frequencies = tables.table(indices[i]).frequencies.tolist()
        n = len(frequencies)
        codes[i] = pop([sum(frequencies[:k]) * ((1 << 24) - n) // 65536 + k for k in range(n)])
    symbols = [0] * len(indices)
    for i in order:
        symbols[i] = codes[i] - 1 - tables.table(indices[i]).lo
    escaped = [i for i in order if codes[i] == 0]
    exponents = [23 - uniform(24) for _ in escaped]
    for i, exponent in zip(escaped, exponents, strict=True):
        u = (1 << exponent) + (uniform(1 << exponent) if exponent else 0)
        frequencies, lo = tables.table(indices[i])
        distance, below = divmod(u - 1, 2)
        symbols[i] = -lo - 1 - distance if below else frequencies.size - 1 - lo + distance
    assert (state, words) == (0, [])
    return symbols


def test_exact_bytes() -> None:
    assert write(example()).hex() == "e415ec5a9c296f25c90f00d509fc0fedc3e24fabc7a5ea02"


def test_the_docstring_suffices_to_decode() -> None:
    symbols, indices, tables = example()
    assert reference_decode(write(example()), indices.tolist(), tables) == symbols.tolist()
    symbols, indices, tables = random_segment(300, seed=5)
    symbols[::50] += 3000 * np.sign(symbols[::50])
    assert reference_decode(write((symbols, indices, tables)), indices.tolist(), tables) == symbols.tolist()


@pytest.mark.parametrize("tables", [HAND, GAUSSIAN], ids=["hand", "gaussian"])
def test_model_integers(tables: Tables) -> None:
    """In an empty coder one symbol leaves its start as the state: so the coder's integers can be read."""
    for number in np.flatnonzero(tables.sizes)[::5]:
        frequencies = tables.table(number).frequencies.astype(np.int64)
        n = frequencies.size
        starts = (np.cumsum(frequencies) - frequencies) * (2**24 - n) // TOTAL + np.arange(n)
        for code in {0, 1, n // 2, n - 1}:
            coder = constriction.stream.stack.AnsCoder()
            coder.encode_reverse(code, entropy._model(tables, int(number)))
            assert coder.pos() == (0, starts[code])


def test_nothing_takes_no_bytes() -> None:
    nothing = np.zeros(0, np.int32)
    silence = np.zeros((2, 5), np.uint16)
    assert write() == b""
    assert write((nothing, nothing, HAND), (silence.astype(np.int32), silence, HAND)) == b""
    first, second = read(b"", (nothing, HAND), (silence, HAND))
    assert first.shape == (0,)
    assert second.shape == (2, 5)
    assert not second.any()


def test_one_symbol_takes_three_bytes() -> None:
    assert len(write((np.array([0]), np.array([1]), HAND))) <= 3


# ---- round trips


@st.composite
def messages(draw: st.DrawFn) -> list[Segment]:
    segments = []
    for _ in range(draw(st.integers(0, 4))):
        tables = draw(st.sampled_from([HAND, GAUSSIAN]))
        indices = draw(st.lists(st.integers(0, len(tables) - 1), max_size=60))
        values = st.one_of(st.integers(-3, 3), st.integers(-100, 100), st.integers(-MAX_SYMBOL, MAX_SYMBOL))
        symbols = [draw(values) if tables.sizes[i] else 0 for i in indices]
        kind = draw(st.sampled_from([np.uint16, np.int32, np.int64]))
        segments.append((np.array(symbols, np.int32), np.array(indices, kind), tables))
    return segments


@given(messages())
@settings(deadline=None)
def test_round_trip(segments: list[Segment]) -> None:
    data = write(*segments)
    decoded = read(data, *(segment[1:] for segment in segments))
    for (symbols, _, _), got in zip(segments, decoded, strict=True):
        assert got.dtype == np.int32
        assert np.array_equal(got, symbols)
    ideal = sum(table_bits(*segment) for segment in segments)
    # from below: the first symbol of an empty coder may cost less than its share, never by more than 24 bits
    assert ideal * 0.997 - 24 <= 8 * len(data) <= ideal * 1.003 + 64


def test_later_tables_may_depend_on_earlier_symbols() -> None:
    symbols, indices, _ = random_segment(2000, seed=1)
    dependent = np.where(symbols > 0, 1, 2)
    writer = SymbolWriter()
    writer.put(symbols, indices, GAUSSIAN)
    writer.put(np.sign(symbols), dependent, HAND)
    reader = SymbolReader(writer.getvalue())
    first = reader.get(indices, GAUSSIAN)
    second = reader.get(np.where(first > 0, 1, 2), HAND)
    reader.finish()
    assert np.array_equal(first, symbols)
    assert np.array_equal(second, np.sign(symbols))


def test_shape_and_strides() -> None:
    symbols, indices, tables = random_segment(4 * 6 * 10, seed=2)
    symbols, indices = symbols.reshape(4, 6, 10), indices.reshape(4, 6, 10)
    for s, i in ((symbols, indices), (symbols[:, ::2].T, indices[:, ::2].T)):
        (got,) = read(write((s, i, tables)), (i, tables))
        assert np.array_equal(got, s)


def test_writer_keeps_no_reference_to_its_input() -> None:
    symbols, indices, tables = random_segment(1000, seed=3)
    writer = SymbolWriter()
    writer.put(symbols, indices, tables)
    expected = write((symbols, indices, tables))
    symbols[:], indices[:] = 0, 0
    assert writer.getvalue() == expected == writer.getvalue()


def test_length_is_the_ideal_one() -> None:
    segment = random_segment(100_000, seed=4)
    assert 8 * len(write(segment)) == pytest.approx(table_bits(*segment), rel=0.003, abs=64)


def test_table_bits_by_hand() -> None:
    bits = table_bits(np.array([0, 0, 1, -5, -24]), np.array([0, 1, 1, 1, 2]), HAND)
    escape = np.log2(65536 / 36) + np.log2(24) + 3  # three symbols below −1 is u = 2·3 + 1 + 1 = 8
    assert bits == pytest.approx(np.log2([65536 / 64000, 65536 / 1000, 65536 / 1365]).sum() + escape)


def test_largest_escapes() -> None:
    extremes = np.array([MAX_SYMBOL, -MAX_SYMBOL] * 2)
    indices = np.array([1, 1, 3, 3])
    (got,) = read(write((extremes, indices, HAND)), (indices, HAND))
    assert np.array_equal(got, extremes)
    far = by_hand(([65535, 1], MAX_SYMBOL), ([65535, 1], -MAX_SYMBOL))
    indices = np.array([0, 1])
    (got,) = read(write((extremes[:2], indices, far)), (indices, far))
    assert np.array_equal(got, extremes[:2])


@pytest.mark.parametrize(
    ("symbols", "indices", "message"),
    [
        ([0, 0], [1], "with"),
        ([0.0], [1], "integers"),
        ([0], [1.0], "integers"),
        ([0], [4], "0 … 3"),
        ([0], [-1], "0 … 3"),
        ([1], [0], "codes nothing"),
        ([MAX_SYMBOL + 1], [1], "within"),
        ([-MAX_SYMBOL - 1], [1], "within"),
        ([1 << 40], [1], "within"),
    ],
)
def test_wrong_arguments(symbols: list[Any], indices: list[Any], message: str) -> None:
    writer = SymbolWriter()
    with pytest.raises(ValueError, match=message):
        writer.put(np.array(symbols), np.array(indices), HAND)
    with pytest.raises(ValueError, match=message):
        table_bits(np.array(symbols), np.array(indices), HAND)
    assert writer.getvalue() == b""


# ---- hostile streams


def assert_canonical(data: bytes, *segments: tuple[np.ndarray, Tables]) -> bool:
    """Reading fails, or gives just what the writer makes these very bytes of; True if it failed."""
    try:
        decoded = read(data, *segments)
    except BitstreamError:
        return True
    assert write(*((s, *rest) for s, rest in zip(decoded, segments, strict=True))) == data
    return False


def test_every_flipped_bit() -> None:
    symbols, indices, tables = example()
    data = write((symbols, indices, tables))
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert_canonical(bytes(damaged), (indices, tables))


def test_every_truncation_is_an_error() -> None:
    for segment in (example(), random_segment(400, seed=6)):
        data = write(segment)
        for length in range(len(data)):
            with pytest.raises(BitstreamError):
                read(data[:length], segment[1:])


@pytest.mark.parametrize("extra", [b"\0", b"\0\0\0\0", b"\1", b"abcdefgh"])
def test_more_bytes_than_symbols(extra: bytes) -> None:
    segment = example()
    with pytest.raises(BitstreamError):
        read(write(segment) + extra, segment[1:])


@given(st.binary(max_size=40), st.lists(st.integers(0, 3), max_size=30))
@settings(deadline=None)
def test_any_bytes(data: bytes, indices: list[int]) -> None:
    assert_canonical(data, (np.array(indices, np.uint16), HAND), (np.array(indices, np.uint16), HAND))


@given(st.binary(min_size=1, max_size=16).filter(lambda data: data[-1] != 0))
@settings(deadline=None)
def test_any_bytes_of_escapes(data: bytes) -> None:
    """Tables that are nearly all escape reach the code behind it."""
    tables = by_hand(([65535, 1], 0), ([65000, 536], -MAX_SYMBOL))
    for count in range(1, 8):
        assert_canonical(data, (np.arange(count) % 2, tables))


def test_no_data_for_many_symbols() -> None:
    with pytest.raises(BitstreamError, match="ends early"):
        SymbolReader(b"").get(np.full(100_000, 20), GAUSSIAN)
    with pytest.raises(BitstreamError):
        read(b"\1\2\3", (np.full(100_000, 20), GAUSSIAN))


def test_errors_of_constriction_are_translated() -> None:
    model = constriction.stream.model
    provocations: list[Callable[[], object]] = [
        lambda: model.QuantizedGaussian(-10, 10, 0.0, 0.0),  # PanicException, not even an Exception
        lambda: model.Categorical(np.array([np.nan, 1.0]), perfect=False),  # ValueError
        lambda: constriction.stream.stack.AnsCoder().encode_reverse(9, model.Uniform(4)),  # KeyError
        lambda: constriction.stream.stack.AnsCoder(np.zeros(1, np.uint32)),
    ]
    for provoke in provocations:
        with pytest.raises(BitstreamError, match="entropy coder"), entropy._translated_errors():
            provoke()
    with pytest.raises(KeyboardInterrupt), entropy._translated_errors():
        raise KeyboardInterrupt


# ---- tables


def test_threads_share_the_models() -> None:
    tables = gaussian_tables(20, 3)
    segments = [random_segment(5000, seed, tables) for seed in range(4)]
    expected = [write((s, i, gaussian_tables(20, 3))) for s, i, _ in segments]
    assert not tables.cache
    barrier = threading.Barrier(8)
    results: dict[int, bytes] = {}

    def work(thread: int) -> None:
        barrier.wait()
        segment = segments[thread % 4]
        data = write(segment)
        (got,) = read(data, segment[1:])
        assert np.array_equal(got, segment[0])
        results[thread] = data

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {thread: expected[thread % 4] for thread in range(8)}
    assert set(tables.cache) == {int(i) for _, indices, _ in segments for i in indices if tables.sizes[i]}


def test_tables_travel_as_arrays() -> None:
    arrays = {**HAND.to_arrays("scale."), **gaussian_tables(5).to_arrays("hyper.")}
    loaded = safetensors.numpy.load(safetensors.numpy.save(arrays))
    tables = Tables.from_arrays(loaded, "scale.")
    assert write((*example()[:2], tables)) == write(example())
    again = pickle.loads(pickle.dumps(tables))
    assert write((*example()[:2], again)) == write(example())
    assert len(Tables.from_arrays(loaded, "hyper.")) == 5
    with pytest.raises(WeightsError, match=r"no array 'frequencies'"):
        Tables.from_arrays(loaded)


def test_tables_cannot_be_changed() -> None:
    for name, array in HAND.to_arrays().items():
        array[0] += 1  # a copy
        with pytest.raises(ValueError, match="read-only"):
            getattr(HAND, name)[0] = 1


@pytest.mark.parametrize(
    ("frequencies", "offsets", "lows", "message"),
    [
        ([1, 65534], [0, 2], [0], "table 0 sums to 65535"),
        ([1, 65535, 2, 65535], [0, 2, 4], [0, 0], "table 1 sums to 65537"),
        ([1, 65535], [0, 1, 2], [0, 0], "sums to"),
        ([0, 1, 65535], [0, 3], [0], "frequency is 0"),
        ([1, 65535], [0, 2], [0, 0], "lows"),
        ([1, 65535], [1, 2], [0], "offsets"),
        ([1, 65535], [0, 1], [0], "offsets"),
        ([1, 65535], [0, 3], [0], "offsets"),
        ([1, 65535], [0, 2, 0, 2], [0, 0, 0], "offsets"),
        ([1, 65535], [0, 2], [MAX_SYMBOL + 1], "beyond"),
        ([1, 65535], [0, 2], [-MAX_SYMBOL - 1], "beyond"),
        ([1, 65535], [0, 2], [-(2**31)], "beyond"),
        ([], [0, 0], [1], "silent"),
        ([], [0], [], "lows"),
        ([[1, 65535]], [0, 2], [0], "flat"),
    ],
)
def test_wrong_tables(frequencies: list[Any], offsets: list[int], lows: list[int], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        Tables(np.array(frequencies, np.uint16), np.array(offsets, np.int32), np.array(lows, np.int32))


def test_wrong_array_types() -> None:
    arrays = HAND.to_arrays()
    with pytest.raises(WeightsError, match="not flat uint16"):
        Tables.from_arrays({**arrays, "frequencies": arrays["frequencies"].astype(np.int16)})
    with pytest.raises(WeightsError, match="not flat int32"):
        Tables.from_arrays({**arrays, "lows": arrays["lows"].astype(np.int64)})


def test_gaussian_tables() -> None:
    assert sum(array.nbytes for array in GAUSSIAN.to_arrays().values()) <= 400_000
    assert len(GAUSSIAN) == 48 * 7
    assert (GAUSSIAN.sizes[:7] == 0).all()
    assert gaussian_tables(1).to_arrays()["offsets"].tolist() == [0, 0]
    for number in range(7, len(GAUSSIAN)):
        row, column = divmod(number, 7)
        sigma, skew = 0.12 * 2 ** (row / 4), 0.75 * (column - 3) / 3
        frequencies, lo = GAUSSIAN.table(number)
        hi = frequencies.size - 2 - lo
        assert min(lo, hi) >= 1
        assert 1 <= frequencies[0] <= 17  # 2**-12, rounded
        # within 0.01 bits per symbol of the ideal code for the float distribution, escapes aside
        pmf, reach = gaussian_pmf(sigma * 2**-skew, sigma * 2**skew)
        inside = pmf[reach - lo : reach + hi + 1]
        loss = (inside * np.log2(np.maximum(inside, 1e-30) / (frequencies[1:] / TOTAL))).sum()
        assert abs(loss) < 0.01
        mirror, mirror_lo = GAUSSIAN.table(row * 7 + 6 - column)
        assert mirror_lo == hi
        assert abs(mirror[1:][::-1].astype(int) - frequencies[1:]).max() <= 1


def test_gaussian_table_integers() -> None:
    """σ = 0.12 · 2**(10/4) = 0.68, no skew and the strongest."""
    assert GAUSSIAN.table(73).frequencies.tolist() == [15, 881, 14230, 35299, 14230, 881]
    assert GAUSSIAN.table(76).frequencies.tolist() == [7, 3684, 29824, 22879, 7764, 1277, 101]


@pytest.mark.parametrize(("rows", "columns"), [(0, 1), (3, 0), (3, 2)])
def test_gaussian_tables_wrong_geometry(rows: int, columns: int) -> None:
    with pytest.raises(ValueError, match="columns odd"):
        gaussian_tables(rows, columns)


def test_two_piece_gaussian_is_a_distribution() -> None:
    pmf, lo = gaussian_pmf(2.0, 3.0)
    n = np.arange(pmf.size) - lo
    assert pmf.sum() == pytest.approx(1, abs=1e-8)
    # the mean of the density is √(2/π)·(σ_right − σ_left), hardly moved by rounding at such scales
    assert (pmf * n).sum() == pytest.approx(np.sqrt(2 / np.pi), abs=2e-3)
    assert pmf[:lo].sum() + pmf[lo] / 2 == pytest.approx(0.4, abs=0.01)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300), st.integers(-50, 350))
@settings(deadline=None)
def test_table_from_any_pmf(weights: list[float], lo: int) -> None:
    weights[0] += 1e-3
    pmf = np.array(weights) / sum(weights)
    frequencies, table_lo = table = table_from_pmf(pmf, lo)
    Tables.join([table])  # valid
    start = lo - table_lo
    stop = start + frequencies.size - 1
    assert pmf[:start].sum() <= 2**-13
    assert pmf[stop:].sum() <= 2**-13
    assert start <= int(pmf.argmax()) < stop
    # lifting rare symbols to 1/65536 takes a little from each of the others
    assert np.allclose(frequencies[1:] / TOTAL, pmf[start:stop], atol=2 / TOTAL, rtol=0.02)


def test_table_from_pmf_leaves_the_rest_to_the_escape() -> None:
    frequencies, lo = table_from_pmf([0.25, 0.5, 0.125], 1)
    assert frequencies.tolist() == [8192, 16384, 32768, 8192]
    assert lo == 1
    frequencies, lo = table_from_pmf([1e-9, 1e-9, 1.0, 1e-9, 1e-9], 2)
    assert frequencies.tolist() == [1, 1, 65533, 1]
    assert lo == 1


@pytest.mark.parametrize("pmf", [[], [[1.0]], [1.5], [0.1], [1.5, -0.5], [np.nan], [np.inf]])
def test_not_a_pmf(pmf: list[Any]) -> None:
    with pytest.raises(ValueError, match="sum to"):
        table_from_pmf(pmf, 0)


def test_too_wide_a_pmf() -> None:
    with pytest.raises(ValueError, match="too many"):
        table_from_pmf(np.full(40_000, 1 / 40_000), 0)
