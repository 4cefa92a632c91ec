"""What looking for graphics costs photographs: their files, and the time to write them, with it and without.

    python tests/tools/photographs.py kodak/ --quality 0.5

Each picture is written with `graphics="auto"` and "never", in turns; the time is that of the processor. A
picture whose files are equal to the byte has no exact cells. Where the search itself takes a share of the
time, it is printed, too, because that is steadier than the difference of two encodings."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from equal_quality import pictures

import pillow_nic
from pillow_nic import cells


def timed(action: Any, *args: Any, **options: Any) -> tuple[Any, float]:
    start = time.process_time()
    found = action(*args, **options)
    return found, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--quality", type=float, default=0.5)
    args = parser.parse_args()
    for folder in args.folders:
        images = [np.asarray(im) for im in pictures(folder, None)]
        pillow_nic.encode(images[0], quality=args.quality)  # loads and warms up
        seconds, same = {"auto": 0.0, "never": 0.0, "search": 0.0}, 0
        for number, pixels in enumerate(images):
            data = {}
            for choice in ("auto", "never") if number % 2 else ("never", "auto"):
                data[choice], took = timed(
                    pillow_nic.encode, pixels, quality=args.quality, graphics=choice, threads=1
                )
                seconds[choice] += took
            found, took = timed(cells.has_graphics, pixels)
            seconds["search"] += took
            same += data["auto"] == data["never"]
            if data["auto"] != data["never"] or found:
                print(f"picture {number + 1}: {len(data['auto'])} bytes, {len(data['never'])} without")
        print(
            f"{folder.name}: {same} of {len(images)} equal to the byte; seconds {seconds['auto']:.2f}, "
            f"without {seconds['never']:.2f} ({seconds['auto'] / seconds['never'] - 1:+.1%}); the search "
            f"alone {seconds['search'] / seconds['never']:.2%}"
        )


if __name__ == "__main__":
    main()
