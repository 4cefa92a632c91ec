"""The tile grid and the halo of the transforms: geometry only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol


class Plane(Protocol):
    """Pixels H×W×C, or what makes them when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, place: tuple[slice, slice], /) -> Any: ...


class Span(NamedTuple):
    """One tile along one side: its own range, and that range with the halo, all in the same units."""

    start: int
    stop: int
    outer_start: int
    outer_stop: int


class Tile(NamedTuple):
    rows: Span
    columns: Span

    def times(self, factor: int) -> Tile:
        """The same tile in units that are so many times smaller."""
        return Tile(*(Span(*(factor * value for value in span)) for span in self))

    @property
    def own(self) -> tuple[slice, slice]:
        """Its rows and columns in the whole, without the halo."""
        return self.own_from(0, 0)

    def own_from(self, top: int, left: int) -> tuple[slice, slice]:
        """Its rows and columns in a part of the whole that begins there."""
        rows, columns = self
        return slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)

    @property
    def outer(self) -> tuple[slice, slice]:
        """Its rows and columns in the whole, with the halo."""
        rows, columns = self
        return slice(rows.outer_start, rows.outer_stop), slice(columns.outer_start, columns.outer_stop)

    @property
    def inner(self) -> tuple[slice, slice]:
        """Its own rows and columns within the ones with the halo."""
        return self.own_from(self.rows.outer_start, self.columns.outer_start)


class Window(NamedTuple):
    """A part of the whole."""

    rows: range
    columns: range

    def grown(self, halo: int) -> Window:
        """With so many more on every side, not cut at the whole's ends."""
        rows, columns = self
        return Window(
            range(rows.start - halo, rows.stop + halo), range(columns.start - halo, columns.stop + halo)
        )

    def meets(self, tile: Tile) -> bool:
        return all(
            part.start < span.stop and span.start < part.stop for part, span in zip(self, tile, strict=True)
        )


def spans(length: int, side: int, halo: int, part: range | None = None) -> list[Span]:
    """Cut ``length``, or a part of it, into tiles of ``side`` (the last may be shorter), each with ``halo``
    on both sides inside of the whole."""
    part = part or range(length)
    ends = ((start, min(start + side, part.stop)) for start in range(part.start, part.stop, side))
    return [Span(start, stop, max(start - halo, 0), min(stop + halo, length)) for start, stop in ends]


def tiles(height: int, width: int, side: int, halo: int = 0, window: Window | None = None) -> Iterator[Tile]:
    """All tiles of a grid over the whole or a window of it, row by row."""
    columns = spans(width, side, halo, window and window.columns)
    for row in spans(height, side, halo, window and window.rows):
        for column in columns:
            yield Tile(row, column)


def shares(length: int, most: int) -> list[slice]:
    """A length in parts of about one size, at most ``most`` each: one, or an even number if the length allows
    it, so that two threads end at the same time."""
    count = -(-length // most)
    size = -(-length // (count + (count > 1 and count % 2)))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


PIECE = 96
"""Latent positions along a side that one thread computes at once, at most: 2.4 megapixels without the
halo."""


BAND = 2 * PIECE
"""Rows of a latent that are computed at once: that of 100 megapixels takes 0.5 GB in all. Of the writer's
tiles whole ones."""


def pieces(
    height: int, width: int, halo: int, side: int = PIECE, window: Window | None = None
) -> Iterator[Tile]:
    """The whole or a window of it in pieces of about one size, of at most ``side`` × ``side``, with a
    halo."""
    rows, columns = window or Window(range(height), range(width))
    down, across = -(-len(rows) // side), -(-len(columns) // side)
    for row in spans(height, -(-len(rows) // down), halo, rows):
        for column in spans(width, -(-len(columns) // across), halo, columns):
            yield Tile(row, column)
