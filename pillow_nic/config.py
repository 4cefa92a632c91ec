"""The architecture of a model, as it is stored with its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Writer:
    """The analysis: channels at 1/8 and at 1/16 of the resolution, and of each residual block there the
    channels between its two convolutions."""

    channels_8: int = 128
    blocks_8: tuple[int, ...] = (128,) * 4
    channels_16: int = 192
    blocks_16: tuple[int, ...] = (192,) * 3


@dataclass(frozen=True)
class Width:
    """One width of the synthesis: latent groups it carries, and its share of the ranks and of the channels
    between two convolutions."""

    groups: int
    share: float


@dataclass(frozen=True)
class Ranks:
    """Through how many channels, of a 1×1 convolution before them, 3×3 convolutions see their input: in the
    synthesis's blocks at 1/16 and at 1/8, in its head, and in the steps of the context."""

    blocks_16: int = 96
    blocks_8: int = 64
    head: int = 64
    context: int = 48


@dataclass(frozen=True)
class NetworkConfig:
    """The architecture. It is stored with the weights; nothing in the code fixes these numbers.

    ``slices`` are the latent's channels that the context predicts together (Minnen and Singh, ICIP 2020),
    ``groups`` those that stand together in a file, so that a layer can end after them; both add up to all.
    ``channels_8``, ``blocks_8``, ``channels_16`` and ``blocks_16`` are the synthesis's channels and residual
    blocks at 1/8 and at 1/16 of the resolution. ``hyper_hidden`` are the channels of the hyper transforms,
    ``hyper_last`` those of the hyper-synthesis at the latent's resolution. ``checkerboard`` says how many of
    the first slices are predicted in two phases, the second of which sees the first's neighbours."""

    slices: tuple[int, ...] = (16, 32, 24, 24, 48, 48, 128)
    groups: tuple[int, ...] = (10, 6, 32, 24, 24, 48, 48, 128)
    writer: Writer = Writer()
    widths: tuple[Width, ...] = (
        Width(6, 0.375),
        Width(6, 0.5),
        Width(7, 0.75),
        Width(8, 1.0),
    )
    ranks: Ranks = Ranks()
    channels_8: int = 128
    blocks_8: int = 4
    channels_16: int = 192
    blocks_16: int = 3
    hyper_channels: int = 96
    hyper_hidden: int = 96
    hyper_last: int = 96
    features: int = 96
    context_hidden: int = 96
    checkerboard: int = 2
    rate_points: int = 8
    lmbda_min: float = 0.0003
    lmbda_max: float = 0.5

    def __post_init__(self) -> None:
        if sum(self.slices) != sum(self.groups):
            raise ValueError(f"slices {self.slices} and groups {self.groups} do not add up to the same")

    @property
    def latent_channels(self) -> int:
        return sum(self.groups)

    @property
    def group_ends(self) -> tuple[int, ...]:
        """Cumulative channel count after each group."""
        return tuple(accumulate(self.groups))

    @property
    def slice_ends(self) -> tuple[int, ...]:
        """Cumulative channel count after each slice."""
        return tuple(accumulate(self.slices))

    @property
    def steps(self) -> tuple[tuple[int, int], ...]:
        """The order of prediction: (slice, phase); phase 0 all or even positions, 1 odd ones."""
        return tuple(
            (s, p) for s in range(len(self.slices)) for p in range(2 if s < self.checkerboard else 1)
        )

    def lmbda(self, point: Tensor) -> Tensor:
        """λ (loss = bits per pixel + λ·MSE in 8-bit levels²) of a rate point: log-uniform over the range."""
        ratio = self.lmbda_max / self.lmbda_min
        return self.lmbda_min * ratio ** (point / (self.rate_points - 1))

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> NetworkConfig:
        fields: dict[str, Any] = json.loads(text)
        for name in ("slices", "groups"):
            fields[name] = tuple(fields[name])
        fields["widths"] = tuple(Width(**w) for w in fields["widths"])
        fields["ranks"] = Ranks(**fields["ranks"])
        writer: dict[str, Any] = fields["writer"]
        for name in ("blocks_8", "blocks_16"):
            writer[name] = tuple(writer[name])
        fields["writer"] = Writer(**writer)
        return NetworkConfig(**fields)
