"""What users may pass as `quality`, and the rate point it becomes."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from pillow_nic.quality import DEFAULT_QUALITY, TUNES, parse_effort, parse_quality, parse_tune, rate_point


@pytest.mark.parametrize(
    ("value", "quality"),
    [
        (0, 0.0),
        (1, 1.0),
        (1.0, 1.0),
        (0.0, 0.0),
        (0.3, 0.3),
        (2, 0.02),
        (85, 0.85),
        (100, 1.0),
        (Fraction(1, 4), 0.25),
        (np.float64(0.25), 0.25),
        (np.float32(0.25), 0.25),
        (np.int64(50), 0.5),
        (np.uint8(1), 1.0),
    ],
)
def test_quality_is_a_float_or_a_percentage(value: object, quality: float) -> None:
    parsed = parse_quality(value)
    assert type(parsed) is float
    assert parsed == quality


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        np.True_,
        None,
        "0.5",
        b"5",
        -1,
        101,
        10**400,
        -0.01,
        1.01,
        85.0,
        float("nan"),
        float("inf"),
        Decimal("0.5"),
        0.5j,
        [0.5],
        np.array(0.5),
    ],
)
def test_anything_else_is_refused_with_the_range(value: object) -> None:
    with pytest.raises(ValueError, match=r"quality must be a float from 0 to 1 or an int from 2 to 100"):
        parse_quality(value)


def test_rate_point_spans_16_bits() -> None:
    assert rate_point(0.0) == 0
    assert rate_point(1.0) == 65535
    assert rate_point(DEFAULT_QUALITY) == 32768
    assert [rate_point(i / 65535) for i in range(65536)] == list(range(65536))


@pytest.mark.parametrize(("value", "effort"), [(0, 0), (1, 1), (np.int64(1), 1)])
def test_effort(value: object, effort: int) -> None:
    assert parse_effort(value) == effort


@pytest.mark.parametrize("value", [-1, 2, 1.0, True, None, "1", np.float64(1)])
def test_other_efforts_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="effort must be 0 or 1"):
        parse_effort(value)


def test_tunes_have_models_of_their_own() -> None:
    assert [parse_tune(tune) for tune in TUNES] == ["ms-ssim", "psnr"]
    assert len(set(TUNES.values())) == 2


@pytest.mark.parametrize("value", ["ssim", "PSNR", "", None, 1, ["psnr"]])
def test_other_tunes_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="tune must be 'ms-ssim' or 'psnr'"):
        parse_tune(value)
