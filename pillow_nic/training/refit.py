"""Tables refitted to the symbols that a model's files really hold (as PULSE does, arXiv 2609.18602).

The two-piece Gaussian that training assumes is the prior; what the symbols of training pictures say is
counted against it. Nothing but the tables changes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from ..codec import header_for, symbols_of
from ..entropy_tables import TOTAL, Table, Tables
from ..options import EncodeOptions
from ..weights import Model
from .tables import frequencies

Counts = npt.NDArray[np.int64]

QUALITIES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
STRENGTH = 20
"""How many symbols the prior is worth, for each code of a table: wide tables have few symbols for each."""


def count_codes(tables: Tables, indices: npt.NDArray[np.uint16], symbols: npt.NDArray[np.int32]) -> Counts:
    """How often each code of each table occurs, in the layout of ``tables.frequencies``."""
    sizes, codes = tables.sizes[indices], symbols + tables.lows[indices] + 1
    codes = np.where((codes < 1) | (codes >= sizes), 0, codes)  # the escape
    flat = (tables.offsets[indices] + codes)[sizes > 0]
    return np.bincount(flat.ravel(), minlength=tables.frequencies.size)


def count_symbols(model: Model, pictures: Iterable[npt.NDArray[np.uint8]]) -> tuple[Counts, Counts]:
    """The codes of the latent's and of the hyper-latent's tables in files of H×W×3 ``pictures`` at
    QUALITIES."""
    latent = np.zeros(model.tables.frequencies.size, np.int64)
    hyper = np.zeros(model.hyper_tables.frequencies.size, np.int64)
    for pixels in pictures:
        for quality in QUALITIES:
            options = EncodeOptions(quality)
            for tile in symbols_of(model, pixels, header_for(model, pixels, options), options):
                latent += count_codes(model.tables, tile.indices, tile.symbols)
                channels = np.arange(len(tile.hyper), dtype=np.uint16)[:, None, None]
                indices = np.broadcast_to(channels, tile.hyper.shape)
                hyper += count_codes(model.hyper_tables, indices, tile.hyper)
    return latent, hyper


def refit(tables: Tables, counts: Counts) -> Tables:
    """The tables with the same symbols, their frequencies the mean of what was counted and the old ones."""

    def refitted(index: int) -> Table:
        table = tables.table(index)
        if not table.frequencies.size:
            return table
        part = counts[tables.offsets[index] : tables.offsets[index + 1]]
        prior = table.frequencies / TOTAL * STRENGTH * table.frequencies.size
        return Table(frequencies(part + prior), table.lo)

    return Tables.join(refitted(index) for index in range(len(tables)))


def refitted_tensors(model: Model, pictures: Iterable[npt.NDArray[np.uint8]]) -> dict[str, torch.Tensor]:
    """The tables of a weights file in place of the model's own."""
    latent, hyper = count_symbols(model, pictures)
    arrays = refit(model.tables, latent).to_arrays("tables.")
    arrays |= refit(model.hyper_tables, hyper).to_arrays("hyper_tables.")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
