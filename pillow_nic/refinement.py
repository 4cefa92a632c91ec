"""Effort 2 and 3: the latent refined by its gradient through context and synthesis.

From the writer's latent on, rate + λ·distortion is minimised, the hyper-latent held fast. The loss is that
of the model's training, or nearly (distortion.REFINED). A symbol is a random mixture of the two integers
around it that gets less and less mixed: stochastic Gumbel annealing (Yang, Bamler and Mandt, "Improving
inference for neural image compression", NeurIPS 2020) with the sigmoid-scaled logits of SGA+ (Perugachi-Diaz
et al., 2024). Its rate is that of the integer tables, in a straight line between the two. Adam moves the
latent in units of the quantiser's step, so that one rate serves all channels and qualities.

Work is cut into pieces with a halo, whatever the number of threads, each from the same start. So threads do
not wait for each other, and memory is bounded: about 0.6 GB a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import numpy as np
import torch
from torch import Tensor

from . import workers
from .distortion import REFINED, Distortion
from .entropy_model import (
    SideInformation,
    SymbolDecoder,
    SymbolEncoder,
    code_groups,
    decoded,
    scaled,
    side_information,
)
from .entropy_tables import MAX_SYMBOL
from .header import Header
from .integer_net import DELTA_OCTAVE
from .network import PATCH
from .options import TUNES, EncodeOptions, Progress
from .tile_coding import Array, TileSymbols, as_integers, lmbda_of
from .tiling import Plane, Span, Tile, spans, tiles
from .weights import Model


@dataclass(frozen=True)
class Stage:
    """Iterations of a refinement: ``temperatures`` at the first and at the last, exponentially in between,
    and ``noise``, how much of the Gumbel noise is left: the fewer iterations, the less."""

    iterations: int
    temperatures: tuple[float, float]
    noise: float

    def __iter__(self) -> Iterator[float]:
        """The temperature of each iteration."""
        hot, cold = self.temperatures
        last = max(self.iterations - 1, 1)
        return (hot * (cold / hot) ** (i / last) for i in range(self.iterations))


# What rate + λ·distortion lost against effort 1, in percent of the rate, on crops of validation pictures. 16
# iterations, three crops, both tunes: 8.0, with all of the noise 5.5. Twice the rate of Adam, a rate that
# falls, a start at effort 1's symbols and a last pass of effort 1 were all worse. 100 iterations, four
# crops, both tunes: 11.8 from the start, and as much after the short stage. After the short stage, three
# crops of "psnr" at quality 0.5: 84 iterations 6.8, with noise 0.9 6.9; 134 7.2, with noise 0.9 7.6. Two of
# "ms-ssim": 84 14.1, with noise 0.9 13.9. Bytes at equal PSNR, three crops of "psnr" at three qualities,
# against 84: 155 -0.8 %, with noise 0.9 -1.0 %; an iteration of the other tunes takes longer. The
# hyper-latent refined, too, in 40 more iterations between the stages, with the probabilities of the float
# networks: at most 0.3 more than the same iterations without it ("psnr").
_SHORT = Stage(15, (1.0, 0.35), 0.5)
_LONG = Stage(84, (0.7, 0.2), 0.6)
_LONGER = Stage(160, (0.7, 0.2), 0.9)
STAGES: dict[tuple[str, int], tuple[Stage, ...]] = {
    **{(tune, 2): (_SHORT,) for tune in TUNES},
    **{(tune, 3): (_SHORT, _LONGER if tune == "psnr" else _LONG) for tune in TUNES},
}
"""By tune and effort. Effort 3 goes on from where effort 2 ends."""
RATE = 0.02
"""Of Adam, in steps of the quantiser."""
MOMENTS = 0.9, 0.999
SIDE = 32
"""Latent positions along the side of a piece. Even, as the halo, so that every piece has the checkerboard's
phases where its tile has them."""
HALO = 4
"""Positions around a piece that are refined with it, and forgotten. The distortion is that of the inner half
and the piece."""
SEED = 20


@dataclass(frozen=True)
class _Tile:
    """A tile of the latent: its place, what is known of it, and the start of its refinement."""

    place: Tile
    start: TileSymbols
    side: SideInformation


def refine(
    model: Model,
    colours: Plane,
    y: Tensor,
    start: Sequence[TileSymbols],
    header: Header,
    options: EncodeOptions,
    threads: int,
    progress: Progress | None = None,
) -> list[TileSymbols]:
    """Better symbols for the latent y (1, C, h, w) of colours H×W×3 than those of ``start``, or these if no
    better ones were found. ``progress`` is called on whatever thread has done something."""
    numbered = zip(tiles(y.shape[2], y.shape[3], header.tile_size // PATCH), start, strict=True)
    task = _Task(model, colours, y, header, options)
    known = workers.each(lambda tile: task.known(*tile), numbered, threads)
    work = list(enumerate(piece for tile in known for piece in _pieces(tile)))
    told = _Counter(progress, len(work) * sum(stage.iterations for stage in task.stages))

    def refined(item: tuple[int, tuple[_Tile, Tile]]) -> tuple[Tile, list[Tensor]]:
        number, (tile, piece) = item
        with torch.inference_mode(False), torch.enable_grad():
            ends = task.refined(tile, piece, number, told)
            return piece, [y[:, :, *piece.inner].clone() for y in ends]

    ends = [torch.empty_like(y[:, : task.channels]) for _ in task.stages]
    for piece, parts in workers.each(refined, work, threads):
        for end, part in zip(ends, parts, strict=True):
            end[:, :, *piece.own] = part
    found = [list(start)]
    for end in ends:
        found.append(workers.each(partial(task.rounded, y=end), known, threads))
    return min(found, key=lambda symbols: task.loss(known, symbols, threads))


def _pieces(tile: _Tile) -> Iterator[tuple[_Tile, Tile]]:
    """The pieces of a tile, in the picture's latent, with halos that end where the tile ends."""

    def cut(whole: Span) -> list[Span]:
        length = whole.stop - whole.start
        side = -(-length // -(-length // SIDE))
        return [Span(*(whole.start + end for end in part)) for part in spans(length, side + side % 2, HALO)]

    columns = cut(tile.place.columns)
    yield from ((tile, Tile(row, column)) for row in cut(tile.place.rows) for column in columns)


def _pixels(positions: range, origin: int) -> slice:
    """The pixels of latent positions, counted from those of one of them."""
    return slice((positions.start - origin) * PATCH, (positions.stop - origin) * PATCH)


class _Counter:
    """Tells how far several threads are."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total = progress, total
        self.done, self.lock = 0, threading.Lock()

    def __call__(self) -> None:
        with self.lock:
            self.done += 1
            if self.progress is not None:
                self.progress(self.done / self.total)


class _Task:
    """One picture to be refined."""

    def __init__(
        self, model: Model, colours: Plane, y: Tensor, header: Header, options: EncodeOptions
    ) -> None:
        self.model, self.colours, self.y, self.header = model, colours, y, header
        self.mixture, self.stages = REFINED[options.loss], STAGES[options.loss, options.effort]
        self.channels = model.config.group_ends[header.groups - 1]
        self.costs, self.reach = model.symbol_costs.flatten(), model.symbol_costs.shape[1] // 2
        self.lmbda = float(lmbda_of(model, header).cpu())

    @property
    def point(self) -> Tensor:
        return self.model.point(self.header.rate_point)

    def known(self, place: Tile, start: TileSymbols) -> _Tile:
        size = (start.symbols.shape[1], start.symbols.shape[2])
        z = torch.from_numpy(start.hyper.astype(np.float32)).to(self.model.device)[None]
        delta = self.header.delta / DELTA_OCTAVE
        return _Tile(place, start, side_information(self.model.network, z, self.point, delta, size))

    def tables(self, indices: Array) -> tuple[Tensor, Tensor]:
        """Of table indices (C, h, w): where the cost of symbol 0 stands, and 1.0 where there is a table."""
        coded = torch.from_numpy(self.model.tables.sizes[indices] > 0).to(self.model.device)[None].float()
        zero = torch.from_numpy(indices.astype(np.int64)).to(self.model.device)[None]
        return zero * (2 * self.reach + 1) + self.reach, coded

    def refined(self, tile: _Tile, piece: Tile, number: int, told: _Counter) -> list[Tensor]:
        """Latents of the piece with its halo that round to better symbols: one of the end of each stage; none
        once the work is given up."""
        top, left = tile.place.rows.start, tile.place.columns.start
        rows, columns = piece.rows, piece.columns
        place = (
            slice(rows.outer_start - top, rows.outer_stop - top),
            slice(columns.outer_start - left, columns.outer_stop - left),
        )
        y = self.y[:, : self.channels, *piece.outer].clone(memory_format=torch.channels_last)
        side = replace(
            tile.side,
            features=tile.side.features[:, :, *place].clone(),
            log2_gain=tile.side.log2_gain.clone(),
            log2_inverse=tile.side.log2_inverse.clone(),
        )
        # What lies beyond the halo shows in its outer half.
        seen = [
            range(max(span.start - HALO // 2, span.outer_start), min(span.stop + HALO // 2, span.outer_stop))
            for span in piece
        ]
        x = self.pixels((_pixels(seen[0], 0), _pixels(seen[1], 0)))
        distortion, size = Distortion(self.mixture, x), x.shape[2] * x.shape[3]
        shown = _pixels(seen[0], rows.outer_start), _pixels(seen[1], columns.outer_start)
        step = torch.exp2(side.log2_inverse[:, : self.channels])
        generator = torch.Generator().manual_seed(SEED + number)  # the same on every device
        tables = self.tables(tile.start.indices[:, *place])
        coder = _Annealing(side, self.costs, self.reach, *tables, generator)
        network, point = self.model.network, self.point
        moved = torch.zeros_like(y)
        mean, square = torch.zeros_like(y), torch.zeros_like(y)
        ends, numbers = [], count(1)
        for stage in self.stages:
            for temperature in stage:
                if workers.given_up():
                    return []
                moved.requires_grad_(True)
                coder.begin(y + moved * step, temperature, stage.noise)
                y_hat = code_groups(network, side.features, point, coder, self.header.groups)
                x_hat = network.g_s(y_hat, point, self.header.width_index)[:, :, *shown]
                x_hat = x_hat[:, :, : x.shape[2], : x.shape[3]]
                error = distortion(x_hat).sum() * size
                (gradient,) = torch.autograd.grad(coder.bits + self.lmbda * error, moved)
                with torch.no_grad():
                    mean.lerp_(gradient, 1 - MOMENTS[0])
                    square.lerp_(gradient.square(), 1 - MOMENTS[1])
                    i = next(numbers)
                    unbiased = (square / (1 - MOMENTS[1] ** i)).sqrt_().add_(1e-12)
                    moved = moved - RATE / (1 - MOMENTS[0] ** i) * mean / unbiased
                told()
            ends.append(y + moved * step)
        return ends

    def pixels(self, place: tuple[slice, slice]) -> Tensor:
        part = torch.from_numpy(np.array(self.colours[place]))
        return part.to(self.model.device).permute(2, 0, 1)[None].float() / 255

    def rounded(self, tile: _Tile, y: Tensor) -> TileSymbols:
        """The symbols of a tile: those nearest to a latent."""
        _, coded = self.tables(tile.start.indices)
        coder = SymbolEncoder(y[:, :, *tile.place.own], tile.side, coded, MAX_SYMBOL)
        code_groups(self.model.network, tile.side.features, self.point, coder, self.header.groups)
        return replace(tile.start, symbols=as_integers(coder.symbols))

    def loss(self, known: Sequence[_Tile], symbols: Sequence[TileSymbols], threads: int) -> float:
        """Bits + λ·distortion of the real symbols and of the picture that they decode to."""
        network, groups = self.model.network, self.header.groups
        y_hat = torch.empty_like(self.y[:, : self.channels])

        def bits(item: tuple[_Tile, TileSymbols]) -> float:
            tile, chosen = item
            w = torch.from_numpy(chosen.symbols).to(self.model.device)[None]
            part = code_groups(
                network, tile.side.features, self.point, SymbolDecoder(w.float(), tile.side), groups
            )
            y_hat[:, :, *tile.place.own] = part
            zero, _ = self.tables(chosen.indices)
            costs = self.costs[zero + w.clamp(-self.reach, self.reach)]
            return float(costs.flatten(1).sum(1, dtype=torch.float64).cpu())

        def error(place: Tile) -> float:
            x_hat = network.g_s(y_hat[:, :, *place.outer], self.point, self.header.width_index)
            x = self.pixels(place.times(PATCH).own)
            x_hat = x_hat[:, :, *place.times(PATCH).inner][:, :, : x.shape[2], : x.shape[3]]
            x_hat = (x_hat * 255).round().clamp(0, 255) / 255
            return float(Distortion(self.mixture, x)(x_hat).cpu()) * x.shape[2] * x.shape[3]

        rate = sum(workers.each(bits, zip(known, symbols, strict=True), threads))
        places = tiles(self.y.shape[2], self.y.shape[3], self.header.tile_size // PATCH, 2 * HALO)
        return rate + self.lmbda * sum(workers.each(error, places, threads))


class _Annealing:
    """The coder of the refinement: a symbol is floor + p, p between 0 and 1, its bits those of the two
    integers in the same shares."""

    def __init__(
        self,
        side: SideInformation,
        costs: Tensor,
        reach: int,
        zero: Tensor,
        coded: Tensor,
        generator: torch.Generator,
    ) -> None:
        self.side, self.costs, self.reach = side, costs, reach
        self.zero, self.coded, self.generator = zero, coded, generator

    def begin(self, y: Tensor, temperature: float, noise: float) -> None:
        self.y, self.temperature, self.noise = y, temperature, noise
        self.bits = y.new_zeros(())

    def code(self, part: slice, mu: Tensor, log2_step: Tensor, mask: Tensor | None) -> Tensor:
        v = scaled(self.y, part, mu, log2_step, self.side)
        low = v.detach().floor()
        odds = torch.logit((v - low).clamp(1e-4, 1 - 1e-4))
        chance = torch.rand(v.shape, dtype=v.dtype, device="cpu", generator=self.generator).to(v.device)
        noise = self.noise * torch.logit(
            chance.clamp_(1e-6, 1 - 1e-6)
        )  # the difference of two Gumbel variables
        up = torch.sigmoid((odds / self.temperature + noise) / self.temperature)
        first = self.zero[:, part] + low.clamp(-self.reach, self.reach - 1).long()
        costs = self.costs[first]
        bits = torch.addcmul(costs, up, self.costs[first + 1] - costs) * self.coded[:, part]
        self.bits = self.bits + (bits if mask is None else bits * mask).sum()
        return decoded((low + up) * self.coded[:, part], part, mu, log2_step, self.side)
