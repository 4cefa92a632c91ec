"""From the trained float networks that set probabilities to the integer ones that ship (integer_net.py,
hyper_prior.py)."""

from __future__ import annotations

import numpy as np

from ..errors import WeightsError
from ..hyper_prior import FRACTIONS
from ..integer_net import (
    ACTIVATION_MAX,
    ACTIVATION_STEP,
    EXACT,
    EXP2_BITS,
    INPUT_MAX,
    INPUT_STEP,
    LOG_MAX,
    OCTAVE,
    OFFSET_MAX,
    Array,
    IntegerHyperSynthesis,
)
from ..network import LOG2_START, HyperPrior, HyperSynthesis


def fixed_log2(values: Array) -> Array:
    """Float log₂ values → int16 in 1/64 octave."""
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
    """The arrays that IntegerHyperSynthesis takes. Steps and zero are in octaves; a row of the tables is a
    power of two of 1/64 octaves. WeightsError if the result would not be exact."""
    scale_log2 = int(np.log2(round(scale_step * OCTAVE)))
    arrays: dict[str, Array] = {
        "gain": fixed_log2(log2_gain),
        "hyper_inverse": fixed_log2(log2_hyper_inverse),
        "exp2": np.rint(2.0 ** (EXP2_BITS + np.arange(OCTAVE) / OCTAVE)).astype(np.int32),
        "tables": np.array([table_rows, table_columns, scale_log2, round(scale_zero * OCTAVE)], np.int32),
    }
    steps = np.repeat([1 / scale_step, 1 / skew_step], h_s.head.out_channels // 2)
    arrays |= _layers(h_s, steps, least_shift=scale_log2, offset_max=(OFFSET_MAX >> scale_log2) + 1)
    IntegerHyperSynthesis(arrays)
    return arrays


def quantise_prior(hyper_prior: HyperPrior, *, scale_step: float, scale_zero: float) -> dict[str, Array]:
    """The arrays that IntegerHyperPrior takes, but for its tables. Step and row 0's scale are in octaves.
    WeightsError if the result would not be exact."""
    channels = hyper_prior.head.out_channels // 2
    steps = np.repeat([1 / scale_step, float(FRACTIONS)], channels)
    return _layers(hyper_prior, steps, np.repeat([LOG2_START - scale_zero, 0.0], channels))


def _layers(
    network: HyperSynthesis | HyperPrior,
    last_steps: Array,
    last_bias: Array | float = 0.0,
    *,
    least_shift: int = 1,
    offset_max: int = 0,
) -> dict[str, Array]:
    """Each output channel's weights are scaled by the power of two that uses the 24 exact bits as far as they
    go (at most 15 bits a weight). To the last layer's outputs ``last_bias`` is added, and they are multiplied
    by ``last_steps``; its shifts are at least ``least_shift``, with room for ± ``offset_max``."""
    convs = list(network.layers())
    arrays = {"layers": np.array([len(convs)], np.int32)}
    for i, (conv, shuffle) in enumerate(convs):
        first, last = i == 0, i == len(convs) - 1
        assert conv.bias is not None
        weight = conv.weight.detach().double().cpu().numpy().reshape(conv.out_channels, -1)
        bias = conv.bias.detach().double().cpu().numpy()
        input_step, input_max = (INPUT_STEP, INPUT_MAX) if first else (ACTIVATION_STEP, ACTIVATION_MAX)
        output_step = np.full(len(weight), float(ACTIVATION_STEP))
        if last:
            output_step, bias = last_steps, bias + last_bias
        # In units of outputs; a sum is in units of 2^−shift of these.
        weight, bias = weight * (output_step / input_step)[:, None], bias * output_step + 0.5
        worst = np.abs(weight).sum(1) * input_max + np.abs(bias) + (offset_max if last else 0)
        # rounding adds at most half an integer a weight, and one to the bias
        room = EXACT - 1 - 0.5 * weight.shape[1] * input_max
        shift = np.floor(np.log2(np.minimum(room / worst, 32767 / np.maximum(np.abs(weight).max(1), 1e-9))))
        shift = np.minimum(shift, 24).astype(np.int32)
        if (shift < (least_shift if last else 1)).any():
            raise WeightsError(f"integer network, layer {i}: weights are too large to be exact")
        arrays[f"{i}.weight"] = np.rint(np.ldexp(weight, shift[:, None])).astype(np.int16)
        arrays[f"{i}.bias"] = np.rint(np.ldexp(bias, shift)).astype(np.int32)
        arrays[f"{i}.shift"] = shift
        arrays[f"{i}.geometry"] = np.array([conv.kernel_size[0], input_max, shuffle], np.int32)
    return arrays
