"""Mixed work for a long time: does memory stay flat, and does anything fail that should not?

    python tests/tools/soak.py --minutes 30

Each process runs threads that encode random pieces of one photograph, decode, make thumbnails, and read
parts, single layers, cut and damaged files. Allowed for cut and damaged files is an OSError; whatever else is
raised counts as a failure. Flat is what grows by less than 5 % from a quarter of the time to its end."""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from queue import Empty

import numpy as np
from mutations import mutate
from PIL import Image

import pillow_nic

PHOTO = Path(__file__).parents[1] / "data" / "photo.png"
GOLDEN = Path(__file__).parents[1] / "golden"
GROWTH = 1.05


def piece(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = (int(2 ** rng.uniform(4, 8.5)) for _ in range(2))
    top, left = (
        int(rng.integers(most - side)) for most, side in zip(photo.shape, (height, width), strict=False)
    )
    part = photo[top : top + height, left : left + width]
    kind = rng.integers(4)
    if kind == 0:
        return part[..., 0]
    return np.dstack([part, part[..., 1]]) if kind == 1 else part


def work(photo: np.ndarray, files: list[bytes], rng: np.random.Generator) -> str:
    """One thing of many; its name. Raises what is a failure."""
    what = ("encode", "decode", "thumbnail", "region", "layer", "batch", "cut", "damaged")[rng.integers(8)]
    data = files[rng.integers(len(files))]
    header = pillow_nic.read_header(data)
    if what == "encode":
        pixels = piece(photo, rng)
        options = {"quality": float(rng.random()), "tune": str(rng.choice(["psnr", "ms-ssim"]))}
        found = pillow_nic.decode(pillow_nic.encode(pixels, **options))  # type: ignore[arg-type]
        if found.shape != pixels.shape:
            raise AssertionError(f"{found.shape} for {pixels.shape}")
    elif what == "decode":
        with Image.open(io.BytesIO(data)) as im:
            im.load()
    elif what == "thumbnail":
        with Image.open(io.BytesIO(data)) as im:
            im.thumbnail((32, 32))
    elif what == "region":
        right, bottom = (int(rng.integers(1, side + 1)) for side in (header.width, header.height))
        pillow_nic.decode(data, region=(right // 2, bottom // 2, right, bottom))
    elif what == "layer":
        pillow_nic.decode(data, layers=int(rng.integers(1, header.layers + 1)))
    elif what == "batch":
        pillow_nic.decode_batch([data] * int(rng.integers(1, 4)))
    else:
        data = data[: int(rng.integers(len(data)))] if what == "cut" else mutate(files, rng)[1]
        try:
            Image.open(io.BytesIO(data)).load()
        except OSError:
            return f"{what}, refused"
    return what


def run(seed: int, threads: int, minutes: float, queue: multiprocessing.Queue[object]) -> None:
    """One process: every half minute, and at its end, what it has done."""
    with Image.open(PHOTO) as im:
        photo = np.array(im.convert("RGB"))
    files = [file.read_bytes() for file in sorted(GOLDEN.glob("*/*.nic")) if file.stem != "photo"]
    done: Counter[str] = Counter()
    end = time.monotonic() + 60 * minutes

    def loop(number: int) -> None:
        rng = np.random.default_rng([seed, number])
        while time.monotonic() < end:
            try:
                done[work(photo, files, rng)] += 1
            except Exception:
                done["FAILED"] += 1
                traceback.print_exc()

    running = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    while any(thread.is_alive() for thread in running):
        time.sleep(min(30, max(0.2, end - time.monotonic())))
        queue.put((seed, _resident(), threading.active_count(), dict(done)))


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=run, args=(seed, args.threads, args.minutes, queue))
        for seed in range(args.processes)
    ]
    start = time.monotonic()
    for process in processes:
        process.start()
    seen: dict[int, list[tuple[float, int]]] = {seed: [] for seed in range(args.processes)}
    last: dict[int, dict[str, int]] = {}
    while any(process.is_alive() for process in processes) or not queue.empty():
        try:
            seed, resident, threads, done = queue.get(timeout=1)
        except Empty:
            continue
        minutes = (time.monotonic() - start) / 60
        seen[seed].append((minutes, resident))
        last[seed] = done
        total = sum(done.values())
        print(
            f"{minutes:5.1f} min, process {seed}: {resident >> 20} MB, {threads} threads, {total} done",
            flush=True,
        )
    failed = sum(done.get("FAILED", 0) for done in last.values())
    failed += sum(process.exitcode != 0 for process in processes)
    for seed, samples in seen.items():
        quarter = next(resident for minutes, resident in samples if minutes >= args.minutes / 4)
        growth = samples[-1][1] / quarter
        print(f"process {seed}: {dict(sorted(last[seed].items()))}; memory × {growth:.3f}")
        failed += growth > GROWTH
    print(f"{failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
