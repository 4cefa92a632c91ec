"""What the hyper-latent's symbols are coded with: each one's probability from those around it, in integers.

Its positions come in three passes: those of even row and column, those of odd row and column, and the rest
(a quarter, a quarter and a half of them), so that every later one lies between known ones. Before each pass
an integer network (integer_net.py) looks at what is known, at where that is, and at the rate point, and says
for each symbol a mean and a scale; table row·8 + fraction is a Gaussian of that scale around fraction/8, and
codes the symbol minus the mean's whole part. (A spatial context for the hyper-latent is that of Minnen and
Singh, ICIP 2020, for the latent; the checkerboard that of He et al., CVPR 2021.)

Input of the network: the symbols, 0 where unknown (Cz planes); 1 where known; the rate point in 0 … 8; all in
steps of 1/8 within ±511. Output: rows of the tables, then means in steps of 1/8, Cz planes each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from .blas import calling_thread
from .entropy import SymbolReader, SymbolWriter
from .entropy_tables import Tables
from .errors import WeightsError
from .integer_net import INPUT_MAX, INPUT_STEP, RATE_POINT_BITS, Array, check_layers, read_layers

FRACTIONS = 8
"""Tables of a row, for means that lie so many steps apart."""
RATE_SHIFT = RATE_POINT_BITS - 6
"""The header's rate point >> this is the network's input: 0 … 63 in steps of 1/8."""
MEAN_MAX = 511
"""Bound of a mean's magnitude, in steps of 1/8."""


Segments = list[tuple[Array, Array]]
"""Of each pass what is coded, symbols minus whole parts of the means, and its table indices."""


def passes(height: int, width: int) -> list[Array]:
    """The positions of each pass, bool (height, width); passes that have none are left out."""
    rows, columns = np.arange(height)[:, None] % 2, np.arange(width)[None] % 2
    masks = (rows + columns == 0, rows & columns == 1, rows != columns)
    return [mask for mask in masks if mask.any()]


class IntegerHyperPrior:
    """The integer network and the tables; made from the arrays of a weights file. WeightsError for arrays
    that do not fit together or to so many ``channels``, or sums that would not be exact."""

    def __init__(self, arrays: Mapping[str, Array], channels: int) -> None:
        self.tables = Tables.from_arrays(arrays, "tables.")
        try:
            self.layers = read_layers(arrays)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise WeightsError(f"hyper-latent's prior: {error}") from error
        if check_layers(self.layers, channels + 2, 0, "hyper-latent's prior") != 2 * channels:
            raise WeightsError(f"hyper-latent's prior: it is not for {channels} channels")
        if len(self.tables) % FRACTIONS or (self.tables.sizes == 0).any():
            raise WeightsError(f"hyper-latent's prior: {len(self.tables)} tables are not rows of {FRACTIONS}")

    def put(self, writer: SymbolWriter, segments: Segments) -> None:
        """Append what `segments` gives."""
        for values, indices in segments:
            writer.put(values, indices, self.tables)

    def segments(self, symbols: Array, rate_point: int) -> Segments:
        """What is coded of the hyper-latent's symbols (Cz, h, w)."""
        found = []
        for mask, known in _in_order(symbols.shape):
            indices, whole = self.predict(symbols, known, rate_point)
            found.append(((symbols - whole)[:, mask], indices[:, mask]))
        return found

    def get(self, reader: SymbolReader, shape: tuple[int, int, int], rate_point: int) -> Array:
        """Read what `put` wrote: symbols (Cz, h, w), int32. BitstreamError if the stream cannot hold them."""
        symbols = np.zeros(shape, np.int32)
        for mask, known in _in_order(shape):
            indices, whole = self.predict(symbols, known, rate_point)
            symbols[:, mask] = reader.get(indices[:, mask], self.tables) + whole[:, mask]
        return symbols

    def predict(self, symbols: Array, known: Array, rate_point: int) -> tuple[Array, Array]:
        """Table indices, uint16, and whole parts of the means, int32, (Cz, h, w) each, from the symbols where
        they are ``known``, bool (h, w)."""
        if not known.any():  # borders and the rate point are seen: all positions within are alike
            rows, columns = (_alike(side) for side in known.shape)
            least = slice(rows[-1] + 1), slice(columns[-1] + 1)
            found = self._predict(symbols[:, *least], known[least], rate_point)
            indices, whole = (part[:, rows[:, None], columns] for part in found)
            return indices, whole
        return self._predict(symbols, known, rate_point)

    def _predict(self, symbols: Array, known: Array, rate_point: int) -> tuple[Array, Array]:
        channels, height, width = symbols.shape
        x = np.empty((channels + 2, height, width), np.float32)
        seen = np.clip(symbols, -INPUT_MAX, INPUT_MAX) * known
        np.clip(seen * INPUT_STEP, -INPUT_MAX, INPUT_MAX, out=x[:channels], casting="unsafe")
        x[channels] = known * INPUT_STEP
        x[channels + 1] = rate_point >> RATE_SHIFT
        with calling_thread():
            for layer in self.layers[:-1]:
                x = layer(x)
            head = self.layers[-1]
            y = head.floors(head.prepared(x), width, slice(0, height))
        row = np.clip(y[:channels], 0, len(self.tables) // FRACTIONS - 1).astype(np.int32)
        mean = np.clip(y[channels:], -MEAN_MAX, MEAN_MAX).astype(np.int32)
        return (row * FRACTIONS + mean % FRACTIONS).astype(np.uint16), mean // FRACTIONS

    def bits_used(self) -> list[float]:
        """log₂ of the worst partial sum of each layer; exact below 24."""
        return [math.log2(layer.worst_sum()) for layer in self.layers]


def _in_order(shape: tuple[int, ...]) -> Iterator[tuple[Array, Array]]:
    """The positions of each pass, and those that are known before it."""
    known = np.zeros(shape[1:], bool)
    for mask in passes(*shape[1:]):
        yield mask, known
        known = known | mask


def _alike(side: int) -> Array:
    """For each of so many positions one of three, or fewer, that has the same borders within reach."""
    first = np.minimum(np.arange(side), 1)
    first[-1] = min(side - 1, 2)
    return first
