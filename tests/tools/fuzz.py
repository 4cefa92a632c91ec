"""A fuzz target for everything that a file can say; by hand, as long as one likes:

    python tests/tools/fuzz.py --minutes 30
    python tests/tools/fuzz.py CORPUS -max_total_time=3600  with atheris (pip install atheris), by coverage

Starts from the golden files. A file is damaged in its bytes, or in its parts with every CRC made right
again, so that the damage reaches the entropy decoder and the networks. Allowed: a picture of the size that
the header says, or an OSError. Everything else is a finding: another exception, a crash, more than SECONDS
for a file, or more memory than the header's size allows. A finding is written to fuzz-finding.nic."""

from __future__ import annotations

import argparse
import os
import resource
import struct
import sys
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

os.environ["NIC_DEVICE"] = "cpu"
GOLDEN = Path(__file__).parents[1] / "golden"
MOST_PIXELS = 256 * 256  # larger pictures only take longer
SECONDS = 10
HOST_BYTES = 64 << 20
"""Numpy's and Python's allocations for a file of MOST_PIXELS: about what the codec needs, times ten."""


def take(data: bytes) -> str:
    """One execution; the name of what came out. Raises what is a finding."""
    import pillow_nic
    from pillow_nic import container

    try:
        header = pillow_nic.read_header(data)
    except pillow_nic.BitstreamError:
        return "no header"
    if header.width * header.height > MOST_PIXELS:
        try:
            container.verify(data)
        except pillow_nic.BitstreamError:
            return "large, damaged"
        return "large"
    try:
        pixels = pillow_nic.decode(data, partial=True)
    except OSError as error:
        return type(error).__name__
    if pixels.shape[:2] != (header.height, header.width):
        raise AssertionError(f"a picture of {pixels.shape} for {header}")
    return "picture"


def watched(data: bytes) -> str:
    """``take`` with its time and memory bounded; CPU time, so that a busy machine is no finding."""
    start = time.process_time()
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    outcome = take(data)
    peak = tracemalloc.get_traced_memory()[1] - before
    if (seconds := time.process_time() - start) > SECONDS:
        raise AssertionError(f"{seconds:.1f} s for a file of {len(data)} bytes")
    if peak > HOST_BYTES + 4 * len(data):
        raise AssertionError(f"{peak} bytes allocated for a file of {len(data)} bytes")
    return outcome


def mutate(files: list[bytes], rng: np.random.Generator) -> bytes:
    data = files[rng.integers(len(files))]
    kind = rng.integers(4)
    if kind == 0:
        return _bytes(data, rng)
    return _parts(data, files, rng)


def _bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flips, cuts, repeats."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(len(out)))
        what = rng.integers(4)
        if what == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif what == 1:
            out[at : at + 4] = struct.pack("<I", int(rng.integers(1 << 32)))
        elif what == 2:
            del out[at : at + int(rng.integers(1, 20))]
        else:
            out[at:at] = out[at : at + int(rng.integers(1, 200))]
        out = out or bytearray(1)
    return bytes(out)


def _parts(data: bytes, files: list[bytes], rng: np.random.Generator) -> bytes:
    """Other header fields and other streams, all CRCs right."""
    from pillow_nic import container
    from pillow_nic.container import Container

    file = container.parse(data)
    header, streams = file.header, [list(layer) for layer in file.streams]
    for _ in range(rng.integers(1, 4)):
        what = rng.integers(8)
        if what == 0:
            header = replace(header, rate_point=int(rng.integers(1 << 16)))
        elif what == 1:
            header = replace(header, delta=int(rng.integers(-128, 128)))
        elif what == 2:
            header = replace(header, width_index=int(rng.integers(8)))
        elif what == 3:
            header = replace(header, width=int(rng.integers(1, 300)), height=int(rng.integers(1, 300)))
        elif what == 4:
            ends = np.flatnonzero(rng.random(9) < 0.5)[: header.layers] + 1
            if len(ends) == header.layers:
                header = replace(header, layer_ends=tuple(int(end) for end in ends))
        else:
            layer = streams[rng.integers(len(streams))]
            tile = int(rng.integers(len(layer)))
            if what == 5:
                layer[tile] = rng.bytes(int(rng.integers(400)))
            elif what == 6:
                layer[tile] = _bytes(layer[tile] or b"\0", rng)
            else:
                other = container.parse(files[rng.integers(len(files))])
                layer[tile] = other.streams[0][0]
    chunks = dict(file.chunks)
    if "ALPH" in chunks and rng.random() < 0.3:
        chunks["ALPH"] = _bytes(chunks["ALPH"], rng)
    exact = list(file.exact)
    for number in range(len(exact)):
        exact[number] = _exact(exact[number], rng)
    if exact and rng.random() < 0.2:
        chunks["CELL"] = rng.bytes(1) + bytes((int(rng.integers(4, 14)),))
    streams = [layer[: header.tiles] + [b""] * (header.tiles - len(layer)) for layer in streams]
    try:
        return container.dump(Container(header, chunks, streams, exact))
    except ValueError:
        return _bytes(data, rng)


def _exact(stream: bytes, rng: np.random.Generator) -> bytes:
    """Exact cells with another mask, another WebP picture, or damage in either."""
    length = int.from_bytes(stream[:4], "little")
    mask, picture = stream[4 : 4 + length], stream[4 + length :]
    what = rng.integers(5)
    if what == 0 and mask:
        mask = _bytes(mask, rng)
    elif what == 1:
        mask = zlib.compress(rng.bytes(int(rng.integers(1 << 12))))
    elif what == 2 and picture:
        picture = _bytes(picture, rng)
    elif what == 3 and len(picture) > 25:  # VP8L's header says another size, behind it the same bits
        picture = picture[:21] + rng.bytes(4) + picture[25:]
    return len(mask).to_bytes(4, "little") + mask + picture if stream and what < 4 else stream


def run(minutes: float, seed: int, files: list[bytes]) -> int:
    """Random mutations for so long; 1 at the first finding."""
    import torch

    torch.set_num_threads(1)
    take(files[0])  # imports and weights are not what is measured
    rng = np.random.default_rng(seed)
    outcomes: dict[str, int] = {}
    start = shown = time.monotonic()
    slowest = 0.0
    while time.monotonic() - start < 60 * minutes:
        data = mutate(files, rng)
        began = time.process_time()
        try:
            outcome = watched(data)
        except BaseException:
            Path("fuzz-finding.nic").write_bytes(data)
            print(f"finding after {sum(outcomes.values())} executions, in fuzz-finding.nic")
            raise
        slowest = max(slowest, time.process_time() - began)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if time.monotonic() - shown > 60:
            shown = time.monotonic()
            print(_said(outcomes, slowest, start), flush=True)
    print(_said(outcomes, slowest, start))
    return 0


def run_atheris(corpus: Path, files: list[bytes]) -> int:
    """libFuzzer on the Python code of the codec; half of its mutations keep the CRCs right."""
    import atheris

    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(files):
        (corpus / f"golden-{number}").write_bytes(data)
    with atheris.instrument_imports(include=["pillow_nic"]):
        take(files[0])  # imports what is to be instrumented

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        if rng.integers(2):
            try:
                return _parts(data, files, rng)[:most]
            except OSError:  # not a file any more: nothing to take apart
                pass
        return bytes(atheris.Mutate(data, most))

    def one(data: bytes) -> None:
        watched(data)

    atheris.Setup(sys.argv, one, custom_mutator=mutated)
    atheris.Fuzz()
    return 0


def _said(outcomes: dict[str, int], slowest: float, start: float) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{(time.monotonic() - start) / 60:.1f} min, {sum(outcomes.values())} executions: {counts}; "
        f"slowest {slowest:.2f} s, peak memory {memory:.0f} MB"
    )


def with_exact_cells() -> list[bytes]:
    """A page with a noisy corner, and a lossless file."""
    from PIL import Image, ImageDraw

    import pillow_nic

    page = Image.new("RGB", (120, 90), "white")
    ImageDraw.Draw(page).multiline_text((3, 3), "exact cells\n" * 5, fill="navy")
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    page.paste(Image.fromarray(noise), (64, 50))
    files = [pillow_nic.encode(page, quality=0.4), pillow_nic.encode(page, lossless=True)]
    if not all(b"CELL" in data for data in files):
        raise AssertionError("no exact cells to fuzz")
    return files


def main() -> int:
    files = [file.read_bytes() for file in sorted(GOLDEN.glob("*/*.nic"))] + with_exact_cells()
    if len(sys.argv) > 1 and not sys.argv[1].startswith("--"):
        return run_atheris(Path(sys.argv[1]), files)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    return run(args.minutes, args.seed, files)


if __name__ == "__main__":
    sys.exit(main())
