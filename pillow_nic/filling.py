"""What is painted where cells are exact, and nobody sees it."""

from __future__ import annotations

from collections.abc import Callable
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

    def __init__(self, colours: Plane, shown: Callable[[tuple[slice, slice]], Array]) -> None:
        """``shown``: which pixels are exact in rows and columns from multiples of 4 on."""
        self.colours, self.shown, self.shape = colours, shown, colours.shape
        means = np.concatenate(
            [self._means(slice(top, top + STRIP)) for top in range(0, colours.shape[0], STRIP)]
        )
        self.means = colour.fill_transparent(means[..., :3], means[..., 3])

    def _means(self, rows: slice) -> Array:
        """Of what is painted, and how much of each cell that is."""
        place = rows, slice(0, self.shape[1])
        painted = np.where(self.shown(place), np.uint8(0), np.uint8(255))
        return colour.reduce_plane(np.dstack((self.colours[place], painted)), exact.CELL)

    def __getitem__(self, place: tuple[slice, slice]) -> Array:
        """Rows and columns from multiples of 4 on."""
        pixels, inside = self.colours[place], self.shown(place)
        if not inside.any():
            return pixels
        height, width = pixels.shape[:2]
        top, left = (part.start // exact.CELL for part in place)
        bottom, right = top - (-height // exact.CELL), left - (-width // exact.CELL)
        # One cell more on every side, so that the outermost pixels are interpolated, too.
        seen = self.means[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1]
        pad = (
            (int(top == 0), int(bottom == len(self.means))),
            (int(left == 0), int(right == self.means.shape[1])),
        )
        means = Image.fromarray(np.pad(seen, (*pad, (0, 0)), mode="edge"))
        size = (means.width * exact.CELL, means.height * exact.CELL)
        smooth = np.asarray(means.resize(size, Image.Resampling.BILINEAR))[exact.CELL :, exact.CELL :]
        return np.where(inside[..., None], smooth[:height, :width], pixels)
