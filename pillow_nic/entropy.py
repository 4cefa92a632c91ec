"""Symbols and their table indices ↔ the bytes of one stream.

A stream is a message of *segments*, put one after another and got in the same order; the table indices of a
segment may depend on the segments before it. Within a segment the symbols are sorted by table (stable), so
that each table's model is set up once: about 4 ns per symbol instead of 50. Escaped values end a segment.

**Coder.** constriction's AnsCoder: 64-bit state, 32-bit words, 24-bit probabilities, starting and ending at
state 0. ANS is a stack, so the writer collects everything and encodes it backwards at the end. The words are
stored little-endian; the zero bytes at the end of the last word (its leading zeros) are dropped, and since
that word is never 0 the reader knows how many. Start and end together cost about 20 bits per stream.

**Exactness.** A model gets the probabilities f / 2**16 as float64, and `Categorical(perfect=False)` turns
them into 24-bit integers. Every float on that way is a multiple of 2**-16 up to 1, or such a number times the
integer 2**24 − n, which needs 40 bits of the 53: nothing is ever rounded before the final floor, whatever the
order of operations, so every IEEE machine gets

    start of code i = floor(C_i · (2**24 − n) / 2**16) + i    C_i = f_0 + … + f_(i−1), n = number of codes

(a test compares this with the coder's own state). float32 would not do: its 24 bits are too few.

**Escapes.** A symbol out of its table is coded as code 0, and after all codes of the segment its distance
d = 0, 1, … from the table's end follows, as u = 2·d + (1 if below the table) + 1 in the manner of Exp-Golomb:
first for all escapes the class 23 − floor(log2 u), uniform out of 24; then for all with u > 1 the bits of u
below the leading one, uniform.

**End.** A coder out of data decodes code 0 for ever: a stream that ends too early gives escapes, then the
class 0 that no writer uses, and so an error. Data left over is an error too (finish). Together: bytes that
are read without an error are exactly the bytes that the writer makes of what was read. Damage is the
container's business (CRC).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from .entropy_tables import MAX_SYMBOL, PRECISION, TOTAL, Tables
from .errors import BitstreamError

# constriction.stream.* are attributes, not modules that can be imported from
AnsCoder = constriction.stream.stack.AnsCoder
Categorical = constriction.stream.model.Categorical
Uniform = constriction.stream.model.Uniform

Integers = npt.NDArray[np.integer[Any]]
Symbols = npt.NDArray[np.int32]
Positions = npt.NDArray[np.intp]

# u ≤ 2·(2·MAX_SYMBOL) + 2 < 2**23, so floor(log2 u) ≤ 22 and class 0 stays unused
_CLASSES = 24


class SymbolWriter:
    """Collects segments of symbols; getvalue() gives the stream."""

    def __init__(self) -> None:
        self._steps: list[tuple[Any, ...]] = []  # arguments of encode_reverse, in the order of decoding

    def put(self, symbols: Integers, indices: Integers, tables: Tables) -> None:
        """Append a segment: ``symbols`` and their table indices ``indices``, two integer arrays of one shape.

        ValueError for shapes or dtypes that do not fit, table indices that do not exist, symbols beyond
        ±MAX_SYMBOL, or other than 0 where the table is silent; the message is then as before.
        """
        flat = _check_symbols(symbols, indices)
        order, counts = _group(_check_indices(indices, tables), tables)
        values = _coded_symbols(flat, order)
        low = np.repeat(tables.lows, counts)
        size = np.repeat(tables.sizes, counts)
        codes, escaped = _codes(values, low, size)
        self._steps += [(codes[start:stop], _model(tables, table)) for table, start, stop in _slices(counts)]
        if escaped.size:
            u = _fold(values[escaped], low[escaped], size[escaped])
            exponents = _floor_log2(u)
            self._steps.append((_CLASSES - 1 - exponents, Uniform(_CLASSES)))
            powers = np.left_shift(1, exponents, dtype=np.int32)
            long = powers > 1
            self._steps.append(((u - powers)[long], Uniform(), powers[long]))

    def getvalue(self) -> bytes:
        """The stream of all segments so far; no bytes if nothing had to be coded."""
        coder = AnsCoder()
        with _translated_errors():
            for step in reversed(self._steps):
                coder.encode_reverse(*step)
        words: npt.NDArray[np.uint32] = coder.get_compressed()
        return words.astype("<u4").tobytes().rstrip(b"\0")


class SymbolReader:
    """Gets back, segment by segment, what a SymbolWriter put.

    Whatever the bytes: time and memory are bounded by their length and the number of symbols asked for.
    """

    def __init__(self, data: bytes) -> None:
        if data[-1:] == b"\0":
            raise BitstreamError("entropy-coded stream ends in a zero byte")
        words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)
        with _translated_errors():
            self._coder = AnsCoder(words)

    def get(self, indices: Integers, tables: Tables) -> Symbols:
        """Read the next segment: int32 symbols in the shape of ``indices``.

        BitstreamError if the stream cannot hold it; ValueError for table indices that do not exist.
        """
        order, counts = _group(_check_indices(indices, tables), tables)
        codes = np.empty(order.size, np.int32)
        with _translated_errors():
            for table, start, stop in _slices(counts):
                codes[start:stop] = self._coder.decode(_model(tables, table), stop - start)
            escaped = np.flatnonzero(codes == 0)
            values = codes - np.repeat(tables.lows + 1, counts)
            if escaped.size:
                table_of = np.searchsorted(np.cumsum(counts), escaped, side="right")
                values[escaped] = self._get_escapes(tables.lows[table_of], tables.sizes[table_of])
        symbols = np.zeros(np.shape(indices), np.int32)
        symbols.ravel()[order] = values
        return symbols

    def _get_escapes(self, low: Symbols, size: Symbols) -> Symbols:
        exponents = _CLASSES - 1 - self._coder.decode(Uniform(_CLASSES), low.size)
        if exponents.max() == _CLASSES - 1:
            raise BitstreamError("entropy-coded stream ends early or is damaged (escape without a value)")
        u = np.left_shift(1, exponents, dtype=np.int32)
        long = u > 1
        u[long] += self._coder.decode(Uniform(), u[long])
        values = _unfold(u, low, size)
        if (np.abs(values) > MAX_SYMBOL).any():
            raise BitstreamError(f"entropy-coded stream holds a symbol beyond ±{MAX_SYMBOL}")
        return values

    def finish(self) -> None:
        """BitstreamError unless the segments read so far were the whole stream."""
        if not self._coder.is_empty():
            raise BitstreamError("entropy-coded stream holds more than its symbols")


def table_bits(symbols: Integers, indices: Integers, tables: Tables) -> float:
    """Ideal length of a segment in bits: what it adds to a stream, but for the stream's own ~20 bits.

    Arguments and errors as for put(); no sorting and no coder, for rate search and tests.
    """
    flat = _check_symbols(symbols, indices)
    indices = _check_indices(indices, tables)
    coded = _coded(indices, tables)
    values, indices = _coded_symbols(flat, coded), indices[coded]
    low, size = tables.lows[indices], tables.sizes[indices]
    codes, escaped = _codes(values, low, size)
    codes += tables.offsets[indices]
    costs = PRECISION - np.log2(tables.frequencies, dtype=np.float64)
    bits = float(costs[codes].sum())
    if escaped.size:
        u = _fold(values[escaped], low[escaped], size[escaped])
        bits += escaped.size * float(np.log2(_CLASSES)) + float(_floor_log2(u).sum())
    return bits


def _check_symbols(symbols: Integers, indices: Integers) -> Symbols:
    array = np.asarray(symbols)
    if array.shape != np.shape(indices):
        raise ValueError(f"{array.shape} symbols with {np.shape(indices)} indices")
    if array.dtype.kind not in "iu":
        raise ValueError(f"symbols must be integers, not {array.dtype}")
    if array.size and (array.min() < -MAX_SYMBOL or array.max() > MAX_SYMBOL):
        raise ValueError(f"symbols must lie within ±{MAX_SYMBOL}")
    return array.astype(np.int32, copy=False).ravel()


def _check_indices(indices: Integers, tables: Tables) -> Integers:
    """Flat table indices in the smallest type that holds them: numpy sorts 8 and 16 bits by radix."""
    array = np.asarray(indices)
    if array.dtype.kind not in "iu":
        raise ValueError(f"indices must be integers, not {array.dtype}")
    if array.size and (array.min() < 0 or array.max() >= len(tables)):
        raise ValueError(f"indices must lie in 0 … {len(tables) - 1}, not {array.min()} … {array.max()}")
    if len(tables) <= 256:
        return array.astype(np.uint8, copy=False).ravel()
    return array.astype(np.uint16, copy=False).ravel()


def _coded(indices: Integers, tables: Tables) -> Positions:
    """Positions of the elements whose table is not silent."""
    return np.flatnonzero((tables.sizes > 0)[indices])


def _coded_symbols(symbols: Symbols, positions: Positions) -> Symbols:
    values = symbols[positions]
    if np.count_nonzero(values) != np.count_nonzero(symbols):
        raise ValueError("symbols must be 0 where the table codes nothing")
    return values


def _group(indices: Integers, tables: Tables) -> tuple[Positions, Positions]:
    """Positions of the coded elements in order of their tables, and how many every table has."""
    coded = _coded(indices, tables)
    indices = indices[coded]
    return coded[np.argsort(indices, kind="stable")], np.bincount(indices, minlength=len(tables))


def _slices(counts: Positions) -> Iterator[tuple[int, int, int]]:
    """(table, start, stop) for every table that some of the sorted elements have."""
    stops = np.cumsum(counts)
    for number in np.flatnonzero(counts).tolist():
        yield number, int(stops[number] - counts[number]), int(stops[number])


def _codes(values: Symbols, low: Symbols, size: Symbols) -> tuple[Symbols, Positions]:
    """The code of each symbol in a table of that low and size; the positions of the escaped ones (code 0)."""
    codes = values + low
    # unsigned: one comparison for both ends
    escaped = np.flatnonzero(codes.view(np.uint32) >= (size - 1).view(np.uint32))
    codes += 1
    codes[escaped] = 0
    return codes, escaped


def _fold(values: Symbols, low: Symbols, size: Symbols) -> Symbols:
    """Symbols outside of −low … size − 2 − low as u = 1, 2, … (module docstring)."""
    below = values < -low
    distance = np.where(below, -low - 1 - values, values - (size - 1 - low))
    return 2 * distance + below + np.int32(1)


def _unfold(u: Symbols, low: Symbols, size: Symbols) -> Symbols:
    distance, below = (u - 1) >> 1, (u - 1) & 1
    return np.where(below == 1, -low - 1 - distance, distance + (size - 1 - low))


def _floor_log2(u: Symbols) -> Symbols:
    return np.frexp(u.astype(np.float64))[1].astype(np.int32) - np.int32(1)  # exact: no logarithm is taken


def _model(tables: Tables, number: int) -> Any:
    """The coder's model of a table, made on first use and kept with the tables."""
    model = tables.cache.get(number)
    if model is None:  # two threads may both get here: they make the same model, and one of the two is kept
        probabilities = tables.table(number).frequencies.astype(np.float64) / TOTAL
        model = tables.cache.setdefault(number, Categorical(probabilities, perfect=False))
    return model


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Whatever constriction raises becomes a BitstreamError; a Rust panic is not even an Exception."""
    try:
        yield
    except (KeyError, AssertionError, ValueError, TypeError, OverflowError) as error:
        raise BitstreamError(f"entropy coder: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3 gives no way to import it
            raise
        raise BitstreamError(f"entropy coder: {error}") from error
