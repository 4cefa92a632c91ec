"""Answers for what the first picture of a process would wait for."""

from __future__ import annotations

import numpy as np

from . import codec
from .options import TUNES, EncodeOptions


def warm_up(*models: str, device: str | None = None) -> None:
    """Load PyTorch and the weights, make the threads, and encode and decode a tiny picture, so that the
    first request finds nothing left to load.

    ``models``: tunes or names of models (default: the default tune). ``device`` as for :func:`decode`; a
    process that will fork must not choose a GPU, which its children could not use. UnsupportedModelError for
    a model that is not installed.
    """
    for name in models or (EncodeOptions.tune,):
        data = codec.encode(np.zeros((16, 16, 3), np.uint8), model=TUNES.get(name, name), device=device)
        codec.decode(data, device=device)
