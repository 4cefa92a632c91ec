"""Memory of worker processes that decode pictures: the figures of docs/servers.md. Linux only.

    python tests/tools/worker_memory.py --start spawn --side 2048
    python tests/tools/worker_memory.py --start fork --side 2048

With `fork` the parent loads PyTorch and the model first, and the workers share them. Prints what each worker
holds after decoding, as the system counts it (RSS) and with shared pages divided by those who share them
(PSS), its peak, and the sum of PSS with the parent's."""

from __future__ import annotations

import argparse
import io
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np

import pillow_nic


def megabytes(file: str, field: str) -> float:
    for line in Path("/proc/self", file).read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(field)


def work(data: bytes, barrier: Any, results: Any) -> None:
    for _ in range(3):
        pillow_nic.decode(data)
    barrier.wait()  # every worker and the parent hold their pages now
    results.put(
        (megabytes("status", "VmRSS"), megabytes("smaps_rollup", "Pss"), megabytes("status", "VmHWM"))
    )
    barrier.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", choices=["fork", "spawn", "forkserver"], default="spawn")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=4)
    args = parser.parse_args()
    context = multiprocessing.get_context(args.start)
    photo = Path(__file__).parents[1] / "data" / "photo.png"
    data = make(photo, args.side, warm=args.start == "fork")
    barrier, results = context.Barrier(args.workers + 1), context.Queue()
    workers = [context.Process(target=work, args=(data, barrier, results)) for _ in range(args.workers)]
    for worker in workers:
        worker.start()
    barrier.wait()
    found = [results.get() for _ in workers]
    total = sum(pss for _, pss, _ in found) + megabytes("smaps_rollup", "Pss")
    barrier.wait()
    for worker in workers:
        worker.join()
    rss, pss, peak = (max(column) for column in zip(*found, strict=True))
    print(
        f"{args.start}, {args.workers} workers, {args.side}x{args.side} pixels: each RSS {rss:.0f} MB, ",
        end="",
    )
    print(f"PSS {pss:.0f} MB, peak {peak:.0f} MB; all with the parent {total:.0f} MB")


def make(photo: Path, side: int, *, warm: bool) -> bytes:
    """A file of so many pixels; made in another process unless this one shall have the model."""
    if not warm:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(make, (photo, side), {"warm": True})
    from PIL import Image

    file = io.BytesIO()
    with Image.open(photo) as im:
        im.convert("RGB").resize((side, side)).save(file, "NIC")
    pillow_nic.decode(pillow_nic.encode(np.zeros((16, 16, 3), np.uint8)))
    return file.getvalue()


if __name__ == "__main__":
    main()
