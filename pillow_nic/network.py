"""The float networks of nic-1: analysis, synthesis, hyper transforms, channel context and gain units.

    x ── g_a ── y ──×m──┬── w = round((y − μ)·m) ──► streams ──► ŷ = μ + w·m' ── g_s ── x̂
                        └── h_a ──×── round ── ẑ ──► stream
                                                ├──► h_s (integer_net.py) ──► table row per element
                                                └──► float features ──► channel context ──► μ, step by step

Both transforms have two paths. The linear one is a 16×16, stride-16 projection that starts as the KLT of
training patches (synthesis: its transpose); the non-linear one starts at zero and works at 1/8 and 1/16 of
the resolution (design in the manner of AuxT, ICLR 2025). The latent's *natural domain* is the KLT
coefficient over its own standard deviation: unit variance in every channel. The gain of a rate point (Cui
et al., CVPR 2021) is applied only around the rounding, so that in log₂ a gain is an offset of the scale.

Every convolution is slimmable by slicing, first channels first (Yang et al., CVPR 2021). Features are
scaled and shifted per channel by vectors interpolated on the rate point (Choi et al., ICCV 2019).

Shapes: pictures (B, 3, H, W) in 0…1 with H and W multiples of 16; latent y (B, 320, H/16, W/16);
hyper-latent z (B, 96, ⌈H/64⌉, ⌈W/64⌉). ``position`` is a rate point as a float in [0, rate_points − 1],
shape (B,) or (1,)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 16
"""Side of the linear path's patches, and pixels per latent position."""
HYPER = 4
"""Latent positions per hyper-latent position, along each side."""


@dataclass(frozen=True)
class Width:
    """One width of the slimmable transforms: latent groups it carries, channels at 1/8 and at 1/16."""

    groups: int
    channels_8: int
    channels_16: int


@dataclass(frozen=True)
class NetworkConfig:
    """The architecture. It is stored with the weights; nothing in the code fixes these numbers.

    ``checkerboard`` says how many of the first groups are predicted in two phases, the second of which sees
    the first's neighbours. Only μ depends on it, so it costs no bitstream change."""

    groups: tuple[int, ...] = (16, 32, 24, 24, 48, 48, 128)
    widths: tuple[Width, ...] = (
        Width(2, 48, 64),
        Width(3, 64, 96),
        Width(4, 80, 112),
        Width(5, 96, 144),
        Width(6, 112, 160),
        Width(7, 128, 192),
    )
    blocks_8: int = 4
    blocks_16: int = 3
    hyper_channels: int = 96
    hyper_hidden: int = 96
    features: int = 96
    context_hidden: int = 96
    checkerboard: int = 2
    rate_points: int = 8
    lmbda_min: float = 0.0003
    lmbda_max: float = 0.5

    @property
    def latent_channels(self) -> int:
        return sum(self.groups)

    @property
    def group_ends(self) -> tuple[int, ...]:
        """Cumulative channel count after each group."""
        return tuple(sum(self.groups[: g + 1]) for g in range(len(self.groups)))

    @property
    def steps(self) -> tuple[tuple[int, int], ...]:
        """The order of prediction: (group, phase); phase 0 all or even positions, 1 odd ones."""
        return tuple(
            (g, p) for g in range(len(self.groups)) for p in range(2 if g < self.checkerboard else 1)
        )

    def lmbda(self, position: Tensor) -> Tensor:
        """λ (loss = bits per pixel + λ·MSE in 8-bit levels²) of a rate point: log-uniform over the range."""
        ratio = self.lmbda_max / self.lmbda_min
        return self.lmbda_min * ratio ** (position / (self.rate_points - 1))

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> NetworkConfig:
        fields: dict[str, Any] = json.loads(text)
        fields["groups"] = tuple(fields["groups"])
        fields["widths"] = tuple(Width(**w) for w in fields["widths"])
        return NetworkConfig(**fields)


class SlimConv2d(nn.Conv2d):
    """A convolution that uses the first input channels it is given and the first ``out`` outputs it is
    asked for."""

    def forward(self, x: Tensor, out: int | None = None) -> Tensor:
        return self.scaled(x, None, None, out)

    def scaled(self, x: Tensor, scale: Tensor | None, shift: Tensor | None, out: int | None = None) -> Tensor:
        """conv(x)·scale + shift. A scale for the whole batch (1, C) is folded into the weights: it costs
        nothing."""
        weight, bias = self.weight[:out, : x.shape[1]], self.bias
        assert bias is not None
        bias = bias[:out]
        if scale is None or shift is None:
            return F.conv2d(x, weight, bias, self.stride, self.padding)
        scale, shift = scale[:, :out], shift[:, :out]
        if scale.shape[0] == 1:
            return F.conv2d(
                x,
                weight * scale[0, :, None, None, None],
                bias * scale[0] + shift[0],
                self.stride,
                self.padding,
            )
        y = F.conv2d(x, weight, None, self.stride, self.padding)
        shift = shift + scale * bias
        return torch.addcmul(shift[:, :, None, None].to(y.dtype), y, scale[:, :, None, None].to(y.dtype))


def interpolate(table: Tensor, position: Tensor) -> Tensor:
    """Rows of ``table`` (n, …) linearly interpolated at ``position`` (B,): (B, …)."""
    low = position.floor().clamp(0, table.shape[0] - 2).long()
    part = (position - low).to(table.dtype).reshape(-1, *[1] * (table.dim() - 1))
    return torch.lerp(table[low], table[low + 1], part)


class Conditioning(nn.Module):
    """Scale and shift per channel, interpolated on the rate point; starts as the identity.

    In a slimmable part each width has its own: the features of fewer channels have other statistics (as the
    batch normalisations of Yu et al., ICLR 2019)."""

    def __init__(self, rate_points: int, channels: int, widths: int = 1) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(widths, rate_points, channels))
        self.shift = nn.Parameter(torch.zeros(widths, rate_points, channels))

    def forward(self, position: Tensor, width: int = 0) -> tuple[Tensor, Tensor]:
        return interpolate(self.scale[width], position), interpolate(self.shift[width], position)


class GainUnit(nn.Module):
    """Gain and inverse gain per channel (m, m'), exponentially interpolated between rate points (AG-VAE)."""

    def __init__(self, rate_points: int, channels: int) -> None:
        super().__init__()
        self.log2_gain = nn.Parameter(torch.zeros(rate_points, channels))
        self.log2_inverse = nn.Parameter(torch.zeros(rate_points, channels))

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """log₂ m and log₂ m', each (B, channels)."""
        return interpolate(self.log2_gain, position), interpolate(self.log2_inverse, position)


class ResidualBlock(nn.Module):
    """x + conv1×1(act(conv3×3(x)·scale + shift)): 10·C² MAC per position."""

    def __init__(self, channels: int, rate_points: int, widths: int) -> None:
        super().__init__()
        self.conv1 = SlimConv2d(channels, channels, 3, padding=1)
        self.conv2 = SlimConv2d(channels, channels, 1)
        self.conditioning = Conditioning(rate_points, channels, widths)
        nn.init.normal_(self.conv2.weight, std=0.2 * channels**-0.5)
        nn.init.zeros_(_bias(self.conv2))

    def forward(self, x: Tensor, position: Tensor, width: int) -> Tensor:
        scale, shift = self.conditioning(position, width)
        h = F.leaky_relu(self.conv1.scaled(x, scale, shift, x.shape[1]), 0.1)
        return x + self.conv2(h, x.shape[1])


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _zero(conv: SlimConv2d) -> SlimConv2d:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(_bias(conv))
    return conv


class AnalysisTransform(nn.Module):
    """g_a: picture (B, 3, H, W) → latent in the natural domain (B, channels of the width's groups, H/16,
    W/16)."""

    deviation: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        c8, c16 = config.widths[-1].channels_8, config.widths[-1].channels_16
        n, widths = config.rate_points, len(config.widths)
        self.klt = nn.Conv2d(3, config.latent_channels, PATCH, PATCH, bias=False)
        self.register_buffer("deviation", torch.ones(config.latent_channels))
        self.stem = SlimConv2d(3 * 64, c8, 1)
        self.blocks_8 = nn.ModuleList(ResidualBlock(c8, n, widths) for _ in range(config.blocks_8))
        self.down = SlimConv2d(c8, c16, 2, 2)
        self.blocks_16 = nn.ModuleList(ResidualBlock(c16, n, widths) for _ in range(config.blocks_16))
        self.head = _zero(SlimConv2d(c16, config.latent_channels, 1))

    def forward(self, x: Tensor, position: Tensor, width: int = -1) -> Tensor:
        size = self.config.widths[width]
        channels = self.config.group_ends[size.groups - 1]
        x = x - 0.5
        with torch.autocast(x.device.type, enabled=False):
            linear = (
                F.conv2d(x, self.klt.weight[:channels], stride=PATCH) / self.deviation[:channels, None, None]
            )
        h = self.stem(F.pixel_unshuffle(x * 4, 8), size.channels_8)
        for block in self.blocks_8:
            h = block(h, position, width)
        h = self.down(h, size.channels_16)
        for block in self.blocks_16:
            h = block(h, position, width)
        return linear + self.head(h, channels).float()


class SynthesisTransform(nn.Module):
    """g_s: latent in the natural domain (B, C, h, w) → picture (B, 3, 16·h, 16·w), not clamped.

    C may be the channels of any number of whole groups; the missing ones count as zero in the natural domain.
    """

    deviation: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        c8, c16 = config.widths[-1].channels_8, config.widths[-1].channels_16
        n, widths = config.rate_points, len(config.widths)
        self.klt = nn.ConvTranspose2d(config.latent_channels, 3, PATCH, PATCH, bias=False)
        self.register_buffer("deviation", torch.ones(config.latent_channels))
        self.stem = SlimConv2d(config.latent_channels, c16, 1)
        self.blocks_16 = nn.ModuleList(ResidualBlock(c16, n, widths) for _ in range(config.blocks_16))
        self.up = SlimConv2d(c16, 4 * c8, 1)
        self.blocks_8 = nn.ModuleList(ResidualBlock(c8, n, widths) for _ in range(config.blocks_8))
        # 3×3: the 8×8 patches that it paints overlap, and the linear path's 16×16 ones show less.
        self.head = _zero(SlimConv2d(c8, 3 * 64, 3, padding=1))

    def forward(self, y_hat: Tensor, position: Tensor, width: int = -1) -> Tensor:
        size = self.config.widths[width]
        channels = y_hat.shape[1]
        with torch.autocast(y_hat.device.type, enabled=False):
            linear = F.conv_transpose2d(
                y_hat * self.deviation[:channels, None, None], self.klt.weight[:channels], stride=PATCH
            )
        h = self.stem(y_hat, size.channels_16)
        for block in self.blocks_16:
            h = block(h, position, width)
        h = F.pixel_shuffle(self.up(h, 4 * size.channels_8), 2)
        for block in self.blocks_8:
            h = block(h, position, width)
        return linear + F.pixel_shuffle(self.head(h).float(), 8) + 0.5


class HyperAnalysis(nn.Module):
    """h_a: latent in the natural domain (B, C, h, w) → hyper-latent (B, hyper_channels, ⌈h/4⌉, ⌈w/4⌉)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        hidden = config.hyper_hidden
        self.conv1 = SlimConv2d(config.latent_channels, hidden, 1)
        self.conditioning = Conditioning(config.rate_points, hidden)
        self.conv2 = SlimConv2d(hidden, hidden, 3, padding=1)
        self.conv3 = SlimConv2d(hidden, hidden, 4, 2, padding=1)
        self.conv4 = SlimConv2d(hidden, config.hyper_channels, 4, 2, padding=1)

    def forward(self, y: Tensor, position: Tensor) -> Tensor:
        y = F.pad(y, (0, -y.shape[3] % HYPER, 0, -y.shape[2] % HYPER), mode="replicate")
        h = F.leaky_relu(self.conv1.scaled(y, *self.conditioning(position)), 0.1)
        h = F.leaky_relu(self.conv2(h), 0.1)
        h = F.leaky_relu(self.conv3(h), 0.1)
        return self.conv4(h).float()


ACTIVATION_MAX = 511 / 64
"""Upper bound of the hyper-synthesis's activations: nine bits in steps of 1/64 in the integer network."""
HYPER_INPUT_MAX = 511 / 8
"""Bound of |ẑ| at the input of the hyper-synthesis: in steps of 1/8 in the integer network."""


class HyperSynthesis(nn.Module):
    """h_s: hyper-latent in the natural domain (B, hyper_channels, h/4, w/4) → log₂ σ and log₂ skew, (B, C,
    h, w) each.

    Only convolutions, clamps and pixel shuffles, so that integer_net.py can repeat it exactly in integers.
    Used in float in training and to export; a decoder never runs it. The skew is that of a two-piece
    Gaussian (AG-VAE): σ_left = σ·2^−skew, σ_right = σ·2^skew."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        hidden = config.hyper_hidden
        self.conv1 = SlimConv2d(config.hyper_channels, hidden, 3, padding=1)
        self.up1 = SlimConv2d(hidden, 4 * hidden, 1)
        self.conv2 = SlimConv2d(hidden, hidden, 3, padding=1)
        self.up2 = SlimConv2d(hidden, 4 * hidden, 1)
        self.conv3 = SlimConv2d(hidden, hidden, 3, padding=1)
        self.head = _zero(SlimConv2d(hidden, 2 * config.latent_channels, 1))

    def layers(self) -> Iterator[tuple[SlimConv2d, bool]]:
        """The convolutions in order, each with whether a pixel shuffle follows its activation."""
        yield from (
            (self.conv1, False),
            (self.up1, True),
            (self.conv2, False),
            (self.up2, True),
            (self.conv3, False),
        )
        yield self.head, False

    def forward(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        h = z_hat.clamp(-HYPER_INPUT_MAX, HYPER_INPUT_MAX)
        for conv, shuffle in self.layers():
            h = conv(h)
            if conv is self.head:
                break
            h = h.clamp(0, ACTIVATION_MAX)
            if shuffle:
                h = F.pixel_shuffle(h, 2)
        log2_scale, log2_skew = h.float().chunk(2, 1)
        return log2_scale, log2_skew


class HyperFeatures(nn.Module):
    """Float features for the context: hyper-latent in the natural domain (B, hyper_channels, h/4, w/4) →
    (B, F, h, w)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        hidden, features = config.hyper_hidden, config.features
        self.conv1 = SlimConv2d(config.hyper_channels, hidden, 3, padding=1)
        self.up1 = SlimConv2d(hidden, 4 * hidden, 1)
        self.conv2 = SlimConv2d(hidden, hidden, 3, padding=1)
        self.up2 = SlimConv2d(hidden, 4 * features, 1)

    def forward(self, z_hat: Tensor) -> Tensor:
        h = F.leaky_relu(self.conv1(z_hat), 0.1)
        h = F.leaky_relu(F.pixel_shuffle(self.up1(h), 2), 0.1)
        h = F.leaky_relu(self.conv2(h), 0.1)
        return F.leaky_relu(F.pixel_shuffle(self.up2(h), 2), 0.1)


class ContextStep(nn.Module):
    """μ of one group (and phase) from the hyper features and what is decoded already."""

    def __init__(self, config: NetworkConfig, group: int, phase: int) -> None:
        super().__init__()
        hidden = config.context_hidden
        seen = config.group_ends[group] - (config.groups[group] if phase == 0 else 0)
        self.conv1 = SlimConv2d(config.features + seen, hidden, 3, padding=1)
        self.conditioning = Conditioning(config.rate_points, hidden)
        self.conv2 = SlimConv2d(hidden, hidden, 1)
        self.head = _zero(SlimConv2d(hidden, config.groups[group], 1))

    def forward(self, features: Tensor, seen: Tensor, position: Tensor) -> Tensor:
        h = torch.cat([features, seen.to(features.dtype)], 1)
        h = F.leaky_relu(self.conv1.scaled(h, *self.conditioning(position)), 0.1)
        h = F.leaky_relu(self.conv2(h), 0.1)
        return self.head(h).float()


class ChannelContext(nn.Module):
    """One ``ContextStep`` per entry of ``config.steps``."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.step_nets = nn.ModuleList(ContextStep(config, g, p) for g, p in config.steps)

    def forward(self, step: int, features: Tensor, seen: Tensor, position: Tensor) -> Tensor:
        return self.step_nets[step](features, seen, position)


class Network(nn.Module):
    """All parts of one model. It has no forward of its own: entropy_model.py and codec.py join the parts."""

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        self.g_a = AnalysisTransform(config)
        self.g_s = SynthesisTransform(config)
        self.h_a = HyperAnalysis(config)
        self.h_s = HyperSynthesis(config)
        self.features = HyperFeatures(config)
        self.context = ChannelContext(config)
        self.gain = GainUnit(config.rate_points, config.latent_channels)
        self.hyper_gain = GainUnit(config.rate_points, config.hyper_channels)

    @torch.no_grad()
    def start_from_klt(self, basis: Tensor, deviation: Tensor) -> None:
        """Set the linear paths to a KLT and the gains to the steps that suit λ at high rate.

        ``basis`` (C, 3, 16, 16) holds orthonormal rows, ``deviation`` (C,) the coefficients' standard
        deviations for pictures in 0…1. With L = R + λ·255²·MSE over 3 colours, dL/dΔ = 0 gives Δ² = 18 /
        (λ·ln 2) in 8-bit levels."""
        config = self.config
        for part in (self.g_a, self.g_s):
            part.klt.weight.copy_(basis)
            part.deviation.copy_(deviation)
        lmbda = config.lmbda(torch.arange(config.rate_points, dtype=torch.float32))
        step = (18 / lmbda / 0.6931).sqrt() / 255
        log2_gain = torch.log2(deviation[None] / step[:, None])
        self.gain.log2_gain.copy_(log2_gain)
        self.gain.log2_inverse.copy_(-log2_gain)
