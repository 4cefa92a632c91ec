"""Integer probability tables.

A table says how often each code occurs out of 2**16. Code 0 is the *escape*, codes 1, 2, … are the symbols
−lo … +hi. The escape comes first for a reason: a coder that has run out of data yields code 0 for ever, so
that a stream which ends early turns into escapes and then an error, never into quiet symbols (entropy.py).
Only the integers ship, in the weights file; training/tables.py makes them."""

from __future__ import annotations

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
