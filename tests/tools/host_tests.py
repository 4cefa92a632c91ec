"""Pillow's own tests and imageio's, each with and without the plugin loaded; by hand, ten minutes:

    python tests/tools/host_tests.py

Fetches the source archives of the installed versions with pip, which needs a few build tools for that: they
go into a temporary environment. imageio's tests want pictures from a repository: a clone of it can be named,
--test-images FOLDER; those that miss theirs fail with and without the plugin. What fails only with it is
printed, and is a failure here."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

# It asserts that no extension is known before Pillow's own plugins are loaded: any third-party plugin that is
# imported first makes it fail.
DESELECTED = "not test_registered_extensions_uninitialized"
HOSTS = {"pillow": "Tests", "imageio": "tests"}
PLUGINS = ["-p", "pillow_nic", "-p", "imageio_nic"]


def fetch(host: str, python: str, folder: Path) -> Path:
    """The source archive of a package as it is installed here, unpacked."""
    name = f"{host}=={importlib.metadata.version(host)}"
    what = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", name]
    subprocess.run([python, "-m", "pip", "download", "-q", *what, "-d", str(folder)], check=True)
    with tarfile.open(next(folder.glob(f"{host}-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.glob(f"{host}-*") if path.is_dir())


def failed(source: Path, tests: str, plugins: list[str]) -> set[str]:
    """The tests of a source tree that fail; prints the last line."""
    chosen = ["-m", "not needs_internet", "-k", DESELECTED, tests]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", *plugins, *chosen]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    *_, last = done.stdout.splitlines()
    print(f"{source.name}, {'with' if plugins else 'without'} the plugin: {last}", flush=True)
    if " passed" not in last:
        raise SystemExit(done.stdout + done.stderr)
    return set(re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--test-images", type=Path, help="a clone of imageio's test_images")
    args = parser.parse_args()
    broken: set[str] = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        builder = folder / "builder"
        venv.create(builder, with_pip=True)
        python = str(builder / ("Scripts" if os.name == "nt" else "bin") / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", "-U", "setuptools", "pybind11"], check=True)
        for host, tests in HOSTS.items():
            source = fetch(host, python, folder)
            if host == "imageio":
                images = source / ".test_images"
                if args.test_images:
                    images.symlink_to(args.test_images.resolve())
                else:
                    images.mkdir()
            broken |= failed(source, tests, PLUGINS) - failed(source, tests, [])
    for test in sorted(broken):
        print(f"only with the plugin: {test}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
