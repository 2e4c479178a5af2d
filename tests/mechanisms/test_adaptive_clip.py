from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from hypothesis import assume, given
from hypothesis import strategies as st

from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.adaptive_clip import (
    ClipRule,
    default_count_noise,
    gradient_noise,
)


def epsilon(*multipliers: float) -> float:
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for multiplier in multipliers:
        accountant.compose(dp_accounting.GaussianDpEvent(multiplier))
    return accountant.get_epsilon(1e-5)


@given(z=st.floats(0.05, 50), s_b=st.floats(0.05, 500))
def test_gradient_and_count_are_together_exactly_the_gaussian_accounted_for(
    z: float, s_b: float
) -> None:
    assume(2 * s_b > 1.001 * z)
    z_d = gradient_noise(z, s_b)
    assert z_d > z
    # One record moves the gradient by 1 in units of C and the centred count by 1/2.
    moved = math.hypot(1 / z_d, 0.5 / s_b)
    assert 1 / moved == pytest.approx(z, rel=1e-6)


def test_their_joint_epsilon_is_that_of_one_gaussian() -> None:
    z, s_b = 1.1, 1.5
    z_d = gradient_noise(z, s_b)
    assert epsilon(z_d, 2 * s_b) == pytest.approx(epsilon(z), abs=5e-3)
    # Opacus' formula takes the noise of a centred count for a count that moves by 1.
    assert epsilon(z_d, s_b) > epsilon(z) * 1.1


@pytest.mark.parametrize("s_b", [0.3, 0.5])
def test_a_count_that_would_use_up_the_budget_is_refused(s_b: float) -> None:
    with pytest.raises(ConfigError, match=r"algorithm.count_noise.*above half"):
        gradient_noise(1.0, s_b)


@given(z=st.floats(0.01, 100), divisor=st.floats(0.1, 1e5))
def test_the_default_count_leaves_the_gradient_its_budget(z: float, divisor: float) -> None:
    noise = default_count_noise(z, divisor)
    assert noise >= divisor / 20
    assert z < gradient_noise(z, noise) <= 1.0607 * z


def test_no_noise_stays_no_noise() -> None:
    assert gradient_noise(0.0, 1.0) == 0.0


RULE = ClipRule(quantile=0.5, rate=0.2, count_noise=0.0, divisor=100.0)


@pytest.mark.parametrize(
    ("within", "batch", "factor"),
    [
        (50, 100, 1.0),  # half of them within: right where it is
        (100, 100, math.exp(-0.1)),  # all within: 0.2 * (1 - 0.5) down
        (0, 100, math.exp(0.1)),
        (0, 0, 1.0),  # an empty batch tells nothing
        (60, 60, math.exp(-0.06)),  # divided by the declared 100, not by the 60 that came
    ],
)
def test_the_clip_norm_follows_the_centred_count(within: int, batch: int, factor: float) -> None:
    assert RULE.next_clip(3.0, within, batch, 0.7) == pytest.approx(3.0 * factor)


def test_the_count_is_noised() -> None:
    rule = ClipRule(0.5, 0.2, count_noise=5.0, divisor=100.0)
    assert rule.next_clip(1.0, 50, 100, 2.0) == pytest.approx(math.exp(-0.2 * 0.1))


@pytest.mark.parametrize("normal", [-1e30, 1e30])
def test_the_clip_norm_stays_a_positive_number(normal: float) -> None:
    rule = ClipRule(0.5, 10.0, count_noise=5.0, divisor=100.0)
    clip = 1.0
    for _ in range(5):
        clip = rule.next_clip(clip, 50, 100, normal)
    assert 0 < clip < math.inf


@given(
    clip=st.floats(1e-8, 1e8),
    batch=st.integers(0, 10_000),
    share=st.floats(0, 1),
    normal=st.floats(-1e6, 1e6),
    rate=st.floats(0.0, 10.0),
)
def test_on_a_device_it_moves_as_it_does_here(
    clip: float, batch: int, share: float, normal: float, rate: float
) -> None:
    rule, within = ClipRule(0.4, rate, count_noise=5.0, divisor=100.0), round(share * batch)
    numbers = [torch.tensor(one, dtype=torch.float64) for one in (clip, within, normal)]
    found = rule.next_clip_there(numbers[0], numbers[1], batch, numbers[2])
    assert (found.dtype, found.shape) == (torch.float64, ())
    assert float(found) == pytest.approx(rule.next_clip(clip, within, batch, normal), rel=1e-12)


@pytest.mark.parametrize(
    ("clip", "within", "normal", "rate"),
    [
        (1.0, math.nan, 0.0, 0.2),
        (1.0, 5.0, math.inf, 0.2),
        (1.0, 5.0, -math.inf, 0.2),
        (math.nan, 5.0, 0.0, 0.2),
        (math.inf, 5.0, 0.0, 0.2),
        (0.0, 5.0, 0.0, 0.2),
        (-1.0, 5.0, 0.0, 0.2),
        (1.0, 5.0, 0.0, math.inf),
        (1.0, 5.0, 0.0, math.nan),
    ],
)
def test_what_is_refused_here_is_no_number_on_a_device(
    clip: float, within: float, normal: float, rate: float
) -> None:
    """Weights with such noise are no numbers either, and an update of them is refused."""
    rule = ClipRule(0.4, rate, count_noise=5.0, divisor=100.0)
    with pytest.raises(ProtectionError, match="cannot be moved"):
        rule.next_clip(clip, within, 10, normal)
    numbers = [torch.tensor(one, dtype=torch.float64) for one in (clip, within, normal)]
    assert rule.next_clip_there(numbers[0], numbers[1], 10, numbers[2]).isnan()


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
def test_it_finds_the_quantile(quantile: float) -> None:
    draws = np.random.default_rng(0)
    rule = ClipRule(quantile, 0.2, count_noise=5.0, divisor=100.0)
    clip, late = 0.01, []
    for step in range(400):
        norms = draws.lognormal(0.0, 1.0, draws.binomial(1000, 0.1))
        clip = rule.next_clip(clip, float((norms <= clip).sum()), len(norms), draws.normal())
        if step >= 200:
            late.append(clip)
    truth = float(np.quantile(np.random.default_rng(1).lognormal(0.0, 1.0, 200_000), quantile))
    assert np.median(late) == pytest.approx(truth, rel=0.1)
