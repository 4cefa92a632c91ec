"""The tests of what must not depend on versions, in environments of several versions; by hand:

    python tests/tools/versions.py

Each environment takes minutes to make and some gigabytes. Golden files, the integer network, the entropy
coder and the plugin have to give the same in all of them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = (
    ("torch==2.4.*", "numpy==1.26.*", "pillow==10.1.*"),  # the oldest that pyproject.toml allows
    ("torch==2.13.*", "numpy==1.26.*", "pillow"),
    ("torch", "numpy", "pillow"),
)
MODULES = ("test_golden", "test_integer_net", "test_entropy", "test_devices", "test_NicImagePlugin")


def main() -> int:
    results = []
    for packages in ENVIRONMENTS:
        with tempfile.TemporaryDirectory() as folder:
            venv.create(folder, with_pip=True)
            python = str(Path(folder, "Scripts" if sys.platform == "win32" else "bin", "python"))
            subprocess.run([python, "-m", "pip", "install", "-q", *packages, ".[test]"], cwd=ROOT, check=True)
            modules = [f"tests/{module}.py" for module in MODULES]
            done = subprocess.run([python, "-m", "pytest", "-q", *modules], cwd=ROOT, check=False)
            code = "from importlib.metadata import version as v; print(v('torch'), v('numpy'), v('pillow'))"
            found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
            results.append((found.strip(), done.returncode))
    for found, status in results:
        print(f"torch, numpy, pillow {found}: {'passed' if status == 0 else 'FAILED'}")
    return int(any(status for _, status in results))


if __name__ == "__main__":
    sys.exit(main())
