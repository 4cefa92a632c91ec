"""Float distributions → the integer tables that ship (entropy_tables.py).

The floats run once, at export, so it does not matter on which machine: `erfc` may differ by an ulp between C
libraries, and no decoder ever calls it.

Two-piece Gaussian (Cui et al., CVPR 2021, "asymmetric Gaussian") centred at 0, σ_left for negative values and
σ_right for the others:
    P(v < −a) =  σ_left / (σ_left + σ_right) · erfc(a / (σ_left·√2))
    P(v > +a) = σ_right / (σ_left + σ_right) · erfc(a / (σ_right·√2))
and a symbol n has the probability P(n − ½ < v < n + ½).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..entropy_tables import SILENT, TOTAL, Table, Tables

# Mass that each side may leave to the escape. An escape costs about 12 + 5 + log2(distance) bits, below 0.006
# bits per symbol on average, while every entry of a longer table takes at least 1/65536 from the others.
TAIL = 2.0**-13


def table_from_pmf(pmf: npt.ArrayLike, lo: int) -> Table:
    """Make the table of a distribution over integers; ``pmf[i]`` is the probability of the symbol i − ``lo``.

    Both ends are cut where the mass beyond is at most TAIL (2**-13 each), but not the neighbours of the most
    probable symbol: a frequency of 1 costs less than their escape. The escape gets what was cut and what the
    pmf lacks to 1, at least 1/65536. ValueError for what is not a distribution.
    """
    p = np.asarray(pmf, np.float64)
    if p.ndim != 1 or not p.size or not np.isfinite(p).all() or (p < 0).any() or not 0.5 < p.sum() < 1 + 1e-4:
        raise ValueError("pmf must be a flat array of probabilities that sum to (nearly) 1")
    mode = int(p.argmax())
    start = min(int(np.searchsorted(np.cumsum(p), TAIL, side="right")), max(mode - 1, 0))
    right = int(np.searchsorted(np.cumsum(p[::-1]), TAIL, side="right"))
    stop = max(p.size - right, min(mode + 2, p.size))
    kept = p[start:stop]
    return Table(frequencies(np.concatenate([[max(1 - kept.sum(), 0.0)], kept])), lo - start)


def frequencies(p: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Integers of at least 1 and sum 2**16 for ``p``: round, then settle the difference where it does the
    mean code length −Σ p·log f most good or least harm."""
    if p.size > TOTAL // 2:
        raise ValueError(f"{p.size} symbols are too many for frequencies out of {TOTAL}")
    p = p / p.sum()
    f = np.maximum(np.rint(p * TOTAL).astype(np.int64), 1)
    while missing := TOTAL - int(f.sum()):
        step = 1 if missing > 0 else -1
        candidates = np.flatnonzero(f + step >= 1)
        gain = p[candidates] * np.log((f[candidates] + step) / f[candidates])
        f[candidates[np.argsort(-gain, kind="stable")[: abs(missing)]]] += step
    return f.astype(np.uint16)


def gaussian_pmf(sigma_left: float, sigma_right: float) -> tuple[npt.NDArray[np.float64], int]:
    """The two-piece Gaussian of the module docstring over −lo … +hi (all but about 1e-9 of it), and lo."""
    whole = sigma_left + sigma_right

    def tails(sigma: float) -> npt.NDArray[np.float64]:
        """P(beyond n + ½ on this side) for n = 0, 1, …"""
        limits = np.arange(math.ceil(6 * sigma) + 2) + 0.5
        return np.array([sigma / whole * math.erfc(a / (sigma * math.sqrt(2))) for a in limits])

    left, right = tails(sigma_left), tails(sigma_right)
    return np.concatenate([-np.diff(left)[::-1], [1 - left[0] - right[0]], -np.diff(right)]), left.size - 1


def shifted_tables(rows: int, fractions: int, *, sigma_min: float, rows_per_octave: float) -> Tables:
    """Tables of ``rows`` scales × ``fractions`` means, for the hyper-latent (hyper_prior.py): table row ·
    fractions + f is the Gaussian of σ = sigma_min · 2**(row / rows_per_octave) around f / fractions."""

    def made(sigma: float, mean: float) -> Table:
        reach = math.ceil(6 * sigma) + 2
        nearer = (abs(n - mean) - 0.5 for n in range(-reach, reach + 1))
        tails = ([math.erfc((a + step) / (sigma * math.sqrt(2))) / 2 for step in (0, 1)] for a in nearer)
        return table_from_pmf([inner - outer for inner, outer in tails], reach)

    scales = [sigma_min * 2.0 ** (row / rows_per_octave) for row in range(rows)]
    return Tables.join(made(sigma, f / fractions) for sigma in scales for f in range(fractions))


def gaussian_tables(
    rows: int,
    columns: int = 1,
    *,
    sigma_min: float = 0.12,
    rows_per_octave: float = 4.0,
    max_skew: float = 0.75,
) -> Tables:
    """Tables of ``rows`` scales × ``columns`` skews; table number = row · columns + column.

    Row 0 codes nothing (``columns`` silent tables). Row r > 0 has σ = sigma_min · 2**(r / rows_per_octave).
    Column k has the skew s = max_skew · (k − m) / m octaves, m = (columns − 1) / 2 the middle column:
    σ_left = σ · 2**−s and σ_right = σ · 2**+s, so σ is their geometric mean, and columns on either side of m
    mirror each other. ``columns`` is odd; 1 means no skew. 48 rows (σ up to 413) and 7 columns take 290 kB.
    """
    if rows < 1 or columns < 1 or columns % 2 == 0:
        raise ValueError(f"{rows} rows × {columns} columns: rows must be positive and columns odd")
    middle = columns // 2
    tables = [SILENT] * columns
    for row in range(1, rows):
        sigma = sigma_min * 2.0 ** (row / rows_per_octave)
        for column in range(columns):
            skew = max_skew * (column - middle) / max(middle, 1)
            tables.append(table_from_pmf(*gaussian_pmf(sigma * 2.0**-skew, sigma * 2.0**skew)))
    return Tables.join(tables)
