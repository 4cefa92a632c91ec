"""What the networks are made of: in inference mode, in strips and with weights that are kept, they compute
what they compute in training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_model import CONFIG, random_network
from torch import Tensor

from pillow_nic import blocks, winograd, workers
from pillow_nic.blocks import SlimConv2d, linear
from pillow_nic.entropy_model import checkerboard


def noise(*shape: int, seed: int = 1) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else drawn


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions as on a processor with bfloat16, but in float32; strips of few positions."""
    monkeypatch.setattr(winograd, "suits", lambda _: False)
    monkeypatch.setattr(blocks, "STRIP", 40)


@pytest.mark.parametrize("shape", [(1, 16, 64), (2, 9, 15), (1, 17, 19), (1, 3, 5), (1, 13, 1), (3, 32, 32)])
def test_linear_is_a_product_of_matrices(shape: tuple[int, ...]) -> None:
    x, weight, bias = noise(*shape, 12), noise(7, 12, seed=2).requires_grad_(), noise(7, seed=3)
    expected = F.linear(x, weight, bias)
    found = linear(x, weight, bias)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    gradients = (torch.autograd.grad(y.square().mean(), weight)[0] for y in (found, expected))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)
    torch.testing.assert_close(linear(x, weight), expected - bias, rtol=0, atol=1e-5)
    part = slice(1, shape[2] - 1)  # a view with gaps
    cut = linear(x[:, :, part], weight, bias)
    torch.testing.assert_close(cut, expected[:, :, part], rtol=0, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, bias), expected, rtol=0, atol=1e-5)
        assert linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("factor", [1, 2, 16])
@pytest.mark.parametrize("size", [(9, 7), (16, 16), (1, 30), (30, 1)])
@pytest.mark.parametrize("points", [[1.3], [0.2, 2.4]])
def test_strips_of_the_transforms_are_the_whole(
    points: list[float], size: tuple[int, int], factor: int
) -> None:
    network, point = random_network(), torch.tensor(points)
    y = noise(len(points), CONFIG.latent_channels, *size)
    x = noise(len(points), 3, 16 * size[0], 16 * size[1], seed=2)
    with torch.no_grad():
        expected = network.g_a(x, point), network.g_s(y, point, factor=factor)
    for threads in (1, 2):
        found = workers.each(
            lambda _: (network.g_a(x, point), network.g_s(y, point, factor=factor)), [0], threads
        )
        for one, other in zip(found[0], expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("direct")
def test_a_part_of_the_picture_in_strips() -> None:
    network, point = random_network(), torch.tensor([0.6])
    y, part = noise(1, CONFIG.latent_channels, 40, 9), (slice(12, 31), slice(0, 5))
    with torch.no_grad():
        whole = network.g_s(y, point)
    found = workers.each(lambda _: network.g_s(y, point, part=part), [0], 2)[0]
    torch.testing.assert_close(found, whole[:, :, 192:496, :80], rtol=0, atol=1e-4)


def test_what_the_context_sees_is_the_same_in_inference_mode() -> None:
    context, features, point = random_network().context, noise(1, CONFIG.features, 8, 5), torch.tensor([1.1])
    even = checkerboard(8, 5, torch.device("cpu"))
    values = [noise(1, CONFIG.slices[part], 8, 5, seed=part + 5) for part, _ in CONFIG.steps]

    def predicted(rows: slice) -> list[Tensor]:
        state, found = context.start(features, rows), []
        for step, (value, (part, phase)) in enumerate(zip(values, CONFIG.steps, strict=True)):
            found += context.predict(step, state, point)
            if step + 1 < len(values):
                first = part < CONFIG.checkerboard
                mask = (1 - even if phase else even) if first else torch.ones(())
                state = context.see(state, part, value * mask, rows)
        return found

    for rows in (slice(0, 8), slice(2, 6)):
        with torch.no_grad():
            expected = predicted(rows)
        with torch.inference_mode():
            for one, other in zip(predicted(rows), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("kernel", [1, 3])
def test_kept_weights_follow_weights_scale_and_kind(kernel: int) -> None:
    conv, x = SlimConv2d(4, 6, kernel, padding=kernel // 2), noise(1, 4, 16, 16)
    conv.start()

    def check(scale: Tensor | None, shift: Tensor | None, kind: torch.dtype = torch.float32) -> None:
        with torch.no_grad():
            expected = conv.scaled(x.to(kind), scale, shift)
        for _ in range(2):  # the second time with what was kept
            with torch.inference_mode():
                torch.testing.assert_close(conv.scaled(x.to(kind), scale, shift), expected, rtol=0, atol=2e-2)

    one, two, shift = noise(1, 6, seed=2), noise(1, 6, seed=3), noise(1, 6, seed=4)
    check(None, None)
    check(one, shift)
    check(two, shift)
    check(two, shift, torch.bfloat16)
    with torch.no_grad():
        conv.weight.mul_(3)
    check(two, shift)
    with torch.no_grad():
        assert conv.bias is not None
        conv.bias.add_(1)
    check(two, shift)
    conv.load_state_dict({k: -v for k, v in conv.state_dict().items()}, assign=True)
    check(two, shift)
    check(None, None)
