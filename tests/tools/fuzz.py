"""A fuzz target for everything that a file can say; by hand, as long as one likes:

    python tests/tools/fuzz.py --minutes 60 --seed 1  small files of a tiny model, hundreds a second
    python tests/tools/fuzz.py --minutes 30 --shipped  the golden files with the models that ship
    python tests/tools/fuzz.py CORPUS -max_total_time=3600  with atheris (pip install atheris), by coverage

Starts from the files of fuzz_files.py; what is done to them stands in mutations.py. Most executions parse a
file on two ways, and compare what these say; ``--decode`` says what share is decoded, on one of six ways.
Allowed: a picture of the size that the header says, or an OSError. Everything else is a finding: another
exception, a crash, more CPU time or memory than three or two times what an honest picture of the declared
size takes. A side shorter than 16 pixels counts as 16. A finding is written to fuzz-finding-SEED-NUMBER.nic,
and with --go-on the next one is looked for."""

from __future__ import annotations

import argparse
import io
import os
import resource
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

os.environ["NIC_DEVICE"] = "cpu"
os.environ["NIC_THREADS"] = "1"
MOST_PIXELS = 512 * 512  # larger pictures only take longer
TIMES_CPU, TIMES_MEMORY = 3, 2
SMALL_TILES = 16  # header.MAX_SMALL_TILES: so many may cost their fixed part more
HONEST_BYTES, HONEST_BYTES_PER_PIXEL = 30 << 20, 60
"""Peak memory of decoding, as measured with one thread: 160 MB for 4 megapixels, 30 MB for the smallest."""
SLACK = 8 << 20
"""By how much the peak may be above what is resident before it is measured anew."""


@dataclass(frozen=True)
class Honest:
    """What decoding takes on this machine, as it is now."""

    per_tile: float
    per_pixel: float

    @classmethod
    def measured(cls, files: dict[str, bytes]) -> Honest:
        small, large = files["smallest"], files["photo"]
        per_tile = min(_seconds(small) for _ in range(10))
        whole = min(_seconds(large) for _ in range(5))
        return cls(per_tile, (whole - per_tile) / (512 * 384))

    def limits(self, data: bytes, way: str) -> tuple[float, float]:
        """CPU seconds and bytes that a file may take on that way."""
        from pillow_nic.binary import Reader, from_memory
        from pillow_nic.header import take_header

        pixels, tiles, times = 1, 1, 1
        with suppress(OSError):
            header, _ = take_header(Reader(from_memory(data)))
            pixels = max(header.width, 16) * max(header.height, 16)
            tiles = -(-header.width // 1024) * -(-header.height // 1024)
            times = min(header.layers, 7) if way == "parser" else 1 if way in ("decode", "pillow") else 2
        seconds = TIMES_CPU * (tiles * self.per_tile + pixels * self.per_pixel) + SMALL_TILES * self.per_tile
        seconds += len(data) * 2e-7  # checksums
        return times * seconds + 0.05, TIMES_MEMORY * (
            HONEST_BYTES + HONEST_BYTES_PER_PIXEL * pixels + 3 * len(data)
        )


def _seconds(data: bytes) -> float:
    start = time.process_time()
    take(data, "decode")
    return time.process_time() - start


def take(data: bytes, way: str) -> str:
    """One execution; the name of what came out. Raises what is a finding."""
    import pillow_nic
    from pillow_nic import container

    if way == "parse":
        return _parsed(data)
    try:
        header = pillow_nic.read_header(data)
    except pillow_nic.BitstreamError:
        return "no header"
    if max(header.width, 16) * max(header.height, 16) > MOST_PIXELS:
        with suppress(pillow_nic.BitstreamError):
            container.verify(data)
        return "large"
    try:
        found = WAYS[way](data)
    except OSError as error:
        return type(error).__name__
    if found != (header.width, header.height):
        raise AssertionError(f"a picture of {found} for {header}")
    return "picture"


def _parsed(data: bytes) -> str:
    """What is said without decoding: ``verify`` and one of the other ways must agree."""
    from pillow_nic import container

    sound = _refusal(container.verify, data)
    action = PARSERS[zlib.crc32(data) % len(PARSERS)]
    refused = _refusal(action, data)
    # The two last ones do not look at all of the file, and two more read the metadata, too.
    if sound and not refused and action not in (_opened, _grown):
        raise AssertionError(f"{action.__name__} takes it, but verify says {sound}")
    if refused and not sound and action not in (_opened, _described):
        raise AssertionError(f"verify takes it, but {action.__name__} says {refused}")
    return (sound or refused or "sound").partition(":")[0]


def _refusal(action: Callable[[bytes], object], data: bytes) -> str:
    """Class and text of the error by which it refuses the file; empty if it does not."""
    from pillow_nic import BitstreamError

    try:
        action(data)
    except BitstreamError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _taken(data: bytes) -> None:
    from pillow_nic import container

    container.parse(data)


def _shortened(data: bytes) -> None:
    from pillow_nic import container

    parsed = container.parse(data)
    if container.parse(container.truncate(data, parsed.header.layers)) != parsed:
        raise AssertionError("a file of all its layers is another one")
    if len(container.dump(parsed)) > container.parse_header(data).layer_offsets[-1]:
        raise AssertionError("longer than it was")
    container.verify(container.truncate(data, 1))


def _described(data: bytes) -> None:
    from pillow_nic.command import info

    list(info._lines(info.describe(data)))


def _opened(data: bytes) -> None:
    """As Pillow does it, up to the pixels."""
    from PIL import Image, UnidentifiedImageError

    with suppress(UnidentifiedImageError), Image.open(io.BytesIO(data), formats=["NIC"]) as im:
        with suppress(Exception):  # Pillow's own reading of hostile EXIF is not ours
            im.getexif()
        im.verify()


def _grown(data: bytes) -> None:
    """A file that comes block by block."""
    from pillow_nic import container

    counter = container.LayerCounter()
    before = 0
    for end in (*range(0, len(data), 1 + len(data) // 5), len(data)):
        found = counter.update(data[:end])
        if found < before:
            raise AssertionError(f"{found} layers where there were {before}")
        before = found
    if counter.ends and before != sum(end <= len(data) for end in counter.ends):
        raise AssertionError(f"{before} layers, which end at {counter.ends}")


PARSERS = (_taken, _shortened, _described, _opened, _grown)


def _decode(data: bytes) -> tuple[int, int]:
    import pillow_nic

    pixels = pillow_nic.decode(data, partial=True)
    return pixels.shape[1], pixels.shape[0]


def _pillow(data: bytes) -> tuple[int, int]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as im:
        size = im.size
        im.load()
    return size


def _parser(data: bytes) -> tuple[int, int]:
    from PIL import ImageFile

    parser = ImageFile.Parser()
    for start in range(0, len(data), 700):
        parser.feed(data[start : start + 700])
    return parser.close().size


def _batch(data: bytes) -> tuple[int, int]:
    import pillow_nic

    pixels = pillow_nic.decode_batch([data, data])[1]
    return pixels.shape[1], pixels.shape[0]


def _reduced(data: bytes) -> tuple[int, int]:
    import pillow_nic
    from pillow_nic import container

    header = pillow_nic.read_header(container.truncate(data, 1))
    reduced = pillow_nic.decode(data, reduce=4, layers=1)
    if reduced.shape[:2] != (-(-header.height // 4), -(-header.width // 4)):
        raise AssertionError(f"a reduced picture of {reduced.shape}")
    right, bottom = (
        zlib.crc32(data, start) % side + 1 for start, side in enumerate((header.width, header.height))
    )
    box = right // 2, bottom // 3, right, bottom
    if pillow_nic.decode(data, region=box).shape[:2] != (box[3] - box[1], box[2] - box[0]):
        raise AssertionError(f"another size than {box}")
    return header.width, header.height


def _inspect(data: bytes) -> tuple[int, int]:
    import pillow_nic
    from pillow_nic import decoding

    latent, bits = decoding.inspect(data)
    if latent.shape != bits.shape or not np.isfinite(latent).all():
        raise AssertionError(f"a latent of {latent.shape}, bits of {bits.shape}")
    header = pillow_nic.read_header(data)
    return header.width, header.height


WAYS: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "decode": _decode,
    "pillow": _pillow,
    "parser": _parser,
    "batch": _batch,
    "reduced": _reduced,
    "inspect": _inspect,
}
"""Ways to a picture; "parse" is one more, without."""


class Memory:
    """The peak since a point, from figures that are cheap to have."""

    def __init__(self) -> None:
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._start = 0

    def start(self) -> None:
        self._start = int(Path("/proc/self/statm").read_text().split()[1]) * self._page
        if self._highest() > self._start + SLACK:
            with suppress(OSError):  # no Linux that can forget the peak
                Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        return self._highest() - self._start

    def _highest(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


MEMORY = Memory()


def watched(data: bytes, honest: Honest, way: str) -> tuple[str, float]:
    """``take`` with its time and memory bounded, and what part of the time it took; CPU time, so that a busy
    machine is no finding, and the least of three, as such a machine is slower, too."""
    most, bytes_ = honest.limits(data, way)
    MEMORY.start()
    start = time.process_time()
    outcome = take(data, way)
    part = (time.process_time() - start) / most
    if (peak := MEMORY.peak()) > max(bytes_, SLACK):
        raise AssertionError(f"{peak >> 20} MB, not {int(bytes_) >> 20}, for a file of {len(data)} bytes")
    for _ in range(2):
        if part > 1:
            start = time.process_time()
            take(data, way)
            part = min(part, (time.process_time() - start) / most)
    if part > 1:
        raise AssertionError(f"{part * most:.2f} s, not {most:.2f}, for a file of {len(data)} bytes")
    return outcome, part


def run(minutes: float, seed: int, files: dict[str, bytes], go_on: bool, decode: float) -> int:
    """Random mutations for so long; the number of findings, at most 1 unless told to go on."""
    from mutations import LEVELS, mutate

    honest = Honest.measured(files)
    print(f"honest: {honest.per_tile:.4f} s a tile, {1e6 * honest.per_pixel:.3f} s a megapixel", flush=True)
    rng = np.random.default_rng(seed)
    few = [data for name, data in files.items() if not name.endswith("photo")]  # which takes long
    cheap = [level for level in LEVELS if level != "symbols"]  # which is there to be decoded
    outcomes: Counter[str] = Counter()
    worst: dict[str, float] = {}
    findings = 0
    start = shown = time.monotonic()
    while time.monotonic() - start < 60 * minutes and (go_on or not findings):
        way = str(rng.choice([*WAYS], p=SHARES)) if rng.random() < decode else "parse"
        levels = cheap if way == "parse" else [*LEVELS]
        level, data = mutate(few, rng, levels)
        try:
            outcome, part = watched(data, honest, way)
        except Exception:
            name = f"fuzz-finding-{seed}-{findings}.nic"
            Path(name).write_bytes(data)
            print(f"finding after {outcomes.total()} executions, {way}, {level}, in {name}", flush=True)
            traceback.print_exc()
            findings += 1
            continue
        outcomes[f"{level}, {'parse' if way == 'parse' else 'decode'}: {outcome}"] += 1
        worst[level] = max(worst.get(level, 0), part)
        if time.monotonic() - shown > 300:
            shown = time.monotonic()
            print(_said(outcomes, worst, start), flush=True)
    print(_said(outcomes, worst, start), f"{findings} findings, seed {seed}", sep="\n")
    return findings


SHARES = [0.4, 0.15, 0.1, 0.1, 0.15, 0.1]


def run_atheris(corpus: Path, files: dict[str, bytes]) -> int:
    """libFuzzer on the Python code of the codec; most of its mutations keep the CRCs right. Every 64th
    execution decodes."""
    import atheris

    corpus.mkdir(exist_ok=True)
    for name, data in files.items():
        if name != "photo":
            (corpus / name.replace("/", "-")).write_bytes(data)
    honest = Honest.measured(files)
    from mutations import LEVELS

    sound = list(files.values())

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        with suppress(OSError, ValueError):  # not a file any more: nothing to take apart
            level = str(rng.choice(["header", "chunks", "streams", "exact"]))
            if rng.integers(4):
                return LEVELS[level](data, sound, rng)[:most]
        return bytes(atheris.Mutate(data, most))

    def one(data: bytes) -> None:
        number = zlib.crc32(data)
        watched(data, honest, "parse" if number % 64 else [*WAYS][number // 64 % len(WAYS)])

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


def main() -> int:
    warnings.simplefilter("ignore")  # of Pillow, about large pictures
    with_atheris = len(sys.argv) > 1 and not sys.argv[1].startswith("--")
    if with_atheris:
        import atheris

        with atheris.instrument_imports(include=["pillow_nic"]):
            import pillow_nic.codec
            import pillow_nic.command.info
            import pillow_nic.NicImagePlugin  # noqa: F401
    import fuzz_files

    if with_atheris:
        return run_atheris(Path(sys.argv[1]), fuzz_files.tiny())
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--go-on", action="store_true", help="do not end at the first finding")
    parser.add_argument("--decode", type=float, default=0.03, help="the share that is decoded")
    parser.add_argument("--shipped", action="store_true", help="golden files and the models that ship")
    args = parser.parse_args()
    files = fuzz_files.shipped() if args.shipped else fuzz_files.tiny()
    return int(run(args.minutes, args.seed, files, args.go_on, args.decode) > 0)


if __name__ == "__main__":
    sys.exit(main())
