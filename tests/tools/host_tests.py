"""Pillow's own tests with the plugin loaded, for the Pillow that is installed; by hand:

    python tests/tools/host_tests.py

Fetches Pillow's source archive with pip, which needs a few build tools for that: they go into a temporary
environment. Further arguments go to pytest."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

import PIL

MODULES = (
    "test_imagefile",
    "test_image",
    "test_image_load",
    "test_image_draft",
    "test_image_thumbnail",
    "test_pickle",
    "test_decompression_bomb",
)
# It asserts that no extension is known before Pillow's own plugins are loaded: any third-party plugin that is
# imported first makes it fail.
DESELECTED = ("test_registered_extensions_uninitialized",)


def fetch(folder: Path) -> Path:
    """Pillow's source archive, unpacked."""
    builder = folder / "builder"
    venv.create(builder, with_pip=True)
    pip = [str(builder / ("Scripts" if os.name == "nt" else "bin") / "python"), "-m", "pip"]
    subprocess.run([*pip, "install", "-q", "-U", "setuptools", "pybind11"], check=True)
    what = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", f"pillow=={PIL.__version__}"]
    subprocess.run([*pip, "download", "-q", *what, "-d", str(folder)], check=True)
    with tarfile.open(next(folder.glob("pillow-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.glob("pillow-*") if path.is_dir())


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        source = fetch(Path(name))
        modules = [str(source / "Tests" / f"{module}.py") for module in MODULES]
        chosen = ["-k", " and ".join(f"not {test}" for test in DESELECTED)]
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "pillow_nic", *chosen, *modules, *sys.argv[1:]]
        return subprocess.run(command, cwd=source, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
