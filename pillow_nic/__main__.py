"""`python -m pillow_nic install-hook` and `remove-hook`: the import hook of `pillow_nic.hook`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import hook


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if all went well, 1 if a file could not be written or removed."""
    parser = argparse.ArgumentParser(
        prog="python -m pillow_nic",
        description="Make .nic known in every Python process of this environment that imports Pillow or "
        "imageio. The module pillow_nic.hook says how it works and what speaks against it.",
        epilog="The command for pictures is nic.",
    )
    commands = parser.add_subparsers(required=True, metavar="install-hook | remove-hook")
    commands.add_parser("install-hook", help=f"write {hook.NAME}").set_defaults(run=_install)
    commands.add_parser("remove-hook", help=f"delete {hook.NAME}").set_defaults(run=_remove)
    run = parser.parse_args(argv).run
    try:
        run()
    except OSError as error:
        print(f"pillow_nic: {error}", file=sys.stderr)
        return 1
    return 0


def _install() -> None:
    file, new = hook.install()
    print(f"{'wrote' if new else 'already there:'} {file}")
    print(
        "It runs at the start of every Python process of this environment, and makes .nic known to those "
        "that import Pillow or imageio.\n"
        "To undo it: python -m pillow_nic remove-hook, or delete that file."
    )


def _remove() -> None:
    removed = hook.remove()
    for file in removed:
        print(f"removed {file}")
    if not removed:
        print(f"nothing to remove: there is no {hook.NAME} in {' or '.join(hook.directories())}")


if __name__ == "__main__":
    sys.exit(main())
