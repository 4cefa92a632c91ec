"""The tile grid: every position in exactly one tile, and a halo that never leaves the picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_nic.tiling import Span, Tile, shares, spans, tiles


def test_spans_by_example() -> None:
    assert spans(10, 4, 1) == [Span(0, 4, 0, 5), Span(4, 8, 3, 9), Span(8, 10, 7, 10)]
    assert spans(8, 4, 0) == [Span(0, 4, 0, 4), Span(4, 8, 4, 8)]
    assert spans(3, 64, 5) == [Span(0, 3, 0, 3)]
    assert spans(1, 1, 9) == [Span(0, 1, 0, 1)]


def test_tiles_run_row_by_row() -> None:
    first, second, third = spans(5, 2, 1)
    left, right = spans(4, 2, 1)
    assert list(tiles(5, 4, 2, 1)) == [Tile(r, c) for r in (first, second, third) for c in (left, right)]


def test_slices_of_a_tile_by_example() -> None:
    tile = Tile(Span(4, 8, 3, 9), Span(0, 4, 0, 5))
    assert tile.own == (slice(4, 8), slice(0, 4))
    assert tile.own_from(3, -2) == (slice(1, 5), slice(2, 6))
    assert tile.outer == (slice(3, 9), slice(0, 5))
    assert tile.inner == (slice(1, 5), slice(0, 4))
    assert tile.times(16) == Tile(Span(64, 128, 48, 144), Span(0, 64, 0, 80))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(4, 40), st.integers(0, 40))
def test_slices_of_a_tile_are_the_same_part_of_the_whole(
    height: int, width: int, side: int, halo: int
) -> None:
    whole = np.arange(height * width).reshape(height, width)
    for tile in tiles(height, width, side, halo):
        np.testing.assert_array_equal(whole[tile.outer][tile.inner], whole[tile.own])
        top, left = tile.rows.outer_start, tile.columns.outer_start
        np.testing.assert_array_equal(whole[top:, left:][tile.own_from(top, left)], whole[tile.own])
        larger = whole.repeat(3, 0).repeat(3, 1)
        np.testing.assert_array_equal(larger[tile.times(3).outer][::3, ::3], whole[tile.outer])


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
        times[tile.own] += 1
    assert (times == 1).all()


@pytest.mark.parametrize("side", [1, 7, 64])
def test_an_empty_side_has_no_tiles(side: int) -> None:
    assert list(tiles(0, 5, side)) == []


@given(st.integers(1, 500), st.integers(1, 100))
def test_shares_cover_the_length_in_parts_of_one_size(length: int, most: int) -> None:
    parts = shares(length, most)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(length))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= most
    assert len(set(sizes[:-1])) <= 1
    assert sizes[-1] <= sizes[0]


def test_shares_by_example() -> None:
    assert shares(16, 16) == [slice(0, 16)]
    assert shares(32, 21) == [slice(0, 16), slice(16, 32)]
    assert [part.stop - part.start for part in shares(48, 21)] == [12, 12, 12, 12]
    assert shares(3, 1) == [slice(0, 1), slice(1, 2), slice(2, 3)]
