"""What `nic bench` is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..options import EncodeOptions
from .codecs import Nic

LARGE = 100.0  # megapixels, of the picture whose memory --speed measures


@dataclass(frozen=True)
class Settings:
    """The options of the command; None where they leave it to the action."""

    paths: Sequence[Path]
    codecs: Sequence[str] | None = None
    tunes: Sequence[str] | None = None
    efforts: Sequence[int] | None = None
    qualities: Sequence[float] | None = None
    network_width: int | None = None
    device: str | None = None
    metrics: Sequence[str] | None = None
    split: float | None = None
    anchors: Path | None = None
    against: Sequence[str] | None = None
    json: Path | None = None
    plot: Path | None = None
    papers: bool = False
    speed: int | None = None
    large: float | None = None
    against_version: Path | None = None
    monotone: bool = False
    layers: bool = False
    widths: bool = False

    @property
    def title(self) -> str:
        return ", ".join(path.name for path in self.paths)

    def nics(self, qualities: Sequence[float]) -> list[Nic]:
        """`.nic` for each tune and effort; ``qualities``: if none are named."""
        chosen = sorted({*(self.qualities or qualities)})
        tunes = dict.fromkeys(self.tunes or [EncodeOptions.tune])
        efforts = sorted({*(self.efforts or [EncodeOptions.effort])})
        return [
            Nic(tune, effort, self.device, self.network_width, chosen)
            for tune, effort in itertools.product(tunes, efforts)
        ]
