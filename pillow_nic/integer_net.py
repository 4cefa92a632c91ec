"""Everything that sets a latent's probabilities: from the hyper-latent's symbols to a table index per latent
element, in integers. (The hyper-latent's own: hyper_prior.py.)

The hyper-synthesis runs here as an integer network, on the CPU, with numpy alone: what a user has set in
torch (TF32, reduced matmul precision, threads, devices) cannot reach it. The input is the hyper-latent's
symbols, the header's rate point (u16) and its step exponent; no float decides anything.

**A layer** is y = clamp((W·x + b) >> s), a convolution of integers with a shift s per output channel that
rounds (b includes half a step). It is computed in float32 as ⌊W·2^−s · x + b·2^−s⌋: every weight row is
scaled so that Σ|w|·max|input| + |b| stays below 2**24, so that every partial sum, in whatever order it is
added, is an integer below 2**24 times 2^−s, which float32 holds exactly. The bound is computed from the
actual weights when they are exported and again when they are loaded.

**Fixed point.** Hyper-latent input in steps of 1/8 within ±511; activations in steps of 1/64 within 0 …
511; logarithms (gains, scales, skews) in 1/64 octave, a table's row and column being 2^k of these. Inverse
gains of the hyper-latent are applied through a table of 2**(k/64)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .blas import calling_thread
from .errors import WeightsError
from .tiling import shares

Array = npt.NDArray[Any]

EXACT = 1 << 24
INPUT_STEP, INPUT_MAX = 8, 511
ACTIVATION_STEP, ACTIVATION_MAX = 64, 511
OCTAVE = 64
DELTA_OCTAVE = 8
"""Steps per octave of the header's Δ exponent."""
# Logarithms are held to ±32 octaves: far beyond any scale, and every int64 product below stays small.
LOG_MAX = 32 * OCTAVE
# Of gain, step exponent and row 0's scale together.
OFFSET_MAX = 2 * LOG_MAX + 128 * (OCTAVE // DELTA_OCTAVE)
RATE_POINT_BITS = 16
EXP2_BITS = 14
STRIP = 512
"""Positions of a strip, at most about: eight strips in a tile."""


Each = Callable[[Callable[[slice], None], Iterable[slice]], object]


def in_turn(action: Callable[[slice], None], items: Iterable[slice]) -> None:
    """The action of one item after another."""
    for item in items:
        action(item)


def interpolate(table: Array, rate_point: int) -> Array:
    """Rows of an integer table (n, C) interpolated at a rate point 0 … 65535, which spans n − 1 intervals
    of 65536 / (n − 1)."""
    scaled = rate_point * (table.shape[0] - 1)
    low, part = scaled >> RATE_POINT_BITS, scaled & 0xFFFF
    pair = table[low : low + 2].astype(np.int64)
    return (pair[0] * (65536 - part) + pair[1] * part + 32768) >> RATE_POINT_BITS


@dataclass(frozen=True, eq=False)
class IntegerConv:
    """One layer: weight (out, in·k·k) int16, bias and shift (out,) int32, kernel side k, bound of the input's
    magnitude, and whether a 2× pixel shuffle follows."""

    weight: Array
    bias: Array
    shift: Array
    kernel: int
    input_max: int
    shuffle: bool

    def worst_sum(self, offset_max: int = 0) -> int:
        """Largest magnitude that any partial sum can reach for any input, with up to ± ``offset_max`` added
        to an output."""
        sums = np.abs(self.weight.astype(np.int64)).sum(1) * self.input_max + np.abs(
            self.bias.astype(np.int64)
        )
        return int((sums + (offset_max << self.shift.astype(np.int64))).max())

    def check(self, name: str, offset_max: int = 0) -> None:
        """WeightsError unless every sum is exact."""
        if (self.shift < 1).any() or (self.shift > 24).any():
            raise WeightsError(f"{name}: a shift lies outside of 1 … 24")
        if (worst := self.worst_sum(offset_max)) >= EXACT:
            raise WeightsError(f"{name}: a partial sum may reach {worst}, beyond the exact range of 2**24")

    @cached_property
    def taps(self) -> Array:
        """W·2^−s, (k·k, out, in) float32: a shift only moves the exponent."""
        weight = np.ldexp(self.weight.astype(np.float32), -self.shift[:, None])
        taps = weight.reshape(len(weight), -1, self.kernel**2).transpose(2, 0, 1)
        return np.ascontiguousarray(taps)

    @cached_property
    def constant(self) -> Array:
        """b·2^−s, (out, 1) float32."""
        return np.ldexp(self.bias.astype(np.float32), -self.shift)[:, None]

    def prepared(self, x: Array) -> Array:
        """Input (in, h, w) as `floors` wants it: (in, positions). For a 3×3 kernel with a border of zeros: in
        the flat padded picture the window of a tap is one run of memory, so no copies of windows are made;
        the columns between two rows come out as nonsense that is cut off."""
        if self.kernel == 3:
            x = np.pad(x, ((0, 0), (1, 2), (1, 1)))
        return x.reshape(len(x), -1)

    def floors(
        self, x: Array, width: int, rows: slice, outputs: slice = slice(None), offset: Array | float = 0.0
    ) -> Array:
        """⌊sum·2^−s + offset⌋ of these outputs in some rows of that width, not clamped: prepared float32
        integers → (out, rows, width). ``offset`` (out, 1): multiples of 2^−s."""
        constant = self.constant[outputs] + np.float32(offset)
        taps = self.taps[:, outputs]
        stride = width if self.kernel == 1 else width + 2
        first, last = rows.start * stride, rows.stop * stride
        y = taps[0] @ x[:, first:last]
        for tap in range(1, self.kernel**2):
            start = tap // 3 * stride + tap % 3
            y += taps[tap] @ x[:, first + start : last + start]
        y += constant
        return np.floor(y, out=y).reshape(len(y), -1, stride)[:, :, :width]

    def __call__(self, x: Array, each: Each = in_turn) -> Array:
        """x (in, h, w) float32 integers → (out, h, w), or (out/4, 2h, 2w) after the shuffle: 0 … 511."""
        _, height, width = x.shape
        flat = self.prepared(x)
        times = 2 if self.shuffle else 1
        out = np.empty((len(self.bias) // times**2, times * height, times * width), np.float32)

        def compute(rows: slice) -> None:
            y = self.floors(flat, width, rows)
            y = y.reshape(-1, times, times, *y.shape[1:])
            place = out[:, times * rows.start : times * rows.stop]
            for row, column in np.ndindex(times, times):
                np.clip(y[:, row, column], 0, ACTIVATION_MAX, out=place[:, row::times, column::times])

        each(compute, strips(height, width))
        return out


def strips(height: int, width: int) -> list[slice]:
    """Rows that are computed at once: what nine products add up to stays near a core."""
    return shares(height, max(STRIP // width, 1))


class IntegerHyperSynthesis:
    """The integer network with its gain tables; made from the arrays of a weights file.

    The last layer, the head, gives log₂ σ of each channel in rows of the probability tables
    (entropy_tables.py), of which one is 2^``scale_log2`` 1/64 octaves, and log₂ skew in columns;
    ``scale_zero`` is the log₂ of row 0's scale in 1/64 octaves."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        try:
            self.layers = read_layers(arrays)
            self.gain, self.hyper_inverse = arrays["gain"], arrays["hyper_inverse"]
            self.exp2 = arrays["exp2"].astype(np.int64)
            self.table_rows, self.table_columns, self.scale_log2, self.scale_zero = (
                int(v) for v in arrays["tables"]
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise WeightsError(f"integer network: {error}") from error
        self._check()

    def _check(self) -> None:
        """WeightsError unless the arrays fit together and every sum is exact for any input."""
        if self.gain.ndim != 2 or self.hyper_inverse.ndim != 2:
            raise WeightsError("integer network: gains must be tables of rate points and channels")
        if min(self.table_rows, self.table_columns) < 1 or not 0 <= self.scale_log2 <= 6:
            raise WeightsError("integer network: no table rows or columns, or a step out of range")
        if abs(self.scale_zero) > LOG_MAX:
            raise WeightsError("integer network: the scale of row 0 lies beyond ±32 octaves")
        if (self.layers[-1].shift < self.scale_log2).any():
            last = len(self.layers) - 1
            raise WeightsError(f"integer network, layer {last}: shifts do not leave room for the gains")
        channels = check_layers(
            self.layers, self.hyper_inverse.shape[1], (OFFSET_MAX >> self.scale_log2) + 1, "integer network"
        )
        for gain, width in ((self.gain, channels // 2), (self.hyper_inverse, self.hyper_inverse.shape[1])):
            if gain.dtype != np.int16 or gain.shape[0] < 2 or gain.shape[1] != width or not width:
                raise WeightsError(
                    "integer network: gains are not int16 for every channel at two or more rate points"
                )
            if np.abs(gain.astype(np.int32)).max() > LOG_MAX:
                raise WeightsError("integer network: a gain lies beyond ±32 octaves")
        # 2**(k/64) in 14 bits: integers in the file, not computed here
        if (
            self.exp2.shape != (OCTAVE,)
            or (self.exp2 < 1 << EXP2_BITS).any()
            or (self.exp2 >= 2 << EXP2_BITS).any()
        ):
            raise WeightsError("integer network: the table of 2**(k/64) is wrong")

    def hyper_input(self, symbols: Array, rate_point: int) -> Array:
        """Symbols (Cz, h, w) times their inverse gains, in steps of 1/8 and clamped: float32 integers."""
        exponent = interpolate(self.hyper_inverse, rate_point)
        shift = EXP2_BITS - int(math.log2(INPUT_STEP)) - (exponent >> 6)  # 64 = 2**6 steps an octave
        product = symbols.astype(np.int64) * self.exp2[exponent & (OCTAVE - 1)][:, None, None]
        right = np.clip(shift, 1, 62)[:, None, None]
        rounded = (product + (np.int64(1) << (right - 1))) >> right
        # Gains so large that the shift is to the left leave nothing to round; the clamp makes it safe.
        left = np.clip(-shift, 0, 20)[:, None, None]
        wide = np.clip(product, -(INPUT_MAX + 1), INPUT_MAX + 1) << left
        return np.clip(np.where(shift[:, None, None] > 0, rounded, wide), -INPUT_MAX, INPUT_MAX).astype(
            np.float32
        )

    def table_indices(
        self, symbols: Array, rate_point: int, delta: int, channels: int, each: Each = in_turn
    ) -> Array:
        """Table index of each latent element: uint16 (channels, 4h, 4w) for hyper-latent symbols (Cz, h, w).
        ``each`` runs an action on several items, maybe on several threads; the result is the same."""
        with calling_thread():
            return self._table_indices(symbols, rate_point, delta, channels, each)

    def _table_indices(self, symbols: Array, rate_point: int, delta: int, channels: int, each: Each) -> Array:
        x = self.hyper_input(symbols, rate_point)
        for layer in self.layers[:-1]:
            x = layer(x, each)
        head = self.layers[-1]
        gain = interpolate(self.gain, rate_point)[:channels, None]
        offset = gain - delta * (OCTAVE // DELTA_OCTAVE) - self.scale_zero
        rows = np.ldexp(offset.astype(np.float32), -self.scale_log2)
        half, (_, height, width), flat = len(head.bias) // 2, x.shape, head.prepared(x)
        out = np.empty((channels, height, width), np.uint16)

        def compute(strip: slice) -> None:
            index = head.floors(flat, width, strip, slice(channels), rows)
            np.clip(index, 0, self.table_rows - 1, out=index)
            if self.table_columns > 1:
                index *= self.table_columns
                column = head.floors(flat, width, strip, slice(half, half + channels))
                column += self.table_columns // 2
                index += np.clip(column, 0, self.table_columns - 1, out=column)
            out[:, strip] = index

        each(compute, strips(height, width))
        return out

    def bits_used(self) -> list[float]:
        """log₂ of the worst partial sum of each layer; exact below 24."""
        *others, head = self.layers
        sums = [layer.worst_sum() for layer in others] + [head.worst_sum((OFFSET_MAX >> self.scale_log2) + 1)]
        return [math.log2(worst) for worst in sums]


def read_layers(arrays: Mapping[str, Array]) -> list[IntegerConv]:
    """The layers of an integer network; WeightsError if there are none or their arrays are no layers."""
    layers = [_read_layer(arrays, i) for i in range(arrays["layers"].item())]
    if not layers:
        raise WeightsError("integer network: no layers")
    return layers


def check_layers(layers: Sequence[IntegerConv], channels: int, offset_max: int, name: str) -> int:
    """How many outputs the last layer has, to which up to ± ``offset_max`` are added. WeightsError unless the
    layers fit together and to so many input ``channels``, and every sum is exact for any input."""
    limit = INPUT_MAX
    for i, layer in enumerate(layers):
        which = f"{name}, layer {i}"
        if layer.input_max < limit:
            raise WeightsError(f"{which}: bounds do not cover what comes in")
        if layer.weight.shape[1] != channels * layer.kernel**2:
            raise WeightsError(f"{which}: weights are not for {channels} channels")
        layer.check(which, offset_max if layer is layers[-1] else 0)
        limit = ACTIVATION_MAX
        channels = layer.weight.shape[0] // (4 if layer.shuffle else 1)
    if layers[-1].kernel != 1 or layers[-1].shuffle:
        raise WeightsError(f"{name}: the last layer must be a 1×1 convolution without a shuffle")
    return channels


def _read_layer(arrays: Mapping[str, Array], i: int) -> IntegerConv:
    """Layer i of a weights file; WeightsError if its arrays are no layer."""
    weight, bias, shift = (arrays[f"{i}.{key}"] for key in ("weight", "bias", "shift"))
    kernel, input_max, shuffle = (int(v) for v in arrays[f"{i}.geometry"])
    if weight.dtype != np.int16 or weight.ndim != 2 or not weight.size or kernel not in (1, 3):
        raise WeightsError(f"integer network, layer {i}: no int16 weights of a 1×1 or 3×3 kernel")
    if any(v.dtype != np.int32 or v.shape != weight.shape[:1] for v in (bias, shift)):
        raise WeightsError(f"integer network, layer {i}: bias and shift are not int32 per output")
    return IntegerConv(weight, bias, shift, kernel, input_max, bool(shuffle))
