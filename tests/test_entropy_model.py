"""The loop over channel groups and its coders, and the bits that training counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from tiny_model import CONFIG, random_network
from torch import Tensor

from pillow_nic.context import LOG2_STEP_MAX
from pillow_nic.entropy_model import (
    RateDistortionRounding,
    RateEstimator,
    SideInformation,
    SymbolDecoder,
    SymbolEncoder,
    checkerboard,
    code_groups,
    code_strips,
    side_information,
    two_piece_gaussian_bits,
)
from pillow_nic.network import Network
from pillow_nic.training.tables import gaussian_pmf

HEIGHT, WIDTH = 5, 7
GROUPS = len(CONFIG.groups)
CHANNELS = CONFIG.latent_channels
POINT = torch.tensor([1.7])


# ---------------------------------------------------------------------------------------------- probabilities


def reference_probability(v: float, log2_scale: float, log2_skew: float) -> float:
    """The mass of the unit bin around v by the definition, in double precision, piece by piece."""
    left, right = 2.0 ** (log2_scale - log2_skew), 2.0 ** (log2_scale + log2_skew)

    def mass(near: float, far: float, sigma: float) -> float:
        """Of the half-Gaussian of one side, between two distances from the centre."""
        root = sigma * math.sqrt(2)
        return sigma / (left + right) * (math.erfc(near / root) - math.erfc(far / root))

    a, b = v - 0.5, v + 0.5
    return (mass(max(-b, 0), -a, left) if a < 0 else 0) + (mass(max(a, 0), b, right) if b > 0 else 0)


def bits(v: Tensor, log2_scale: float, log2_skew: float) -> Tensor:
    return two_piece_gaussian_bits(v, torch.full_like(v, log2_scale), torch.full_like(v, log2_skew))


SHAPES = [(s, k) for s in (-3.0, -1.0, 0.3, 2.0, 5.5) for k in (-0.75, -0.2, 0.0, 0.4)]


@pytest.mark.parametrize(("log2_scale", "log2_skew"), SHAPES)
def test_bits_against_double_precision(log2_scale: float, log2_skew: float) -> None:
    reach = 4 * 2**log2_scale + 2
    v = torch.linspace(-reach, reach, 161)
    expected = [reference_probability(x, log2_scale, log2_skew) for x in v.tolist()]
    sure = torch.tensor(expected) > 1e-8
    assert sure.sum() > 5
    expected_bits = -torch.log2(torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(
        bits(v, log2_scale, log2_skew)[sure].double(), expected_bits[sure], rtol=1e-3, atol=1e-4
    )


def test_bits_far_out_are_bounded_and_flow_back() -> None:
    v = torch.tensor([-1e4, -60.0, 60.0, 1e4], requires_grad=True)
    cost = bits(v, 0.0, 0.3)
    assert cost.tolist() == pytest.approx([-math.log2(1e-12)] * 4)
    torch.autograd.backward(cost.sum())
    assert v.grad is not None
    assert torch.isfinite(v.grad).all()


@pytest.mark.parametrize(("log2_scale", "log2_skew"), SHAPES)
def test_bits_are_symmetric_under_mirrored_skew(log2_scale: float, log2_skew: float) -> None:
    v = torch.linspace(-6, 6, 49)  # half-integers among them, where a bin's edge is the centre
    torch.testing.assert_close(
        bits(v, log2_scale, log2_skew), bits(-v, log2_scale, -log2_skew), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("log2_scale", "log2_skew"), SHAPES)
@pytest.mark.parametrize("offset", [0.0, 0.3, 0.5])
def test_probabilities_sum_to_one_over_the_integers(
    log2_scale: float, log2_skew: float, offset: float
) -> None:
    reach = math.ceil(8 * 2 ** (log2_scale + 0.75)) + 3
    v = torch.arange(-reach, reach + 1).float() + offset
    assert torch.exp2(-bits(v, log2_scale, log2_skew)).double().sum().item() == pytest.approx(1, abs=2e-5)


def test_skew_leans_to_the_side_of_the_larger_deviation() -> None:
    left, right = bits(torch.tensor([-3.0, 3.0]), 0.5, 0.5).tolist()
    assert right < left


def test_training_counts_the_distribution_that_the_tables_hold() -> None:
    log2_scale, log2_skew = 0.75, -0.25
    pmf, low = gaussian_pmf(2 ** (log2_scale - log2_skew), 2 ** (log2_scale + log2_skew))
    likely = pmf > 1e-7
    v = torch.arange(-low, len(pmf) - low).float()
    np.testing.assert_allclose(
        bits(v, log2_scale, log2_skew).numpy()[likely], -np.log2(pmf[likely]), rtol=1e-3, atol=1e-4
    )


# --------------------------------------------------------------------------------------------------- the loop


@dataclass
class Recorder:
    """A coder that answers with random values and writes down what it was asked."""

    seed: int = 0
    calls: list[tuple[slice, Tensor, Tensor | None]] = field(default_factory=list)

    def code(self, part: slice, mu: Tensor, log2_step: Tensor, mask: Tensor | None) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + len(self.calls))
        self.calls.append((part, mu, mask))
        return mu + torch.randn(mu.shape, generator=generator)


@pytest.fixture(scope="module")
def network() -> Network:
    return random_network()


@pytest.fixture(scope="module")
def features() -> Tensor:
    return noise(1, CONFIG.features, HEIGHT, WIDTH)


def noise(*shape: int, seed: int = 9) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def side_of(log2_gain: Tensor, log2_inverse: Tensor) -> SideInformation:
    """Only with what coders read."""
    nothing = torch.empty(0)
    return SideInformation(nothing, nothing, log2_gain, log2_inverse)


UNIT = side_of(torch.zeros(1, CHANNELS, 1, 1), torch.zeros(1, CHANNELS, 1, 1))
LOG2_GAIN = noise(1, CHANNELS, 1, 1, seed=1) + 2
SIDE = side_of(LOG2_GAIN, -LOG2_GAIN - 0.05)  # the inverse gain need not be the gain's inverse


def encode(
    network: Network, features: Tensor, y: Tensor, coded: Tensor | None = None, limit: int = 1000
) -> tuple[SymbolEncoder, Tensor]:
    encoder = SymbolEncoder(y, SIDE, torch.ones_like(y) if coded is None else coded, limit)
    return encoder, code_groups(network, features, POINT, encoder, GROUPS)


def decode(network: Network, features: Tensor, symbols: Tensor, kept: int, total: int = GROUPS) -> Tensor:
    return code_groups(network, features, POINT, SymbolDecoder(symbols, SIDE), kept, total)


def test_side_information() -> None:
    network = random_network()
    symbols = noise(1, CONFIG.hyper_channels, 2, 2).mul(9).round()
    side = side_information(network, symbols, POINT, 0.75, (HEIGHT, WIDTH))
    inverse = torch.exp2(network.hyper_gain(POINT)[1])[:, :, None, None]
    torch.testing.assert_close(side.z_hat, symbols * inverse)
    torch.testing.assert_close(side.features, network.features(side.z_hat)[:, :, :HEIGHT, :WIDTH])
    log2_gain, log2_inverse = network.gain(POINT)
    torch.testing.assert_close(side.log2_gain.flatten(), log2_gain[0] - 0.75)  # a larger step, a smaller gain
    torch.testing.assert_close(side.log2_inverse.flatten(), log2_inverse[0] + 0.75)


def test_decoder_gets_the_latent_that_the_encoder_had(network: Network, features: Tensor) -> None:
    y = noise(1, CHANNELS, HEIGHT, WIDTH)
    coded = (noise(1, CHANNELS, HEIGHT, WIDTH, seed=2) > -1).float()
    encoder, y_hat = encode(network, features, y, coded)
    assert torch.equal(encoder.symbols, encoder.symbols.round())
    assert encoder.symbols[coded == 0].abs().max() == 0
    assert encoder.symbols[coded == 1].abs().max() > 3
    assert torch.equal(decode(network, features, encoder.symbols, GROUPS), y_hat)


def test_symbols_are_clamped_to_the_limit(network: Network, features: Tensor) -> None:
    encoder, y_hat = encode(network, features, 1e6 * noise(1, CHANNELS, HEIGHT, WIDTH), limit=100)
    assert encoder.symbols.abs().max() == 100
    assert torch.equal(decode(network, features, encoder.symbols, GROUPS), y_hat)


def test_training_reconstructs_what_the_encoder_does(network: Network, features: Tensor) -> None:
    y = noise(1, CHANNELS, HEIGHT, WIDTH)
    flat = torch.zeros_like(y)
    estimators = [RateEstimator(y, SIDE, flat, flat, noise=noisy) for noisy in (False, True)]
    encoder, expected = encode(network, features, y)
    for estimator in estimators:
        torch.testing.assert_close(
            code_groups(network, features, POINT, estimator, GROUPS), expected, rtol=1e-4, atol=1e-4
        )
        assert estimator.bits.shape == (1,)
    hard = two_piece_gaussian_bits(encoder.symbols, flat, flat).sum()
    torch.testing.assert_close(estimators[0].bits[0], hard, rtol=1e-3, atol=0)
    assert estimators[1].bits[0] != estimators[0].bits[0]


def test_training_counts_every_element_once(network: Network, features: Tensor) -> None:
    # A scale so small that every nonzero symbol costs the bound: the sum is a count of them.
    symbols = (noise(1, CHANNELS, HEIGHT, WIDTH) > 1).float()
    scale = torch.full_like(symbols, -8.0)

    class Fixed(RateEstimator):
        def code(self, part: slice, mu: Tensor, log2_step: Tensor, mask: Tensor | None) -> Tensor:
            self.y[:, part] = mu + symbols[:, part]  # so that v is the symbol whatever the mean
            return super().code(part, mu, torch.zeros_like(mu), mask)

    estimator = Fixed(torch.zeros_like(symbols), UNIT, scale, torch.zeros_like(scale), noise=False)
    code_groups(network, features, POINT, estimator, GROUPS)
    assert estimator.bits.item() == pytest.approx(-math.log2(1e-12) * symbols.sum().item(), rel=1e-4)


def test_training_rate_flows_back_through_the_rounding(network: Network, features: Tensor) -> None:
    y = noise(1, CHANNELS, HEIGHT, WIDTH).requires_grad_()
    estimator = RateEstimator(y, UNIT, torch.zeros_like(y), torch.zeros_like(y))
    y_hat = code_groups(network, features, POINT, estimator, GROUPS)
    torch.autograd.backward(y_hat.square().sum() + estimator.bits.sum())
    assert y.grad is not None
    assert (y.grad != 0).float().mean() > 0.99


@pytest.mark.parametrize("kept", range(GROUPS + 1))
def test_missing_groups_stand_at_the_mean(network: Network, features: Tensor, kept: int) -> None:
    y = noise(1, CHANNELS, HEIGHT, WIDTH)
    encoder, full = encode(network, features, y)
    channels = CONFIG.group_ends[kept - 1] if kept else 0
    y_hat = decode(network, features, encoder.symbols[:, :channels], kept)
    assert y_hat.shape == full.shape
    whole = max((end for end in CONFIG.slice_ends if end <= channels), default=0)
    assert torch.equal(y_hat[:, :whole], full[:, :whole])
    # of a slice with missing channels, the second phase is predicted from the first without them
    even = checkerboard(HEIGHT, WIDTH, torch.device("cpu"))
    assert torch.equal(y_hat[:, whole:channels] * even, full[:, whole:channels] * even)
    # a symbol of 0 says that the value is the mean
    zeros = torch.zeros_like(y)
    zeros[:, :channels] = encoder.symbols[:, :channels]
    assert torch.equal(y_hat, decode(network, features, zeros, GROUPS))
    if kept == GROUPS - 1:  # and by the definition: from a state that knows all groups before
        state = network.context.start(features)
        for number, end in enumerate(CONFIG.slice_ends[:-1]):
            state = network.context.see(state, number, y_hat[:, end - CONFIG.slices[number] : end])
        mean, _ = network.context.predict(len(CONFIG.steps) - 1, state, POINT)
        torch.testing.assert_close(y_hat[:, channels:], mean)


@pytest.mark.parametrize("height", [1, 2, 5])
def test_strips_of_rows_are_the_whole(network: Network, height: int) -> None:
    features, symbols = noise(2, CONFIG.features, 5, 4), noise(2, CHANNELS, 5, 4).mul(3).round()
    whole = decode(network, features, symbols, GROUPS)
    strips = [
        (rows, SymbolDecoder(symbols[:, :, rows], SIDE))
        for rows in (slice(top, min(top + height, 5)) for top in range(0, 5, height))
    ]
    torch.testing.assert_close(code_strips(network, features, POINT, strips, GROUPS), whole)


def test_missing_groups_are_not_asked_for(network: Network, features: Tensor) -> None:
    recorder = Recorder()
    y_hat = code_groups(network, features, POINT, recorder, 2, GROUPS)
    assert [part for part, *_ in recorder.calls] == [slice(0, 8), slice(0, 8)]
    assert y_hat.shape[1] == CHANNELS
    recorder = Recorder()
    assert code_groups(network, features, POINT, recorder, 1, 3).shape[1] == 16
    assert [part for part, *_ in recorder.calls] == [slice(0, 5), slice(0, 5)]
    assert code_groups(network, features, POINT, Recorder(), 3).shape[1] == 16
    assert code_groups(network, features, POINT, Recorder(), 3, 1).shape[1] == 16
    assert code_groups(network, features, POINT, Recorder(), 1).shape[1] == 5


# ----------------------------------------------------------------------------------------- the predicted step


def steps_of(network: Network, features: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """log₂ q of each element as the encoder used it, and its ŷ."""
    log2_steps = torch.zeros_like(y)

    class Noting(SymbolEncoder):
        def code(self, part: slice, mu: Tensor, log2_step: Tensor, mask: Tensor | None) -> Tensor:
            log2_steps[:, part] += log2_step if mask is None else log2_step * mask
            return super().code(part, mu, log2_step, mask)

    inverse = side_of(SIDE.log2_gain, -SIDE.log2_gain)
    coder = Noting(y, inverse, torch.ones_like(y), 1000)
    return log2_steps, code_groups(network, features, POINT, coder, GROUPS)


def test_latent_is_within_half_a_predicted_step(network: Network, features: Tensor) -> None:
    y = noise(1, CHANNELS, HEIGHT, WIDTH)
    log2_steps, y_hat = steps_of(network, features, y)
    assert log2_steps.min() < -0.3
    assert log2_steps.max() > 0.3
    in_steps = (y_hat - y).abs() * torch.exp2(SIDE.log2_gain - log2_steps)
    assert 0.45 < in_steps.max() < 0.501


def test_a_larger_step_makes_smaller_symbols() -> None:
    y = 8 * noise(1, 4, 3, 3)
    zero, part = torch.zeros(1, 4, 1, 1), slice(0, 4)
    for log2_step in (-LOG2_STEP_MAX, 1.0, LOG2_STEP_MAX):
        q = torch.full_like(y, log2_step)
        encoder = SymbolEncoder(y, side_of(zero, zero), torch.ones_like(y), 1000)
        y_hat = encoder.code(part, torch.zeros_like(y), q, None)
        assert torch.equal(encoder.symbols, (y / 2**log2_step).round())
        assert torch.equal(y_hat, encoder.symbols * 2**log2_step)
        decoder = SymbolDecoder(encoder.symbols, side_of(zero, zero))
        assert torch.equal(decoder.code(part, torch.zeros_like(y), q, None), y_hat)


def test_squared_error_of_a_symbol_is_worth_more_where_the_step_is_larger() -> None:
    # 3 bits saved against weight·q²·(2·|v − inner| − 1): with a weight of 6, towards zero below 0.75 at
    # q = 1, below 0.5 + 3/48 at q = 2 and always at q = ½
    costs = torch.tensor([[7.0, 4.0, 1.0, 4.0, 7.0]])
    v = torch.tensor([0.51, 0.56, 0.57, 0.74, 0.76, 1.0]).reshape(1, 1, 1, -1)
    rounding = RateDistortionRounding(
        costs, torch.zeros_like(v, dtype=torch.int64), torch.full((1, 1, 1, 1), 6.0)
    )
    expected = {-1: [0, 0, 0, 0, 0, 0], 0: [0, 0, 0, 0, 1, 1], 1: [0, 0, 1, 1, 1, 1]}
    for log2_step, symbols in expected.items():
        assert rounding(v, slice(0, 1), torch.full_like(v, log2_step)).flatten().tolist() == symbols


# ----------------------------------------------------------------------------------------------- checkerboard


def test_checkerboard() -> None:
    assert checkerboard(2, 3, torch.device("cpu")).tolist() == [[[[1, 0, 1], [0, 1, 0]]]]


def test_phases_touch_disjoint_positions(network: Network, features: Tensor) -> None:
    recorder = Recorder()
    y_hat = code_groups(network, features, POINT, recorder, GROUPS)
    (_, mu_even, even), (_, mu_odd, odd), *others = recorder.calls
    assert even is not None
    assert odd is not None
    assert torch.equal(even * odd, torch.zeros_like(even))
    assert torch.equal(even + odd, torch.ones_like(even))
    assert all(mask is None for *_, mask in others)
    # each position has the answer of its own phase
    answers = [
        mu + torch.randn(mu.shape, generator=torch.Generator().manual_seed(i))
        for i, mu in enumerate((mu_even, mu_odd))
    ]
    assert torch.equal(y_hat[:, :8], answers[0] * even + answers[1] * odd)


def test_second_phase_sees_the_first_and_not_the_other_way_round(network: Network, features: Tensor) -> None:
    even = checkerboard(HEIGHT, WIDTH, torch.device("cpu"))
    symbols = noise(1, 8, HEIGHT, WIDTH).round()
    before = decode(network, features, symbols, 1, 1)
    odd_changed = decode(network, features, symbols + 3 * (1 - even), 1, 1)
    assert torch.equal(odd_changed * even, before * even)
    even_changed = decode(network, features, symbols + 3 * even, 1, 1)
    assert ((even_changed - before) * (1 - even)).abs().max() > 0.01


def test_encoder_keeps_the_symbols_of_each_phase_apart() -> None:
    y, mask = noise(1, 2, 3, 3) * 5, checkerboard(3, 3, torch.device("cpu"))
    encoder = SymbolEncoder(y, UNIT, torch.ones_like(y), 100)
    encoder.code(slice(0, 2), torch.zeros_like(y), torch.zeros_like(y), mask)
    assert torch.equal(encoder.symbols, y.round() * mask)
    encoder.code(slice(0, 2), torch.full_like(y, 2.0), torch.zeros_like(y), 1 - mask)
    assert torch.equal(encoder.symbols, y.round() * mask + (y - 2).round() * (1 - mask))


@pytest.mark.parametrize("phases", [0, 3])
def test_any_number_of_slices_may_have_two_phases(phases: int) -> None:
    network = random_network(replace(CONFIG, checkerboard=phases))
    features = noise(1, CONFIG.features, HEIGHT, WIDTH)
    encoder, y_hat = encode(network, features, noise(1, CHANNELS, HEIGHT, WIDTH))
    assert torch.equal(decode(network, features, encoder.symbols, GROUPS), y_hat)
    recorder = Recorder()
    code_groups(network, features, POINT, recorder, GROUPS)
    assert len(recorder.calls) == len(CONFIG.slices) + phases
    if phases:  # the second phase of the last slice knows the first
        even = checkerboard(HEIGHT, WIDTH, torch.device("cpu"))
        other = encoder.symbols.clone()
        other[:, 16:] += 3 * even
        changed = decode(network, features, other, GROUPS) - y_hat
        assert (changed * (1 - even)).abs().max() > 0.01
