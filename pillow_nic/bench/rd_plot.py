"""Rate–distortion curves as a PNG or SVG. Needs the extra `bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .anchors import Point
from .measuring import curve
from .metrics import METRICS, extra

SUFFIXES = (".png", ".svg")


def paint(
    file: Path,
    metrics: Sequence[str],
    measured: Mapping[str, Sequence[Point]],
    published: Mapping[str, Sequence[Point]],
    title: str,
) -> None:
    """One panel for each metric, over bits per pixel on a logarithmic scale. Codecs measured in this run are
    solid lines, `.nic` the thick ones; published curves are dashed. ``file``: its suffix says the format."""
    panels = extra("matplotlib.figure").Figure(figsize=(5.2 * len(metrics), 5.6), layout="constrained")
    colours = extra("matplotlib").colormaps["tab10"].colors
    axes = panels.subplots(1, len(metrics), squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        for number, (name, points) in enumerate([*measured.items(), *published.items()]):
            if not (line := sorted(curve(points, metric))):
                continue
            ax.plot(
                *zip(*line, strict=True),
                label=name,
                color=colours[number % len(colours)],
                linestyle="-" if number < len(measured) else "--",
                linewidth=2.4 if name.startswith("nic") else 1.2,
                zorder=3 if name.startswith("nic") else 2,
                marker="." if number < len(measured) else None,
            )
        about = METRICS[metric]
        ax.set_ylabel(f"{about.title}, {about.unit}" if about.unit else about.title)
        ax.set_xlabel("bits per pixel, whole files")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    panels.suptitle(title)
    dated = {"metadata": {"Date": None}} if file.suffix.lower() == ".svg" else {}  # the same bytes each time
    panels.savefig(file, dpi=120, **dated)
