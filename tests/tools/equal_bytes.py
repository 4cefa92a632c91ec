"""The README's picture: one crop of a photograph as JPEG, WebP, AVIF and `.nic`, each file of the same size.

    python tests/tools/equal_bytes.py valid03.png -o weights/equal-bytes.png

The other codecs get the lowest quality at which the whole picture takes at least as many bytes as the `.nic`
file. Prints the settings and the bytes."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

import pillow_nic  # noqa: F401

OTHERS: dict[str, dict[str, Any]] = {
    "JPEG": {"optimize": True, "progressive": True},
    "WEBP": {"method": 6},
    "AVIF": {"speed": 6},  # Pillow's default tuning of this is libaom's tune=iq
}
TITLES = {"WEBP": "WebP", "NIC": ".nic"}
SCALE = 2
GAP, LINE = 12, 44


def save(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def at_least(image: Image.Image, name: str, size: int) -> tuple[int, bytes]:
    """The lowest quality whose file is of that size or more."""
    for quality in range(101):
        data = save(image, name, quality=quality, **OTHERS[name])
        if len(data) >= size:
            return quality, data
    raise ValueError(f"{name}: no file of {size} bytes")


def panel(crop: Image.Image, label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    shown = crop.resize((crop.width * SCALE, crop.height * SCALE), Image.Resampling.LANCZOS)
    made = Image.new("RGB", (shown.width, shown.height + LINE), "white")
    made.paste(shown, (0, 0))
    ImageDraw.Draw(made).text((shown.width / 2, shown.height + LINE / 2), label, "black", font, anchor="mm")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path)
    parser.add_argument("--quality", type=float, default=0.35)
    parser.add_argument("--crop", default="195,128,160,165", help="left,top,width,height")
    parser.add_argument("-o", "--output", type=Path, default=Path("equal-bytes.png"))
    args = parser.parse_args()
    with Image.open(args.picture) as im:
        image = im.convert("RGB")
    left, top, width, height = map(int, args.crop.split(","))
    box = (left, top, left + width, top + height)
    ours = save(image, "NIC", quality=args.quality)
    files = {name: at_least(image, name, len(ours)) for name in OTHERS}
    files["NIC"] = (args.quality, ours)
    font = ImageFont.load_default(22)
    panels = [panel(image.crop(box), "original", font)]
    for name, (quality, data) in files.items():
        title = TITLES.get(name, name)
        options = "".join(f", {key}={value}" for key, value in OTHERS.get(name, {}).items())
        print(f"{title}: {len(data)} bytes, quality={quality}{options}")
        with Image.open(io.BytesIO(data)) as im:
            panels.append(panel(im.convert("RGB").crop(box), f"{title}, {len(data)} bytes", font))
    step = panels[0].width + GAP
    sheet = Image.new("RGB", (step * len(panels) - GAP, panels[0].height), "white")
    for i, made in enumerate(panels):
        sheet.paste(made, (i * step, 0))
    sheet.save(args.output, optimize=True)
    print(f"{args.output}: {sheet.width}x{sheet.height}, {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
