"""`python -m pillow_nic`: the command `nic`, of this Python's environment."""
# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import sys
from collections.abc import Sequence

from .command.main import main as nic


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    return nic(argv, "python -m pillow_nic")


if __name__ == "__main__":
    sys.exit(main())
