"""The channel context: every step sees the hyper features and ŷ of all groups before it, through a 3×3
convolution of its own, with a ``rank`` through so many channels.

Without a rank (nic-1), in inference mode on a CPU, the state is kept as the values of Winograd's tiles
(winograd.py), so that each channel is transformed once and not for every step that sees it: with the fewer
multiplications 0.12 instead of 0.17 s of one core per megapixel."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import winograd
from .blocks import ALL, Conditioning, Reduction, SlimConv2d, bias_of, widened
from .config import NetworkConfig


class State(NamedTuple):
    """Some rows of what a step sees: ``plane`` (B, channels, h + 2, w), with a row more on either side, of
    zeros where there is none; or else the ``values`` (36, tiles, all channels) of its tiles, of which those
    of the first ``channels`` are there, for ``shape`` (B, h, w)."""

    plane: Tensor
    values: Tensor | None
    channels: int
    shape: tuple[int, int, int]


LOG2_STEP_MAX = 3.0
"""Bound of |log₂ q|."""


class ContextStep(nn.Module):
    """μ and log₂ q of one group (and phase) from the hyper features and all that is decoded already."""

    def __init__(self, config: NetworkConfig, seen: int, channels: int) -> None:
        super().__init__()
        hidden = config.context_hidden
        self.reduce = None
        if config.ranks is not None:
            self.reduce = Reduction(seen, config.ranks.context)
            seen = config.ranks.context
        self.conv1 = SlimConv2d(seen, hidden, 3, padding=(0, 1))
        self.conditioning = Conditioning(config.rate_points, hidden)
        self.conv2 = SlimConv2d(hidden, hidden, 1)
        self.head = SlimConv2d(hidden, channels * (1 + config.predicted_step), 1, std=0.0)

    def forward(self, state: State, point: Tensor) -> Tensor:
        scale, shift = self.conditioning(point)
        if state.values is None:
            plane = state.plane if self.reduce is None else self.reduce(state.plane)
            h = F.leaky_relu(self.conv1.scaled(plane, scale, shift), 0.1)
            return self.head(F.leaky_relu(self.conv2(h), 0.1)).float()
        shift = shift + scale * bias_of(self.conv1)
        seen = self.conv1.in_channels
        sums = winograd.products(state.values[:, :, :seen], self.conv1.filters(seen, None))
        sums = sums.view(winograd.SIDE**2, state.shape[0], -1, sums.shape[2])
        h = F.leaky_relu(torch.addcmul(shift[:, None], sums, scale[:, None], out=sums), 0.1, inplace=True)
        for conv in (self.conv2, self.head):
            h = F.linear(h, conv.weight[:, :, 0, 0], conv.bias)
            h = F.leaky_relu(h, 0.1, inplace=True) if conv is self.conv2 else h
        return winograd.from_tiles(h, *state.shape).permute(0, 3, 1, 2)


class ChannelContext(nn.Module):
    """Predicts each step of ``config.steps``.

    q is a float's, like μ: it scales what a symbol is worth, not its probability (PULSE, arXiv
    2609.18602)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.starts = [
            config.features + end - n for end, n in zip(config.group_ends, config.groups, strict=True)
        ]
        self.ends = [config.features + end for end in config.group_ends]
        self.step_nets = nn.ModuleList(
            ContextStep(config, (self.ends if phase else self.starts)[group], config.groups[group])
            for group, phase in config.steps
        )
        self.predicted_step = config.predicted_step
        self.tiled = config.ranks is None

    def start(self, features: Tensor, rows: slice = ALL) -> State:
        batch, channels, height, width = features.shape
        start, stop, _ = rows.indices(height)
        shape = (batch, stop - start, width)
        if not (self.tiled and winograd.suits(features)):
            return State(widened(features, rows), None, channels, shape)
        tiles = winograd.transform(features.permute(0, 2, 3, 1), start, stop)
        values = tiles.new_empty(*tiles.shape[:2], self.starts[-1])
        values[:, :, :channels] = tiles
        return State(features, values, channels, shape)

    def see(self, state: State, group: int, value: Tensor, rows: slice = ALL) -> State:
        start, end = self.starts[group], self.ends[group]
        second = state.channels > start  # the second phase
        if state.values is None:
            seen = widened(value, rows)
            if second:
                seen = state.plane[:, start:] + seen
            seen = torch.cat([state.plane[:, :start], seen.to(state.plane.dtype)], 1)
            return state._replace(plane=seen, channels=end)
        first, stop, _ = rows.indices(value.shape[2])
        tiles = winograd.transform(value.permute(0, 2, 3, 1), first, stop)
        place = state.values[:, :, start:end]
        if second:  # a sum's values are the sum of its parts' values
            place.add_(tiles)
        else:
            place.copy_(tiles)
        return state._replace(channels=end)

    def predict(self, step: int, state: State, point: Tensor) -> tuple[Tensor, Tensor | None]:
        """μ and log₂ q, each (B, channels, h, w); None if the network predicts no q."""
        out = self.step_nets[step](state, point)
        if not self.predicted_step:
            return out, None
        mu, log2_step = out.chunk(2, 1)
        return mu, log2_step.clamp(-LOG2_STEP_MAX, LOG2_STEP_MAX)
