"""What `nic bench --speed` has found: its names, the ratios that are made of the figures, and the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from .measuring import table

AT_ONCE = 8

Figures = dict[str, dict[str, list[float]]]  # what was measured → who → in each run
Ratios = dict[str, dict[str, float]]

ENCODE, ENCODE_BUSY = "encode, s/MP", "encode beside busy processes, s/MP"
DECODE, DECODE_BUSY = "decode, s/MP", "decode beside busy processes, s/MP"
FIRST, IMPORT_TORCH = "first decode of a process, s", "import of torch by a process, s"
THUMBNAILED, FULL = "thumbnail, s", "full decode for it, s"
LOOP, BATCH = "small pictures in a loop, pictures/s", "small pictures in a batch, pictures/s"
IN_TURN, TOGETHER = f"{AT_ONCE} decodes in a loop, s", f"{AT_ONCE} decodes in threads at once, s"
LARGE_ENCODE, LARGE_DECODE = "large picture: encode, s/MP", "large picture: decode, s/MP"
ENCODE_MEMORY, DECODE_MEMORY = "large picture: memory to encode, MB", "large picture: memory to decode, MB"

INNER_RATIOS = {
    "encode: busy / quiet": (ENCODE_BUSY, ENCODE),
    "decode: busy / quiet": (DECODE_BUSY, DECODE),
    "first decode / import of torch": (FIRST, IMPORT_TORCH),
    "thumbnail / full decode": (THUMBNAILED, FULL),
    "pictures per second: batch / loop": (BATCH, LOOP),
    f"{AT_ONCE} decodes: at once / loop": (TOGETHER, IN_TURN),
}


def is_rate(name: str) -> bool:
    """Of which more is better."""
    return name.endswith("pictures/s")


@dataclass
class Report:
    """All that is printed, and written as JSON."""

    settings: dict[str, str]
    entrants: dict[str, str]
    figures: Figures = field(default_factory=dict)
    ratios: dict[str, Ratios] = field(default_factory=dict)


# -------------------------------------------------------------------------------------------------- ratios


def inner_ratios(figures: Figures) -> Ratios:
    """Of the medians: what each entrant takes in one situation against another."""
    return {
        title: {
            name: median(values) / median(figures[below][name])
            for name, values in figures.get(above, {}).items()
            if name in figures.get(below, {})
        }
        for title, (above, below) in INNER_RATIOS.items()
    }


def ratios_between(figures: Figures, pairs: Sequence[tuple[str, str]]) -> Ratios:
    """Of the medians of everything that was measured: the first's of each pair to the second's."""
    return {
        name: {
            above: median(found[above]) / median(found[below])
            for above, below in pairs
            if above in found and below in found
        }
        for name, found in figures.items()
    }


# -------------------------------------------------------------------------------------------------- tables


def print_settings(settings: Mapping[str, str]) -> None:
    for name, text in settings.items():
        print(f"{name}: {text}", flush=True)


def print_figures(report: Report) -> None:
    names = list(report.entrants)
    rows = [
        [name, *(_cell(name, found.get(entrant)) for entrant in names)]
        for name, found in report.figures.items()
    ]
    print("", table(["", *names], rows), sep="\n")
    for title, ratios in report.ratios.items():
        columns = [name for name in names if any(name in row for row in ratios.values())]
        if columns:
            rows = [
                [name, *(f"{row[column]:.3g}" if column in row else "-" for column in columns)]
                for name, row in ratios.items()
                if row
            ]
            print("", table([f"Ratios of medians, {title}", *columns], rows), sep="\n")


def _cell(name: str, values: Sequence[float] | None) -> str:
    if not values:
        return "-"
    digits = 0 if name.endswith("MB") else 1 if is_rate(name) else 3
    text = f"{median(values):.{digits}f}"
    if len(values) == 1:
        return text
    return f"{text} ({(max if is_rate(name) else min)(values):.{digits}f})"
