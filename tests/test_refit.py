"""Tables refitted to what was counted: the same symbols, other frequencies, fewer bits."""

from __future__ import annotations

import numpy as np

from pillow_nic.entropy import table_bits
from pillow_nic.entropy_tables import SILENT, TOTAL, Tables
from pillow_nic.training.refit import count_codes, refit
from pillow_nic.training.tables import gaussian_pmf, table_from_pmf

TABLES = Tables.join(
    [SILENT, table_from_pmf(*gaussian_pmf(1.0, 1.0)), table_from_pmf(*gaussian_pmf(4.0, 2.0))]
)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and table indices, Laplacian where the tables say Gaussian, and some far outside."""
    random = np.random.default_rng(seed)
    indices = random.integers(0, 3, count).astype(np.uint16)
    symbols = np.rint(random.laplace(0, np.array([0, 0.7, 2.0])[indices])).astype(np.int32)
    symbols[:5] = 500
    indices[:5] = 1
    return np.where(indices == 0, 0, symbols), indices


def test_counts_have_the_layout_of_the_frequencies() -> None:
    symbols, indices = drawn(1000, 1)
    counts = count_codes(TABLES, symbols, indices)
    assert counts.shape == TABLES.frequencies.shape
    assert counts.sum() == np.count_nonzero(indices)
    start, low, high = TABLES.offsets[1], TABLES.lows[1], TABLES.sizes[1] - 2 - TABLES.lows[1]
    assert counts[start] == np.count_nonzero((indices == 1) & ((symbols < -low) | (symbols > high)))
    assert counts[start + 1 + low] == np.count_nonzero((indices == 1) & (symbols == 0))


def test_refitted_tables_cost_less_for_symbols_of_their_kind() -> None:
    fitted = refit(TABLES, count_codes(TABLES, *drawn(20_000, 1)))
    np.testing.assert_array_equal(fitted.offsets, TABLES.offsets)
    np.testing.assert_array_equal(fitted.lows, TABLES.lows)
    for index in (1, 2):
        assert fitted.table(index).frequencies.sum(dtype=int) == TOTAL
    symbols, indices = drawn(5000, 2)
    assert table_bits(symbols, indices, fitted) < 0.98 * table_bits(symbols, indices, TABLES)


def test_nothing_counted_changes_next_to_nothing() -> None:
    fitted = refit(TABLES, np.zeros(TABLES.frequencies.size, np.int64))
    assert np.abs(fitted.frequencies.astype(int) - TABLES.frequencies).max() <= 2
