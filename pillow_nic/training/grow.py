"""Start a network from another one's weights, as far as shapes allow."""

from __future__ import annotations

import torch
from torch import Tensor

from .loss import TrainingModel


@torch.no_grad()
def grow(model: TrainingModel, state: dict[str, Tensor]) -> str:
    """Copy what ``state``, another network's weights, has; returns a sentence that says what is new.

    A smaller part takes the first channels of the older one. A part that is larger, or that the older network
    lacks, keeps its own start, but a new residual block starts at zero, so that the rest still fits. Where
    the numbers of widths differ, all widths of the synthesis start from the widest."""
    new: list[str] = []
    cut = 0
    for name, target in model.state_dict().items():
        source = state.get(name)
        if source is not None and ".conditioning." in name and len(source) != len(target):
            source = source[-1:].expand(target.shape[0], *source.shape[1:])
        if source is None or any(n > m for n, m in zip(target.shape, source.shape, strict=True)):
            new.append(name)
            continue
        cut += source.shape != target.shape
        target.copy_(source[tuple(slice(n) for n in target.shape)])
    for name, part in model.named_modules():
        if ".blocks_" in name and f"{name}.conv2.weight" in new:
            part.conv2.weight.zero_()
    parts = sorted({".".join(name.split(".")[1:3]) for name in new})
    return f"{cut} tensors cut to their first channels, {len(new)} new in {', '.join(parts) or 'no part'}"
