"""The float networks: analysis, synthesis, hyper transforms, channel context and gain units.

    x ── g_a ── y ──×m/q──┬── w = round((y − μ)·m/q) ──► streams ──► ŷ = μ + w·m'·q ── g_s ── x̂
                          └── h_a ──×── round ── ẑ ──► stream (hyper_prior.py)
                                                  ├──► h_s (integer_net.py) ──► table index per element
                                                  └──► float features ──► channel context ──► μ, q, step by
                                                  step

Both transforms have two paths. The linear one projects patches of 16×16 pixels and starts as the KLT of
training patches (synthesis: its transpose); the non-linear one starts at zero and works at 1/8 and 1/16 of
the resolution (design in the manner of AuxT, ICLR 2025). The latent's *natural domain* is the KLT
coefficient over its own standard deviation: unit variance in every channel. The gain of a rate point (Cui
et al., CVPR 2021) is applied only around the rounding, so that in log₂ a gain is an offset of the scale.

Only the synthesis comes in several widths, by slicing, first channels first (Yang et al., CVPR 2021): a file
is written once, by the whole writer, and read by whoever has to be quick. Features are scaled and shifted per
channel by vectors interpolated on the rate point (Choi et al., ICCV 2019).

Shapes: pictures (B, 3, H, W) in 0…1 with H and W multiples of 16; latent y (B, C, H/16, W/16); hyper-latent z
(B, Cz, ⌈H/64⌉, ⌈W/64⌉). ``point`` is a rate point as a float in [0, rate_points − 1], shape (B,) or (1,).
Everything inside is laid out channels last."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import winograd
from .blocks import (
    ALL,
    Conditioning,
    Conv2d,
    ConvTranspose2d,
    GainUnit,
    Padding,
    PaintingConv2d,
    Place,
    Reduction,
    ResidualBlock,
    SlimConv2d,
    bias_of,
    cropped,
    from_patches,
    in_rows,
    in_strips,
    linear,
    patch_order,
    pooled,
    same,
    times,
    to_patches,
)
from .config import NetworkConfig as NetworkConfig
from .config import Ranks as Ranks
from .config import Width as Width
from .config import Writer as Writer
from .context import ChannelContext

PATCH = 16
"""Side of the linear path's patches, and pixels per latent position."""
HYPER = 4
"""Latent positions per hyper-latent position, along each side."""


class AnalysisTransform(nn.Module):
    """g_a: picture (B, 3, H, W) → latent in the natural domain (B, C, H/16, W/16).

    ``precision`` is that of the non-linear path; the linear one stays in float32."""

    precision = torch.float32
    deviation: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        writer, n = config.writer, config.rate_points
        self.klt = Conv2d(3, config.latent_channels, PATCH, PATCH, bias=False)
        self.register_buffer("deviation", torch.ones(config.latent_channels))
        self.stem = SlimConv2d(3 * 64, writer.channels_8, 1)
        self.blocks_8 = nn.ModuleList(
            ResidualBlock(writer.channels_8, hidden, n) for hidden in writer.blocks_8
        )
        self.down = SlimConv2d(writer.channels_8, writer.channels_16, 2, 2)
        self.blocks_16 = nn.ModuleList(
            ResidualBlock(writer.channels_16, hidden, n) for hidden in writer.blocks_16
        )
        self.head = SlimConv2d(writer.channels_16, config.latent_channels, 1, std=0.0)

    def forward(self, x: Tensor, point: Tensor) -> Tensor:
        height, width = x.shape[2] // PATCH, x.shape[3] // PATCH
        kind = self.precision
        stem, bias = 4 * patch_order(self.stem.weight[:, :, 0, 0], 1), bias_of(self.stem)

        def begin(rows: slice) -> Tensor:
            patches = to_patches(x[:, :, times(rows, 8)] - 0.5, 8).to(kind)
            return F.linear(patches, stem.to(kind), bias.to(kind)).permute(0, 3, 1, 2)

        h = in_strips(begin, 2 * height, 2 * width)
        for block in self.blocks_8:
            h = block(h, point)
        before = h
        h = in_strips(lambda rows: self.down(before[:, :, times(rows, 2)]), height, width)
        for block in self.blocks_16:
            h = block(h, point)
        with torch.autocast(x.device.type, enabled=False):
            basis = patch_order(self.klt.weight.flatten(1), 1) / self.deviation[:, None]

        def end(rows: slice) -> Tensor:
            with torch.autocast(x.device.type, enabled=False):
                patches = to_patches(x[:, :, times(rows, PATCH)] - 0.5, PATCH)
                straight = linear(patches, basis).permute(0, 3, 1, 2)
            return straight + self.head(h[:, :, rows]).float()

        return in_strips(end, height, width)

    @property
    def reach(self) -> int:
        """Latent positions around one on whose pixels it depends."""
        return len(self.blocks_16) + -(-len(self.blocks_8) // 2)


class SynthesisTransform(nn.Module):
    """g_s: latent in the natural domain (B, C, h, w) → picture (B, 3, 16·h, 16·w), not clamped.

    C may be the channels of any number of whole groups; the missing ones count as zero in the natural domain.
    ``precision`` is that of the non-linear path; the linear one stays in float32."""

    precision = torch.float32
    deviation: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        c8, c16, n, ranks = config.channels_8, config.channels_16, config.rate_points, config.ranks
        shares = tuple(width.share for width in config.widths)
        self.klt = ConvTranspose2d(config.latent_channels, 3, PATCH, PATCH, bias=False)
        self.register_buffer("deviation", torch.ones(config.latent_channels))
        self.stem = SlimConv2d(config.latent_channels, c16, 1)
        self.blocks_16 = nn.ModuleList(
            ResidualBlock(c16, c16, n, shares, ranks.blocks_16) for _ in range(config.blocks_16)
        )
        self.up = SlimConv2d(c16, 4 * c8, 1)
        self.blocks_8 = nn.ModuleList(
            ResidualBlock(c8, c8, n, shares, ranks.blocks_8) for _ in range(config.blocks_8)
        )
        self.reduce = Reduction(c8, ranks.head)
        # 3×3: the 8×8 patches that it paints overlap, and the linear path's 16×16 ones show less.
        self.head = PaintingConv2d(ranks.head, 3 * 64, 3, padding=1, std=0.0)

    def forward(
        self,
        y_hat: Tensor,
        point: Tensor,
        width: int = -1,
        part: Place = (ALL, ALL),
        factor: int = 1,
        finish: Callable[[Tensor], Tensor] = same,
    ) -> Tensor:
        """``part``: the rows and columns of the latent of which the picture is wanted; `reach` more on every
        side decide it. ``factor``: 2, 4, 8 or 16 for the means of so many pixels along each side, of which
        less is painted. ``finish``: what to make of pixels (…, n·3), of some rows of positions at a time."""
        body, inner = cropped(self._body(y_hat, point, width), part, self._reach_8)

        def up(rows: slice) -> Tensor:
            return F.pixel_shuffle(self.up(body[:, :, rows]), 2)

        h = in_strips(up, *body.shape[2:])
        for block in self.blocks_8:
            h = block(h, point, width)
        h, inner = cropped(h, (times(inner[0], 2), times(inner[1], 2)), 1)
        rank = round(self.config.widths[width].share * self.reduce.out_channels)
        within = min(factor, 8)  # one of the patches, of 8×8, that the head paints
        y_hat = y_hat[:, :, *part]
        with torch.autocast(y_hat.device.type, enabled=False):
            basis = self._basis(y_hat.shape[1], within)
        grey = basis.new_full((len(basis),), 0.5)

        def patches(seen: Tensor, padding: Padding = (1, 1)) -> Tensor:
            return self.head.reduced(self.reduce(seen, rank), within, padding)

        ready = None
        if winograd.suits(h):  # which has strips of its own
            ready = self.head.reduced(self.reduce.in_strips(h, rank), within)

        def paint(rows: slice) -> Tensor:
            with torch.autocast(y_hat.device.type, enabled=False):
                pixels = linear(y_hat[:, :, rows].permute(0, 2, 3, 1), basis, grey)
            batch, down, across, _ = pixels.shape
            pixels = pixels.view(batch, down, across, 2, 2, -1).transpose(2, 3)
            start, stop, _ = times(rows, 2).indices(inner[0].stop - inner[0].start)
            own = slice(inner[0].start + start, inner[0].start + stop)
            near = in_rows(patches, h, own) if ready is None else ready[:, :, own]
            near = near[:, :, :, inner[1]].permute(0, 2, 3, 1)
            near = near.view(batch, down, 2, across, 2, -1)
            pixels = pixels + near if torch.is_grad_enabled() else pixels.add_(near)
            pixels = pixels.flatten(3, 4).flatten(1, 2) if factor <= 8 else pixels.mean((2, 4))
            return from_patches(finish(pixels), 8 // within)

        return in_strips(paint, *y_hat.shape[2:])

    @property
    def reach(self) -> int:
        """Latent positions around that of a pixel on which it depends."""
        return len(self.blocks_16) + self._reach_8

    @property
    def _reach_8(self) -> int:
        return -(-(len(self.blocks_8) + 1) // 2)

    def _basis(self, channels: int, factor: int) -> Tensor:
        """The linear path to the means of factor × factor pixels, (2·2·n·3, channels): the four patches of
        8×8 pixels of a position, each in the order of `to_patches`."""
        basis = patch_order(self.klt.weight[:channels].flatten(1), 1) * self.deviation[:channels, None]
        side = PATCH // 2 // factor
        rows = pooled(basis.T, factor).reshape(2, side, 2, side, 3, channels)
        return rows.transpose(1, 2).reshape(-1, channels)

    def _body(self, y_hat: Tensor, point: Tensor, width: int) -> Tensor:
        def stem(rows: slice) -> Tensor:
            return self.stem(y_hat[:, :, rows].to(self.precision))

        h = in_strips(stem, *y_hat.shape[2:])
        for block in self.blocks_16:
            h = block(h, point, width)
        return h


class HyperAnalysis(nn.Module):
    """h_a: latent in the natural domain (B, C, h, w) → hyper-latent (B, Cz, ⌈h/4⌉, ⌈w/4⌉)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        hidden = config.hyper_hidden
        self.conv1 = SlimConv2d(config.latent_channels, hidden, 1)
        self.conditioning = Conditioning(config.rate_points, hidden)
        self.conv2 = SlimConv2d(hidden, hidden, 3, padding=1)
        self.conv3 = SlimConv2d(hidden, hidden, 4, 2, padding=1)
        self.conv4 = SlimConv2d(hidden, config.hyper_channels, 4, 2, padding=1)

    def forward(self, y: Tensor, point: Tensor) -> Tensor:
        y = F.pad(y, (0, -y.shape[3] % HYPER, 0, -y.shape[2] % HYPER), mode="replicate")
        h = F.leaky_relu(self.conv1.scaled(y, *self.conditioning(point)), 0.1)
        h = F.leaky_relu(self.conv2(h), 0.1)
        h = F.leaky_relu(self.conv3(h), 0.1)
        return self.conv4(h).float()


ACTIVATION_MAX = 511 / 64
"""Upper bound of the hyper-synthesis's activations: nine bits in steps of 1/64 in the integer network."""
HYPER_INPUT_MAX = 511 / 8
"""Bound of |ẑ| at the input of the hyper-synthesis: in steps of 1/8 in the integer network."""


class HyperSynthesis(nn.Module):
    """h_s: hyper-latent in the natural domain (B, Cz, h/4, w/4) → log₂ σ and log₂ skew, (B, C, h, w) each.

    Only convolutions, clamps and pixel shuffles, so that integer_net.py can repeat it exactly in integers.
    Used in float in training and to export; a decoder never runs it. The skew is that of a two-piece
    Gaussian (AG-VAE): σ_left = σ·2^−skew, σ_right = σ·2^skew."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        hidden, last = config.hyper_hidden, config.hyper_last
        self.conv1 = SlimConv2d(config.hyper_channels, hidden, 3, padding=1)
        self.up1 = SlimConv2d(hidden, 4 * hidden, 1)
        self.conv2 = SlimConv2d(hidden, hidden, 3, padding=1)
        self.up2 = SlimConv2d(hidden, 4 * last, 1)
        self.conv3 = SlimConv2d(last, last, 3, padding=1)
        self.head = SlimConv2d(last, 2 * config.latent_channels, 1, std=0.0)

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


class HyperPrior(nn.Module):
    """From the hyper-latent's symbols (B, Cz, h, w) where they are ``known``, (1, 1, h, w) of 0 and 1: mean
    and log₂ σ of all symbols, (B, Cz, h, w) each, as if they were Gaussian.

    Repeated in integers by hyper_prior.py, which says how it is used. In float in training and to export; a
    decoder never runs it."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        hidden, channels = config.hyper_hidden, config.hyper_channels
        self.rate_scale = 8 / (config.rate_points - 1)
        self.conv1 = SlimConv2d(channels + 2, hidden, 3, padding=1)
        self.head = SlimConv2d(hidden, 2 * channels, 1, std=0.0)

    def layers(self) -> Iterator[tuple[SlimConv2d, bool]]:
        """The convolutions in order, as `HyperSynthesis` has them."""
        yield from ((self.conv1, False), (self.head, False))

    def forward(self, symbols: Tensor, known: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        plane = known.expand(symbols.shape[0], 1, *symbols.shape[2:])
        rate = (point * self.rate_scale)[:, None, None, None].expand_as(plane)
        seen = symbols.clamp(-HYPER_INPUT_MAX, HYPER_INPUT_MAX) * known
        h = self.conv1(torch.cat([seen, plane, rate], 1)).clamp(0, ACTIVATION_MAX)
        log2_scale, mu = self.head(h).float().chunk(2, 1)
        log2_scale = log2_scale + LOG2_START
        # Below, exp2 comes to 0, and 0/0 is no rate. The gradient passes, so that it can rise again.
        return mu, log2_scale + (log2_scale.clamp_min(LOG2_FLOOR) - log2_scale).detach()


LOG2_START = 3
"""log₂ σ of all symbols at the start of training: wide enough that none is out of reach."""
LOG2_FLOOR = -10
"""The least log₂ σ that is computed with."""
LOG2_LEAST = -3
"""The least log₂ σ of the tables."""


class HyperFeatures(nn.Module):
    """Float features for the context: hyper-latent in the natural domain (B, Cz, h/4, w/4) → (B, F, h, w)."""

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


class Network(nn.Module):
    """All parts of one model. It has no forward of its own: entropy_model.py and codec.py join the parts.

    ``start``: whether to set the parameters to what training starts from. Without it they are whatever was in
    memory, for those who read them from a file."""

    def __init__(self, config: NetworkConfig | None = None, start: bool = True) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        self.g_a = AnalysisTransform(config)
        self.g_s = SynthesisTransform(config)
        self.h_a = HyperAnalysis(config)
        self.h_s = HyperSynthesis(config)
        self.hyper_prior = HyperPrior(config)
        self.features = HyperFeatures(config)
        self.context = ChannelContext(config)
        self.gain = GainUnit(config.rate_points, config.latent_channels)
        self.hyper_gain = GainUnit(config.rate_points, config.hyper_channels)
        if start:
            for part in self.modules():
                if isinstance(part, Conv2d | ConvTranspose2d):
                    part.start()

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
