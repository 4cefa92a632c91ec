"""Everything that sets a probability: from the hyper-latent's symbols to a table number per latent element,
in integers.

The hyper-synthesis runs here as an integer network, on the CPU, with numpy alone: what a user has set in
torch (TF32, reduced matmul precision, threads, devices) cannot reach it. The input is the hyper-latent's
symbols, the header's rate point (u16) and its step exponent; no float decides anything.

**Convolutions** are matrix products of integers held in float32. Every weight row is scaled so that
Σ|w|·max|input| + |bias| stays below 2**24, where float32 holds every integer: all partial sums are exact in
whatever order they are added. The bound is computed from the actual weights when they are exported and
again when they are loaded.

**Requantisation**: (sum · multiplier + half) >> shift in int64, then a clamp; one multiplier and shift per
output channel.

**Fixed point.** Hyper-latent input in steps of 1/8 within ±511; activations in steps of 1/64 within 0 …
511; logarithms (gains, scales, skews) in 1/64 octave. Inverse gains of the hyper-latent are applied through
a table of 2**(k/64)."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from .errors import WeightsError

if TYPE_CHECKING:
    from .network import HyperSynthesis

Array = npt.NDArray[Any]

EXACT = 1 << 24
INPUT_STEP, INPUT_MAX = 8, 511
ACTIVATION_STEP, ACTIVATION_MAX = 64, 511
OCTAVE = 64
DELTA_OCTAVE = 8
"""Steps per octave of the header's Δ exponent."""
MULTIPLIER_BITS = 15
# Logarithms are held to ±32 octaves: far beyond any scale, and every int64 product below stays small.
LOG_MAX = 32 * OCTAVE
RATE_POINT_BITS = 16
_EXP2_BITS = 14


@cache
def _blas() -> Any:
    return ThreadpoolController().select(internal_api="openblas")


@contextmanager
def _calling_thread() -> Iterator[None]:
    """Keeps OpenBLAS, numpy's usual library, on the calling thread.

    Its other threads spin for some 25 ms after a product and take their cores from what torch runs next: with
    two cores a decode took 40 % longer, at the narrowest width 85 %. The limit is the process's; two threads
    that set and restore it at once could leave it at one for ever, hence the lock."""
    with _blas_lock, _blas().limit(limits=1):
        yield


_blas_lock = threading.Lock()


def _after_fork() -> None:
    """A forked child must not wait for a lock that a thread of its parent held."""
    global _blas_lock
    _blas_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def interpolate(table: Array, rate_point: int) -> Array:
    """Rows of an integer table (n, C) interpolated at a rate point 0 … 65535, which spans n − 1 intervals
    of 65536 / (n − 1)."""
    scaled = rate_point * (table.shape[0] - 1)
    low, part = scaled >> RATE_POINT_BITS, scaled & 0xFFFF
    pair = table[low : low + 2].astype(np.int64)
    return (pair[0] * (65536 - part) + pair[1] * part + 32768) >> RATE_POINT_BITS


@dataclass(frozen=True, eq=False)
class IntegerConv:
    """One convolution with requantisation: weight (out, in·k·k) float32 holding integers, bias (out,)
    int32, multiplier and shift (out,) int32, kernel side k, bounds of the input's magnitude and of the
    output, and whether a 2× pixel shuffle follows."""

    weight: Array
    bias: Array
    multiplier: Array
    shift: Array
    kernel: int
    input_max: int
    output_min: int
    output_max: int
    shuffle: bool

    def worst_sum(self) -> int:
        """Largest magnitude that any partial sum can reach for any input."""
        sums = np.abs(self.weight).astype(np.int64).sum(1) * self.input_max + np.abs(
            self.bias.astype(np.int64)
        )
        return int(sums.max())

    def check(self, name: str) -> None:
        """WeightsError unless every sum is exact and every number is in its range."""
        if not (self.weight == np.rint(self.weight)).all() or np.abs(self.weight).max(initial=0) >= EXACT:
            raise WeightsError(f"{name}: weights are not integers below 2**24")
        if self.worst_sum() >= EXACT:
            raise WeightsError(
                f"{name}: a partial sum may reach {self.worst_sum()}, beyond the exact range of 2**24"
            )
        if (self.multiplier < 0).any() or (self.multiplier >= 1 << MULTIPLIER_BITS).any():
            raise WeightsError(f"{name}: a multiplier lies outside of 0 … 2**15 − 1")
        if (self.shift < 1).any() or (self.shift > 40).any():
            raise WeightsError(f"{name}: a shift lies outside of 1 … 40")

    def __call__(self, x: Array, rows: slice = slice(None)) -> Array:
        """x (in, h, w) float32 integers → (out, h, w), or (out/4, 2h, 2w) after the shuffle. ``rows``: only
        these outputs."""
        channels, height, width = x.shape
        if self.kernel > 1:
            margin = self.kernel // 2
            padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (self.kernel, self.kernel), (1, 2))
            columns = windows.transpose(0, 3, 4, 1, 2).reshape(channels * self.kernel**2, height * width)
        else:
            columns = x.reshape(channels, height * width)
        sums = (self.weight[rows] @ columns + self.bias[rows, None].astype(np.float32)).astype(np.int64)
        shift = self.shift[rows, None].astype(np.int64)
        sums *= self.multiplier[rows, None]
        sums += np.int64(1) << (shift - 1)
        sums >>= shift
        np.clip(sums, self.output_min, self.output_max, out=sums)
        y = sums.astype(np.float32).reshape(-1, height, width)
        if self.shuffle:
            y = y.reshape(-1, 2, 2, height, width).transpose(0, 3, 1, 4, 2).reshape(-1, 2 * height, 2 * width)
        return y


class IntegerHyperSynthesis:
    """The integer network with its gain tables; made from the arrays of a weights file.

    ``rows`` and ``columns`` describe the probability tables (entropy_tables.py): ``scale_step`` and
    ``skew_step`` are 1/64 octaves per row and per column, ``scale_zero`` the log₂ of row 0's scale in 1/64
    octaves."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        try:
            self.layers = [_read_layer(arrays, i) for i in range(arrays["layers"].item())]
            self.gain, self.hyper_inverse = arrays["gain"], arrays["hyper_inverse"]
            self.exp2 = arrays["exp2"].astype(np.int64)
            self.table_rows, self.table_columns, self.scale_step, self.skew_step, self.scale_zero = (
                int(v) for v in arrays["tables"]
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise WeightsError(f"integer network: {error}") from error
        self._check()

    def _check(self) -> None:
        """WeightsError unless the arrays fit together and every sum is exact for any input."""
        if not self.layers:
            raise WeightsError("integer network: no layers")
        if self.gain.ndim != 2 or self.hyper_inverse.ndim != 2:
            raise WeightsError("integer network: gains must be tables of rate points and channels")
        limit, channels = INPUT_MAX, self.hyper_inverse.shape[1]
        for i, layer in enumerate(self.layers):
            name = f"integer network, layer {i}"
            if layer.input_max < limit or layer.output_min > layer.output_max:
                raise WeightsError(f"{name}: bounds do not cover what comes in")
            if layer.weight.shape[1] != channels * layer.kernel**2:
                raise WeightsError(f"{name}: weights are not for {channels} channels")
            layer.check(name)
            limit = max(-layer.output_min, layer.output_max)
            channels = layer.weight.shape[0] // (4 if layer.shuffle else 1)
        for gain, width in ((self.gain, channels // 2), (self.hyper_inverse, self.hyper_inverse.shape[1])):
            if gain.dtype != np.int16 or gain.shape[0] < 2 or gain.shape[1] != width or not width:
                raise WeightsError(
                    "integer network: gains are not int16 for every channel at two or more rate points"
                )
            if np.abs(gain.astype(np.int32)).max() > LOG_MAX:
                raise WeightsError("integer network: a gain lies beyond ±32 octaves")
        if min(self.table_rows, self.table_columns, self.scale_step, self.skew_step) < 1:
            raise WeightsError("integer network: table rows, columns and steps must be positive")
        # 2**(k/64) in 14 bits: integers in the file, not computed here
        if (
            self.exp2.shape != (OCTAVE,)
            or (self.exp2 < 1 << _EXP2_BITS).any()
            or (self.exp2 >= 2 << _EXP2_BITS).any()
        ):
            raise WeightsError("integer network: the table of 2**(k/64) is wrong")

    def hyper_input(self, symbols: Array, rate_point: int) -> Array:
        """Symbols (Cz, h, w) times their inverse gains, in steps of 1/8 and clamped: float32 integers."""
        exponent = interpolate(self.hyper_inverse, rate_point)
        shift = _EXP2_BITS - int(math.log2(INPUT_STEP)) - (exponent >> 6)  # 64 = 2**6 steps an octave
        product = symbols.astype(np.int64) * self.exp2[exponent & (OCTAVE - 1)][:, None, None]
        right = np.clip(shift, 1, 62)[:, None, None]
        rounded = (product + (np.int64(1) << (right - 1))) >> right
        # Gains so large that the shift is to the left leave nothing to round; the clamp makes it safe.
        left = np.clip(-shift, 0, 20)[:, None, None]
        wide = np.clip(product, -(INPUT_MAX + 1), INPUT_MAX + 1) << left
        return np.clip(np.where(shift[:, None, None] > 0, rounded, wide), -INPUT_MAX, INPUT_MAX).astype(
            np.float32
        )

    def table_numbers(self, symbols: Array, rate_point: int, delta: int, channels: int) -> Array:
        """Table number of each latent element: uint16 (channels, 4h, 4w) for hyper-latent symbols (Cz, h,
        w)."""
        with _calling_thread():
            return self._table_numbers(symbols, rate_point, delta, channels)

    def _table_numbers(self, symbols: Array, rate_point: int, delta: int, channels: int) -> Array:
        x = self.hyper_input(symbols, rate_point)
        for layer in self.layers[:-1]:
            x = layer(x)
        head = self.layers[-1]
        scale = head(x, slice(0, channels)).astype(np.int32)
        offset = (
            interpolate(self.gain, rate_point)[:channels] - delta * (OCTAVE // DELTA_OCTAVE) - self.scale_zero
        )
        row = np.clip(
            _nearest(scale + offset.astype(np.int32)[:, None, None], self.scale_step), 0, self.table_rows - 1
        )
        if self.table_columns == 1:
            return row.astype(np.uint16)
        half = len(head.bias) // 2
        skew = head(x, slice(half, half + channels)).astype(np.int32)
        middle = self.table_columns // 2
        column = np.clip(_nearest(skew, self.skew_step) + middle, 0, self.table_columns - 1)
        return (row * self.table_columns + column).astype(np.uint16)

    def bits_used(self) -> list[float]:
        """log₂ of the worst partial sum of each layer; exact below 24."""
        return [math.log2(layer.worst_sum()) for layer in self.layers]


def _read_layer(arrays: Mapping[str, Array], i: int) -> IntegerConv:
    """Layer i of a weights file; WeightsError if its arrays are no layer."""
    weight, *vectors = (arrays[f"{i}.{key}"] for key in ("weight", "bias", "multiplier", "shift"))
    kernel, input_max, output_min, output_max, shuffle = (int(v) for v in arrays[f"{i}.bounds"])
    if weight.dtype != np.int16 or weight.ndim != 2 or not weight.size or kernel not in (1, 3):
        raise WeightsError(f"integer network, layer {i}: no int16 weights of a 1×1 or 3×3 kernel")
    if any(v.dtype != np.int32 or v.shape != weight.shape[:1] for v in vectors):
        raise WeightsError(f"integer network, layer {i}: bias, multiplier and shift are not int32 per output")
    bias, multiplier, shift = vectors
    return IntegerConv(
        weight.astype(np.float32),
        bias,
        multiplier,
        shift,
        kernel,
        input_max,
        output_min,
        output_max,
        bool(shuffle),
    )


def _nearest(value: Array, step: int) -> Array:
    """value / step rounded to the nearest integer, halves up (floor division of integers)."""
    return (value + step // 2) // step


def fixed_log2(values: Array) -> Array:
    """Float log₂ values → int16 in 1/64 octave (export only)."""
    return np.clip(np.rint(values * OCTAVE), -LOG_MAX, LOG_MAX).astype(np.int16)


def quantise(
    h_s: HyperSynthesis,
    log2_gain: Array,
    log2_hyper_inverse: Array,
    *,
    table_rows: int,
    table_columns: int,
    scale_step: float,
    skew_step: float,
    scale_zero: float,
) -> dict[str, Array]:
    """Turn a trained float hyper-synthesis into the arrays that IntegerHyperSynthesis takes (export only).

    Each output channel's weights are scaled to use the 24 exact bits as far as they go (at most 15 bits a
    weight). Steps and zero are in octaves. WeightsError if the result would not be exact."""
    arrays: dict[str, Array] = {
        "gain": fixed_log2(log2_gain),
        "hyper_inverse": fixed_log2(log2_hyper_inverse),
        "exp2": np.rint(2.0 ** (_EXP2_BITS + np.arange(OCTAVE) / OCTAVE)).astype(np.int32),
        "tables": np.array(
            [
                table_rows,
                table_columns,
                round(scale_step * OCTAVE),
                round(skew_step * OCTAVE),
                round(scale_zero * OCTAVE),
            ],
            np.int32,
        ),
    }
    convs = list(h_s.layers())
    arrays["layers"] = np.array([len(convs)], np.int32)
    for i, (conv, shuffle) in enumerate(convs):
        first, last = i == 0, i == len(convs) - 1
        assert conv.bias is not None
        weight = conv.weight.detach().double().cpu().numpy().reshape(conv.out_channels, -1)
        bias = conv.bias.detach().double().cpu().numpy()
        input_step, input_max = (INPUT_STEP, INPUT_MAX) if first else (ACTIVATION_STEP, ACTIVATION_MAX)
        output_step = OCTAVE if last else ACTIVATION_STEP
        room = EXACT * 0.99
        # unit: what an integer 1 in the sum means; rounding adds at most half an integer a weight
        need = (np.abs(weight).sum(1) * input_max + np.abs(bias) * input_step) / (
            room - 0.5 * weight.shape[1] * input_max
        )
        unit = np.maximum(np.maximum(need, np.abs(weight).max(1) / 32767), 1e-9)
        factor = unit / input_step * output_step
        shift = np.clip(np.floor(MULTIPLIER_BITS - np.log2(factor)) - 1, 1, 40)
        arrays[f"{i}.weight"] = np.rint(weight / unit[:, None]).astype(np.int16)
        arrays[f"{i}.bias"] = np.rint(bias * input_step / unit).astype(np.int32)
        arrays[f"{i}.multiplier"] = np.rint(factor * 2.0**shift).astype(np.int32)
        arrays[f"{i}.shift"] = shift.astype(np.int32)
        low, high = (-LOG_MAX, LOG_MAX) if last else (0, ACTIVATION_MAX)
        arrays[f"{i}.bounds"] = np.array([conv.kernel_size[0], input_max, low, high, shuffle], np.int32)
    IntegerHyperSynthesis(arrays)
    return arrays
