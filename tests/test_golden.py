"""Golden files decode to the same symbols and pixels for ever, and FORMAT.md shows the smallest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from make_golden import FORMAT, GOLDEN, format_section, symbols_digest
from PIL import Image

import pillow_nic

DIGESTS: dict[str, int] = json.loads((GOLDEN / "symbols.json").read_text(encoding="utf-8"))


def test_every_golden_file_is_tested() -> None:
    assert {file.stem for file in GOLDEN.glob("*.nic")} == set(DIGESTS)
    headers = [pillow_nic.read_header(file.read_bytes()) for file in GOLDEN.glob("*.nic")]
    assert {header.mode for header in headers} == {"RGB", "RGBA", "L", "LA"}
    assert {header.layers for header in headers} >= set(range(1, 8))
    assert {header.width_index for header in headers} >= set(range(6))
    assert max(header.tiles for header in headers) > 1


@pytest.mark.parametrize("name", DIGESTS)
def test_symbols_and_pixels(name: str) -> None:
    data = (GOLDEN / f"{name}.nic").read_bytes()
    assert symbols_digest(data) == DIGESTS[name]
    with Image.open(GOLDEN / f"{name}.png") as im:
        expected = np.asarray(im).astype(int)
    difference = np.abs(pillow_nic.decode(data).astype(int) - expected)
    assert difference.max(initial=0) <= 2
    assert (difference > 1).mean() <= 1e-5


def test_format_shows_the_smallest_file() -> None:
    assert format_section((GOLDEN / "smallest.nic").read_bytes()) in FORMAT.read_text(encoding="utf-8")
