from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from fedprivacy.accounting import Event, epsilon, epsilon_of_rounds
from fedprivacy.config.schema import SvtFlare28Conf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.base import Release
from fedprivacy.mechanisms.selection import MAX_PASSES
from fedprivacy.mechanisms.svt_flare28 import (
    SvtFlare28Filter,
    flare28_filter,
    flare28_price,
    flare28_scales,
)
from fedprivacy.training.task import Trained


class Recording:
    """A real generator that keeps its Laplace draws."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.draws = rng, []

    def laplace(self, loc: float, scale: float, size: int) -> NDArray[np.float64]:
        self.draws.append(self.rng.laplace(loc, scale, size))
        return self.draws[-1]

    def choice(self, a: NDArray[np.int64], size: int, replace: bool) -> NDArray[np.int64]:
        return self.rng.choice(a, size=size, replace=replace)


class Silent(Recording):
    """Every noise draw is zero; the drawing of coordinates is real."""

    def __init__(self) -> None:
        super().__init__(np.random.default_rng(0))

    def laplace(self, loc: float, scale: float, size: int) -> NDArray[np.float64]:
        return np.full(size, loc)


def bell(d: int, scale: float = 1e-4, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, scale, d)


def events(releases: list[Release]) -> list[Event]:
    return [
        Event(
            round=number,
            site="A",
            mechanism="svt_flare28",
            unit=release.unit,
            neighbouring=release.neighbouring,
            view="server_updates",
            dp_event=release.dp_event,
            protected=True,
        )
        for number, release in enumerate(releases, 1)
    ]


def test_scales_are_those_of_the_page() -> None:
    scales = flare28_scales(SvtFlare28Conf(), 100_000)
    # c = 10,000; (2c)^(2/3) = 736.806; eps_t = 0.1 / 737.806 = 1.35537e-4.
    assert scales.count == 10_000
    assert scales.threshold == pytest.approx(1e-5 / 1.355370e-4, rel=1e-6)
    assert scales.query == pytest.approx(2 * 10_000 * 1e-5 / (0.1 - 1.355370e-4), rel=1e-6)
    # eps_rel = 10,000 * 0.1 = 1,000; b = 2 * 10,000 * 1e-5 / 1,000.
    assert scales.release == pytest.approx(2e-4, rel=1e-12)


def test_worked_price_of_one_round() -> None:
    price = flare28_price(SvtFlare28Conf(), 100_000)
    assert price.selection == 0.1
    assert price.per_coordinate == pytest.approx(0.1, rel=1e-12)
    assert price.pure == pytest.approx(1000.1, abs=1e-6)


def test_parts_of_the_budget_can_be_given() -> None:
    conf = SvtFlare28Conf(fraction=0.5, gamma=1.0, epsilon_threshold=0.025, epsilon_release=3.0)
    scales = flare28_scales(conf, 8)
    assert scales.threshold == pytest.approx(40.0)
    assert scales.query == pytest.approx(2 * 4 / 0.075)
    assert scales.release == pytest.approx(2 * 4 / 3)
    price = flare28_price(conf, 8)
    assert (price.selection, price.pure) == (0.1, pytest.approx(3.1))


def test_what_leaves_is_clipped_before_the_noise() -> None:
    update = np.array([1.0, -1.0, 1e-6, -1e-6])
    conf = SvtFlare28Conf(fraction=1.0, replace=False, gamma=1e-3)
    filtered = flare28_filter(update, conf, steps=10, tau=0.0, rng=Silent())
    assert np.allclose(filtered, [1e-2, -1e-2, 1e-6, -1e-6], rtol=1e-12)
    noisy = flare28_filter(np.full(4000, 1.0), conf, 10, 0.0, np.random.default_rng(0))
    # Noise is added after the clip, and nothing is cut afterwards.
    assert np.abs(noisy).max() > 10 * 1e-3
    assert float(np.mean(noisy)) == pytest.approx(1e-2, abs=5 * 10 * 0.02 * 2**0.5 / 4000**0.5)


def test_noise_draws_have_the_laws_of_the_page() -> None:
    conf = SvtFlare28Conf(fraction=0.3, epsilon=0.7, noise_var=0.2, gamma=1e-3, replace=False)
    c = 600
    eps_t = 0.7 / (1 + (2 * c) ** (2 / 3))
    rng = np.random.default_rng(0)
    recordings = [Recording(rng) for _ in range(1000)]
    for recording in recordings:
        flare28_filter(bell(2000), conf, 4, 1e-4, recording)
    for draws, scale in (
        ([r.draws[0] for r in recordings], 1e-3 / eps_t),
        ([r.draws[1] for r in recordings[:10]], 2 * c * 1e-3 / (0.7 - eps_t)),
        ([r.draws[-1] for r in recordings[:30]], 2 * 1e-3 / 0.2),
    ):
        assert stats.kstest(np.concatenate(draws), stats.laplace(scale=scale).cdf).pvalue > 0.01
    assert recordings[0].draws[-1].size == c


def test_released_values_carry_laplace_noise_times_steps() -> None:
    conf = SvtFlare28Conf(fraction=1.0, noise_var=2.0, gamma=1.0, replace=False)
    update = bell(5000, scale=0.1)
    noise = flare28_filter(update, conf, 3, 0.0, np.random.default_rng(5)) - update
    assert stats.kstest(noise, stats.laplace(scale=3 * 2 * 1.0 / 2.0).cdf).pvalue > 0.01


@pytest.mark.parametrize("with_replacement", [True, False])
def test_replacement_zeroes_a_share_of_one_over_e(with_replacement: bool) -> None:
    conf = SvtFlare28Conf(fraction=1.0, replace=with_replacement)
    filtered = flare28_filter(bell(20_000), conf, 3, 1e-6, np.random.default_rng(1))
    expected = 1 - 1 / math.e if with_replacement else 1.0
    assert np.count_nonzero(filtered) / 20_000 == pytest.approx(expected, abs=0.01)


def test_defaults_destroy_the_direction_and_swamp_the_norm() -> None:
    cosines, norms = [], []
    for seed in range(5):
        update = bell(100_000, seed=seed)
        filtered = flare28_filter(update, SvtFlare28Conf(), 20, 1e-6, np.random.default_rng(seed))
        norms.append(float(np.linalg.norm(filtered)))
        cosines.append(update @ filtered / np.linalg.norm(update) / norms[-1])
    assert 0.0 < float(np.mean(cosines)) < 0.08
    # About c(1 - c/2d) distinct coordinates, each with noise of variance 2 (20 b)^2.
    distinct = 200_000 * (1 - math.exp(-0.05)) * 1.0
    assert np.mean(norms) == pytest.approx(20 * 2e-4 * math.sqrt(2 * distinct), rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_noise_norm_is_the_expected_norm(make_task, seed: int) -> None:
    conf = SvtFlare28Conf(fraction=0.5, noise_var=0.5, gamma=1e-3)
    update = torch.full((20_000,), 1e-12)
    protected = SvtFlare28Filter(conf).protect(update, make_task(seed=seed), Trained(6, 0.0))
    assert protected.noise_norm == pytest.approx(float(protected.update.norm()), rel=0.05)


def test_an_all_zero_update_gets_its_noise() -> None:
    conf = SvtFlare28Conf(fraction=1.0, replace=False, gamma=1e-3, noise_var=0.1)
    filtered = flare28_filter(np.zeros(4000), conf, 2, 1e-6, np.random.default_rng(0))
    assert stats.kstest(filtered, stats.laplace(scale=2 * 2e-2).cdf).pvalue > 0.01


def test_strength_scales_the_threshold_and_leaves_the_price(make_task) -> None:
    mechanism = SvtFlare28Filter(SvtFlare28Conf(tau=4e-6))
    full = mechanism.release(make_task(strength=1.0), Trained(5, 0.0))
    half = mechanism.release(make_task(strength=0.5), Trained(5, 0.0))
    assert half.details["tau"] == 2e-6
    assert full.dp_event == half.dp_event
    changed = {key for key in full.details if full.details[key] != half.details[key]}
    assert changed == {"tau", "strength"}
    assert "public" in str(full.details["assumed"])


def test_the_strength_reaches_the_comparison(make_task) -> None:
    mechanism = SvtFlare28Filter(SvtFlare28Conf(tau=1.0, epsilon=600.0))
    update = torch.from_numpy(bell(400)).float()
    with pytest.raises(ProtectionError, match="nothing was sent"):
        mechanism.protect(update, make_task(strength=1.0), Trained(1, 0.0))
    mechanism.protect(update, make_task(strength=1e-9), Trained(1, 0.0))


@pytest.mark.parametrize("rounds", [1, 4])
@pytest.mark.parametrize("with_replacement", [True, False])
def test_price_of_several_rounds_agrees_with_renyi_sums(
    make_task, rounds: int, with_replacement: bool
) -> None:
    mechanism = SvtFlare28Filter(SvtFlare28Conf(replace=with_replacement))
    releases = [mechanism.release(make_task(), Trained(5, 0.0)) for _ in range(rounds)]
    assert (releases[0].unit, releases[0].neighbouring) == ("site", "replace_one")
    assert releases[0].reason == ""
    found = epsilon(events(releases), 1e-5, "replace_one")
    # d = 43, c = 5: pure 0.1 + 0.5 a round.
    assert releases[0].details["eps_pure"] == pytest.approx(0.6)
    price = flare28_price(SvtFlare28Conf(), 43)
    renyi = epsilon_of_rounds([price] * rounds, 1e-5)
    assert 0.9 * renyi <= found <= min(renyi, 0.6 * rounds) + 1e-2


def test_too_high_a_threshold_ends_with_a_refusal() -> None:
    start = time.perf_counter()
    with pytest.raises(ProtectionError, match=f"in {MAX_PASSES} passes"):
        flare28_filter(bell(2000), SvtFlare28Conf(epsilon=700.0), 1, 50.0, np.random.default_rng(0))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_updates_are_refused_at_once(bad: float) -> None:
    start = time.perf_counter()
    with pytest.raises(ProtectionError, match="not finite"):
        flare28_filter(np.array([1.0, bad]), SvtFlare28Conf(), 1, 1e-6, np.random.default_rng(0))
    assert time.perf_counter() - start < 1


def test_empty_updates_no_steps_and_unusable_thresholds_are_refused() -> None:
    rng = np.random.default_rng(0)
    for update, steps, tau in (
        (np.zeros(0), 1, 1e-6),
        (np.zeros((2, 2)), 1, 1e-6),
        (np.ones(3), 0, 1e-6),
        (np.ones(3), 1, math.nan),
    ):
        with pytest.raises(ProtectionError, match="nothing was sent"):
            flare28_filter(update, SvtFlare28Conf(), steps, tau, rng)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gamma", 0.0),
        ("gamma", math.nan),
        ("epsilon", 0.0),
        ("epsilon", 701.0),
        ("noise_var", -1.0),
        ("fraction", 0.0),
        ("tau", math.inf),
        ("epsilon_threshold", 0.0),
        ("epsilon_threshold", 0.1),
        ("epsilon_threshold", math.nan),
        ("epsilon_release", 0.0),
        ("epsilon_release", math.inf),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: float) -> None:
    conf = replace(SvtFlare28Conf(), **{key: value})
    with pytest.raises(ConfigError, match=f"algorithm.{key}"):
        SvtFlare28Filter.from_conf(conf)
    with pytest.raises(ConfigError):
        flare28_filter(np.ones(3), conf, 1, 1e-6, np.random.default_rng(0))
