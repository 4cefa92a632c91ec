"""The writer's choice of exact cells: what of a picture is text, screen or drawing, and is better kept.

A quick test (cells.py) tells photographs, which cost nothing more. The rest is decided by rate and distortion
at the λ of the quality, from real encodings: the bits of the symbols and the squared error of the decoded
pixels at each position of the latent (16×16 pixels), against its share in the bytes of lossless WebP.
Neighbours agree with each other: a border between exact and painted cells costs bits, and more where the
painted side is wrong: that would show as a seam, or as a word that is half exact."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from . import exact, webp, workers
from .cells import STRIP, candidates, distortion, divided, given_back, grown, has_graphics, neighbour
from .container import Container
from .decoding import Part, latent_size, paint, painted_shape, places
from .filling import Filled
from .header import Header
from .network import PATCH
from .options import DecodeOptions, EncodeOptions, rate_point
from .palette import Palette, palettes
from .tile_coding import ByTile, Known, Stored, lmbda_of, symbol_bits, write_layers
from .tiling import Plane, Tile, Window
from .weights import Model

Array = np.ndarray[Any, Any]

BORDER_BITS = 120.0
"""What a border between an exact and a painted cell costs: some 20 bits of mask and of WebP's prediction, and
the look. At 24 single letters stayed blurred in words that were exact."""
SEAM = 2.0
"""How much more an error weighs that is beside such a border: a word should not be half exact."""
LEAST_GAIN = 1000.0
"""Bits below which a file is better off without: chunk, lengths, headers and tables of WebP."""
WORTH = 8.0 * PATCH * PATCH
"""What a cell may take to be exact "always": dense text takes 3 to 7 bits per pixel, photographs about 10."""
WHOLE = 0.5
"""Share of exact cells from which it is tried whether all of them should be."""
SWEEPS = 12
TRIAL = {"quality": 60, "method": 4}
"""Effort of WebP while there is still to choose."""
ALL_COLOURS = rate_point(0.5)
"""From this rate point on exact cells keep all of their colours."""
WRONG_COLOUR = 4.0
"""How much more an error weighs in a cell of few colours, exact or painted, than in a photograph. At 1 half
of the words of a page were painted at quality 0.3, and could not be read."""
STEPS = 16.0
"""How much more yet where fewer colours make steps of a gradient."""
LEAST_SAVED = 0.1
"""Of the bits, by fewer colours: less is not worth an exact picture."""
SCREEN_COLOURS = 96
"""Of a cell that is no photograph's."""
NEARLY = 1.03
"""A palette that costs this much more than the best is the last that is tried."""


class Mixture(NamedTuple):
    """How a picture is stored: the symbols of what is painted, None for nothing; the streams of the exact
    cells; and whether some of them have fewer colours than the picture."""

    painted: ByTile | None
    exact: list[bytes]
    fewer_colours: bool = False


class Symbols(Protocol):
    """Encodes pixels to be painted, up to effort 1 but for the tiles that are known."""

    def __call__(self, colours: Plane, effort: int, known: Known | None = None) -> ByTile: ...


def mixture(
    model: Model, header: Header, colours: Plane, flat: Plane, symbols: Symbols, options: EncodeOptions
) -> Mixture:
    """The cheapest way to store pixels uint8 H×W×3: painted, exact, or some of both. ``flat``: the same, but
    with colours under alpha 0 that suit the exact ones. Symbols are refined at last, not to choose by."""
    if options.graphics == "never" or not webp.is_there() or not has_graphics(flat):
        return Mixture(symbols(colours, options.effort), [])
    effort = min(options.effort, 1)
    always = options.graphics == "always"
    store = _Exact(flat, partial(workers.each, threads=workers.thread_count(options.threads)))
    may, weight, counts, smooth, changed = candidates(flat)

    first = symbols(colours, effort)
    if not isinstance(first, Stored):  # whose layers are written already; else one layer is judged by
        header = replace(header, layer_ends=header.layer_ends[-1:])
    streams = write_layers(model, first, header)
    bits = bits_of_cells(model, header, first, _size(streams))
    squares, sides, small_squares = _distortion(colours, header, streams, str(model.device), may, options)
    lmbda = float(lmbda_of(model, header).cpu())
    seen = np.where(may, np.where(counts <= SCREEN_COLOURS, WRONG_COLOUR, 1), 0)
    squares, sides = seen * squares, seen * sides
    painted_cost = bits + lmbda * squares
    worth = np.full_like(bits, WORTH) if always else painted_cost
    if not always and header.rate_point < ALL_COLOURS:
        store.take_fewer_colours(may & (counts <= SCREEN_COLOURS), np.where(smooth, STEPS, 1) * lmbda)

    cells, some = _choose_by_size(store, may, weight, worth - store.cost, SEAM * lmbda * sides)
    best, whole = np.inf if always else painted_cost.sum(), None
    if may.all() or cells.mean() >= WHOLE:
        whole = store.encode(None)
        cost = 8 * _size(whole) + store.cost.sum()
        best, whole = (cost, whole) if cost < best else (best, None)
    rest, kept_cost = painted_cost[~cells].sum(), store.cost[cells].sum()
    if cells.any() and not cells.all() and rest + 8 * some + kept_cost + LEAST_GAIN < best:
        small = grown(flat, cells)
        if not always:
            small = given_back(flat, small, changed, lmbda * small_squares)
        filled = Filled(colours, partial(exact.shown, flat, small))
        by_tile = symbols(filled, effort, Known(first, _changed(model, header, small)))
        kept = store.encode(small, edges=True)
        size = _size(write_layers(model, by_tile, header)) + _size(kept)
        if 8 * size + lmbda * squares[~cells].sum() + kept_cost < best:
            if options.effort > effort:
                by_tile = symbols(filled, options.effort)
            return Mixture(by_tile, kept, store.fewer)
    if whole is not None:
        return Mixture(None, whole, store.fewer)
    return Mixture(first if options.effort == effort else symbols(colours, options.effort), [])


class _Exact:
    """The pixels that exact cells show, and what their errors are worth, in bits for each cell."""

    def __init__(self, colours: Plane, each: exact.Each) -> None:
        self.colours, self.each = colours, each
        self.cost = np.zeros(tuple(-(-side // PATCH) for side in colours.shape[:2]))
        self.palettes: list[Palette | None] | None = None

    @property
    def fewer(self) -> bool:
        """Whether there are fewer colours than in the picture."""
        return any(palette is not None for palette in self.palettes or ())

    def encode(self, small: Array | None, edges: bool = False, trial: bool = False) -> list[bytes]:
        effort = TRIAL if trial else {}
        return exact.encode(self.colours, small, self.palettes, self.each, edges, **effort)

    def take_fewer_colours(self, cells: Array, lmbda: Array) -> None:
        """In these cells, of each exact tile as few as pay at the λ of each cell."""

        def choose_palette(tile: Tile) -> Palette | None:
            place = tuple(slice(span.start // PATCH, -(-span.stop // PATCH)) for span in tile)
            part, own = cells[place], self.colours[tile.own]
            if not part.any():
                return None
            shown = part.repeat(PATCH, 0).repeat(PATCH, 1)[: own.shape[0], : own.shape[1], None]
            whole = 8 * len(webp.encode(np.where(shown, own, np.uint8(0)), **TRIAL))
            taken, best = None, (1 - LEAST_SAVED) * whole
            for palette in palettes(own[shown[..., 0]]):
                fewer = palette.over(own)
                cost = WRONG_COLOUR * lmbda[place] * distortion(own, fewer)[0]
                total = 8 * len(webp.encode(np.where(shown, fewer, np.uint8(0)), **TRIAL)) + cost[part].sum()
                if total < best:
                    taken, best, self.cost[place] = palette, total, cost
                elif total > NEARLY * best:
                    break
            return taken

        self.palettes = list(self.each(choose_palette, exact.exact_tiles(*self.colours.shape[:2])))


def _changed(model: Model, header: Header, small: Array) -> set[int]:
    """The tiles whose latent exact cells change."""
    halo, step = model.network.g_a.reach, PATCH // exact.CELL
    changed = set()
    for number, place in places(header):
        # Edge cells lie one further out.
        seen = (
            slice(max((part.start - halo) * step - 1, 0), (part.stop + halo) * step + 1) for part in place
        )
        if small[tuple(seen)].any():
            changed.add(number)
    return changed


def _choose_by_size(
    store: _Exact, may: Array, weight: Array, saved: Array, seams: Array
) -> tuple[Array, int]:
    """The cells, and about how many bytes they take. What a cell takes is its weight's part of what WebP
    makes of all candidates; a second time, of those chosen or of the others."""
    all_of_them = _size(store.encode(divided(may), trial=True))
    cells, size = may, all_of_them
    for _ in range(2):
        lossless = np.full(may.shape, np.inf)
        for part, bytes_of_part in ((cells, size), (may & ~cells, all_of_them - size)):
            lossless[part] = weight[part] * (8 * max(bytes_of_part, 0) / max(weight[part].sum(), 1))
        cells = choose(may, saved - lossless, seams)
        size = _size(store.encode(divided(cells), trial=True)) if (cells != may).any() else all_of_them
    return cells, size


def _distortion(
    colours: Plane,
    header: Header,
    streams: list[list[bytes]],
    device: str,
    wanted: Array,
    options: EncodeOptions,
) -> tuple[Array, Array, Array]:
    """As of `distortion`, of what the streams decode to in the wanted cells."""
    part = Part(Container(header, {}, streams), header.groups)
    reading = DecodeOptions(device=device, threads=options.threads)
    bands: list[Tensor] = []  # the first, into which the others are painted, too

    def canvas(band: Window) -> list[Tensor]:
        shape = painted_shape(header, band, 1)
        if not bands:
            bands.append(torch.empty(shape, dtype=torch.uint8, device=device))
        return [bands[0][: shape[0]]]

    found = []
    for band in paint([part], reading, canvas, wanted=wanted):
        height, _, channels = painted_shape(header, band, 1)
        painted = bands[0][:height, :, : 3 if channels >= 3 else 1].cpu().numpy()
        for top in range(0, height, STRIP):
            strip, start = painted[top : top + STRIP], band.rows.start * PATCH + top
            found.append(distortion(colours[start : start + len(strip), :], strip))
    squares, sides, small = zip(*found, strict=True)
    return np.concatenate(squares), np.concatenate(sides, 1), np.concatenate(small)


def bits_of_cells(model: Model, header: Header, by_tile: ByTile, size: int) -> Array:
    """Bits of the latent at each position, and its share of the hyper-latent's; ``size`` bytes in all."""
    bits = np.zeros(latent_size(header))
    for number, place in places(header):
        tile = by_tile[number]
        bits[place] = symbol_bits(model, tile.symbols, tile.indices).sum(0)
    return bits + 8 * size / bits.size - bits.mean()


def _size(streams: Iterable[Any]) -> int:
    """Bytes."""
    return sum(len(part) if isinstance(part, bytes) else _size(part) for part in streams)


def choose(may: Array, gain: Array, seams: Array) -> Array:
    """The cells that are exact: a local minimum of all costs, by sweeps over a checkerboard's two colours.

    ``may``: the candidates; ``gain``: bits that each saves by being exact, its distortion counted; ``seams``
    (4, rows, columns): what is wrong, in bits, along a cell's left, right, upper and lower side if it is
    painted. The less of the two sides of a border is what an end of the exact cells there costs, beside
    BORDER_BITS: much where letters cross it, little where a photograph meets plain ground."""
    inside = np.ones_like(may)
    costs = [
        neighbour(inside, side) * (BORDER_BITS + np.minimum(seam, neighbour(seams[side ^ 1], side)))
        for side, seam in enumerate(seams)
    ]
    chosen = may & (gain > 0)
    black = np.indices(may.shape).sum(0) % 2 == 0
    for _ in range(SWEEPS):
        before = chosen
        for square in (black, ~black):
            pull = gain + sum(
                np.where(neighbour(chosen, side), cost, -cost) for side, cost in enumerate(costs)
            )
            chosen = np.where(square, may & (pull > 0), chosen)
        if (chosen == before).all():
            break
    return chosen
