"""Rate and distortion of `.nic` and of other codecs, the same pictures in the same run: tables, JSON, plot.

The others run through the libraries that a user of Pillow has, at the settings that are printed. --json has
the form of an anchors file (anchors.py), so that one version of a model can be the anchor of the next."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from .. import __version__
from . import rd_plot
from .anchors import Point, load_published
from .codecs import CODECS, QUALITIES, Codec
from .measuring import curve, means, measure, progress, table
from .metrics import ANCHOR_RATES, DEFAULT_METRICS, METRICS, BdRate, bd_rate, extra
from .settings import Settings

Comparison = dict[str, dict[str, BdRate | str]]  # codec → metric → how .nic compares, or why there is none


def comparison(settings: Settings, pictures: list[Path]) -> int:
    """The action of `nic bench`. 1 if a codec failed on a picture: it is left out, the others go on."""
    metrics = [name for name in METRICS if name == "psnr" or name in (settings.metrics or DEFAULT_METRICS)]
    ours = settings.nics(QUALITIES)
    others = [CODECS[name] for name in dict.fromkeys(CODECS if settings.codecs is None else settings.codecs)]
    codecs: list[Codec] = [*ours, *others]
    names = [codec.name for codec in codecs]
    published = (
        load_published(settings.anchors, pictures, settings.against, names) if settings.anchors else {}
    )
    compares = len(codecs) + len(published) > 1
    _check_before(pictures, codecs, metrics, compares=compares, plots=bool(settings.plot))
    title = f"{len(pictures)} pictures of {settings.title}"
    print(f"{title}, one run each, in memory, model loaded; {os.cpu_count()} cores")
    print("bpp of whole files; means over the pictures, of seconds medians\n", *codecs, "", sep="\n")
    measured, failed = _measure_all(pictures, codecs, metrics)
    print(_table_of_points(measured, metrics))

    def compared(rates: tuple[float, float]) -> dict[str, Comparison]:
        return {
            name: compare(measured[name], metrics, _without(name, {**measured, **published}), rates)
            for name in names[: len(ours)]
            if name in measured
        }

    low, high = ANCHOR_RATES
    parts = [(low, high)] + ([(low, settings.split), (settings.split, high)] if settings.split else [])
    for low, high in parts if compares else ():
        print(f"\nBD-rate by PCHIP over log-rate, the other's from {low:g} to {high:g} bpp; below 0: .nic is")
        print("smaller; over: the interval that both curves reach; of: how much it is of the other's")
        for name, rows in compared((low, high)).items():
            print("", _table_of_bd_rates(name, rows, metrics), sep="\n")
    if settings.json:
        content = {
            "dataset": settings.title,
            "images": [path.name for path in pictures],
            "metrics": {name: METRICS[name].implementation for name in metrics},
            "environment": {"pillow_nic": __version__, "cores": os.cpu_count()},
            "codecs": {c.name: _described(c, measured[c.name]) for c in codecs if c.name in measured},
            "bd_rate": compared(ANCHOR_RATES),
        }
        settings.json.write_text(json.dumps(content, indent=1, default=asdict) + "\n", encoding="utf-8")
    if settings.plot:
        rd_plot.paint(settings.plot, metrics, measured, published, title)
    for name, reason in failed.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    return int(bool(failed))


def _without(name: str, points: Mapping[str, list[Point]]) -> dict[str, list[Point]]:
    return {other: line for other, line in points.items() if other != name}


def _described(codec: Codec, points: list[Point]) -> dict[str, Any]:
    about = {"description": str(codec), "source": "measured by nic bench", "format": codec.format}
    return {**about, "save": dict(codec.save), "points": points}


def _check_before(
    pictures: list[Path], codecs: Sequence[Codec], metrics: Sequence[str], *, compares: bool, plots: bool
) -> None:
    """Let what can go wrong go wrong before the long run."""
    for codec in codecs:
        codec.load()
    for module, needed in (("scipy.interpolate", compares), ("matplotlib.figure", plots)):
        if needed:
            extra(module)
    for metric in (METRICS[name] for name in metrics):
        metric.check()
        for path in pictures:
            with Image.open(path) as im:
                if min(im.size) < metric.least:
                    least = f"{metric.title}, which needs {metric.least} pixels each way"
                    raise ValueError(f"{path.name} is too small for {least}: leave it out with --metrics")


def _measure_all(
    pictures: Sequence[Path], codecs: Sequence[Codec], metrics: Sequence[str]
) -> tuple[dict[str, list[Point]], dict[str, str]]:
    """Points of each codec, and which codec failed where: its means would be of other pictures."""
    measured, failed = {}, {}
    with progress(unit="file", total=len(pictures) * sum(len(codec.ladder) for codec in codecs)) as bar:
        for codec in codecs:
            bar.set_description(codec.name)
            runs = []
            try:
                for found in measure(pictures, codec, metrics):
                    runs.append(found)
                    bar.update()
                measured[codec.name] = means(runs, codec.ladder)
            except (OSError, ValueError, RuntimeError) as error:
                failed[codec.name] = f"{pictures[len(runs) // len(codec.ladder)].name}: {error}"
                bar.update(len(pictures) * len(codec.ladder) - len(runs))
    return measured, failed


def compare(
    points: Sequence[Point],
    metrics: Sequence[str],
    others: Mapping[str, Sequence[Point]],
    rates: tuple[float, float] = ANCHOR_RATES,
) -> Comparison:
    """The BD-rate against each of the others in each metric, or why there is none. ``rates``: those of the
    other that count, in bpp."""
    result: Comparison = {}
    for name, theirs in others.items():
        result[name] = {}
        for metric in metrics:
            mine, other = curve(points, metric), curve(theirs, metric)
            try:
                result[name][metric] = bd_rate(mine, other, rates) if mine and other else "not measured alike"
            except ValueError as error:
                result[name][metric] = str(error)
    return result


# -------------------------------------------------------------------------------------------------- tables


def _table_of_points(measured: Mapping[str, Sequence[Point]], metrics: Sequence[str]) -> str:
    head = ["codec", "setting", "bpp", "exact"]
    for metric in metrics:
        about = METRICS[metric]
        head += ["MS-SSIM", "in dB"] if metric == "ms_ssim" else [f"{about.title} {about.unit}".strip()]
    rows = []
    for name, points in measured.items():
        for p in points:
            setting = " ".join(f"{key} {_short(value)}" for key, value in p["param"].items())
            cells = [name, setting, f"{p['bpp']:.4f}", f"{p['exact']:.1%}" if p.get("exact") else "-"]
            for metric in metrics:
                cells += [f"{p[metric]:.5f}"] if metric == "ms_ssim" else []
                cells.append(f"{METRICS[metric].on_curve(p[metric]):.3f}")
            rows.append([*cells, f"{p['enc_s_per_mp']:.3f}", f"{p['dec_s_per_mp']:.3f}"])
    return table([*head, "encode s/MP", "decode s/MP"], rows)


def _short(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table_of_bd_rates(name: str, comparison: Comparison, metrics: Sequence[str]) -> str:
    head = [f"{name} against"]
    for metric in metrics:
        head += [METRICS[metric].title, f"over {METRICS[metric].unit}".strip(), "of"]
    rows = [[other, *itertools.chain(*map(_cells, row.values()))] for other, row in comparison.items()]
    return table(head, rows)


def _cells(value: BdRate | str) -> list[str]:
    if isinstance(value, str):
        return ["-", value, "-"]
    return [f"{value.percent:+.1f} %", f"{value.low:.2f} to {value.high:.2f}", f"{value.share:.0%}"]
