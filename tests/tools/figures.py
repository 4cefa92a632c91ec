"""Write the tables of README.md and of the pages that are made of measured curves.

    nic bench kodak/ --tunes visual --codecs avif-444-s6 jpeg-420 jxl-e7 webp-m6 --json visual.json \\
        --metrics ms-ssim ssimulacra2 butteraugli cvvdp
    nic bench kodak/ --tunes ms-ssim psnr --codecs --json others.json
    python tests/tools/equal_quality.py kodak/ --json equal.json
    nic bench valid/ --tunes visual --codecs avif-444-s6 jpeg-420 jxl-e7 webp-m6 --json valid.json \\
        --metrics ms-ssim ssimulacra2 butteraugli cvvdp
    python tests/tools/figures.py visual.json others.json --anchors anchors_kodak.json --equal equal.json \\
        --valid valid.json --plot weights/kodak.png

A table stands between `<!-- figures: NAME -->` and `<!-- end of NAME -->`; all else is left as it is. Metrics
whose implementations differ between two files are not compared. Without what a table needs it stays as it
is, and its name is printed."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from equal_quality import tables as equal_tables

from pillow_nic.bench import rd_plot
from pillow_nic.bench.anchors import ALIKE, PUBLISHED, Point
from pillow_nic.bench.measuring import curve
from pillow_nic.bench.metrics import ANCHOR_RATES, METRICS, bd_rate
from pillow_nic.options import TUNES

ROOT = Path(__file__).parents[2]
PAGES = "README.md", "pillow_nic/docs/results.md", "pillow_nic/docs/quality.md"
SPLIT = 0.5  # bits per pixel
TITLES = {
    "jpeg-420": "JPEG (4:2:0)",
    "webp-m6": "WebP (method 6)",
    "avif-444-s6": "AVIF (4:4:4, speed 6, default tuning)",
    "avif-444-s6-psnr": "AVIF (4:4:4, speed 6, tuned for PSNR)",
    "jpeg2000": "JPEG 2000",
    "jxl-e7": "JPEG XL (effort 7)",
    "heic-444-psnr": "HEIC (4:4:4, slow, tuned for PSNR)",
    "bpg-444": "BPG 4:4:4 (published curve)",
    "vtm": "VTM, VVC (published curve)",
}
JUDGES = "ssimulacra2", "butteraugli", "cvvdp", "ms_ssim", "psnr"


@dataclass
class Curves:
    """Points of each codec, without what cannot be compared."""

    codecs: dict[str, list[Point]]
    measured: list[str]
    """Those of the codecs that were measured by nic bench."""

    def change(
        self, ours: str, other: str, metric: str, rates: tuple[float, float] = ANCHOR_RATES
    ) -> str | None:
        """BD-rate as it is written in a table; None if it is not known."""
        pair = [self.codecs.get(name) for name in (ours, other)]
        if not all(pair):
            return None
        mine, theirs = (curve(points or [], metric) for points in pair)
        if not mine or not theirs:
            return None
        with contextlib.suppress(ValueError):
            return f"{bd_rate(mine, theirs, rates).percent:+.1f} %".replace("-", "−")
        return None


def read(files: Sequence[Path], anchors: Sequence[Path]) -> Curves:
    codecs: dict[str, list[Point]] = {}
    implementations: dict[str, str] = {}
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        for name, implementation in content["metrics"].items():
            if implementations.setdefault(name, implementation) != implementation:
                raise SystemExit(f"{file}: {implementation}, where another file has {implementations[name]}")
        codecs |= {name: codec["points"] for name, codec in content["codecs"].items()}
    measured = list(codecs)
    for file in anchors:
        content = json.loads(file.read_text(encoding="utf-8"))
        for name, codec in content["codecs"].items():
            alike = [{k: v for k, v in p.items() if k not in METRICS or k in ALIKE} for p in codec["points"]]
            codecs.setdefault(name, alike)
    return Curves(codecs, measured)


def grid(head: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(cell or "–" for cell in row) + " |" for row in rows])


def judged(curves: Curves, tune: str) -> str:
    """One tune against all others, by every judge."""
    ours = f"nic-{tune}-e1"
    rows = [
        [title, *cells]
        for name, title in TITLES.items()
        if any(cells := [curves.change(ours, name, metric) for metric in JUDGES])
    ]
    if not rows:
        raise LookupError(ours)
    return grid(["against", *(METRICS[metric].title.lstrip("−") for metric in JUDGES)], rows)


def split(curves: Curves) -> str:
    """The default tune against those that were measured beside it, below and above a rate."""
    low, high = ANCHOR_RATES
    rows = [
        [
            TITLES[name],
            *(
                curves.change("nic-visual-e1", name, metric, rates)
                for metric in JUDGES[:3]
                for rates in ((low, SPLIT), (SPLIT, high))
            ),
        ]
        for name in ("jpeg-420", "webp-m6", "jxl-e7", "avif-444-s6")
    ]
    rows = [row for row in rows if any(row[1:])]
    if not rows:
        raise LookupError("nic-visual-e1")
    heads = [
        f"{METRICS[m].title.lstrip('−')}, {part} {SPLIT:g} bpp" for m in JUDGES[:3] for part in ("to", "from")
    ]
    return grid(["against", *heads], rows)


def tunes(curves: Curves) -> str:
    """The default tune against the others."""
    rows = [
        [f'`"{tune}"`', *(curves.change("nic-visual-e1", f"nic-{tune}-e1", metric) for metric in JUDGES)]
        for tune in TUNES
        if tune != "visual"
    ]
    if not all(row[1] for row in rows):
        raise LookupError("the curves of all tunes")
    return grid(["against", *(METRICS[metric].title.lstrip("−") for metric in JUDGES)], rows)


def qualities(curves: Curves) -> str:
    """What each quality means."""
    by_tune = {tune: curves.codecs[f"nic-{tune}-e1"] for tune in TUNES}
    columns = ["bpp", "SSIMULACRA2", "MS-SSIM", "PSNR, dB"]
    head = ["quality", *columns]
    for tune in list(by_tune)[1:]:
        head += [f"`{tune}`: bpp", *columns[1:]]
    rows = []
    for points in zip(*by_tune.values(), strict=True):
        row = [f"{points[0]['param']['quality']:g}"]
        for p in points:
            row += [f"{p['bpp']:.3f}", f"{p['ssimulacra2']:.1f}".replace("-", "−")]
            row += [f"{p['ms_ssim']:.4f}", f"{p['psnr']:.2f}"]
        rows.append(row)
    return grid(head, rows)


def equal(curves: Curves, file: Path | None) -> tuple[str, str]:
    """The tables of equal_quality.py, `.nic` as the default tune was measured here."""
    if file is None:
        raise LookupError("--equal")
    measured = {k: [tuple(p) for p in v] for k, v in json.loads(file.read_text(encoding="utf-8")).items()}
    measured["NIC"] = [
        (p["param"]["quality"], p["bpp"], p["ssimulacra2"]) for p in curves.codecs["nic-visual-e1"]
    ]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        equal_tables(measured)
    first, second = printed.getvalue().strip().split("\n\n")
    return first, second


def plot(curves: Curves, file: Path) -> None:
    names = [name for name in curves.measured if name.startswith("nic")]
    names += [name for name in curves.measured if name not in names]
    published = [name for name in PUBLISHED if name in curves.codecs]
    measured, others = ({name: curves.codecs[name] for name in part} for part in (names, published))
    title = "24 Kodak pictures, whole files, effort 1"
    rd_plot.paint(file, ("psnr", "ms_ssim", "ssimulacra2", "butteraugli"), measured, others, title)


def write(name: str, make: Callable[[], str]) -> None:
    pattern = re.compile(rf"(<!-- figures: {name} -->\n\n).*?(\n\n<!-- end of {name} -->)", re.DOTALL)
    pages = [
        page for page in (ROOT / page for page in PAGES) if pattern.search(page.read_text(encoding="utf-8"))
    ]
    if not pages:
        raise SystemExit(f"no page has a place for {name!r}")
    try:
        table = make()
    except LookupError as missing:
        print(f"{name}: left as it is, no {missing}")
        return
    for page in pages:
        text = page.read_text(encoding="utf-8")
        page.write_text(pattern.sub(lambda found: found[1] + table + found[2], text), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", help="what nic bench --json has written")
    parser.add_argument("--anchors", type=Path, nargs="*", default=[], help="published curves")
    parser.add_argument(
        "--valid", type=Path, nargs="*", default=[], help="the same of the validation pictures"
    )
    parser.add_argument("--equal", type=Path, help="what equal_quality.py --json has written")
    parser.add_argument("--plot", type=Path, help="draw the curves")
    args = parser.parse_args()
    curves = read(args.files, args.anchors)
    for tune in TUNES:
        write(f"judged {tune}", lambda tune=tune: judged(curves, tune))
    write("split", lambda: split(curves))
    valid = read(args.valid, [])
    write("validation", lambda: judged(valid, "visual"))
    write("validation split", lambda: split(valid))
    write("tunes", lambda: tunes(curves))
    write("qualities", lambda: qualities(curves))
    write("equal", lambda: equal(curves, args.equal)[0])
    write("instead", lambda: equal(curves, args.equal)[1])
    if args.plot:
        plot(curves, args.plot)


if __name__ == "__main__":
    main()
