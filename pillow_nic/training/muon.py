"""Muon in float32."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_optimizer import Muon
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_gram_newton_schulz
from torch import Tensor


class Float32Muon(Muon):  # type: ignore[misc]
    """The library's Muon (with its adjusted rate), its matrices orthogonalised in float32 through their Gram
    matrices.

    The library does it in half precision, which takes a processor without bfloat16 more than half of a
    training step. Float32 needs none of the restarts that keep half precision stable."""

    @staticmethod
    def _orthogonalize(group: dict[str, Any], updates: list[Tensor]) -> list[Tensor]:
        return [_orthogonal(update, group["ns_steps"], group["ns_coeffs"]) for update in updates]


def _orthogonal(update: Tensor, steps: int, coefficients: Any) -> Tensor:
    """A convolution's weight (out, in, k, k) as the nearest orthogonal matrix out × in·k·k, or, where it has
    more outputs than inputs, out·k·k × in: the work grows with the cube of the shorter side. Either has
    elements of the same mean square."""
    tall = update.shape[0] > update.shape[1]
    moved = update.movedim(1, -1) if tall else update
    matrix = moved.reshape(-1, moved.shape[-1]) if tall else moved.flatten(1)
    result = zero_power_via_gram_newton_schulz(
        matrix, num_steps=steps, weights=coefficients, dtype=torch.float32, reset_steps=()
    ).reshape(moved.shape)
    if not tall:
        return result
    longest = max(update.shape[0], update[0].numel())
    return result.movedim(-1, 1) * (max(matrix.shape) / longest) ** 0.5
