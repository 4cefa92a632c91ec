"""Integer probability tables: what they are, and how export makes them from a float distribution.

A table says how often each code occurs out of 2**16. Code 0 is the *escape*, codes 1, 2, … are the symbols
−lo … +hi. The escape comes first for a reason: a coder that has run out of data yields code 0 for ever, so
that a stream which ends early turns into escapes and then an error, never into quiet symbols (entropy.py).

Only the integers ship, in the weights file. The floats below run once, at export, so it does not matter on
which machine: `erfc` may differ by an ulp between C libraries, and no decoder ever calls it.

Two-piece Gaussian (Cui et al., CVPR 2021, "asymmetric Gaussian") centred at 0, σ_left for negative values and
σ_right for the others:
    P(v < −a) =  σ_left / (σ_left + σ_right) · erfc(a / (σ_left·√2))
    P(v > +a) = σ_right / (σ_left + σ_right) · erfc(a / (σ_right·√2))
and a symbol n has the probability P(n − ½ < v < n + ½).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import WeightsError

PRECISION = 16
TOTAL = 1 << PRECISION
# No symbol is larger than this, in a table or escaped: far beyond any latent, and int32 cannot overflow.
MAX_SYMBOL = 1 << 20
MAX_TABLES = 1 << 16
# Mass that each side may leave to the escape. An escape costs about 12 + 5 + log2(distance) bits, below 0.006
# bits per symbol on average, while every entry of a longer table takes at least 1/65536 from the others.
TAIL = 2.0**-13


class Table(NamedTuple):
    """One table: ``frequencies`` (escape, −lo, −lo + 1, …) of sum 2**16; none at all for a silent table."""

    frequencies: npt.NDArray[np.uint16]
    lo: int


SILENT = Table(np.zeros(0, np.uint16), 0)
"""The table that codes nothing: its symbol is always 0."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Tables end to end, as three flat arrays that safetensors can hold.

    Table t is frequencies[offsets[t] : offsets[t + 1]], escape first; its symbols start at −lows[t]. A table
    of no frequencies is *silent*: it codes nothing and its symbol is always 0. The arrays are copied and
    read-only. WeightsError for anything that is not a set of tables. Compared and hashed by identity.
    """

    frequencies: npt.NDArray[np.uint16]
    offsets: npt.NDArray[np.int32]
    lows: npt.NDArray[np.int32]
    # What a coder builds from a table, by table number. dict.setdefault is atomic, so threads may share it
    # without a lock (and a fork cannot inherit a held one).
    cache: dict[int, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, dtype in (("frequencies", np.uint16), ("offsets", np.int32), ("lows", np.int32)):
            given = np.asarray(getattr(self, name))
            if given.ndim != 1 or given.dtype != dtype:
                raise WeightsError(
                    f"tables: {name} is {given.dtype} {given.shape}, not flat {np.dtype(dtype)}"
                )
            array = given.copy()
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        self._validate()

    def _validate(self) -> None:
        if self.offsets.size != self.lows.size + 1 or not 1 <= self.lows.size <= MAX_TABLES:
            raise WeightsError(f"tables: {self.offsets.size} offsets with {self.lows.size} lows")
        offsets = self.offsets.astype(np.int64)
        if offsets[0] != 0 or offsets[-1] != self.frequencies.size or (np.diff(offsets) < 0).any():
            raise WeightsError(f"tables: offsets do not divide {self.frequencies.size} frequencies")
        if (self.frequencies == 0).any():
            raise WeightsError("tables: a frequency is 0")
        cumulative = np.concatenate([[0], np.cumsum(self.frequencies, dtype=np.int64)])
        sums = np.diff(cumulative[offsets])
        # uint16 cannot hold 2**16, so a right sum means at least two codes
        wrong = np.flatnonzero((self.sizes > 0) & (sums != TOTAL))
        if wrong.size:
            raise WeightsError(f"tables: table {wrong[0]} sums to {sums[wrong[0]]}, not {TOTAL}")
        lows = self.lows.astype(np.int64)
        if (np.abs(lows) > MAX_SYMBOL).any() or (self.sizes - 2 - lows > MAX_SYMBOL).any():
            raise WeightsError(f"tables: a symbol lies beyond ±{MAX_SYMBOL}")
        if lows[self.sizes == 0].any():
            raise WeightsError("tables: a silent table has symbols")

    def __reduce__(self) -> tuple[type[Tables], tuple[npt.NDArray[Any], ...]]:
        return Tables, (self.frequencies, self.offsets, self.lows)  # what the cache holds cannot be pickled

    def __len__(self) -> int:
        return int(self.lows.size)

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Codes of each table, escape included; 0 for a silent one."""
        return np.diff(self.offsets)

    def table(self, number: int) -> Table:
        start, stop = self.offsets[number : number + 2]
        return Table(self.frequencies[start:stop], int(self.lows[number]))

    @classmethod
    def join(cls, tables: Iterable[Table]) -> Tables:
        """Number the given tables 0, 1, …"""
        listed = list(tables)
        offsets = np.cumsum([0] + [table.frequencies.size for table in listed]).astype(np.int32)
        frequencies = np.concatenate([SILENT.frequencies, *(table.frequencies for table in listed)])
        return cls(frequencies, offsets, np.array([table.lo for table in listed], np.int32))

    def to_arrays(self, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
        """The arrays under the names ``prefix``frequencies, …offsets, …lows."""
        return {f"{prefix}{name}": getattr(self, name).copy() for name in ("frequencies", "offsets", "lows")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str = "") -> Tables:
        """Read what to_arrays wrote; WeightsError if an array is missing or wrong."""
        try:
            return cls(*(arrays[f"{prefix}{name}"] for name in ("frequencies", "offsets", "lows")))
        except KeyError as error:
            raise WeightsError(f"tables: no array {error}") from error


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
    return Table(_frequencies(np.concatenate([[max(1 - kept.sum(), 0.0)], kept])), lo - start)


def _frequencies(p: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
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
