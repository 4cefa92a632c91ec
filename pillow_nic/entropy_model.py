"""The one loop over channel groups, run with three coders: a rate estimator (training), a symbol encoder
and a decoder.

The loop predicts μ step by step (group by group, the first groups in two checkerboard phases) and hands it
to a coder, which answers with the decoded latent of that step. Probabilities are known before the loop
starts, because they come from the hyper-latent alone; so a missing group is simply not asked for, and
stands at its predicted mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .network import Network


class Coder(Protocol):
    """Turns the predicted mean of a range of channels into their decoded value, coding the difference on
    the way."""

    def code(self, first: int, last: int, mu: Tensor, mask: Tensor | None) -> Tensor:
        """ŷ (B, last − first, h, w) for channels first…last−1; only positions where ``mask`` is 1 count."""


def checkerboard(height: int, width: int, device: torch.device) -> Tensor:
    """1.0 where row + column is even: (1, 1, height, width)."""
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)[None]
    return ((rows + columns) % 2 == 0).float()[None, None]


def code_groups(
    network: Network, features: Tensor, position: Tensor, coder: Coder, coded: int, total: int | None = None
) -> Tensor:
    """Run the loop over the first ``coded`` groups, then fill groups up to ``total`` with their predicted
    means.

    ``features`` (B, F, h, w) from ``network.features``; returns ŷ in the natural domain (B, channels of the
    groups, h, w)."""
    config = network.config
    total = coded if total is None else max(total, coded)
    even = checkerboard(features.shape[2], features.shape[3], features.device)
    done: list[Tensor] = []
    for step, (group, phase) in enumerate(config.steps):
        if group >= total:
            break
        last = config.group_ends[group]
        first = last - config.groups[group]
        seen = torch.cat(done, 1) if done else features.new_zeros(features.shape[0], 0, *features.shape[2:])
        mu = network.context(step, features, seen, position)
        if group >= config.checkerboard:
            done.append(coder.code(first, last, mu, None) if group < coded else mu)
        elif phase == 0:
            value = coder.code(first, last, mu, even) if group < coded else mu
            done.append(value * even)
        else:
            value = coder.code(first, last, mu, 1 - even) if group < coded else mu
            done[-1] = done[-1] + value * (1 - even)
    return torch.cat(done, 1)


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


class RateEstimator:
    """The coder of training: counts bits of the noisy symbols and passes on rounded ones, straight through.

    ``y`` natural-domain latent; ``log2_gain``, ``log2_inverse`` (B, C, 1, 1) with Δ included;
    ``log2_scale`` and ``log2_skew`` of the symbols (gain included). ``noise`` False: bits of truly rounded
    symbols. ``symbol_bits``: two_piece_gaussian_bits or a compiled one. ``bits`` sums per picture."""

    def __init__(
        self,
        y: Tensor,
        log2_gain: Tensor,
        log2_inverse: Tensor,
        log2_scale: Tensor,
        log2_skew: Tensor,
        noise: bool = True,
        symbol_bits: Callable[[Tensor, Tensor, Tensor], Tensor] = two_piece_gaussian_bits,
    ) -> None:
        self.symbol_bits = symbol_bits
        self.y, self.gain, self.inverse = y, torch.exp2(log2_gain), torch.exp2(log2_inverse)
        self.log2_scale, self.log2_skew, self.noise = log2_scale, log2_skew, noise
        self.bits = y.new_zeros(y.shape[0])

    def code(self, first: int, last: int, mu: Tensor, mask: Tensor | None) -> Tensor:
        part = slice(first, last)
        v = (self.y[:, part] - mu) * self.gain[:, part]
        rounded = v + (torch.round(v) - v).detach()
        sample = v + torch.rand_like(v) - 0.5 if self.noise else rounded
        bits = self.symbol_bits(sample, self.log2_scale[:, part], self.log2_skew[:, part])
        self.bits = self.bits + (bits if mask is None else bits * mask).sum((1, 2, 3))
        return mu + rounded * self.inverse[:, part]


class SymbolEncoder:
    """The coder of a file's writer: symbols w = round((y − μ)·m), 0 where the table codes nothing.

    ``y`` (1, C, h, w); ``gain`` m and ``inverse`` m' (1, C, 1, 1), Δ included; ``coded`` (1, C, h, w), 1.0
    where there is a table. ``rounding`` turns (y − μ)·m of channels first…last−1 into integers (default: the
    nearest). ``symbols`` (1, C, h, w) fills up as the loop runs.
    """

    def __init__(
        self,
        y: Tensor,
        gain: Tensor,
        inverse: Tensor,
        coded: Tensor,
        limit: int,
        rounding: RateDistortionRounding | None = None,
    ) -> None:
        self.y, self.gain, self.inverse, self.coded, self.limit = y, gain, inverse, coded, limit
        self.rounding = rounding
        self.symbols = torch.zeros_like(y)

    def code(self, first: int, last: int, mu: Tensor, mask: Tensor | None) -> Tensor:
        part = slice(first, last)
        v = (self.y[:, part] - mu) * self.gain[:, part]
        w = torch.round(v) if self.rounding is None else self.rounding(v, part)
        w = w.clamp(-self.limit, self.limit) * self.coded[:, part]
        self.symbols[:, part] += w if mask is None else w * mask
        return mu + w * self.inverse[:, part]


class RateDistortionRounding:
    """Round to the nearest integer or to the next one towards zero, whichever costs less: bits +
    weight·error².

    ``costs`` (tables, 2·K + 1): bits of the symbols −K … K in each table; ``numbers`` (1, C, h, w) int64
    table numbers; ``weight`` (1, C, 1, 1): bits that a squared error of one step is worth. Larger symbols
    than K are rounded to the nearest."""

    def __init__(self, costs: Tensor, numbers: Tensor, weight: Tensor) -> None:
        self.reach = costs.shape[1] // 2
        self.costs, self.weight = costs.flatten(), weight
        self.zero = numbers * costs.shape[1] + self.reach

    def __call__(self, v: Tensor, part: slice) -> Tensor:
        nearest = torch.round(v)
        inner = nearest - nearest.sign()
        bounded = nearest.clamp(-self.reach, self.reach).long()
        zero = self.zero[:, part]
        saved = self.costs[zero + bounded] - self.costs[zero + bounded - bounded.sign()]
        lost = self.weight[:, part] * ((v - inner).square() - (v - nearest).square())
        return torch.where((saved > lost) & (nearest.abs() <= self.reach), inner, nearest)


class SymbolDecoder:
    """The coder of a file's reader: adds the symbols, which were all decoded before, to the predicted
    means."""

    def __init__(self, symbols: Tensor, inverse: Tensor) -> None:
        self.difference = symbols * inverse

    def code(self, first: int, last: int, mu: Tensor, mask: Tensor | None) -> Tensor:
        return mu + self.difference[:, first:last]
