"""The tile grid: every position in exactly one tile, and a halo that never leaves the picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_nic.tiling import Span, Tile, spans, tiles


def test_spans_by_example() -> None:
    assert spans(10, 4, 1) == [Span(0, 4, 0, 5), Span(4, 8, 3, 9), Span(8, 10, 7, 10)]
    assert spans(8, 4, 0) == [Span(0, 4, 0, 4), Span(4, 8, 4, 8)]
    assert spans(3, 64, 5) == [Span(0, 3, 0, 3)]
    assert spans(1, 1, 9) == [Span(0, 1, 0, 1)]


def test_tiles_run_row_by_row() -> None:
    first, second, third = spans(5, 2, 1)
    left, right = spans(4, 2, 1)
    assert list(tiles(5, 4, 2, 1)) == [Tile(r, c) for r in (first, second, third) for c in (left, right)]


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 80), st.integers(0, 90))
def test_tiles_cover_every_position_once(height: int, width: int, side: int, halo: int) -> None:
    times = np.zeros((height, width), int)
    grid = list(tiles(height, width, side, halo))
    assert len(grid) == -(-height // side) * -(-width // side)
    for tile in grid:
        for span, length in ((tile.rows, height), (tile.columns, width)):
            assert 0 <= span.outer_start <= span.start < span.stop <= span.outer_stop <= length
            assert span.stop - span.start <= side
            # the halo is whole, or ends where the picture ends
            assert span.start - span.outer_start == halo or span.outer_start == 0
            assert span.outer_stop - span.stop == halo or span.outer_stop == length
        times[tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop] += 1
    assert (times == 1).all()


@pytest.mark.parametrize("side", [1, 7, 64])
def test_an_empty_side_has_no_tiles(side: int) -> None:
    assert list(tiles(0, 5, side)) == []
