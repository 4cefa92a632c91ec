"""Make the golden files of one model anew, and the hex dump in FORMAT.md: only when it is replaced. With
names, only those that are new.

python tests/tools/make_golden.py nic-2
python tests/tools/make_golden.py nic-2 page
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageDraw

from pillow_nic import codec, container, decoding, tile_coding, weights
from pillow_nic.weights import DEFAULT_MODEL

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden"
FORMAT = TESTS.parent / "pillow_nic" / "FORMAT.md"
HEADING = "## 8 The smallest file, byte by byte\n"


def pictures() -> dict[str, tuple[np.ndarray, dict[str, object]]]:
    """What the golden files show, and with which options: every mode, odd sizes, every number of layers,
    every width, tiles, exact cells."""
    photo = np.array(Image.open(TESTS / "data" / "photo.png").convert("RGB"))
    ramp = np.broadcast_to(np.linspace(0, 255, 61).astype(np.uint8), (45, 61))
    page = Image.new("RGB", (243, 178), "white")
    ImageDraw.Draw(page).multiline_text(
        (4, 3), "Text on a page, above a photograph.\n" * 5, fill=(20, 20, 90)
    )
    page.paste(Image.fromarray(photo[100:187, 200:361]), (35, 86))
    return {
        "smallest": (np.full((1, 1), 128, np.uint8), {"quality": 0.5}),
        "rgb": (photo[100:163, 200:301], {"quality": 0.8, "layers": 8}),
        "rgba": (np.dstack([photo[:45, :61], ramp]), {"quality": 0.5}),
        "grey": (photo[:50, :33, 1], {"quality": 0.3, "layers": 3}),
        "grey-alpha": (np.dstack([photo[:45, :61, 0], ramp]), {"quality": 1.0}),
        "narrow": (photo[:96, :80], {"quality": 0.2, "network_width": 1, "layers": 2}),
        "photo": (photo, {"quality": 0.4}),
        "page": (np.asarray(page), {"quality": 0.6}),
        "tiles": (photo[:150, :200], {"quality": 0.6, "layers": 3}),
        **{f"layers-{k}": (photo[60:107, 90:141], {"quality": 0.7, "layers": k}) for k in range(1, 9)},
        **{
            f"width-{k}": (photo[150:198, 180:219], {"quality": 0.4, "network_width": k}) for k in range(1, 5)
        },
    }


def symbols_digest(data: bytes) -> int:
    """CRC-32 of all symbols of a file, tile by tile."""
    parsed = container.parse(data)
    header = parsed.header
    model = weights.load(header.model, torch.device("cpu"))
    digest = 0
    for number, (rows, columns) in decoding.places(header):
        size = rows.stop - rows.start, columns.stop - columns.start
        streams = [layer[number] for layer in parsed.streams]
        for part in tile_coding.read_symbols(model, streams, header, number, size)[:2]:
            digest = zlib.crc32(part.astype("<i4").tobytes(), digest)
    return digest


def hex_dump(data: bytes) -> str:
    """The annotated bytes of the smallest file."""
    header = container.parse(data).header
    name = len(header.model)
    fields = [
        (8, "signature"),
        (1, "version 1"),
        (1, f"mode {header.mode}"),
        (1, f"width {header.width}"),
        (1, f"height {header.height}"),
        (2, f"rate_point {header.rate_point}"),
        (1, f"delta {header.delta}"),
        (1, f"width_index {header.width_index}"),
        (2, f"layer_mask: one layer of {header.groups} groups" if header.layers == 1 else "layer_mask"),
        (1, f"tile_log2 {header.tile_log2}"),
        (1 + name, f"model name, {name} letters: {header.model}"),
        (4, "model hash"),
        (4, "CRC-32 of all before"),
        (4, "DATA: no chunks, streams follow"),
        (1, "layer 1, tile 1: payload length"),
        (4, "CRC-32"),
    ]
    lines, at = [], 0
    for length, what in [*fields, (len(data) - sum(f[0] for f in fields), "payload")]:
        lines.append(f"{at:02x}  {data[at : at + length].hex(' '):<48}  {what}")
        at += length
    return "\n".join(lines)


def format_section(data: bytes) -> str:
    place = f"tests/golden/{DEFAULT_MODEL}/smallest.nic"
    return f"{HEADING}\n`{place}`, one grey pixel:\n\n```\n{hex_dump(data)}\n```\n"


def main(model: str, *names: str) -> None:
    folder = GOLDEN / model
    folder.mkdir(exist_ok=True)
    listed, digests = folder / "symbols.json", {}
    if names:
        digests = json.loads(listed.read_text(encoding="utf-8"))
    for name, (pixels, options) in pictures().items():
        if names and name not in names:
            continue
        tile_log2 = 6 if name == "tiles" else codec.TILE_LOG2
        with mock.patch.object(codec, "TILE_LOG2", tile_log2):
            data = codec.encode(pixels, model=model, device="cpu", **options)
        (folder / f"{name}.nic").write_bytes(data)
        Image.fromarray(codec.decode(data, device="cpu")).save(folder / f"{name}.png", optimize=True)
        digests[name] = symbols_digest(data)
        if (model, name) == (DEFAULT_MODEL, "smallest"):
            text = FORMAT.read_text(encoding="utf-8")
            FORMAT.write_text(text[: text.index(HEADING)] + format_section(data), encoding="utf-8")
    listed.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
