"""The one loop over the latent's slices, run with three coders: a rate estimator (training), a symbol encoder
and a decoder.

The loop predicts μ and q step by step (slice by slice, the first slices in two checkerboard phases) and hands
them to a coder, which answers with the decoded latent of that step. Probabilities are known before the loop
starts, because they come from the hyper-latent alone; so a missing group is simply not asked for, and
stands at its predicted mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from .network import Network


@dataclass(frozen=True)
class SideInformation:
    """What the hyper-latent and the rate point say before the loop: ẑ in its natural domain (B, Cz, h/4,
    w/4), features for the context (B, F, h, w), and log₂ of the gains m and m' (B, C, 1, 1) with Δ
    included."""

    z_hat: Tensor
    features: Tensor
    log2_gain: Tensor
    log2_inverse: Tensor


def side_information(
    network: Network, symbols: Tensor, point: Tensor, delta: float, size: tuple[int, int]
) -> SideInformation:
    """From the hyper-latent's symbols (B, Cz, ⌈h/4⌉, ⌈w/4⌉), for a latent of ``size`` (h, w); ``delta`` in
    octaves."""
    z_hat = symbols * torch.exp2(network.hyper_gain(point)[1])[:, :, None, None]
    features = network.features(z_hat)[:, :, : size[0], : size[1]]
    log2_gain, log2_inverse = (t[:, :, None, None] for t in network.gain(point))
    return SideInformation(z_hat, features, log2_gain - delta, log2_inverse + delta)


class Coder(Protocol):
    """Turns the predicted mean of some channels into their decoded value, coding the difference on the
    way."""

    def code(self, part: slice, mu: Tensor, log2_step: Tensor, mask: Tensor | None) -> Tensor:
        """ŷ (B, channels, h, w) for the channels ``part`` with predicted mean and log₂ q; only positions
        where ``mask`` is 1 count."""


def checkerboard(height: int, width: int, device: torch.device) -> Tensor:
    """1.0 where row + column is even: (1, 1, height, width)."""
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)[None]
    return ((rows + columns) % 2 == 0).float()[None, None]


def code_groups(
    network: Network, features: Tensor, point: Tensor, coder: Coder, kept: int, total: int | None = None
) -> Tensor:
    """Run the loop over the first ``kept`` groups, then fill groups up to ``total`` with their predicted
    means.

    ``features`` (B, F, h, w) of the side information; returns ŷ in the natural domain (B, channels of the
    groups, h, w)."""
    return code_strips(network, features, point, [(slice(0, features.shape[2]), coder)], kept, total)


def in_turn(action: Callable[[int], Any], items: Iterable[int]) -> list[Any]:
    """Results of the action, one after another: the plainest of what `code_strips` is given as ``each``."""
    return [action(item) for item in items]


def code_strips(
    network: Network,
    features: Tensor,
    point: Tensor,
    strips: Sequence[tuple[slice, Coder]],
    kept: int,
    total: int | None = None,
    each: Callable[[Callable[[int], Any], Iterable[int]], list[Any]] = in_turn,
    out: Tensor | None = None,
) -> Tensor:
    """As `code_groups`, in strips of some rows of the latent, each with a coder of its own. All strips of a
    step can be computed at once, by ``each``; the next step then sees its neighbours' rows, too. ``out``: the
    memory for ŷ, if there is no gradient."""
    config, context = network.config, network.context
    total = kept if total is None else max(total, kept)
    even = checkerboard(features.shape[2], features.shape[3], features.device)

    states: list[Tensor] = each(lambda n: context.start(features, strips[n][0]), range(len(strips)))
    done: list[Tensor] = []
    starts, ends = (0, *config.slice_ends), (0, *config.group_ends)
    known, wanted = ends[kept], ends[total]
    steps = [step for step in config.steps if starts[step[0]] < wanted]
    masks = [None if s >= config.checkerboard else 1 - even if phase else even for s, phase in steps]

    def code(n: int, step: int, before: Tensor | None) -> Tensor:
        """A step of a strip, after the whole value of the step before."""
        rows, coder = strips[n]
        if before is not None:
            states[n] = context.see(states[n], steps[step - 1][0], before, rows)
        mu, log2_step = context.predict(step, states[n], point)
        start, mask = starts[steps[step][0]], masks[step]
        mask = mask if mask is None else mask[:, :, rows]
        own = min(max(known - start, 0), mu.shape[1])  # how many of the slice's channels are coded
        value = mu
        if own:
            value = coder.code(slice(start, start + own), mu[:, :own], log2_step[:, :own], mask)
        if 0 < own < mu.shape[1]:
            value = torch.cat([value, mu[:, own:]], 1)
        value = value if mask is None else value * mask
        if out is not None:
            place = out[:, start : start + value.shape[1], rows]
            write = place.add_ if steps[step][1] else place.copy_
            write(value[:, : place.shape[1]])
        return value

    value: Tensor | None = None
    for step, (_, phase) in enumerate(steps):
        value = torch.cat(each(partial(code, step=step, before=value), range(len(strips))), 2)
        if out is not None:
            continue
        if phase:
            done[-1] = done[-1] + value
        else:
            done.append(value)
    return torch.cat(done, 1)[:, :wanted] if out is None else out


def two_piece_gaussian_bits(v: Tensor, log2_scale: Tensor, log2_skew: Tensor) -> Tensor:
    """−log₂ P of the unit bin around v under the two-piece Gaussian of Cui et al. (CVPR 2021), centred on 0.

    σ_left = 2^(log2_scale − log2_skew), σ_right = 2^(log2_scale + log2_skew). Tail masses T(u) are taken on
    the side where u lies, so that the difference of two of them keeps its precision: P = T(a) − T(b) on one
    side, 1 − T(a) − T(b) over the centre."""
    left = torch.exp2(log2_scale - log2_skew)
    right = torch.exp2(log2_scale + log2_skew)
    total = left + right
    a, b = v - 0.5, v + 0.5

    def tail(u: Tensor) -> Tensor:
        sigma = torch.where(u < 0, left, right)
        return sigma / total * torch.special.erfc(u.abs() / sigma * 0.70710678)

    tail_a, tail_b = tail(a), tail(b)
    p = torch.where(a >= 0, tail_a - tail_b, torch.where(b < 0, tail_b - tail_a, 1 - tail_a - tail_b))
    return -torch.log2(p.clamp_min(1e-12))


def scaled(y: Tensor, part: slice, mu: Tensor, log2_step: Tensor, side: SideInformation) -> Tensor:
    """(y − μ)·m/q of the channels ``part``: what is rounded to symbols."""
    return (y[:, part] - mu) * torch.exp2(side.log2_gain[:, part] - log2_step)


def decoded(w: Tensor, part: slice, mu: Tensor, log2_step: Tensor, side: SideInformation) -> Tensor:
    """ŷ = μ + w·m'·q of the channels ``part`` from their symbols."""
    return mu + w * torch.exp2(side.log2_inverse[:, part] + log2_step)


def noisy(v: Tensor) -> Tensor:
    """With uniform noise of a step, which stands for rounding (Ballé et al., ICLR 2017)."""
    return v + torch.rand_like(v) - 0.5


class RateEstimator:
    """The coder of training: counts bits of the noisy symbols and passes on rounded ones, straight through.

    ``y`` natural-domain latent; ``log2_scale`` and ``log2_skew`` of the symbols (gain included). ``noise``
    False: bits of truly rounded symbols. ``symbol_bits``: two_piece_gaussian_bits or a compiled one.
    ``learn_step``: whether log₂ q passes a gradient. ``bits`` sums per picture."""

    def __init__(
        self,
        y: Tensor,
        side: SideInformation,
        log2_scale: Tensor,
        log2_skew: Tensor,
        noise: bool = True,
        symbol_bits: Callable[[Tensor, Tensor, Tensor], Tensor] = two_piece_gaussian_bits,
        learn_step: bool = True,
    ) -> None:
        self.symbol_bits, self.learn_step = symbol_bits, learn_step
        self.y, self.side = y, side
        self.log2_scale, self.log2_skew, self.noise = log2_scale, log2_skew, noise
        self.bits = y.new_zeros(y.shape[0])

    def code(self, part: slice, mu: Tensor, log2_step: Tensor, mask: Tensor | None) -> Tensor:
        log2_step = log2_step if self.learn_step else log2_step.detach()
        v = scaled(self.y, part, mu, log2_step, self.side)
        rounded = v + (torch.round(v) - v).detach()
        sample = noisy(v) if self.noise else rounded
        bits = self.symbol_bits(sample, self.log2_scale[:, part], self.log2_skew[:, part])
        self.bits = self.bits + (bits if mask is None else bits * mask).sum((1, 2, 3))
        return decoded(rounded, part, mu, log2_step, self.side)


class SymbolEncoder:
    """The coder of a file's writer: symbols w = round((y − μ)·m/q), 0 where the table codes nothing.

    ``y`` (1, C, h, w); ``coded`` (1, C, h, w), 1.0 where there is a table. ``rounding`` turns (y − μ)·m/q
    into integers (default: the nearest). ``symbols`` (1, C, h, w) fills up as the loop runs.
    """

    def __init__(
        self,
        y: Tensor,
        side: SideInformation,
        coded: Tensor,
        limit: int,
        rounding: RateDistortionRounding | None = None,
    ) -> None:
        self.y, self.side, self.coded, self.limit = y, side, coded, limit
        self.rounding = rounding
        self.symbols = torch.zeros_like(y)

    def code(self, part: slice, mu: Tensor, log2_step: Tensor, mask: Tensor | None) -> Tensor:
        v = scaled(self.y, part, mu, log2_step, self.side)
        w = torch.round(v) if self.rounding is None else self.rounding(v, part, log2_step)
        w = w.clamp(-self.limit, self.limit) * self.coded[:, part]
        self.symbols[:, part] += w if mask is None else w * mask
        return decoded(w, part, mu, log2_step, self.side)


class RateDistortionRounding:
    """Round to the nearest integer or to the next one towards zero, whichever costs less: bits +
    weight·q²·error².

    ``costs`` (tables, 2·K + 1): bits of the symbols −K … K in each table; ``indices`` (1, C, h, w) int64
    table indices; ``weight`` (1, C, 1, 1): bits that a squared error of one step is worth where q is 1.
    Larger symbols than K are rounded to the nearest."""

    def __init__(self, costs: Tensor, indices: Tensor, weight: Tensor) -> None:
        self.reach = costs.shape[1] // 2
        self.costs, self.weight = costs.flatten(), weight
        self.zero = indices * costs.shape[1] + self.reach

    def __call__(self, v: Tensor, part: slice, log2_step: Tensor) -> Tensor:
        nearest = torch.round(v)
        inner = nearest - nearest.sign()
        bounded = nearest.clamp(-self.reach, self.reach).long()
        zero = self.zero[:, part]
        saved = self.costs[zero + bounded] - self.costs[zero + bounded - bounded.sign()]
        weight = self.weight[:, part] * torch.exp2(2 * log2_step)
        lost = weight * ((v - inner).square() - (v - nearest).square())
        return torch.where((saved > lost) & (nearest.abs() <= self.reach), inner, nearest)


class SymbolDecoder:
    """The coder of a file's reader: adds the symbols (B, C, h, w), which were all decoded before, to the
    predicted means."""

    def __init__(self, symbols: Tensor, side: SideInformation) -> None:
        self.symbols, self.side = symbols, side

    def code(self, part: slice, mu: Tensor, log2_step: Tensor, mask: Tensor | None) -> Tensor:
        return decoded(self.symbols[:, part], part, mu, log2_step, self.side)
