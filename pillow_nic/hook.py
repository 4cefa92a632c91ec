"""An import hook, off by default, that makes `.nic` known in every process of a Python environment.

    python -m pillow_nic install-hook      writes one file, pillow_nic_hook.pth, and says where
    python -m pillow_nic remove-hook       removes it

Pillow and imageio have no entry points: a plugin is known where it has been imported. Worker processes that
are spawned, and libraries that call Pillow themselves, raise UnidentifiedImageError until somebody imports
`pillow_nic` there. With the hook, whoever imports `PIL.Image` has `pillow_nic` imported right after it, and
whoever imports imageio has `imageio_nic`. Until then nothing is imported.

What speaks against it:
- A `.pth` file runs code at the start of *every* Python process of its environment, also of those that have
  nothing to do with pictures. People rightly distrust such files, since malware uses them. This one has a
  single line of code, which can be read: it puts a finder on `sys.meta_path` that looks at the name of each
  module that is imported and calls this one for two of them.
- The start of every process pays for the line: 0.1 ms, twice that in a virtual environment, where Python 3.11
  runs such files twice. Whoever imports Pillow pays for `import pillow_nic` too (2 ms), and whoever imports
  imageio for Pillow and this (10 ms).
- A program that works only because of the hook fails in the next environment. Where the program is your own,
  `import pillow_nic` in the workers' initializer says openly what the hook does in silence.
- It does nothing under `python -S`, nor in virtual environments other than the one it was installed in.
- Once `pillow_nic` has been uninstalled or moved, the line does nothing; the file is then yours to delete.
- Python 3.15 deprecates code in `.pth` files (PEP 829), and from 3.18 on it is to be ignored. The `.start`
  files that replace it name a function in an importable module. That cannot be one of this package, because
  importing it would import Pillow: there it will take a small module of its own.
"""

from __future__ import annotations

# This module is also run by itself, outside its package, in the middle of an import of PIL.Image: nothing is
# imported here that is not loaded in every process.
import os
import site
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

NAME = "pillow_nic_hook.pth"
FOLLOWERS = {"PIL.Image": "pillow_nic", "imageio.config": "imageio_nic"}
"""What is imported after what. `imageio.config` is where imageio's plugins are registered."""

_MARK = "# Written by: python -m pillow_nic install-hook. Remove it with: python -m pillow_nic remove-hook\n"
_LINE = """\
import sys; sys.meta_path.insert(0, type("PillowNicHook", (), {"find_spec": staticmethod(\
lambda name, path=None, target=None, file=HOOK: None \
if name not in ("PIL.Image", "imageio.config") or not __import__("os").path.isfile(file) \
else (util := __import__("importlib.util").util, \
spec := util.spec_from_file_location("pillow_nic_hook", file), hook := util.module_from_spec(spec), \
spec.loader.exec_module(hook), hook.find_spec(name, path, target))[-1])})); \
[*map(sys.meta_path[0].find_spec, {"PIL.Image", "imageio.config"} & sys.modules.keys())]
"""
"""What the file does. The last statement is for the rare process that has imported Pillow before it."""


def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    """The spec of a key of FOLLOWERS as the other finders have it, changed so that the follower is imported
    once the module has been executed. The finder in the `.pth` file calls this."""
    if name in sys.modules:  # imported before the hook was there, or reloaded
        _follow(name)
        return None
    for finder in sys.meta_path:
        # There may be two of them: a virtual environment's site module runs .pth files twice.
        if getattr(finder, "__name__", "") == "PillowNicHook" or not hasattr(finder, "find_spec"):
            continue
        if (spec := finder.find_spec(name, path, target)) is not None:
            _follow_after(spec)
            return spec
    return None


def _follow_after(spec: ModuleSpec) -> None:
    # The loader stays the object that it was, for inspect and importlib.resources; only one call is another.
    loader: Any = spec.loader
    if loader is None or isinstance(loader, type):  # not of this module alone: frozen into an executable
        return
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module
        execute(module)
        _follow(spec.name)

    loader.exec_module = exec_module


def _follow(name: str) -> None:
    follower = FOLLOWERS[name]
    try:
        __import__(follower)
    except Exception as error:  # never break a program that only wanted Pillow
        if getattr(error, "name", None) != follower:  # else it is just not there for this process
            print(f"import hook of pillow-nic: {type(error).__name__}: {error}", file=sys.stderr)


# ------------------------------------------------------------------------------------ install and remove


def install() -> tuple[str, bool]:
    """Write the file; its path, and whether it was not there yet.

    It goes to the environment's site-packages or, where that cannot be written, to those of the user. OSError
    if neither can be written, FileExistsError if there is a file of that name which is not ours."""
    expected = text()
    files = [os.path.join(directory, NAME) for directory in directories()]
    for file in files:
        if _read(file) == expected:
            return file, False
    for file in files:
        try:
            os.makedirs(os.path.dirname(file), exist_ok=True)
            unfinished = f"{file}.{os.getpid()}"  # without .pth at its end nobody runs it
            with open(unfinished, "w", encoding="ascii") as out:
                out.write(expected)
            os.replace(unfinished, file)
        except OSError as error:
            failure = error
        else:
            return file, True
    raise failure


def remove() -> list[str]:
    """Delete the file wherever :func:`install` can have written it; the paths. FileExistsError as there."""
    files = [os.path.join(directory, NAME) for directory in directories()]
    ours = [file for file in files if _read(file) is not None]
    for file in ours:
        os.remove(file)
    return ours


def directories() -> list[str]:
    """Where Python looks for `.pth` files and pip installs, best first."""
    from sysconfig import get_path

    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [get_path("purelib"), *user]


def text() -> str:
    """What the file says when this installation of the package writes it."""
    # In ASCII, because every version of Python decodes .pth files in its own way.
    return _MARK + _LINE.replace("HOOK", ascii(os.path.abspath(__file__)))


def _read(file: str) -> str | None:
    """What the file says if we wrote it, None if there is none; FileExistsError for somebody else's."""
    try:
        with open(file, encoding="ascii", errors="replace") as source:
            found = source.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not found.startswith(_MARK):
        raise FileExistsError(f"{file} was not written by this program: left as it is")
    return found
