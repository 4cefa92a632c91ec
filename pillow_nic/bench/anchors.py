"""Curves of other codecs that were published, or that an earlier run has written.

They come from an anchors file: {"images": [names], "metrics": {name: implementation}, "codecs": {name:
{"points": [...]}}}, a point being {"bpp", "psnr", "ms_ssim", "ssimulacra2"}, means over the images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .metrics import METRICS

Point = dict[str, Any]  # of an anchors file

# Asked of an anchors file when nobody says what: the best classic codecs, which no library for Pillow has.
PUBLISHED = ("bpg-444", "vtm")

ALIKE = ("psnr", "ms_ssim")  # whose implementations all agree


def load_published(
    file: Path, pictures: Sequence[Path], against: Sequence[str] | None = None, measured: Sequence[str] = ()
) -> dict[str, list[Point]]:
    """The chosen codecs of an anchors file; of the default ones, those that it has.

    One that is ``measured`` here, too, gets the file's name behind its own. Metrics whose implementations
    differ are left out unless the file says that they are of those used here. ValueError if a codec is not
    there or the file is of other pictures.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    if {Path(name).stem for name in content["images"]} != {path.stem for path in pictures}:
        raise ValueError(f"{file.name} is of other pictures than these: a BD-rate would mean nothing")
    codecs: dict[str, Any] = content["codecs"]
    if missing := [name for name in against or () if name not in codecs]:
        raise ValueError(f"{file.name} has no {', '.join(missing)}, but {', '.join(codecs)}")
    stated = content.get("metrics", {})
    skipped = {
        name
        for name, metric in METRICS.items()
        if name not in ALIKE and stated.get(name) != metric.implementation
    }
    return {
        f"{name} ({file.stem})" if name in measured else name: [
            {key: value for key, value in point.items() if key not in skipped}
            for point in codecs[name]["points"]
        ]
        for name in against or PUBLISHED
        if name in codecs
    }
