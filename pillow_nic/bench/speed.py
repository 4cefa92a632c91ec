"""How long one waits for `.nic` and for other codecs: on a quiet machine and on a busy one, for the first
picture of a process, thumbnails, batches, in threads; and how much memory a very large picture takes.

    nic bench photo.png --speed
    nic bench photo.png --speed 7 --against-version ../old --codecs --large 0

Each codec, and each version of `.nic`, works in a process of its own (speed_worker.py), and they take turns:
one run of each, then the next. So whatever else the machine does meanwhile, it does to all of them."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

from PIL import Image

from ..options import EncodeOptions
from ..workers import processors
from . import speed_report
from .codecs import CODECS, SPEED_CODECS, PillowCodec
from .measuring import progress
from .processes import THIS, Interpreter, Worker, WorkerError, busy, worker
from .settings import LARGE, Settings
from .speed_report import (
    AT_ONCE,
    Figures,
    Report,
    inner_ratios,
    is_rate,
    print_figures,
    print_settings,
    ratios_between,
)
from .speed_worker import THUMBNAIL

SIZE = (1024, 1024)
THUMBNAIL_OF = (4000, 3000)
SMALL = (256, 256)
SMALL_GRID = (8, 4)  # 32 small pictures
PAUSE = 0.05  # seconds, in which the threads of whose turn it was stop spinning
VARIABLES = (
    "NIC_DEVICE",
    "NIC_PRECISION",
    "NIC_THREADS",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "MKL_NUM_THREADS",
    "PYTHONDONTWRITEBYTECODE",  # without bytecode the first decode compiles the sources, too
)

_FIRST = (
    "import sys, importlib; from PIL import Image; "
    "importlib.import_module(sys.argv[2]); Image.open(sys.argv[1]).load()"
)


@dataclass(frozen=True)
class Entrant:
    """A codec at one setting, at work. ``save``: options of `Image.save`; ``old``: whose older version it is;
    ``folder``: the files that it has written."""

    name: str
    format: str
    save: Mapping[str, Any]
    module: str
    interpreter: Interpreter
    worker: Worker
    folder: Path
    old: str = ""

    def encode(self, picture: Path) -> float:
        return self._write("encode", picture)

    def convert(self, picture: Path) -> float:
        return self._write("convert", picture)

    def load(self, picture: Path) -> float:
        return float(self.worker.ask("load", file=str(self.file(picture))))

    def _write(self, action: str, picture: Path) -> float:
        file = str(self.file(picture))
        options = {"format": self.format, "save": self.save}
        return float(self.worker.ask(action, picture=str(picture), file=file, **options))

    def file(self, picture: Path) -> Path:
        return self.folder / picture.stem

    def ask(self, action: str, *pictures: Path) -> float | None:
        """``action`` with the file of a picture, or with those of several."""
        files = [str(self.file(picture)) for picture in pictures]
        found = self.worker.ask(action, **({"files": files} if len(files) > 1 else {"file": files[0]}))
        return None if found is None else float(found)

    def first_decode(self, picture: Path) -> float:
        return self.interpreter.seconds("-c", _FIRST, str(self.file(picture)), self.module)

    def import_torch(self) -> float | None:
        return self.interpreter.seconds("-c", "import torch") if self.format == "NIC" else None


@dataclass(frozen=True)
class Quantity:
    """``run``: seconds of one run, or None where it makes no sense; ``per``: megapixels, where these are
    seconds per megapixel, or pictures, where they are pictures per second."""

    name: str
    run: Callable[[Entrant], float | None]
    per: float = 1
    busy: bool = False

    def value(self, entrant: Entrant) -> float | None:
        seconds = self.run(entrant)
        if seconds is None:
            return None
        return self.per / seconds if is_rate(self.name) else seconds / self.per


# -------------------------------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Pictures:
    """The pictures in files without compression."""

    usual: Path
    thumbnail: Path
    small: Sequence[Path]

    @classmethod
    def write(cls, pictures: Sequence[Path], folder: Path) -> Pictures:
        usual, thumbnail = folder / "usual.ppm", folder / "thumbnail.ppm"
        tiled(pictures, SIZE).save(usual)
        tiled(pictures, THUMBNAIL_OF).save(thumbnail)
        (columns, rows), (width, height) = SMALL_GRID, SMALL
        grid = tiled(pictures, (columns * width, rows * height))
        small = []
        for x, y in itertools.product(range(0, grid.width, width), range(0, grid.height, height)):
            small.append(folder / f"small-{x}-{y}.ppm")
            grid.crop((x, y, x + width, y + height)).save(small[-1])
        return cls(usual, thumbnail, small)


def tiled(pictures: Sequence[Path], size: tuple[int, int]) -> Image.Image:
    """The pictures side by side, in rows, again and again, cropped at the edges."""

    @lru_cache(16)
    def read(path: Path) -> Image.Image:
        with Image.open(path) as im:
            return im.convert("RGB")

    canvas = Image.new("RGB", size)
    following = itertools.cycle(pictures)
    y = 0
    while y < canvas.height:
        x, row = 0, canvas.height
        while x < canvas.width:
            im = read(next(following))
            canvas.paste(im, (x, y))
            x, row = x + im.width, min(row, im.height)
        y += row
    return canvas


def quantities(pictures: Pictures) -> list[Quantity]:
    """In the order of a round."""
    usual, megapixels = pictures.usual, SIZE[0] * SIZE[1] / 1e6
    again = [usual] * AT_ONCE
    return [
        Quantity(speed_report.ENCODE, lambda e: e.encode(usual), megapixels),
        Quantity(speed_report.ENCODE_BUSY, lambda e: e.encode(usual), megapixels, busy=True),
        Quantity(speed_report.DECODE, lambda e: e.ask("decode", usual), megapixels),
        Quantity(speed_report.DECODE_BUSY, lambda e: e.ask("decode", usual), megapixels, busy=True),
        Quantity(speed_report.FIRST, lambda e: e.first_decode(usual)),
        Quantity(speed_report.IMPORT_TORCH, lambda e: e.import_torch()),
        Quantity(speed_report.THUMBNAILED, lambda e: e.ask("thumbnail", pictures.thumbnail)),
        Quantity(speed_report.FULL, lambda e: e.ask("decode", pictures.thumbnail)),
        Quantity(speed_report.LOOP, lambda e: e.ask("loop", *pictures.small), len(pictures.small)),
        Quantity(speed_report.BATCH, lambda e: e.ask("batch", *pictures.small), len(pictures.small)),
        Quantity(speed_report.IN_TURN, lambda e: e.ask("loop", *again)),
        Quantity(speed_report.TOGETHER, lambda e: e.ask("at_once", *again)),
    ]


def rounds(entrants: Sequence[Entrant], measured: Sequence[Quantity], runs: int, busy_count: int) -> Figures:
    """Everything once, to warm up, and then ``runs`` times; within it, the entrants in turns."""
    figures: Figures = {quantity.name: {} for quantity in measured}
    for run in progress(range(runs + 1), "round"):
        for quantity in measured:
            with busy(busy_count) if quantity.busy else nullcontext():
                for entrant in entrants:
                    sleep(PAUSE)
                    value = quantity.value(entrant)
                    if run and value is not None:
                        figures[quantity.name].setdefault(entrant.name, []).append(value)
    return figures


def large(entrants: Sequence[Entrant], picture: Path, megapixels: float) -> tuple[Figures, dict[str, str]]:
    """Time and peak memory of one picture from file to file, each way in a process of its own, once; and who
    failed with what."""
    figures: Figures = {
        name: {}
        for name in (
            speed_report.LARGE_ENCODE,
            speed_report.LARGE_DECODE,
            speed_report.ENCODE_MEMORY,
            speed_report.DECODE_MEMORY,
        )
    }
    failed = {}
    for entrant in progress(entrants, "large picture"):
        try:
            for action, name, memory in (
                (Entrant.convert, speed_report.LARGE_ENCODE, speed_report.ENCODE_MEMORY),
                (Entrant.load, speed_report.LARGE_DECODE, speed_report.DECODE_MEMORY),
            ):
                with worker(entrant.name, entrant.interpreter, entrant.module) as alone:
                    seconds = action(replace(entrant, worker=alone), picture)
                    peak = alone.ask("peak_memory")
                figures[name][entrant.name] = [seconds / megapixels]
                if peak is not None:
                    figures[memory][entrant.name] = [peak / 1e6]
        except WorkerError as error:
            failed[entrant.name] = str(error)
        finally:
            entrant.file(picture).unlink(missing_ok=True)
    return figures, failed


# ------------------------------------------------------------------------------------------- the action


def speed(settings: Settings, pictures: list[Path]) -> int:
    """The action of `nic bench --speed`. 1 if a codec failed at the large picture."""
    others = [
        CODECS[name] for name in dict.fromkeys(SPEED_CODECS if settings.codecs is None else settings.codecs)
    ]
    for codec in others:
        codec.load()  # what is not there is said before anything runs
    old = Interpreter.of(settings.against_version) if settings.against_version else None
    runs, count = settings.speed or 1, processors()
    megapixels = LARGE if settings.large is None else settings.large
    report = Report(_settings(settings, runs, count, megapixels), {})
    print_settings(report.settings)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        sources = Pictures.write(pictures, folder)
        entrants = list(_enter(settings, old, others, sources, folder, stack))
        for entrant in entrants:
            for picture in (sources.thumbnail, *sources.small):
                entrant.encode(picture)
            report.entrants[entrant.name] = _about(entrant, sources.usual)
        print_settings(report.entrants)
        report.figures = rounds(entrants, quantities(sources), runs, count)
        failed: dict[str, str] = {}
        if megapixels:
            side = max(1, round((1e6 * megapixels) ** 0.5))
            source = folder / "large.ppm"
            tiled(pictures, (side, side)).save(source)
            figures, failed = large(entrants, source, side**2 / 1e6)
            report.figures |= figures
    first, *rest = (entrant.name for entrant in entrants if not entrant.old)
    report.ratios["within each"] = inner_ratios(report.figures)
    report.ratios[f"to {first}"] = ratios_between(report.figures, [(name, first) for name in rest])
    versions = [(entrant.old, entrant.name) for entrant in entrants if entrant.old]
    report.ratios["new to old"] = ratios_between(report.figures, versions)
    print_figures(report)
    if settings.json:
        settings.json.write_text(json.dumps(vars(report), indent=1) + "\n", encoding="utf-8")
    for name, error in failed.items():
        print(f"{name} is left out of the large picture: {error}", file=sys.stderr)
    return int(bool(failed))


def _enter(
    settings: Settings,
    old: Interpreter | None,
    others: Sequence[PillowCodec],
    sources: Pictures,
    folder: Path,
    stack: ExitStack,
) -> Iterator[Entrant]:
    """Everyone, at work, and having encoded the usual picture: this version of `.nic` and the old one at each
    setting, and the other codecs where their files are nearest to the first of these in bytes."""
    number = itertools.count()

    def enter(
        name: str,
        format: str,
        save: Mapping[str, Any],
        module: str,
        interpreter: Interpreter = THIS,
        old: str = "",
    ) -> Entrant:
        own = folder / str(next(number))
        own.mkdir()
        started = stack.enter_context(worker(name, interpreter, module))
        return Entrant(name, format, save, module, interpreter, started, own, old)

    def size(entrant: Entrant) -> int:
        entrant.encode(sources.usual)
        return entrant.file(sources.usual).stat().st_size

    wanted = 0
    for nic in settings.nics([EncodeOptions.quality]):
        for quality in nic.qualities:
            name = nic.name if len(nic.qualities) == 1 else f"{nic.name}-q{quality:g}"
            # Nothing that need not be said, as an old version may not know it.
            save = {"tune": nic.tune, "quality": quality}
            save |= {} if nic.effort == EncodeOptions.effort else {"effort": nic.effort}
            save |= {} if nic.network_width is None else {"network_width": nic.network_width}
            entrant = enter(name, nic.format, save, "pillow_nic")
            wanted = wanted or size(entrant)
            yield entrant
            if old:
                entrant = enter(f"old {name}", nic.format, save, "pillow_nic", old, old=name)
                entrant.encode(sources.usual)
                yield entrant
    for codec in others:
        entrant = enter(codec.name, codec.format, {}, codec.module)
        points = [replace(entrant, save={**codec.save, **param}) for param in codec.ladder]
        entrant = min(points, key=lambda point: abs(size(point) - wanted))
        entrant.encode(sources.usual)
        yield entrant


# ------------------------------------------------------------------------------------------ what is said


def _settings(settings: Settings, runs: int, count: int, megapixels: float) -> dict[str, str]:
    width, height = SMALL
    return {
        "pictures": f"{settings.title}, repeated or cropped to {SIZE[0]}x{SIZE[1]}",
        "thumbnail": f"{THUMBNAIL} of {THUMBNAIL_OF[0]}x{THUMBNAIL_OF[1]}",
        "small pictures": f"{SMALL_GRID[0] * SMALL_GRID[1]} of {width}x{height}",
        "large picture": f"{megapixels:g} megapixels, file to file, once, each way in a new process: "
        "seconds with its start, memory as RSS"
        if megapixels
        else "none",
        "runs": f"{runs} in turns after one to warm up: medians, in brackets the best",
        "busy": f"beside {count} processes that count, on {count} processors for this process",
        "environment": " ".join(f"{key}={os.environ[key]}" for key in VARIABLES if os.environ.get(key)),
        "load": f"{os.getloadavg()[0]:.2f} in the minute before" if hasattr(os, "getloadavg") else "unknown",
    }


def _about(entrant: Entrant, picture: Path) -> str:
    size = entrant.file(picture).stat().st_size
    text = f"{' '.join(f'{key}={value}' for key, value in entrant.save.items())}, "
    text += f"{8 * size / (SIZE[0] * SIZE[1]):.3f} bpp"
    if entrant.format != "NIC":
        return f"{text}; {CODECS[entrant.name].library}, threads: its own default"
    found = entrant.worker.ask("about", file=str(entrant.file(picture)))
    return f"{text}; {', '.join(f'{key} {value}' for key, value in found.items())}"
