"""`nic install-hook` and `remove-hook`: the import hook of `pillow_nic.hook`."""

from __future__ import annotations

import sys

from .. import hook
from .messages import say


def install() -> int:
    """Write the file; 0, or 1 if it could not be written."""
    try:
        file, new = hook.install()
    except OSError as error:
        return _fail(error)
    say(f"{'wrote' if new else 'already there:'} {file}")
    say(
        "It runs at the start of every Python process of this environment, and makes .nic known to those "
        "that import Pillow or imageio.\n"
        "To undo it: python -m pillow_nic remove-hook, or delete that file."
    )
    return 0


def remove() -> int:
    """Delete the file wherever it is; 0, or 1 if it could not be removed."""
    try:
        removed = hook.remove()
    except OSError as error:
        return _fail(error)
    for file in removed:
        say(f"removed {file}")
    if not removed:
        say(f"nothing to remove: there is no {hook.NAME} in {' or '.join(hook.directories())}")
    return 0


def _fail(error: OSError) -> int:
    print(f"pillow_nic: {error}", file=sys.stderr)
    return 1
