"""Noise by a trusted server: sensitivities measured, noise tested, prices against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from fedprivacy.accounting import Event, epsilon
from fedprivacy.accounting.what_if import gaussian_epsilon
from fedprivacy.config.schema import CentralGaussianConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.central_gaussian import CentralGaussian
from fedprivacy.mechanisms.server import SERVER_SITE, ServerSide
from fedprivacy.training.plain import train_plain
from fedprivacy.training.randomness import Streams

D = 4000


def streams(number: int = 1, randomness: str = "seeded") -> Streams:
    return Streams(7, randomness, number, SERVER_SITE)


def updates(n: int = 3, size: int = D, scale: float = 1.0) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    return [scale * torch.randn(size, generator=draws) for _ in range(n)]


def mechanism(**settings: object) -> CentralGaussian:
    return CentralGaussian.from_conf(CentralGaussianConf(**settings))


def test_noise_on_the_mean_is_normal_with_deviation_z_c_over_n() -> None:
    quiet, zero = mechanism(noise_multiplier=1.5, clip=0.4), [torch.zeros(D)] * 5
    noise = quiet.average(zero, 1.0, 0.4, streams()).mean.numpy()
    assert stats.kstest(noise, "norm", args=(0, 1.5 * 0.4 / 5)).pvalue > 0.01
    assert stats.kstest(noise, "norm", args=(0, 0.5 * 1.5 * 0.4 / 5)).pvalue < 1e-6
    assert stats.kstest(noise, "norm", args=(0, 1.5 * 0.4 / 4)).pvalue < 1e-6


def test_the_strength_scales_the_noise() -> None:
    done = mechanism(noise_multiplier=2.0).average([torch.zeros(D)] * 2, 0.25, 1.0, streams())
    assert stats.kstest(done.mean.numpy(), "norm", args=(0, 0.25)).pvalue > 0.01
    assert done.noise_norm == pytest.approx(0.25 * math.sqrt(D))


def test_one_site_moves_the_mean_by_c_over_n_and_twice_that_if_replaced() -> None:
    clip, sent = 0.7, updates(4, scale=10.0)

    def mean(given: list[torch.Tensor]) -> torch.Tensor:
        return mechanism(noise_multiplier=1.0, clip=clip).average(given, 1.0, clip, streams()).mean

    whole = mean(sent)
    zeroed = mean([torch.zeros(D), *sent[1:]])
    replaced = mean([-sent[0], *sent[1:]])
    assert float((whole - zeroed).norm()) == pytest.approx(clip / 4, rel=1e-9)
    assert float((whole - replaced).norm()) == pytest.approx(2 * clip / 4, rel=1e-9)


def test_small_updates_are_averaged_as_they_are() -> None:
    sent = updates(3, scale=1e-4)
    done = mechanism(noise_multiplier=0.0).average(sent, 1.0, 1.0, streams())
    naive = sum(update.double() for update in sent) / 3
    assert torch.allclose(done.mean, naive, atol=1e-12)


@pytest.mark.parametrize("rounds", [1, 5])
@pytest.mark.parametrize(("relation", "factor"), [("zero_out", 1), ("replace_one", 2)])
def test_the_price_is_the_gaussian_one(make_task, rounds: int, relation: str, factor: int) -> None:
    z = 2.5
    task = make_task()
    trained = train_plain(task)
    said = [
        one
        for one in mechanism(noise_multiplier=z).release(task, trained).statements
        if (one.neighbouring, one.view) == (relation, "aggregate")
    ]
    assert len(said) == 1
    events = [
        Event(r, "a", "central_gaussian", "site", relation, "aggregate", said[0].dp_event, True)
        for r in range(1, rounds + 1)
    ]
    mu = factor * math.sqrt(rounds) / z
    assert epsilon(events, 1e-5, relation) == pytest.approx(gaussian_epsilon(mu, 1e-5), abs=0.01)


@pytest.mark.parametrize("strength", [None, 1.0])
def test_nothing_is_proved_against_the_server_and_kinds_never_change(make_task, strength) -> None:
    task = make_task(strength=strength)
    release = mechanism().release(task, train_plain(task))
    kinds = {(s.unit, s.neighbouring, s.view) for s in release.statements}
    assert kinds == {
        ("site", relation, view)
        for relation in ("zero_out", "replace_one")
        for view in ("aggregate", "server_updates")
    }
    for said in release.statements:
        finite = strength is not None and said.view == "aggregate"
        assert (said.reason == "") is finite


def test_without_noise_nothing_is_proved(make_task) -> None:
    task = make_task()
    release = mechanism(noise_multiplier=0.0).release(task, train_plain(task))
    assert all("no noise" in said.reason for said in release.statements)


def test_an_adaptive_clip_follows_the_naive_rule_and_costs_the_same() -> None:
    z, n = 1.0, 8
    adaptive = mechanism(clipping="adaptive", noise_multiplier=z, clip_quantile=0.5, clip_rate=0.3)
    sent = [update * (index + 1) / update.norm() for index, update in enumerate(updates(n))]
    clip, count_noise = 2.5, 1.5 * z
    done = adaptive.average(sent, 1.0, clip, streams())
    normal = float(streams().numpy("selection").normal())
    # Two norms, 1 and 2, are within 2.5.
    share = (2 - n / 2 + count_noise * normal) / n + 0.5
    assert done.clip == pytest.approx(clip * math.exp(-0.3 * (share - 0.5)))
    own = (z**-2 - (2 * count_noise) ** -2) ** -0.5
    assert done.noise_norm == pytest.approx(own * clip / n * math.sqrt(D))


def test_an_adaptive_clip_finds_the_quantile() -> None:
    adaptive = mechanism(clipping="adaptive", noise_multiplier=0.2, count_noise=0.5)
    sent = [update * 5 / update.norm() for update in updates(60, 50)]
    clip = 0.1
    for number in range(1, 60):
        clip = adaptive.average(sent, 1.0, clip, streams(number)).clip
    assert 4 < clip < 6.5


def test_secret_noise_is_new_each_time_and_seeded_noise_repeats() -> None:
    def once(randomness: str) -> torch.Tensor:
        zero = [torch.zeros(D)] * 2
        return mechanism().average(zero, 1.0, 1.0, streams(1, randomness)).mean

    assert not torch.equal(once("secret"), once("secret"))
    assert torch.equal(once("seeded"), once("seeded"))


def test_rounds_and_sites_do_not_share_the_servers_noise() -> None:
    noises = [
        np.random.default_rng(replace(streams(number), site=site).seed_for("noise")).normal(size=50)
        for number in (1, 2)
        for site in (SERVER_SITE, 0, 1)
    ]
    assert len({tuple(noise) for noise in noises}) == 6


def test_another_number_of_sites_than_declared_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_sites") as caught:
        mechanism(n_sites=4).average(updates(3), 1.0, 1.0, streams())
    assert "n_sites=3" in str(caught.value)
    mechanism(n_sites=3).average(updates(3), 1.0, 1.0, streams())


@pytest.mark.parametrize(
    "bad", [torch.full((3,), math.nan), torch.tensor([math.inf, 0.0]), torch.zeros(0)]
)
def test_the_server_publishes_nothing_where_an_update_is_not_sound(bad: torch.Tensor) -> None:
    with pytest.raises(ProtectionError):
        mechanism().average([bad, torch.zeros_like(bad)], 1.0, 1.0, streams())


@pytest.mark.parametrize(
    "settings",
    [
        {"clip": 0.0},
        {"clip": math.inf},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"n_sites": 0},
        {"clipping": "sometimes"},
        {"clip_quantile": 1.0},
        {"clip_rate": 0.0},
        {"count_noise": 0.0},
        {"clipping": "adaptive", "count_noise": 0.4},
    ],
)
def test_what_is_out_of_range_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        mechanism(**settings)


def test_off_schedule_the_server_averages_by_shares_without_clip_or_noise() -> None:
    server = ServerSide.of(mechanism(clip=1e-6))
    sent, shares = updates(3), [0.5, 0.3, 0.2]
    done = server.average(sent, shares, [None] * 3, None, 1e-6, streams())
    naive = sum(s * u.double() for s, u in zip(shares, sent, strict=True))
    assert torch.allclose(done.mean, naive)
    assert (done.noise_norm, done.clip) == (0.0, 1e-6)
