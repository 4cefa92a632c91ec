"""A fuzz target for everything that a file can say; by hand, as long as one likes:

    python tests/tools/fuzz.py --minutes 30 --seed 1
    python tests/tools/fuzz.py --minutes 30 --no-pixels  the container alone, a hundred times as fast
    python tests/tools/fuzz.py CORPUS -max_total_time=3600  with atheris (pip install atheris), by coverage

Starts from the golden files; what is done to them stands in mutations.py. Allowed: a picture of the size that
the header says, or an OSError. Everything else is a finding: another exception, a crash, more CPU time or
memory than three or two times what an honest picture of the declared size takes. A side shorter than 16
pixels counts as 16. A finding is written to fuzz-finding-SEED-NUMBER.nic, and with --go-on the next one is
looked for."""

from __future__ import annotations

import argparse
import io
import os
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

os.environ["NIC_DEVICE"] = "cpu"
os.environ["NIC_THREADS"] = "1"
GOLDEN = Path(__file__).parents[1] / "golden"
MOST_PIXELS = 512 * 512  # larger pictures only take longer
TIMES_CPU, TIMES_MEMORY = 3, 2
NO_PIXELS = 5  # a way to take a file: without decoding
SMALL_TILES = 16  # header.MAX_SMALL_TILES: so many may cost their fixed part more
HONEST_BYTES, HONEST_BYTES_PER_PIXEL = 30 << 20, 60
"""Peak memory of decoding, as measured with one thread: 160 MB for 4 megapixels, 30 MB for the smallest."""


@dataclass(frozen=True)
class Honest:
    """What decoding takes on this machine, as it is now."""

    per_tile: float
    per_pixel: float

    @classmethod
    def measured(cls, files: dict[str, bytes]) -> Honest:
        small, large = files["nic-1/smallest"], files["nic-1/photo"]
        per_tile = min(_seconds(small) for _ in range(10))
        whole = min(_seconds(large) for _ in range(5))
        return cls(per_tile, (whole - per_tile) / (512 * 384))

    def limits(self, data: bytes, way: int) -> tuple[float, float]:
        """CPU seconds and bytes that a file may take on that way."""
        import pillow_nic

        pixels, tiles, times = 1, 1, 1
        with suppress(OSError):
            header = pillow_nic.read_header(data)
            pixels = max(header.width, 16) * max(header.height, 16)
            tiles = -(-header.width // 1024) * -(-header.height // 1024)
            times = (1, 1, min(header.layers, 7), 2, 2, 1)[way]  # pictures that are decoded
        seconds = TIMES_CPU * (tiles * self.per_tile + pixels * self.per_pixel) + SMALL_TILES * self.per_tile
        seconds += len(data) * 2e-7  # checksums
        return times * seconds + 0.05, TIMES_MEMORY * (
            HONEST_BYTES + HONEST_BYTES_PER_PIXEL * pixels + 3 * len(data)
        )


def _seconds(data: bytes) -> float:
    start = time.process_time()
    take(data)
    return time.process_time() - start


def take(data: bytes, way: int = 0) -> str:
    """One execution; the name of what came out. Raises what is a finding."""
    import pillow_nic
    from pillow_nic import container

    try:
        header = pillow_nic.read_header(data)
    except pillow_nic.BitstreamError:
        return "no header"
    size = (header.width, header.height)
    if way == NO_PIXELS:
        return _container(data)
    if max(header.width, 16) * max(header.height, 16) > MOST_PIXELS:
        with suppress(pillow_nic.BitstreamError):
            container.verify(data)
        return "large"
    try:
        found = _decoded(data, way)
    except OSError as error:
        return type(error).__name__
    if found != size:
        raise AssertionError(f"a picture of {found} for {header}")
    return "picture"


def _container(data: bytes) -> str:
    """What the parser says, on all its ways; they must agree."""
    from pillow_nic import container

    try:
        container.verify(data)
    except container.BitstreamError as error:
        for again in (
            container.parse,
            lambda data: container.truncate(data, container.parse(data).header.layers),
        ):
            try:
                again(data)
            except container.BitstreamError:
                continue
            raise AssertionError(f"parsed, but verify says {error}") from error
        return type(error).__name__
    parsed = container.parse(data)
    end = container.parse_header(data).layer_offsets[-1]
    if container.parse(container.truncate(data, parsed.header.layers)) != parsed:
        raise AssertionError("a file of all its layers is another one")
    if len(container.dump(parsed)) > end:
        raise AssertionError("longer than it was")
    return "sound"


def _decoded(data: bytes, way: int) -> tuple[int, int]:
    """The size of the picture, decoded on one of several ways."""
    from PIL import Image, ImageFile

    import pillow_nic
    from pillow_nic import container
    from pillow_nic.command import info

    if way == 0:
        pixels = pillow_nic.decode(data, partial=True)
        return pixels.shape[1], pixels.shape[0]
    if way == 1:
        with Image.open(io.BytesIO(data)) as im:
            size = im.size
            im.load()
        return size
    if way == 2:
        parser = ImageFile.Parser()
        for start in range(0, len(data), 700):
            parser.feed(data[start : start + 700])
        return parser.close().size
    if way == 3:
        pixels = pillow_nic.decode_batch([data, data])[1]
        return pixels.shape[1], pixels.shape[0]
    info.describe(data)
    container.verify(data)
    header = pillow_nic.read_header(container.truncate(data, 1))
    reduced = pillow_nic.decode(data, reduce=4, layers=1)
    if reduced.shape[:2] != (-(-header.height // 4), -(-header.width // 4)):
        raise AssertionError(f"a reduced picture of {reduced.shape}")
    return header.width, header.height


def _peak_is_reset() -> bool:
    """Whether Linux could be told to measure the peak from now on."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(name)[2].split()[0]) << 10


def watched(data: bytes, honest: Honest, way: int) -> tuple[str, float]:
    """``take`` with its time and memory bounded, and what part of the time it took; CPU time, so that a busy
    machine is no finding, and the least of three, as such a machine is slower, too."""
    most, bytes_ = honest.limits(data, way)
    peak_known = way != NO_PIXELS and _peak_is_reset()
    before = _memory("VmRSS:") if peak_known else 0
    start = time.process_time()
    outcome = take(data, way)
    part = (time.process_time() - start) / most
    if peak_known and (peak := _memory("VmHWM:") - before) > bytes_:
        raise AssertionError(f"{peak >> 20} MB, not {int(bytes_) >> 20}, for a file of {len(data)} bytes")
    for _ in range(2):
        if part > 1:
            start = time.process_time()
            take(data, way)
            part = min(part, (time.process_time() - start) / most)
    if part > 1:
        raise AssertionError(f"{part * most:.2f} s, not {most:.2f}, for a file of {len(data)} bytes")
    return outcome, part


def run(
    minutes: float, seed: int, files: dict[str, bytes], go_on: bool = False, no_pixels: bool = False
) -> int:
    """Random mutations for so long; the number of findings, at most 1 unless told to go on."""
    from mutations import LEVELS, mutate

    honest = Honest.measured(files)
    print(f"honest: {honest.per_tile:.4f} s a tile, {1e6 * honest.per_pixel:.3f} s a megapixel", flush=True)
    rng = np.random.default_rng(seed)
    levels = [level for level in LEVELS if not (no_pixels and level == "symbols")]
    few = [data for name, data in files.items() if not name.endswith("photo")]  # which takes long
    outcomes: Counter[str] = Counter()
    worst: dict[str, float] = {}
    findings = 0
    start = shown = time.monotonic()
    while time.monotonic() - start < 60 * minutes and (go_on or not findings):
        level, data = mutate(few if rng.random() < 0.9 else list(files.values()), rng, levels)
        way = NO_PIXELS if no_pixels else int(rng.choice(5, p=[0.6, 0.1, 0.1, 0.1, 0.1]))
        try:
            outcome, part = watched(data, honest, way)
        except Exception:
            name = f"fuzz-finding-{seed}-{findings}.nic"
            Path(name).write_bytes(data)
            print(f"finding after {outcomes.total()} executions, {level}, in {name}", flush=True)
            traceback.print_exc()
            findings += 1
            continue
        outcomes[f"{level}: {outcome}"] += 1
        worst[level] = max(worst.get(level, 0), part)
        if time.monotonic() - shown > 300:
            shown = time.monotonic()
            print(_said(outcomes, worst, start), flush=True)
    print(_said(outcomes, worst, start), f"{findings} findings, seed {seed}", sep="\n")
    return findings


def run_atheris(corpus: Path, files: dict[str, bytes]) -> int:
    """libFuzzer on the Python code of the codec; most of its mutations keep the CRCs right."""
    import atheris

    corpus.mkdir(exist_ok=True)
    for name, data in files.items():
        (corpus / name.replace("/", "-")).write_bytes(data)
    with atheris.instrument_imports(include=["pillow_nic"]):
        honest = Honest.measured(files)  # imports what is to be instrumented
    from mutations import LEVELS

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        with suppress(OSError, ValueError):  # not a file any more: nothing to take apart
            level = str(rng.choice(["header", "chunks", "streams", "symbols"]))
            if rng.integers(4):
                return LEVELS[level](data, list(files.values()), rng)[:most]
        return bytes(atheris.Mutate(data, most))

    def one(data: bytes) -> None:
        watched(data, honest, len(data) % 5)

    atheris.Setup(sys.argv, one, custom_mutator=mutated)
    atheris.Fuzz()
    return 0


def _said(outcomes: Counter[str], worst: dict[str, float], start: float) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parts = ", ".join(f"{level} {part:.0%}" for level, part in sorted(worst.items()))
    return (
        f"{(time.monotonic() - start) / 60:.1f} min, {outcomes.total()} executions: {counts}; "
        f"most CPU of what is allowed: {parts}; peak memory of the process {memory:.0f} MB"
    )


def with_exact_cells() -> dict[str, bytes]:
    """A page with a noisy corner, and a lossless file."""
    from PIL import Image, ImageDraw

    import pillow_nic

    page = Image.new("RGB", (120, 90), "white")
    ImageDraw.Draw(page).multiline_text((3, 3), "exact cells\n" * 5, fill="navy")
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    page.paste(Image.fromarray(noise), (64, 50))
    files = {
        "exact/some": pillow_nic.encode(page, quality=0.4),
        "exact/lossless": pillow_nic.encode(page, lossless=True),
    }
    if not all(b"CELL" in data for data in files.values()):
        raise AssertionError("no exact cells to fuzz")
    return files


def main() -> int:
    warnings.simplefilter("ignore")  # of Pillow, about large pictures
    files = {
        str(file.relative_to(GOLDEN).with_suffix("")): file.read_bytes()
        for file in sorted(GOLDEN.glob("*/*.nic"))
    }
    files |= with_exact_cells()
    if len(sys.argv) > 1 and not sys.argv[1].startswith("--"):
        return run_atheris(Path(sys.argv[1]), files)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--go-on", action="store_true", help="do not end at the first finding")
    parser.add_argument("--no-pixels", action="store_true", help="decode nothing")
    args = parser.parse_args()
    return int(run(args.minutes, args.seed, files, args.go_on, args.no_pixels) > 0)


if __name__ == "__main__":
    sys.exit(main())
