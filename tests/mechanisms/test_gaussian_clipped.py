from __future__ import annotations

import math
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution as plds
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from fedprivacy.accounting import Event, epsilon, gaussian_delta
from fedprivacy.config.schema import GaussianClippedConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.base import Release
from fedprivacy.mechanisms.gaussian_clipped import (
    ClippedGaussian,
    add_noise,
    clip_norm,
    expected_norm,
)
from fedprivacy.mechanisms.site_clip import SiteClipRule
from fedprivacy.training.task import Trained

TRAINED = Trained(4, 0.0)


def unit_vector(d: int, norm: float = 1.0, seed: int = 1) -> NDArray[np.float64]:
    draws = np.random.default_rng(seed).standard_normal(d)
    return norm * draws / np.linalg.norm(draws)


def spent(releases: list[Release], delta: float = 1e-5) -> float:
    events = [
        Event(
            round=number,
            site="A",
            mechanism="gaussian_clipped",
            unit=release.unit,
            neighbouring=release.neighbouring,
            view="server_updates",
            dp_event=release.dp_event,
            protected=True,
        )
        for number, release in enumerate(releases, 1)
    ]
    return epsilon(events, delta, "replace_one")


def gaussian_epsilon(mu: float, delta: float = 1e-5) -> float:
    return float(brentq(lambda x: float(gaussian_delta(x, mu)) - delta, 0, 500))


@pytest.mark.parametrize(("noise", "order"), [("gaussian", 2), ("laplace", 1)])
def test_clipping_bounds_the_norm_and_keeps_the_direction(noise: str, order: int) -> None:
    long, short = unit_vector(50, 30.0), unit_vector(50, 1e-3)
    clipped = clip_norm(long, 2.0, noise)
    assert np.linalg.norm(clipped, order) == pytest.approx(2.0, rel=1e-12)
    assert np.allclose(clipped / np.linalg.norm(clipped), long / np.linalg.norm(long), rtol=1e-12)
    assert np.array_equal(clip_norm(short, 2.0, noise), short)
    assert not clip_norm(np.zeros(3), 2.0, noise).any()


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_two_sites_differ_by_twice_the_clip_at_most(noise: str) -> None:
    order = 2 if noise == "gaussian" else 1
    rng = np.random.default_rng(2)
    worst = 0.0
    for scale in (0.01, 1.0, 100.0):
        one, other = rng.standard_t(2, (2, 200)) * scale
        apart = clip_norm(one, 0.7, noise) - clip_norm(other, 0.7, noise)
        worst = max(worst, float(np.linalg.norm(apart, order)))
    opposite = clip_norm(one, 0.7, noise) - clip_norm(-one, 0.7, noise)
    assert worst <= 1.4 * (1 + 1e-12)
    assert np.linalg.norm(opposite, order) == pytest.approx(1.4)


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_noise_has_the_law_and_scale_it_states(make_task, noise: str) -> None:
    mechanism = ClippedGaussian(clip=0.5, noise_multiplier=0.8, noise=noise)
    update = torch.from_numpy(unit_vector(20_000, 40.0)).float()
    protected = mechanism.protect(update, make_task(strength=0.5), TRAINED)
    clipped = clip_norm(update.double().numpy(), 0.5, noise)
    draws = protected.update.double().numpy() - clipped
    law = stats.norm if noise == "gaussian" else stats.laplace
    assert stats.kstest(draws, law(scale=0.8 * 0.5 * 0.5).cdf).pvalue > 0.01
    assert protected.noise_norm == pytest.approx(float(np.linalg.norm(draws)), rel=0.02)


def test_cosine_and_norm_are_those_of_a_clipped_signal_in_noise(make_task) -> None:
    # E|noise|^2 = d z^2 C^2, so cos = 1 / sqrt(1 + d z^2) and the norm is C sqrt(1 + d z^2).
    d, z, clip = 40_000, 0.01, 0.5
    update = torch.from_numpy(unit_vector(d, 3.0)).float()
    sent = ClippedGaussian(clip, z).protect(update, make_task(), TRAINED).update
    cosine = float(torch.nn.functional.cosine_similarity(sent, update, dim=0))
    expected = 1 / math.sqrt(1 + d * z**2)
    assert cosine == pytest.approx(expected, abs=0.02)
    assert float(sent.norm()) == pytest.approx(clip / expected, rel=0.02)


def test_an_all_zero_update_gets_its_noise(make_task) -> None:
    sent = ClippedGaussian(0.5, 2.0).protect(torch.zeros(5000), make_task(), TRAINED).update
    assert stats.kstest(sent.double().numpy(), stats.norm(scale=1.0).cdf).pvalue > 0.01


def test_huge_updates_are_clipped_too(make_task) -> None:
    update = torch.full((100,), 3e38)
    sent = ClippedGaussian(1.0, 1e-6).protect(update, make_task(), TRAINED).update
    assert float(sent.norm()) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(("z", "rounds"), [(1.0, 1), (1.0, 3), (4.0, 10), (20.0, 7)])
def test_price_of_rounds_is_the_closed_form(make_task, z: float, rounds: int) -> None:
    mechanism = ClippedGaussian(0.3, z)
    releases = [mechanism.release(make_task(), TRAINED) for _ in range(rounds)]
    assert (releases[0].unit, releases[0].neighbouring) == ("site", "replace_one")
    assert releases[0].dp_event == dp_accounting.GaussianDpEvent(z)
    exact = gaussian_epsilon(2 * math.sqrt(rounds) / z)
    assert exact <= spent(releases) <= exact + 0.01


def test_decay_is_priced_round_by_round(make_task) -> None:
    mechanism = ClippedGaussian(1.0, 4.0)
    strengths = [0.5**k for k in range(3)]
    releases = [mechanism.release(make_task(strength=s), TRAINED) for s in strengths]
    mu = math.sqrt(sum((2 / (4.0 * s)) ** 2 for s in strengths))
    assert spent(releases) == pytest.approx(gaussian_epsilon(mu), abs=0.01)


@pytest.mark.parametrize(("z", "rounds"), [(0.5, 1), (2.0, 4)])
def test_laplace_rounds_stay_below_their_pure_sum_and_above_the_exact_loss(
    make_task, z: float, rounds: int
) -> None:
    mechanism = ClippedGaussian(0.3, z, "laplace")
    releases = [mechanism.release(make_task(), TRAINED) for _ in range(rounds)]
    assert releases[0].dp_event == dp_accounting.LaplaceDpEvent(z)
    assert spent(releases, 1e-9) <= 2 / z * rounds + 1e-2
    # A loss of 2/z in every round has the chance 2^-rounds: delta must exceed it to save anything.
    assert spent(releases, 1e-9) == pytest.approx(2 / z * rounds, abs=0.02)


@pytest.mark.parametrize("shifts", [(1.0, 1.0), (1.5, 0.5), (0.5, 0.5, 0.5, 0.5)])
def test_moving_one_coordinate_is_the_worst_for_laplace_noise(shifts: tuple[float, ...]) -> None:
    grid = {"value_discretization_interval": 1e-4}
    single = plds.from_laplace_mechanism(1 / sum(shifts), **grid)
    spread = plds.identity(**grid)
    for shift in shifts:
        spread = spread.compose(plds.from_laplace_mechanism(1 / shift, **grid))
    for at in np.linspace(0, sum(shifts), 21):
        one, many = (d.get_delta_for_epsilon(float(at)) for d in (single, spread))
        assert many <= one + 1e-3


def test_without_noise_nothing_is_proved(make_task) -> None:
    mechanism = ClippedGaussian(1.0, 0.0)
    release = mechanism.release(make_task(), TRAINED)
    assert release.dp_event == dp_accounting.NonPrivateDpEvent()
    assert "clipping alone" in release.reason
    sent = mechanism.protect(torch.full((4,), 2.0), make_task(), TRAINED).update
    assert torch.allclose(sent, torch.full((4,), 0.5))


@pytest.mark.parametrize(
    ("conf", "key"),
    [
        (GaussianClippedConf(clip=0.0), "clip"),
        (GaussianClippedConf(clip=math.nan), "clip"),
        (GaussianClippedConf(clip=math.inf), "clip"),
        (GaussianClippedConf(noise_multiplier=-1.0), "noise_multiplier"),
        (GaussianClippedConf(noise_multiplier=math.nan), "noise_multiplier"),
        (GaussianClippedConf(noise="uniform"), "noise"),
    ],
)
def test_values_out_of_range_are_refused(conf: GaussianClippedConf, key: str) -> None:
    with pytest.raises(ConfigError, match=f"algorithm.{key}="):
        ClippedGaussian.from_conf(conf)


def test_noise_that_overflows_is_refused(make_task) -> None:
    with pytest.raises(ProtectionError, match="nothing was sent"), np.errstate(over="ignore"):
        ClippedGaussian(1e38, 1e3).protect(torch.ones(50), make_task(), TRAINED)


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_expected_norm(noise: str) -> None:
    draws = add_noise(np.zeros(200_000), 3.0, noise, np.random.default_rng(0))
    assert expected_norm(200_000, 3.0, noise) == pytest.approx(np.linalg.norm(draws), rel=0.01)


# ------------------------------------------------------ the clip norm that follows a quantile


def test_update_and_indicator_together_cost_the_noise_multiplier(make_task) -> None:
    rule, template = SiteClipRule(indicator_noise=2.5), ClippedGaussian(1.0, 3.0)
    release = template.release(make_task(), TRAINED)
    adaptive = replace(release, dp_event=rule.dp_event(3.0))
    assert rule.update_noise(3.0) > 3.0
    assert spent([adaptive] * 5) == pytest.approx(spent([release] * 5), abs=1e-6)


def test_an_indicator_that_costs_too_much_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"indicator_noise=1\.0"):
        SiteClipRule(indicator_noise=1.0).update_noise(2.0)
    with pytest.raises(ConfigError, match="above half"):
        SiteClipRule().update_noise(0.0)


def test_indicator_is_centred_and_noisy() -> None:
    rule, rng = SiteClipRule(indicator_noise=2.0), np.random.default_rng(3)
    for norm, mean in ((0.9, 0.5), (1.0, 0.5), (1.1, -0.5)):
        draws = [rule.indicator(norm, 1.0, rng) for _ in range(4000)]
        assert stats.kstest(draws, stats.norm(mean, 2.0).cdf).pvalue > 0.01


def test_clip_norm_moves_by_the_published_rule() -> None:
    rule = SiteClipRule(quantile=0.5, rate=0.2)
    # Three of four sites within: share 0.75, log C falls by 0.2 * 0.25.
    assert rule.next_clip(2.0, [0.5, 0.5, 0.5, -0.5]) == pytest.approx(2.0 * math.exp(-0.05))
    assert rule.next_clip(2.0, [-0.5, -0.5]) == pytest.approx(2.0 * math.exp(0.1))
    assert rule.next_clip(2.0, [0.5, -0.5]) == 2.0


@pytest.mark.parametrize(("sites", "steers"), [(300, True), (3, False)])
def test_many_sites_can_steer_the_clip_norm_and_a_few_cannot(sites: int, steers: bool) -> None:
    rule, rng = SiteClipRule(), np.random.default_rng(4)
    norms = rng.lognormal(0, 0.3, sites)
    misses = []
    for _ in range(20):
        clip = 4.0
        for _ in range(40):
            clip = rule.next_clip(clip, [rule.indicator(norm, clip, rng) for norm in norms])
        misses.append(abs(math.log(clip / float(np.median(norms)))))
    assert (float(np.mean(misses)) < 0.3) == steers
