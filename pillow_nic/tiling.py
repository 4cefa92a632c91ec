"""The tile grid and the halo of the transforms: geometry only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """One tile along one side: its own range, and that range with the halo, all in the same units."""

    start: int
    stop: int
    outer_start: int
    outer_stop: int


class Tile(NamedTuple):
    rows: Span
    columns: Span


def spans(length: int, side: int, halo: int) -> list[Span]:
    """Cut ``length`` into tiles of ``side`` (the last may be shorter), each with ``halo`` on both sides
    inside of the whole."""
    return [
        Span(start, min(start + side, length), max(start - halo, 0), min(start + side + halo, length))
        for start in range(0, length, side)
    ]


def tiles(height: int, width: int, side: int, halo: int = 0) -> Iterator[Tile]:
    """All tiles of a grid, row by row."""
    columns = spans(width, side, halo)
    for row in spans(height, side, halo):
        for column in columns:
            yield Tile(row, column)
