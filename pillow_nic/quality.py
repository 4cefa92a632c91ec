"""The user's quality, effort and tune, and the rate point that stands in a file for a quality."""

from __future__ import annotations

import numbers
from typing import Any

DEFAULT_QUALITY = 0.5
DEFAULT_EFFORT = 1
TOP_EFFORT = 1
# What the weights were trained for, and the model that was: its name in a file says which.
TUNES = {"ms-ssim": "nic-1-ms", "psnr": "nic-1"}
DEFAULT_TUNE = "ms-ssim"

# The header holds a 16-bit integer: everything that decides a probability starts from it, never from a float.
TOP_RATE_POINT = 65535


def parse_quality(value: object) -> float:
    """The quality in [0, 1] that `value` means.

    A float is taken as it is. An int from 2 to 100 is a percentage, because pipelines pass `quality=85`; 0
    and 1 are the ends. ValueError for everything else, bool and NaN among it.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number: Any = value  # type checkers know of no order among numbers.Real
        if 0 <= number <= 1:
            return float(number)
        if isinstance(value, numbers.Integral) and 2 <= number <= 100:
            return int(number) / 100
    raise ValueError(f"quality must be a float from 0 to 1 or an int from 2 to 100 (percent), not {value!r}")


def rate_point(quality: float) -> int:
    """The header's 16-bit integer for a quality in [0, 1]."""
    return round(quality * TOP_RATE_POINT)


def parse_effort(value: object) -> int:
    """The encoder effort: 0 rounds to the nearest symbol, 1 chooses symbols for rate and distortion together.

    ValueError for everything else.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and 0 <= int(value) <= TOP_EFFORT:
        return int(value)
    raise ValueError(f"effort must be 0 or {TOP_EFFORT}, not {value!r}")


def parse_tune(value: object) -> str:
    """What to encode for: "ms-ssim", nearest to what people see, or "psnr", least squared error.

    ValueError for everything else.
    """
    if isinstance(value, str) and value in TUNES:
        return value
    raise ValueError(f"tune must be {' or '.join(map(repr, TUNES))}, not {value!r}")
