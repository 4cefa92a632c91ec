"""Does what decides a file depend on how a machine computes? By hand, half an hour:

    python tests/tools/variants.py FOLDER [--pictures KODAK] [--python OTHER/bin/python …]

Every variant of one machine that can be set (threads, instructions, libraries, precision, and with --python
the versions in other environments) encodes 12 pictures at three qualities with both tunes, and each decodes
the files of all. Symbols and table indices have to be the same everywhere, pixels at most one level apart.
What is set is looked up again in the process that computes, and has to have taken effect. Files and figures
are kept in FOLDER; variants that are done are not done again."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
QUALITIES = (0.15, 0.5, 0.85)
MODELS = ("nic-2", "nic-2-ms", "nic-2-visual")
KODAK = ("kodim01", "kodim04", "kodim08", "kodim13", "kodim19", "kodim23")
PROBE = "import sys, json; from variants import *; apply(json.loads(sys.argv[1])); probe()"


@dataclass(frozen=True)
class Variant:
    """What is set, and what the process that computes has to say about it."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    expected: dict[str, Any] = field(default_factory=dict)
    python: str = sys.executable


VARIANTS = (
    Variant("as it is", expected={"threads": 1, "precision": "torch.float32"}),
    Variant("2 threads", {"NIC_THREADS": "2"}, expected={"threads": 2}),
    Variant("5 threads", {"NIC_THREADS": "5"}, expected={"threads": 5}),
    Variant("without oneDNN", settings=("no oneDNN",), expected={"convolutions": []}),
    Variant("ATen without AVX", {"ATEN_CPU_CAPABILITY": "default"}, expected={"ATen": "DEFAULT"}),
    Variant("ATen with AVX2", {"ATEN_CPU_CAPABILITY": "avx2"}, expected={"ATen": "AVX2"}),
    Variant("oneDNN with SSE4.1", {"DNNL_MAX_CPU_ISA": "SSE41"}, expected={"convolutions": ["sse41"]}),
    Variant("oneDNN with AVX2", {"DNNL_MAX_CPU_ISA": "AVX2"}, expected={"convolutions": ["avx2"]}),
    Variant("MKL compatible", {"MKL_CBWR": "COMPATIBLE"}, expected={"MKL": "COMPATIBLE"}),
    Variant("OpenBLAS Nehalem", {"OPENBLAS_CORETYPE": "Nehalem"}, expected={"OpenBLAS": "Nehalem"}),
    Variant("matmul medium", settings=("medium",), expected={"matmul": "medium"}),
    Variant("bfloat16", {"NIC_PRECISION": "bfloat16"}, expected={"precision": "torch.bfloat16"}),
)


def others(python: str) -> Iterator[Variant]:
    """What is to be seen of another environment."""
    code = "import torch, numpy; print(torch.__version__, numpy.__version__)"
    torch, numpy = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    name, expected = f"torch {torch}, numpy {numpy}", {"torch": torch, "numpy": numpy}
    yield Variant(name, expected=expected, python=python)
    bfloat16 = {**expected, "precision": "torch.bfloat16"}
    yield Variant(f"{name}, bfloat16", {"NIC_PRECISION": "bfloat16"}, (), bfloat16, python)


def pictures(folder: Path | None) -> dict[str, np.ndarray]:
    """12 of them; without a folder pieces of the tests' own photograph in place of the Kodak pictures."""
    found = {}
    with Image.open(ROOT / "tests" / "data" / "photo.png") as im:
        photo = im.convert("RGB")
    for number, name in enumerate(KODAK):
        if folder is None:
            found[name] = photo.crop((40 * number, 20 * number, 40 * number + 256, 20 * number + 192))
            continue
        with Image.open(folder / f"{name}.png") as im:
            im.thumbnail((384, 384), Image.Resampling.LANCZOS)
            # Two of them whole, of the others a part.
            found[name] = im.convert("RGB").crop((0, 0, *(im.size if number < 2 else (176, 130))))
    rng = np.random.default_rng(0)
    text = Image.new("RGB", (200, 96), "white")
    ImageDraw.Draw(text).multiline_text((4, 4), "The quick brown fox\n" * 6, fill="black")
    rows, columns = np.indices((90, 122))
    drawn = {
        "noise": rng.integers(0, 256, (80, 112, 3)),
        "checkerboard": 255 * ((rows + columns) % 2),
        "flat": np.full((90, 122), 77),
        "lines": 255 * (columns % 7 == 0) | 200 * (rows % 11 == 0),
        "ramp": rows + columns // 2,
    }
    found |= {name: Image.fromarray(pixels.astype(np.uint8)).convert("RGB") for name, pixels in drawn.items()}
    return {name: np.asarray(im) for name, im in {**found, "text": text}.items()}


# ------------------------------------------------------------------------------- in the process that computes


def apply(settings: list[str]) -> None:
    import torch

    if "no oneDNN" in settings:
        torch.backends.mkldnn.set_flags(False)
    if "medium" in settings:
        torch.set_float32_matmul_precision("medium")


def probe() -> None:
    """What the libraries are asked to report on."""
    import pillow_nic

    pillow_nic.decode(ROOT / "tests" / "golden" / "nic-2" / "photo.nic")


def found_settings(settings: list[str]) -> dict[str, Any]:
    """What holds in this process, and what the libraries say in a process of the same environment."""
    import threadpoolctl
    import torch

    from pillow_nic import weights, workers

    said = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(settings)],
        env={**os.environ, "ONEDNN_VERBOSE": "1", "DNNL_VERBOSE": "1", "MKL_VERBOSE": "1"},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # What oneDNN convolves with, brg_conv_fwd:avx2 for example: the instructions are what counts here.
    convolutions = [name.rsplit(":")[-1] for name in re.findall(r"exec,cpu,convolution,([^,]*)", said)]
    mkl = re.search(r"CNR:(\w+)", said)
    pools = {pool["internal_api"]: pool for pool in threadpoolctl.threadpool_info()}
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": workers.thread_count(),
        "ATen": torch.backends.cpu.get_cpu_capability(),
        "convolutions": sorted(set(convolutions)),
        "MKL": mkl and mkl[1],
        "OpenBLAS": pools.get("openblas", {}).get("architecture"),
        "matmul": torch.get_float32_matmul_precision(),
        "precision": str(weights.load("nic-2").network.g_s.precision),
    }


def encode_all(folder: Path, kodak: Path | None) -> None:
    import pillow_nic

    for name, pixels in pictures(kodak).items():
        for quality in QUALITIES:
            for model in MODELS:
                data = pillow_nic.encode(pixels, quality=quality, model=model, graphics="never")
                (folder / f"{name}-{quality}-{model}.nic").write_bytes(data)


def symbols_of(data: bytes) -> str:
    """A hash of all symbols and table indices, as this variant reads them."""
    import pillow_nic
    from pillow_nic import container, decoding, tile_coding

    parsed = container.parse(data)
    model, digest = decoding.model_for(parsed.header, None), hashlib.sha256()
    height, width = decoding.latent_size(parsed.header)
    for number, (rows, columns) in decoding.places(parsed.header):
        streams = [layer[number] for layer in parsed.streams]
        size = len(range(*rows.indices(height))), len(range(*columns.indices(width)))
        for array in tile_coding.read_symbols(model, streams, parsed.header, number, size):
            digest.update(np.ascontiguousarray(array, np.int64).tobytes())
    assert pillow_nic.read_header(data) == parsed.header
    return digest.hexdigest()


def decode_all(folder: Path, files: list[Path]) -> dict[str, Any]:
    """Of every file what its symbols are, or the error; its pixels go to the folder."""
    import pillow_nic

    result: dict[str, Any] = {}
    for file in files:
        data = file.read_bytes()
        try:
            result[str(file)] = symbols_of(data)
            pixels = pillow_nic.decode(data)
        except Exception as error:
            result[str(file)] = f"{type(error).__name__}: {error}"
            continue
        name = hashlib.sha256(data).hexdigest()[:24]
        np.save(folder / f"{name}.npy", pixels)
    return result


def compute(folder: Path, task: dict[str, Any]) -> None:
    """One variant's part: its files, or what it makes of all files."""
    apply(task["settings"])
    file = folder / "result.json"
    result = json.loads(file.read_text())["files"] if file.exists() else {}
    if "files" in task:
        result |= decode_all(folder, [Path(name) for name in task["files"]])
    else:
        encode_all(folder, task["kodak"] and Path(task["kodak"]))
    file.write_text(json.dumps({"found": found_settings(task["settings"]), "files": result}))


# ------------------------------------------------------------------------------------------ all of them


def result_of(variant: Variant, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """What the variant's process has found. AssertionError where a setting did not take effect."""
    result = folder / "result.json"
    if "files" in task and result.exists():
        known = json.loads(result.read_text())["files"]
        task = {**task, "files": [file for file in task["files"] if file not in known]}
    if not result.exists() or task.get("files"):
        unset = {name: value for name, value in os.environ.items() if not name.startswith(("NIC_", "DNNL_"))}
        environment = {
            "NIC_DEVICE": "cpu",
            "NIC_THREADS": "1",
            "NIC_PRECISION": "float32",
            **variant.environment,
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "task.json").write_text(json.dumps({"settings": variant.settings, **task}))
        subprocess.run(
            [variant.python, __file__, "--compute", str(folder)],
            env={**unset, "PYTHONPATH": str(ROOT), **environment},
            check=True,
        )
    content = json.loads(result.read_text())
    wrong = {name: content["found"][name] for name in variant.expected}
    if wrong != variant.expected:
        raise AssertionError(f"{variant.name}: {wrong}, not {variant.expected}")
    return content


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path, help="where kodim01.png … are")
    parser.add_argument("--python", action="append", default=[], help="of another environment")
    args = parser.parse_args()
    variants = [*VARIANTS, *(variant for python in args.python for variant in others(python))]
    files: dict[str, Path] = {}  # one of each content
    counts = {}
    for number, variant in enumerate(variants):
        folder = args.folder / f"files-{number}"
        kodak = args.pictures and str(args.pictures.resolve())
        result_of(variant, folder, {"kodak": kodak})
        made = {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in sorted(folder.glob("*.nic"))}
        counts[variant.name] = len(made.keys() - files.keys())
        files = made | files
        print(f"{variant.name}: {len(made)} files, {counts[variant.name]} like no other's before", flush=True)
    listed = [str(file) for file in files.values()]
    folders, symbols = {}, {}
    for number, variant in enumerate(variants):
        folders[variant.name] = folder = args.folder / f"pixels-{number}"
        symbols[variant.name] = result_of(variant, folder, {"files": listed})["files"]
        print(f"{variant.name}: {len(listed)} files decoded", flush=True)
    return report(variants, folders, symbols, list(files))


def report(
    variants: list[Variant], folders: dict[str, Path], symbols: dict[str, dict[str, str]], hashes: list[str]
) -> int:
    """A line for each variant, and how far apart any two are; whether that is too far."""
    first = variants[0].name
    exact = [variant.name for variant in variants if "bfloat16" not in variant.name]
    apart = {"float32": 0, "all": 0}
    furthest, other = dict.fromkeys(folders, 0), dict.fromkeys(folders, 0)
    samples = 0
    for name in hashes:
        pixels = {variant: np.load(folder / f"{name[:24]}.npy") for variant, folder in folders.items()}
        for what, chosen in (("float32", exact), ("all", list(folders))):
            stack = np.stack([pixels[variant] for variant in chosen])
            apart[what] = max(apart[what], int((stack.max(0) - stack.min(0)).max()))
        samples += pixels[first].size
        for variant, found in pixels.items():
            levels = np.abs(found.astype(int) - pixels[first])
            furthest[variant] = max(furthest[variant], int(levels.max()))
            other[variant] += int(np.count_nonzero(levels))
    failed = 0
    print(f"\n{len(hashes)} different files, decoded by each of {len(folders)} variants")
    print("| variant | other symbols | furthest level | samples that differ |\n|---|---|---|---|")
    for variant in folders:
        differ = sum(symbols[variant][file] != symbols[first][file] for file in symbols[first])
        failed += differ
        print(f"| {variant} | {differ} | {furthest[variant]} | {other[variant] / samples:.4%} |")
    print(f"any two of float32 at most {apart['float32']} apart, any two at all {apart['all']}")
    return int(failed > 0 or apart["float32"] > 1 or apart["all"] > 2)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compute"]:
        compute(Path(sys.argv[2]), json.loads(Path(sys.argv[2], "task.json").read_text()))
    else:
        sys.exit(main())
