"""The float networks: their cost, their slices, their start, and how they follow the rate point."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_model import CONFIG, random_network
from torch import Tensor

from pillow_nic.bench.scalability import COST_SIDE, costs, decode_cost, encode_cost
from pillow_nic.blocks import GainUnit, interpolate
from pillow_nic.context import LOG2_STEP_MAX
from pillow_nic.entropy_model import checkerboard
from pillow_nic.network import Network, NetworkConfig, Width

CPU = torch.device("cpu")
FULL = NetworkConfig()


@pytest.fixture(scope="module")
def full() -> Network:
    """The default architecture, untrained."""
    return Network(FULL).eval().requires_grad_(False)


def noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at(*points: float) -> Tensor:
    return torch.tensor(points)


# ------------------------------------------------------------------------------------------------------ costs


def test_cost_stays_within_its_bounds_and_falls_with_the_width(full: Network) -> None:
    by_width = [costs(full, width) for width in range(len(FULL.widths))]
    decode, encode = [decode_cost(c) for c in by_width], [encode_cost(c) for c in by_width]
    assert decode == sorted(set(decode))
    assert encode == sorted(encode)
    assert decode[0] <= 6_000
    assert decode[-1] <= 16_000
    assert encode[-1] <= 25_000


def test_counted_cost_is_that_of_the_layers(full: Network) -> None:
    # Parts that can be added up by hand; they also tell whether the counter saw the folded convolutions.
    parts = costs(full, -1)
    hidden, bands = FULL.hyper_hidden, FULL.hyper_channels
    at_64 = 9 * bands * hidden + 4 * hidden * hidden
    at_32 = 9 * hidden * hidden + 4 * FULL.features * hidden
    assert parts["features"] == at_64 / 64**2 + at_32 / 32**2
    assert parts["hyper_prior"] == 3 * (9 * (bands + 2) * hidden + 2 * bands * hidden) / 64**2
    writer = FULL.writer
    blocks = 10 * writer.channels_8 * sum(writer.blocks_8) / 64
    blocks += 10 * writer.channels_16 * sum(writer.blocks_16) / 256
    linear = 3 * FULL.latent_channels
    stem = 192 * writer.channels_8 / 64
    down = 4 * writer.channels_8 * writer.channels_16 / 256
    head = writer.channels_16 * FULL.latent_channels / 256
    assert parts["g_a"] == linear + stem + blocks + down + head
    # At a narrow width, the context knows every slice but the last and predicts μ and log₂ q of each.
    rank, within = FULL.ranks.context, FULL.context_hidden
    channels = FULL.group_ends[FULL.widths[0].groups - 1]
    steps = [(s, p) for s, p in FULL.steps if FULL.slice_ends[s] <= channels]
    seen = sum(FULL.features + sum(FULL.slices[: s + p]) for s, p in steps)
    predicted = 2 * sum(FULL.slices[s] for s, _ in steps)
    rows = COST_SIDE // 16
    context = (
        seen * rank * (rows + 2) / rows + len(steps) * (9 * rank * within + within**2) + predicted * within
    )
    assert costs(full, 0)["context"] == context / 256
    narrow = FULL.widths[0]
    blocks = 0.0
    for channels, rank, count, side in (
        (FULL.channels_16, FULL.ranks.blocks_16, FULL.blocks_16, 16),
        (FULL.channels_8, FULL.ranks.blocks_8, FULL.blocks_8, 8),
    ):
        few, some = narrow.share * rank, narrow.share * channels
        blocks += count * (few * channels + 9 * few * some + some * channels) / side**2
    head = narrow.share * FULL.ranks.head * (FULL.channels_8 + 9 * 192) / 64
    ends = FULL.group_ends[narrow.groups - 1] * (FULL.channels_16 + 768) / 256
    up = 4 * FULL.channels_8 * FULL.channels_16 / 256
    assert costs(full, 0)["g_s"] == blocks + head + ends + up


# ----------------------------------------------------------------------------------------------------- widths


def narrow_copy(network: Network, width: int) -> Network:
    """A network of that width alone: the synthesis's parameters cut by hand to their first channels."""
    config = network.config
    size = config.widths[width]
    groups = config.groups[: size.groups]
    slices = config.slices[: config.slice_ends.index(sum(groups)) + 1]
    cut = Network(replace(config, slices=slices, groups=groups, widths=(size,)))
    whole = network.state_dict()
    for key in whole:
        if ".blocks_" in key and ".conditioning." in key and key.startswith("g_s."):  # each width has its own
            whole[key] = whole[key][width : width + 1]
    state = {k: whole[k][tuple(slice(n) for n in v.shape)] for k, v in cut.state_dict().items()}
    cut.load_state_dict(state)
    return cut.eval().requires_grad_(False)


@pytest.mark.parametrize("width", range(len(CONFIG.widths)))
@pytest.mark.parametrize("points", [(1.25,), (0.0, 2.75)])
def test_a_width_is_the_first_channels_of_the_full_synthesis(width: int, points: tuple[float, ...]) -> None:
    network, point = random_network(), at(*points)
    y = noise(len(points), CONFIG.group_ends[CONFIG.widths[width].groups - 1], 3, 2)
    torch.testing.assert_close(network.g_s(y, point, width), narrow_copy(network, width).g_s(y, point))


def test_widths_differ() -> None:
    network, y = random_network(), noise(1, 8, 2, 2)
    assert (network.g_s(y, at(1.0), 0) - network.g_s(y, at(1.0), -1)).abs().max() > 0.01


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_synthesis_takes_any_number_of_groups_and_counts_the_others_as_zero(groups: int) -> None:
    network, channels = random_network(), CONFIG.group_ends[groups - 1]
    y = noise(1, CONFIG.latent_channels, 2, 3)
    y[:, channels:] = 0
    torch.testing.assert_close(network.g_s(y[:, :channels], at(0.5)), network.g_s(y, at(0.5)))


@pytest.mark.parametrize("width", [0, -1])
@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_a_reduced_picture_is_of_the_means_of_pixels(factor: int, width: int) -> None:
    network, point, y = random_network(), at(0.5, 2.0), noise(2, CONFIG.latent_channels, 3, 2)
    full = network.g_s(y, point, width)
    torch.testing.assert_close(network.g_s(y, point, width, factor=factor), F.avg_pool2d(full, factor))


def test_shapes_of_the_hyper_networks() -> None:
    network, point = random_network(), at(1.5)
    for height, width in ((1, 1), (4, 4), (5, 9), (3, 8)):
        z = network.h_a(noise(1, CONFIG.latent_channels, height, width), point)
        up = -(-height // 4), -(-width // 4)
        assert z.shape == (1, CONFIG.hyper_channels, *up)
        assert network.features(z).shape == (1, CONFIG.features, 4 * up[0], 4 * up[1])
        scale, skew = network.h_s(z)
        assert scale.shape == skew.shape == (1, CONFIG.latent_channels, 4 * up[0], 4 * up[1])


# -------------------------------------------------------------------------------------------------------- KLT


def orthonormal(rows: int) -> Tensor:
    return torch.linalg.qr(noise(768, 768).double())[0][:rows].float().reshape(rows, 3, 16, 16)


def klt_network(channels: int) -> tuple[Network, Tensor]:
    parts = (8, channels - 8)
    config = replace(CONFIG, slices=parts, groups=parts, widths=(Width(1, 0.5), Width(2, 1.0)))
    network = Network(config).eval().requires_grad_(False)
    basis = orthonormal(channels)
    network.start_from_klt(basis, torch.linspace(3, 0.05, channels))
    return network, basis


def test_start_is_a_linear_codec_whose_transforms_invert_each_other() -> None:
    network, _ = klt_network(768)
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    y = network.g_a(x, at(0.5, 2.0))
    torch.testing.assert_close(network.g_s(y, at(0.5, 2.0)), x, atol=1e-5, rtol=0)
    # linear: mid-grey is the origin, and sums map to sums
    torch.testing.assert_close(network.g_a(0.5 + (x - 0.5) * 0.25, at(0.0)), y * 0.25, atol=1e-5, rtol=0)


def test_start_projects_on_the_basis_and_scales_to_unit_variance() -> None:
    network, basis = klt_network(40)
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    coefficients = basis.flatten(1) @ (x - 0.5).flatten()
    y = network.g_a(x, at(0.0))
    torch.testing.assert_close(y.flatten(), coefficients / torch.linspace(3, 0.05, 40), atol=1e-5, rtol=1e-4)
    back = network.g_s(y, at(0.0))
    torch.testing.assert_close((back - 0.5).flatten(), coefficients @ basis.flatten(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(network.g_a(back, at(0.0)), y, atol=1e-4, rtol=1e-4)
    prefix = network.g_s(y[:, :8], at(0.0), 0)
    torch.testing.assert_close(
        (prefix - 0.5).flatten(), coefficients[:8] @ basis.flatten(1)[:8], atol=1e-5, rtol=0
    )


def test_start_sets_the_step_that_suits_each_lambda() -> None:
    network, _ = klt_network(40)
    config = network.config
    deviation = torch.linspace(3, 0.05, 40)
    for row in range(config.rate_points):
        log2_gain, log2_inverse = network.gain(at(float(row)))
        step = 255 * deviation / torch.exp2(log2_gain[0])  # in 8-bit levels, the same for every channel
        expected = (18 / config.lmbda(torch.tensor(float(row))) / torch.log(torch.tensor(2.0))).sqrt()
        torch.testing.assert_close(step, expected.expand(40), rtol=1e-3, atol=0)
        torch.testing.assert_close(log2_gain, -log2_inverse)


# ----------------------------------------------------------------------------------- rate point, conditioning


def test_interpolation_at_and_between_rate_points() -> None:
    table = torch.tensor([[0.0, 10.0], [2.0, 20.0], [8.0, -20.0]])
    assert interpolate(table, at(0.0, 1.0, 2.0)).tolist() == table.tolist()
    assert interpolate(table, at(0.25, 1.5)).tolist() == [[0.5, 12.5], [5.0, 0.0]]
    assert interpolate(table[:, :, None], at(0.5)).tolist() == [[[1.0], [15.0]]]


def test_gain_is_interpolated_in_the_log_domain() -> None:
    unit = GainUnit(3, 1)
    with torch.no_grad():
        unit.log2_gain.copy_(torch.tensor([[0.0], [2.0], [6.0]]))
        unit.log2_inverse.copy_(torch.tensor([[1.0], [-2.0], [-5.0]]))
    gain, inverse = unit(at(0.0, 0.5, 1.5, 2.0))
    assert torch.exp2(gain).flatten().tolist() == [1.0, 2.0, 16.0, 64.0]
    assert inverse.flatten().tolist() == [1.0, -0.5, -3.5, -5.0]


def test_lambda_spans_its_range_log_uniformly() -> None:
    lmbda = FULL.lmbda(torch.linspace(0, FULL.rate_points - 1, 5))
    assert lmbda[0].item() == pytest.approx(FULL.lmbda_min)
    assert lmbda[-1].item() == pytest.approx(FULL.lmbda_max)
    ratios = lmbda[1:] / lmbda[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand(4))


def test_conditioning_folded_into_the_weights_equals_conditioning_of_the_features() -> None:
    network = random_network()
    x, point = noise(2, 3, 64, 64) * 0.2 + 0.5, at(1.3)
    both = point.expand(2).contiguous()  # a point per picture cannot be folded
    folded, unfolded = network.g_a(x, point), network.g_a(x, both)
    torch.testing.assert_close(folded, unfolded)
    torch.testing.assert_close(network.g_s(folded, point), network.g_s(folded, both))
    torch.testing.assert_close(network.h_a(folded, point), network.h_a(folded, both))
    state = network.context.start(network.features(network.h_a(folded, point)))
    state = network.context.see(state, 0, folded[:, :8])
    torch.testing.assert_close(
        network.context.predict(1, state, point), network.context.predict(1, state, both)
    )


def test_each_picture_of_a_batch_follows_its_own_rate_point() -> None:
    network, x = random_network(), noise(2, 3, 32, 32) * 0.2 + 0.5
    together = network.g_a(x, at(0.5, 2.5))
    for i, point in enumerate((0.5, 2.5)):
        torch.testing.assert_close(together[i : i + 1], network.g_a(x[i : i + 1], at(point)))
    assert (network.g_a(x, at(0.5)) - together).abs()[1].max() > 0.01


# ---------------------------------------------------------------------------------------------------- context


def test_two_phases_of_a_group_add_up_to_the_whole() -> None:
    context, value = random_network().context, noise(1, 8, 4, 5)
    state = context.start(noise(1, CONFIG.features, 4, 5, seed=4))
    even = checkerboard(4, 5, CPU)
    once = context.see(state, 0, value)
    in_two = context.see(context.see(state, 0, value * even), 0, value * (1 - even))
    assert (state.shape, once.shape) == ((1, CONFIG.features, 6, 5), (1, CONFIG.features + 8, 6, 5))
    torch.testing.assert_close(in_two, once)


def test_a_step_sees_all_groups_before_it() -> None:
    seen = [step.reduce.in_channels for step in random_network().context.step_nets]
    assert seen == [CONFIG.features + n for n in (0, 8, 8, 16)]


def test_predicted_step_is_bounded() -> None:
    network = random_network()
    step = network.context.step_nets[2]
    for bias, bound in ((99.0, LOG2_STEP_MAX), (-99.0, -LOG2_STEP_MAX)):
        step.head.bias[8:] = bias
        state = network.context.start(noise(1, CONFIG.features, 3, 3))
        state = network.context.see(state, 0, noise(1, 8, 3, 3))
        mu, log2_step = network.context.predict(2, state, at(1.0))
        assert (log2_step == bound).all()
        assert mu.shape == log2_step.shape == (1, 8, 3, 3)
        assert mu.abs().max() < 10


def test_context_starts_with_means_of_zero_and_steps_of_one() -> None:
    context = Network(CONFIG).context
    mu, log2_step = context.predict(0, context.start(noise(1, CONFIG.features, 3, 3)), at(1.0))
    assert not mu.any()
    assert not log2_step.any()


# ----------------------------------------------------------------------------------------------------- config


@pytest.mark.parametrize("config", [FULL, CONFIG, replace(CONFIG, lmbda_min=0.1 + 0.2)])
def test_configuration_survives_json(config: NetworkConfig) -> None:
    back = NetworkConfig.from_json(config.to_json())
    assert back == config
    assert hash(back) == hash(config)
    assert back.to_json() == config.to_json()


def test_groups_and_steps() -> None:
    assert FULL.latent_channels == 320
    assert FULL.group_ends == (10, 16, 48, 72, 96, 144, 192, 320)
    assert FULL.slice_ends == (16, 48, 72, 96, 144, 192, 320)
    assert CONFIG.steps == ((0, 0), (0, 1), (1, 0), (2, 0))
    assert FULL.steps[:5] == ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    assert len(FULL.steps) == 9


def other(**changes: object) -> str:
    return json.dumps(json.loads(CONFIG.to_json()) | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"groups": [1]}',
        '{"groups": [1], "widths": []}',
        other(depth=3),
        other(writer={"blocks_8": [1]}),
        other(writer={"blocks_8": [1], "blocks_16": [1], "depth": 3}),
    ],
)
def test_configuration_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        NetworkConfig.from_json(text)
