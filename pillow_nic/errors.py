"""Answers for what can go wrong: every exception of the package, by who can do something about it.

    NicError
    ├── BitstreamError (OSError)         the bytes are damaged, hostile or not a NIC file: get another copy
    │   └── TruncatedError               the file ends early: get the rest, or show the layers that are there
    ├── UnsupportedModelError (OSError)  the file is sound but was made for a model that is not installed
    └── WeightsError (OSError)           the installed weights are missing or damaged: reinstall

Whatever comes from outside the program is also an ``OSError``, because that is what Pillow's users catch
around ``Image.open`` and ``load``. A bad argument is a plain ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations


class NicError(Exception):
    """The base of every exception that the package defines."""


class BitstreamError(NicError, OSError):
    """The bytes are not a sound NIC file; the message names header, chunk or stream and the byte offset."""


class TruncatedError(BitstreamError):
    """The file ends early; every byte that is there may be sound.

    ``needed``: so many bytes of it are needed before it is worth to look again."""

    def __init__(self, message: str, needed: int = 0) -> None:
        super().__init__(message)
        self.needed = needed


class UnsupportedModelError(NicError, OSError):
    """The file needs a model that is not installed; the message names it."""


class WeightsError(NicError, OSError):
    """The weights file of a model is missing, damaged or not what its name says."""
