"""The channel context: every step sees the hyper features and ŷ of all slices before it, through a 1×1
convolution to a few channels and a 3×3 one of its own.

What a step sees is a *state*: some rows of the features and of the slices so far, (B, channels, h + 2, w),
with a row more on either side, of zeros where there is none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import ALL, Conditioning, Reduction, SlimConv2d, widened
from .config import NetworkConfig

LOG2_STEP_MAX = 3.0
"""Bound of |log₂ q|."""


class ContextStep(nn.Module):
    """μ and log₂ q of one slice (and phase) from the hyper features and all that is decoded already."""

    def __init__(self, config: NetworkConfig, seen: int, channels: int) -> None:
        super().__init__()
        hidden, rank = config.context_hidden, config.ranks.context
        self.reduce = Reduction(seen, rank)
        self.conv1 = SlimConv2d(rank, hidden, 3, padding=(0, 1))
        self.conditioning = Conditioning(config.rate_points, hidden)
        self.conv2 = SlimConv2d(hidden, hidden, 1)
        self.head = SlimConv2d(hidden, 2 * channels, 1, std=0.0)

    def forward(self, state: Tensor, point: Tensor) -> Tensor:
        h = self.conv1.scaled(self.reduce(state), *self.conditioning(point))
        h = self.conv2(F.leaky_relu(h, 0.1, inplace=True))
        return self.head(F.leaky_relu(h, 0.1, inplace=True)).float()


class ChannelContext(nn.Module):
    """Predicts each step of ``config.steps``.

    q is a float's, like μ: it scales what a symbol is worth, not its probability (PULSE, arXiv
    2609.18602)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.ends = [config.features + end for end in config.slice_ends]
        self.starts = [config.features, *self.ends[:-1]]
        self.steps = config.steps
        self.step_nets = nn.ModuleList(
            ContextStep(config, (self.ends if phase else self.starts)[part], config.slices[part])
            for part, phase in config.steps
        )

    def start(self, features: Tensor, rows: slice = ALL) -> Tensor:
        """The state before the first step, of some rows of the features (B, F, h, w). In inference mode it
        has room for all slices."""
        seen = widened(features, rows)
        if not torch.is_inference_mode_enabled():
            return seen
        batch, channels, height, width = seen.shape
        state = seen.new_zeros(batch, height, width, self.starts[-1]).permute(0, 3, 1, 2)
        state[:, :channels] = seen
        return state

    def see(self, state: Tensor, part: int, value: Tensor, rows: slice = ALL) -> Tensor:
        """The state with the value (B, channels, h, w) of a step of slice ``part``, 0 where the step has
        none. In inference mode it is the same one, written over."""
        start, seen = self.starts[part], widened(value, rows)
        if torch.is_inference_mode_enabled():
            state[:, start : start + seen.shape[1]].add_(seen)
            return state
        if state.shape[1] > start:  # the second phase
            seen = state[:, start:] + seen
        return torch.cat([state[:, :start], seen.to(state.dtype)], 1)

    def predict(self, step: int, state: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log₂ q, each (B, channels, h, w)."""
        part, phase = self.steps[step]
        seen = (self.ends if phase else self.starts)[part]
        mu, log2_step = self.step_nets[step](state[:, :seen], point).chunk(2, 1)
        return mu, log2_step.clamp(-LOG2_STEP_MAX, LOG2_STEP_MAX)
