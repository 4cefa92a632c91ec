"""The float networks: their cost, their slices, their start, and how they follow the rate point."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_model import CONFIG, random_network
from torch import Tensor

from pillow_nic.bench.scalability import costs, decode_cost, encode_cost
from pillow_nic.network import GainUnit, Network, NetworkConfig, Width, interpolate

FULL = NetworkConfig()


@pytest.fixture(scope="module")
def full() -> Network:
    """The architecture that ships, untrained."""
    return Network(FULL).eval().requires_grad_(False)


def noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at(*positions: float) -> Tensor:
    return torch.tensor(positions)


# ------------------------------------------------------------------------------------------------------ costs


def test_cost_stays_within_its_bounds_and_falls_with_the_width(full: Network) -> None:
    by_width = [costs(full, width) for width in range(len(FULL.widths))]
    decode, encode = [decode_cost(c) for c in by_width], [encode_cost(c) for c in by_width]
    assert decode[-1] <= 30_000
    assert encode[-1] <= 40_000
    assert decode[0] <= 8_000
    assert decode == sorted(set(decode))
    assert encode == sorted(set(encode))


def test_counted_cost_is_that_of_the_layers(full: Network) -> None:
    # A part that can be added up by hand; it also tells whether the counter saw the folded convolutions.
    hidden, bands = FULL.hyper_hidden, FULL.hyper_channels
    at_64 = 9 * bands * hidden + 4 * hidden * hidden
    at_32 = 9 * hidden * hidden + 4 * FULL.features * hidden
    parts = costs(full, -1)
    assert parts["features"] == at_64 / 64**2 + at_32 / 32**2
    last = FULL.widths[-1]
    blocks = FULL.blocks_8 * 10 * last.channels_8**2 / 64 + FULL.blocks_16 * 10 * last.channels_16**2 / 256
    linear = 3 * FULL.latent_channels
    stem = 192 * last.channels_8 / 64
    down = 4 * last.channels_8 * last.channels_16 / 256
    head = last.channels_16 * FULL.latent_channels / 256
    assert parts["g_a"] == linear + stem + blocks + down + head


# ---------------------------------------------------------------------------------------------------- slicing


def narrow_copy(network: Network, width: int) -> Network:
    """A network of that width alone: every parameter cut by hand to its first channels."""
    config = network.config
    size = config.widths[width]
    cut = Network(replace(config, groups=config.groups[: size.groups], widths=(size,)))
    whole = network.state_dict()
    for key in whole:
        if ".blocks_" in key and ".conditioning." in key:  # each width has its own
            whole[key] = whole[key][width : width + 1]
    state = {k: whole[k][tuple(slice(n) for n in v.shape)] for k, v in cut.state_dict().items()}
    cut.load_state_dict(state)
    return cut.eval().requires_grad_(False)


@pytest.mark.parametrize("width", range(len(CONFIG.widths)))
@pytest.mark.parametrize("positions", [(1.25,), (0.0, 2.75)])
def test_a_width_is_the_first_channels_of_the_full_one(width: int, positions: tuple[float, ...]) -> None:
    network, position = random_network(), at(*positions)
    narrow = narrow_copy(network, width)
    x = torch.rand(len(positions), 3, 48, 32, generator=torch.Generator().manual_seed(5))
    y = network.g_a(x, position, width)
    assert y.shape == (len(positions), CONFIG.group_ends[CONFIG.widths[width].groups - 1], 3, 2)
    torch.testing.assert_close(y, narrow.g_a(x, position))
    torch.testing.assert_close(network.h_a(y, position), narrow.h_a(y, position))
    torch.testing.assert_close(network.g_s(y, position, width), narrow.g_s(y, position))


def test_widths_differ() -> None:
    network, x = random_network(), noise(1, 3, 32, 32)
    narrow, wide = network.g_a(x, at(1.0), 0), network.g_a(x, at(1.0), -1)
    assert (narrow - wide[:, : narrow.shape[1]]).abs().max() > 0.01


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_synthesis_takes_any_number_of_groups_and_counts_the_others_as_zero(groups: int) -> None:
    network, channels = random_network(), CONFIG.group_ends[groups - 1]
    y = noise(1, CONFIG.latent_channels, 2, 3)
    y[:, channels:] = 0
    torch.testing.assert_close(network.g_s(y[:, :channels], at(0.5)), network.g_s(y, at(0.5)))


def test_shapes_of_the_hyper_networks() -> None:
    network, position = random_network(), at(1.5)
    for height, width in ((1, 1), (4, 4), (5, 9), (3, 8)):
        z = network.h_a(noise(1, CONFIG.latent_channels, height, width), position)
        up = -(-height // 4), -(-width // 4)
        assert z.shape == (1, CONFIG.hyper_channels, *up)
        assert network.features(z).shape == (1, CONFIG.features, 4 * up[0], 4 * up[1])
        scale, skew = network.h_s(z)
        assert scale.shape == skew.shape == (1, CONFIG.latent_channels, 4 * up[0], 4 * up[1])


# -------------------------------------------------------------------------------------------------------- KLT


def orthonormal(rows: int) -> Tensor:
    return torch.linalg.qr(noise(768, 768).double())[0][:rows].float().reshape(rows, 3, 16, 16)


def klt_network(channels: int) -> tuple[Network, Tensor]:
    config = replace(CONFIG, groups=(8, channels - 8), widths=(Width(1, 8, 8), Width(2, 16, 24)))
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
    for point in range(config.rate_points):
        log2_gain, log2_inverse = network.gain(at(float(point)))
        step = 255 * deviation / torch.exp2(log2_gain[0])  # in 8-bit levels, the same for every channel
        expected = (18 / config.lmbda(torch.tensor(float(point))) / torch.log(torch.tensor(2.0))).sqrt()
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
    x, position = noise(2, 3, 64, 64) * 0.2 + 0.5, at(1.3)
    both = position.expand(2).contiguous()  # a position per picture cannot be folded
    folded, unfolded = network.g_a(x, position), network.g_a(x, both)
    torch.testing.assert_close(folded, unfolded)
    torch.testing.assert_close(network.g_s(folded, position), network.g_s(folded, both))
    torch.testing.assert_close(network.h_a(folded, position), network.h_a(folded, both))
    features = network.features(network.h_a(folded, position))
    torch.testing.assert_close(
        network.context(1, features, folded[:, :8], position),
        network.context(1, features, folded[:, :8], both),
    )


def test_each_picture_of_a_batch_follows_its_own_rate_point() -> None:
    network, x = random_network(), noise(2, 3, 32, 32) * 0.2 + 0.5
    together = network.g_a(x, at(0.5, 2.5))
    for i, position in enumerate((0.5, 2.5)):
        torch.testing.assert_close(together[i : i + 1], network.g_a(x[i : i + 1], at(position)))
    assert (network.g_a(x, at(0.5)) - together).abs()[1].max() > 0.01


# ----------------------------------------------------------------------------------------------------- config


@pytest.mark.parametrize("config", [FULL, CONFIG, replace(CONFIG, lmbda_min=0.1 + 0.2, checkerboard=0)])
def test_configuration_survives_json(config: NetworkConfig) -> None:
    back = NetworkConfig.from_json(config.to_json())
    assert back == config
    assert hash(back) == hash(config)
    assert back.to_json() == config.to_json()


def test_groups_and_steps() -> None:
    assert FULL.latent_channels == 320
    assert FULL.group_ends == (16, 48, 72, 96, 144, 192, 320)
    assert CONFIG.steps == ((0, 0), (0, 1), (1, 0), (2, 0))
    assert FULL.steps[:5] == ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    assert len(FULL.steps) == 9


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"groups": [1]}', '{"groups": [1], "widths": [], "depth": 3}']
)
def test_configuration_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        NetworkConfig.from_json(text)
