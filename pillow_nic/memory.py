"""Answers for memory that runs out: a GPU's work is done in smaller pieces, then on the CPU; where that has
not enough either, it is an OSError that says so. And for pictures that are too large to be tried at all."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from PIL import Image

from .header import Header
from .network import PATCH
from .tiling import PIECE

Result = TypeVar("Result")

# What torch, cuBLAS and cuDNN say, where they do not raise a class of their own.
_SIGNS = ("out of memory", "ALLOC_FAILED", "DefaultCPUAllocator")


def check_size(header: Header) -> None:
    """Pillow's warning or error for more pixels than PIL.Image.MAX_IMAGE_PIXELS. A side that is shorter than
    a patch counts as one: a row of 2²⁰ pixels takes as long as 16."""
    Image._decompression_bomb_check((max(header.width, PATCH), max(header.height, PATCH)))


def ran_out(error: BaseException) -> bool:
    """Whether memory was what was missing, on whatever device."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def within_memory(device: torch.device, what: str, action: Callable[[str, int], Result]) -> Result:
    """``action(device, side)``, with pieces of at most ``side`` latent positions along a side.

    Out of memory on a GPU it is done again with smaller pieces, at last on the CPU, with a warning each time;
    there it is an OSError (ENOMEM), "not enough memory to" do ``what``."""
    if device.type != "cpu":
        for side, then in ((PIECE, "smaller pieces"), (PIECE // 3, "the CPU")):
            try:
                return action(str(device), side)
            except RuntimeError as error:
                if not ran_out(error):
                    raise
            warnings.warn(f"out of memory on {device}: {then} instead", RuntimeWarning, stacklevel=3)
    try:
        return action("cpu", PIECE)
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise OSError(errno.ENOMEM, f"not enough memory to {what}") from error
