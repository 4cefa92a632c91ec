"""What is painted where cells are exact, and nobody sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from . import colour, exact
from .tiling import Plane

Array = np.ndarray[Any, Any]

STRIP = 64 * exact.CELL
"""Rows that are reduced at once."""


class Filled:
    """Pixels whose exact cells continue the others smoothly, so that they cost next to nothing and ring into
    nobody; made when they are asked for."""

    def __init__(self, colours: Plane, small: Array) -> None:
        """``small``: the exact cells of 4×4 pixels."""
        self.colours, self.small, self.shape = colours, small, colours.shape
        strips = (colours[top : top + STRIP, :] for top in range(0, colours.shape[0], STRIP))
        means = np.concatenate([colour.reduce_plane(strip, exact.CELL) for strip in strips])
        self.means = colour.fill_transparent(means, (~small).astype(np.uint8))

    def __getitem__(self, place: tuple[slice, slice]) -> Array:
        """Rows and columns from multiples of 4 on."""
        pixels = self.colours[place]
        height, width = pixels.shape[:2]
        top, left = (part.start // exact.CELL for part in place)
        bottom, right = top - (-height // exact.CELL), left - (-width // exact.CELL)
        exact_cells = self.small[top:bottom, left:right]
        if not exact_cells.any():
            return pixels
        # One cell more on every side, so that the outermost pixels are interpolated, too.
        seen = self.means[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1]
        pad = (
            (int(top == 0), int(bottom == len(self.small))),
            (int(left == 0), int(right == self.small.shape[1])),
        )
        means = Image.fromarray(np.pad(seen, (*pad, (0, 0)), mode="edge"))
        size = (means.width * exact.CELL, means.height * exact.CELL)
        smooth = np.asarray(means.resize(size, Image.Resampling.BILINEAR))[exact.CELL :, exact.CELL :]
        inside = exact_cells.repeat(exact.CELL, 0).repeat(exact.CELL, 1)[:height, :width, None]
        return np.where(inside, smooth[:height, :width], pixels)
