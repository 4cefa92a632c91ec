"""Golden files decode to the same symbols and pixels for ever, and FORMAT.md shows the smallest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from tools.make_golden import FORMAT, GOLDEN, format_section, symbols_digest

import pillow_nic
from pillow_nic import container, exact
from pillow_nic.weights import DEFAULT_MODEL, available_models

DIGESTS: dict[str, dict[str, int]] = {
    file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in GOLDEN.glob("*/symbols.json")
}


def test_every_model_has_golden_files() -> None:
    assert sorted(DIGESTS) == available_models()


@pytest.mark.parametrize("model", DIGESTS)
def test_every_golden_file_is_tested(model: str) -> None:
    assert {file.stem for file in (GOLDEN / model).glob("*.nic")} == set(DIGESTS[model])
    headers = [pillow_nic.read_header(file.read_bytes()) for file in (GOLDEN / model).glob("*.nic")]
    assert {header.model for header in headers} == {model}
    assert {header.mode for header in headers} == {"RGB", "RGBA", "L", "LA"}
    assert {header.layers for header in headers} >= set(range(1, 9))
    assert {header.width_index for header in headers} >= set(range(4))
    assert max(header.tiles for header in headers) > 1
    page = container.parse((GOLDEN / model / "page.nic").read_bytes())
    assert 0.3 < exact.share(page.header, page.chunks, page.exact) < 0.7
    assert any(
        exact._mask_of(stream, page.header.height, page.header.width).edges.any() for stream in page.exact
    )


@pytest.mark.parametrize(("model", "name"), [(model, name) for model in DIGESTS for name in DIGESTS[model]])
def test_symbols_and_pixels(model: str, name: str) -> None:
    data = (GOLDEN / model / f"{name}.nic").read_bytes()
    assert symbols_digest(data) == DIGESTS[model][name]
    with Image.open(GOLDEN / model / f"{name}.png") as im:
        expected = np.asarray(im).astype(int)
    difference = np.abs(pillow_nic.decode(data).astype(int) - expected)
    assert difference.max(initial=0) <= 2
    assert (difference > 1).mean() <= 1e-5


def test_format_shows_the_smallest_file() -> None:
    smallest = GOLDEN / DEFAULT_MODEL / "smallest.nic"
    assert format_section(smallest.read_bytes()) in FORMAT.read_text(encoding="utf-8")
