"""Start a network whose 3×3 convolutions have ranks from one that is the same without.

With C the covariance of a convolution's input and M its weights, a matrix of outputs and taps by channels,
the singular vectors of M·C^½ say through which few channels it loses least; what these always miss goes into
the bias. The channels between two convolutions of a block are sorted by what leaving them out costs, so that
a narrow width has the best of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import Reduction, ResidualBlock, SlimConv2d, bias_of
from ..context import ContextStep, State
from ..entropy_model import RateEstimator, code_groups, side_information
from ..network import Network, NetworkConfig

LEAST = 1e-7  # of the largest variance


class Moments:
    """Mean and covariance of the channels that a part of a network is given."""

    def __init__(self) -> None:
        self.products: Tensor | float = 0.0
        self.sums: Tensor | float = 0.0
        self.count = 0

    def add(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        x = given[0].plane if isinstance(given[0], State) else given[0]
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).double()
        self.products = self.products + rows.T @ rows
        self.sums = self.sums + rows.sum(0)
        self.count += len(rows)

    def __call__(self) -> tuple[Tensor, Tensor]:
        mean = torch.as_tensor(self.sums) / self.count
        return mean, torch.as_tensor(self.products) / self.count - torch.outer(mean, mean)


@torch.no_grad()
def cut(network: Network, shape: NetworkConfig, state: dict[str, Tensor], pictures: Iterable[Tensor]) -> None:
    """Set the convolutions of ``network`` that have a rank to the nearest of those of ``state``, a
    training's, with that ``shape``, on batches of pictures (B, 3, H, W) at rate points all over the range."""
    source = Network(shape, start=False)
    source.load_state_dict({k[8:]: v for k, v in state.items() if k.startswith("network.")})
    parts: list[tuple[Any, Any]] = [
        (part, source.get_submodule(name))
        for name, part in network.named_modules()
        if getattr(part, "reduce", None) is not None
    ]
    inputs, hidden = [Moments() for _ in parts], [Moments() for _ in parts]
    hooks = []
    for (_, old), before, between in zip(parts, inputs, hidden, strict=True):
        hooks.append((old.head if old is source.g_s else old).register_forward_pre_hook(before.add))
        if isinstance(old, ResidualBlock):
            hooks.append(old.conv2.register_forward_pre_hook(between.add))
    for x in pictures:
        _look(source, x, torch.linspace(0, shape.rate_points - 1, len(x)))
    for hook in hooks:
        hook.remove()
    for (new, old), before, between in zip(parts, inputs, hidden, strict=True):
        if isinstance(new, ResidualBlock | ContextStep):
            order = torch.arange(old.conv1.out_channels)
            if isinstance(new, ResidualBlock):
                order = by_worth(old.conv2.weight[:, :, 0, 0].double(), *between())
                new.conv2.weight.copy_(old.conv2.weight[:, order])
                for name, table in new.conditioning.named_parameters():
                    table.copy_(old.conditioning.get_parameter(name)[-1:][..., order].expand_as(table))
            _factorise(new.reduce, new.conv1, old.conv1, order, *before())
        else:
            _factorise(new.reduce, new.head, old.head, torch.arange(old.head.out_channels), *before())


def _look(network: Network, x: Tensor, point: Tensor) -> None:
    """Let a network code pictures, for what its parts are given."""
    y = network.g_a(x, point)
    z = (network.h_a(y, point) * torch.exp2(network.hyper_gain(point)[0])[:, :, None, None]).round()
    side = side_information(network, z, point, 0.0, (y.shape[2], y.shape[3]))
    unit = torch.zeros_like(y)
    coder = RateEstimator(y, side, unit, unit, noise=False)
    groups = len(network.config.groups)
    network.g_s(code_groups(network, side.features, point, coder, groups), point)


def by_worth(weight: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """The inputs of a linear layer (outputs, inputs), the one first without which the others do worst: one
    after the other is left out whose share they take over best."""
    moments = covariance + LEAST * covariance.diag().max() * torch.eye(len(mean))
    kept, gone = list(range(len(mean))), []
    whole = moments @ weight.T
    while kept:
        inverse = torch.linalg.inv(moments[kept][:, kept])
        costs = (inverse @ whole[kept]).square().sum(1) / inverse.diag()
        gone.append(kept.pop(int(costs.argmin())))
    return torch.tensor(gone[::-1])


def _factorise(
    reduce: Reduction | None,
    new: SlimConv2d,
    old: SlimConv2d,
    order: Tensor,
    mean: Tensor,
    covariance: Tensor,
) -> None:
    """``old`` with its outputs in that order as ``reduce`` and ``new`` behind each other."""
    assert reduce is not None
    weight = old.weight[order].double()
    outputs, channels = weight.shape[:2]
    variances, axes = torch.linalg.eigh(covariance)
    roots = variances.clamp_min(variances.max() * LEAST).sqrt()
    taps = weight.permute(0, 2, 3, 1).reshape(-1, channels)
    basis = torch.linalg.svd(taps @ (axes * roots), full_matrices=False)[2][: reduce.out_channels].T
    first, second = basis.T @ (axes / roots).T, taps @ (axes * roots) @ basis
    balance = (first.norm(dim=1) / second.norm(dim=0)).sqrt()
    first, second = first / balance[:, None], second * balance
    missed = (taps @ mean - second @ (first @ mean)).reshape(outputs, 9).sum(1)
    rank = len(first)  # less than there is room for if the input has fewer channels
    reduce.weight.zero_()[:rank] = first[:, :, None, None]
    new.weight.zero_()[:, :rank] = second.reshape(outputs, 3, 3, rank).permute(0, 3, 1, 2)
    bias_of(new).copy_(bias_of(old)[order] + missed)
