"""Mixed work for a long time: does memory stay flat, and does anything fail that should not?

    python tests/tools/soak.py --minutes 30

Each process runs threads that encode random pieces of one photograph, decode, make thumbnails, and read
parts, single layers, cut and damaged files. Allowed for cut and damaged files is an OSError; whatever else is
raised counts as a failure.

Every half minute the threads pause, and what the process holds then is looked at: its live memory (what is
allocated and not freed, as glibc counts it), the objects of Python, and what is resident, before and after
the allocator has given back what it can. Flat is live memory that grows by less than 2 % from a quarter of
the time to its end, and objects by less than 1 %. How much more is resident depends on how the allocator's
arenas, one for each thread or so, are broken up by what the threads need at once; it may grow by 20 %.

PyTorch and oneDNN keep what they have prepared for the last 1024 shapes of convolutions, each: some 90 kB for
every size of picture that is new, until that is full. Here they keep one, or half an hour would not do."""

from __future__ import annotations

import argparse
import ctypes
import gc
import io
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import Empty

# Before torch is loaded, in the processes that are spawned, too.
os.environ |= {"LRU_CACHE_CAPACITY": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1"}

import numpy as np
from mutations import mutate
from PIL import Image

import pillow_nic

PHOTO = Path(__file__).parents[1] / "data" / "photo.png"
GOLDEN = Path(__file__).parents[1] / "golden"
GROWTH = {"live": 1.02, "objects": 1.01, "resident": 1.2}
LIBC = ctypes.CDLL(None)
MALLINFO = (
    "arena",
    "ordblks",
    "smblks",
    "hblks",
    "hblkhd",
    "usmblks",
    "fsmblks",
    "uordblks",
    "fordblks",
    "keep",
)


class Allocated(ctypes.Structure):
    """glibc's ``struct mallinfo2``: of all arenas together."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in MALLINFO)


@dataclass(frozen=True)
class Sample:
    """What a process holds while its threads pause."""

    minutes: float
    live: int
    objects: int
    resident: int
    trimmed: int

    @classmethod
    def now(cls, minutes: float) -> Sample:
        resident = _resident()
        gc.collect()
        LIBC.mallinfo2.restype = Allocated
        allocated = LIBC.mallinfo2()
        LIBC.malloc_trim(0)
        live = allocated.uordblks + allocated.hblkhd
        return cls(minutes, live, len(gc.get_objects()), resident, _resident())

    def __str__(self) -> str:
        live, resident, trimmed = (number / (1 << 20) for number in (self.live, self.resident, self.trimmed))
        kept = f"{resident:.0f} MB resident, {trimmed:.0f} of them kept"
        return f"{live:.1f} MB live, {self.objects} objects, {kept}"


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
        options = {"quality": float(rng.random()), "tune": str(rng.choice(["psnr", "ms-ssim", "visual"]))}
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
    start = time.monotonic()
    end = start + 60 * minutes
    working = [threading.Lock() for _ in range(threads)]

    def loop(number: int) -> None:
        rng = np.random.default_rng([seed, number])
        while time.monotonic() < end:
            with working[number]:
                try:
                    done[work(photo, files, rng)] += 1
                except Exception:
                    done["FAILED"] += 1
                    traceback.print_exc()
            time.sleep(0.001)  # so that another may have the lock

    running = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    while any(thread.is_alive() for thread in running):
        time.sleep(min(30, max(0.2, end - time.monotonic())))
        with ExitStack() as paused:
            for lock in working:
                paused.enter_context(lock)
            queue.put((seed, Sample.now((time.monotonic() - start) / 60), dict(done)))


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
    for process in processes:
        process.start()
    seen: dict[int, list[Sample]] = {seed: [] for seed in range(args.processes)}
    last: dict[int, dict[str, int]] = {}
    while any(process.is_alive() for process in processes) or not queue.empty():
        try:
            seed, sample, done = queue.get(timeout=1)
        except Empty:
            continue
        seen[seed].append(sample)
        last[seed] = done
        print(f"{sample.minutes:5.1f} min, process {seed}: {sample}, {sum(done.values())} done", flush=True)
    failed = sum(done.get("FAILED", 0) for done in last.values())
    failed += sum(process.exitcode != 0 for process in processes)
    for seed, samples in seen.items():
        quarter = next(sample for sample in samples if sample.minutes >= args.minutes / 4)
        growth = {name: getattr(samples[-1], name) / getattr(quarter, name) for name in GROWTH}
        said = ", ".join(f"{name} × {times:.3f}" for name, times in growth.items())
        print(f"process {seed}: {dict(sorted(last[seed].items()))}; {said}")
        failed += sum(growth[name] > most for name, most in GROWTH.items())
    print(f"{failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
