"""What `nic bench --speed` measures with, in a process of its own: lines of JSON in, one answered by one out.

    python -P speed_worker.py MODULE       # MODULE makes Pillow know the format: pillow_nic, pillow_jxl, PIL

Other versions' interpreters run this same file. It therefore imports nothing from the package but its public
names, and of these only what the oldest version has, or asks first. It ends when its standard input does, so
that it never outlives who asks."""

from __future__ import annotations

import importlib
import io
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import PIL
from PIL import Image

THUMBNAIL = (256, 256)


def main(module: str) -> None:
    Image.MAX_IMAGE_PIXELS = None  # a large picture is no attack here
    importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(ACTIONS[request.pop("action")](**request)), flush=True)


# Every answer but that of `about` and `peak_memory` is in seconds.


def encode(picture: str, file: str, format: str, save: Mapping[str, Any]) -> float:
    """From pixels to bytes in memory, which are then written to ``file``."""
    with Image.open(picture) as im:
        im.load()
    output = io.BytesIO()
    start = perf_counter()
    im.save(output, format, **save)
    seconds = perf_counter() - start
    Path(file).write_bytes(output.getvalue())
    return seconds


def decode(file: str) -> float:
    """From bytes in memory to pixels."""
    data = Path(file).read_bytes()
    start = perf_counter()
    _pixels(data)
    return perf_counter() - start


def thumbnail(file: str) -> float:
    data = Path(file).read_bytes()
    start = perf_counter()
    with Image.open(io.BytesIO(data)) as im:
        im.thumbnail(THUMBNAIL)
    return perf_counter() - start


def loop(files: Sequence[str]) -> float:
    """One after the other."""
    contents = [Path(file).read_bytes() for file in files]
    start = perf_counter()
    for data in contents:
        _array(data)
    return perf_counter() - start


def at_once(files: Sequence[str]) -> float:
    """Each in a thread of its own."""
    contents = [Path(file).read_bytes() for file in files]
    with ThreadPoolExecutor(len(files)) as pool:
        start = perf_counter()
        list(pool.map(_array, contents))
        return perf_counter() - start


def batch(files: Sequence[str]) -> float | None:
    """With `pillow_nic.decode_batch`; None where there is none."""
    decode_batch = getattr(sys.modules.get("pillow_nic"), "decode_batch", None)
    if decode_batch is None:
        return None
    contents = [Path(file).read_bytes() for file in files]
    start = perf_counter()
    decode_batch(contents)
    return perf_counter() - start


def convert(picture: str, file: str, format: str, save: Mapping[str, Any]) -> float:
    """From file to file."""
    start = perf_counter()
    with Image.open(picture) as im:
        im.save(file, format, **save)
    return perf_counter() - start


def load(file: str) -> float:
    """From a file on disk to pixels."""
    start = perf_counter()
    with Image.open(file) as im:
        im.load()
    return perf_counter() - start


def peak_memory() -> int | None:
    """The most memory that this process has held so far (its resident set), in bytes; None where the system
    does not say."""
    try:
        # getrusage() would count what the parent held, too: the child begins with the parent's pages.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # not Linux, or not quite
        pass
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def about(file: str) -> dict[str, Any]:
    """What decodes a `.nic` file here."""
    import torch

    import pillow_nic  # by its full name: this file is not part of the package when it runs

    header = pillow_nic.read_header(Path(file).read_bytes())
    return {
        "model": f"{header.model} ({header.model_hash.hex()})",
        "pillow_nic": f"{pillow_nic.__version__} in {Path(pillow_nic.__file__).parent}",
        "torch": torch.__version__,
        "torch threads": torch.get_num_threads(),
        "Pillow": PIL.__version__,
        "Python": platform.python_version(),
    }


def _pixels(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as im:
        im.load()


def _array(data: bytes) -> None:
    """As a loop would do it that `decode_batch` replaces."""
    if data.startswith(b"\x89NIC"):
        sys.modules["pillow_nic"].decode(data)
    else:
        _pixels(data)


ACTIONS: dict[str, Callable[..., Any]] = {
    action.__name__: action
    for action in (encode, decode, thumbnail, loop, at_once, batch, convert, load, peak_memory, about)
}

if __name__ == "__main__":
    main(*sys.argv[1:])
