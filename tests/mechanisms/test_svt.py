from __future__ import annotations

import math
import time
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from fedprivacy.config.schema import SvtConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.selection import MAX_PASSES
from fedprivacy.mechanisms.svt import (
    SvtFilter,
    release_noise_norm,
    svt_filter,
    svt_scales,
)
from fedprivacy.training.task import Trained


class Silent:
    """Every noise draw is zero; the drawing of coordinates is real."""

    def laplace(self, loc: float, scale: float, size: int) -> NDArray[np.float64]:
        return np.full(size, loc)

    def choice(self, a: NDArray[np.int64], size: int, replace: bool) -> NDArray[np.int64]:
        return np.random.default_rng(0).choice(a, size=size, replace=replace)


class Recording:
    """A real generator that keeps its Laplace draws."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.draws = rng, []

    def laplace(self, loc: float, scale: float, size: int) -> NDArray[np.float64]:
        self.draws.append(self.rng.laplace(loc, scale, size))
        return self.draws[-1]

    def choice(self, a: NDArray[np.int64], size: int, replace: bool) -> NDArray[np.int64]:
        return self.rng.choice(a, size=size, replace=replace)


def bell(d: int, scale: float = 1e-3, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, scale, d).astype(np.float32).astype(np.float64)


def test_without_noise_fraction_one_and_a_huge_clip_the_update_is_unchanged() -> None:
    update = bell(500)
    conf = SvtConf(fraction=1.0, replace=False, gamma=1e6)
    tau = float(np.abs(update).min()) / 8
    filtered = svt_filter(update, conf, steps=7, tau=tau, rng=Silent())
    assert np.array_equal(filtered.astype(np.float32), update.astype(np.float32))


def test_without_noise_only_coordinates_above_the_threshold_pass() -> None:
    update = bell(400)
    steps, tau = 5, 1e-4
    above = np.abs(update / steps) >= tau
    conf = SvtConf(fraction=above.sum() / 400, replace=False, gamma=1.0)
    filtered = svt_filter(update, conf, steps, tau, Silent())
    assert np.array_equal(filtered != 0, above)
    assert np.allclose(filtered[above], update[above], rtol=1e-12)


def test_what_leaves_is_clipped_per_local_step() -> None:
    update = np.array([1.0, -1.0, 1e-6, -1e-6])
    conf = SvtConf(fraction=1.0, replace=False, gamma=1e-3)
    filtered = svt_filter(update, conf, steps=10, tau=0.0, rng=Silent())
    assert np.allclose(filtered, [1e-2, -1e-2, 1e-6, -1e-6], rtol=1e-12)


def test_scales_and_price_of_the_selection() -> None:
    scales = svt_scales(SvtConf(), 100_000)
    assert scales.count == 10_000
    assert scales.threshold == pytest.approx(2e-5 / 0.1)
    assert scales.query == pytest.approx(2e-4 * 20_000 ** (1 / 3))
    assert scales.release == pytest.approx(2e-4)
    # gamma / lam_rho + 2 c gamma / lam_nu, and the worked value of one round after a pre-clip.
    assert scales.epsilon_selection == pytest.approx(
        1e-5 / scales.threshold + 2 * scales.count * 1e-5 / scales.query
    )
    assert scales.epsilon_selection + scales.count * 0.1 == pytest.approx(1036.9, abs=0.05)


@pytest.mark.parametrize(
    ("fraction", "d", "count"), [(1.0, 7, 7), (1e-9, 7, 1), (0.5, 7, 4), (0.1, 30, 3), (1.0, 1, 1)]
)
def test_number_of_uploaded_coordinates(fraction: float, d: int, count: int) -> None:
    assert svt_scales(SvtConf(fraction=fraction), d).count == count


def test_noise_draws_have_the_laws_of_the_page() -> None:
    conf = SvtConf(fraction=0.3, epsilon=0.7, noise_var=0.2, gamma=1e-3, replace=False)
    lam_rho = 2 * 1e-3 / 0.7
    lam_nu = lam_rho * (2 * 600) ** (1 / 3)
    b = 2 * 1e-3 / 0.2
    rng = np.random.default_rng(0)
    recordings = [Recording(rng) for _ in range(1000)]
    for recording in recordings:
        svt_filter(bell(2000), conf, 4, 1e-4, recording)
    threshold = np.concatenate([r.draws[0] for r in recordings])
    assert stats.kstest(threshold, stats.laplace(scale=lam_rho).cdf).pvalue > 0.01
    first_pass = np.concatenate([r.draws[1] for r in recordings[:10]])
    assert first_pass.size == 20_000
    assert stats.kstest(first_pass, stats.laplace(scale=lam_nu).cdf).pvalue > 0.01
    release = np.concatenate([r.draws[-1] for r in recordings[:30]])
    assert release.size == 30 * 600
    assert stats.kstest(release, stats.laplace(scale=b).cdf).pvalue > 0.01


def test_released_values_carry_laplace_noise_before_the_clip() -> None:
    # gamma = 10 b: the clip is out of the way in all but exp(-10) of the draws.
    conf = SvtConf(fraction=1.0, noise_var=20.0, gamma=1.0, replace=False)
    update = bell(5000, scale=0.1)
    filtered = svt_filter(update, conf, 2, 0.0, np.random.default_rng(5))
    noise = (filtered - update) / 2
    assert stats.kstest(noise, stats.laplace(scale=0.1).cdf).pvalue > 0.01


def test_a_coordinate_far_above_the_clip_keeps_its_own_value_against_the_noise() -> None:
    # u is never clipped before the noise: at 100 gamma the noise (b = 20 gamma) hardly matters.
    conf = SvtConf(fraction=1.0, replace=False, gamma=1e-5)
    filtered = svt_filter(np.full(4000, 100e-5), conf, 1, 0.0, np.random.default_rng(0))
    assert np.mean(filtered == 1e-5) > 0.99


@pytest.mark.parametrize("with_replacement", [True, False])
def test_replacement_zeroes_a_share_of_one_over_e(with_replacement: bool) -> None:
    conf = SvtConf(fraction=1.0, replace=with_replacement)
    filtered = svt_filter(bell(20_000), conf, 3, 1e-6, np.random.default_rng(1))
    share = np.count_nonzero(filtered) / 20_000
    expected = 1 - 1 / math.e if with_replacement else 1.0
    assert share == pytest.approx(expected, abs=0.01)


def test_fraction_without_replacement_uploads_exactly_that_many() -> None:
    filtered = svt_filter(bell(999), SvtConf(replace=False), 3, 1e-6, np.random.default_rng(1))
    assert np.count_nonzero(filtered) == 100


def test_with_little_comparison_noise_the_largest_are_selected() -> None:
    update = bell(1000)
    largest = np.argsort(np.abs(update))[-50:]
    tau = float(np.abs(update)[largest].min())
    conf = SvtConf(fraction=0.05, epsilon=1e9, gamma=1.0, replace=False, noise_var=1e9)
    filtered = svt_filter(update, conf, 1, tau * (1 - 1e-6), np.random.default_rng(2))
    assert set(np.flatnonzero(filtered)) == set(largest)


def test_defaults_destroy_the_direction_of_the_update() -> None:
    cosines = []
    for seed in range(5):
        update = bell(100_000, scale=1e-4, seed=seed)
        filtered = svt_filter(update, SvtConf(), 20, 1e-6, np.random.default_rng(seed))
        cosines.append(update @ filtered / np.linalg.norm(update) / np.linalg.norm(filtered))
    assert 0.0 < float(np.mean(cosines)) < 0.08


@pytest.mark.parametrize("seed", range(3))
def test_noise_norm_is_the_expected_norm_at_small_updates(make_task, seed: int) -> None:
    conf = SvtConf(fraction=0.5, replace=False, noise_var=0.5, gamma=1e-3)
    update = torch.full((20_000,), 1e-12)
    task = make_task(seed=seed)
    protected = SvtFilter(conf).protect(update, task, Trained(6, 0.0))
    assert protected.noise_norm == pytest.approx(float(protected.update.norm()), rel=0.02)


def test_noise_norm_stays_exact_for_a_tiny_clip() -> None:
    # Then every noise value is cut at gamma.
    assert release_noise_norm(100, 1e-9, 1.0, 3) == pytest.approx(3e-8, rel=1e-6)


def test_decreasing_threshold_scales_tau_only(make_task) -> None:
    mechanism = SvtFilter(SvtConf(tau=4e-6))
    full = mechanism.release(make_task(strength=1.0), Trained(5, 0.0))
    half = mechanism.release(make_task(strength=0.5), Trained(5, 0.0))
    assert half.details["tau"] == 2e-6
    changed = {key for key in full.details if full.details[key] != half.details[key]}
    assert changed == {"tau", "strength"}


def test_the_strength_reaches_the_comparison(make_task) -> None:
    mechanism = SvtFilter(SvtConf(tau=1.0, epsilon=1e6))
    update = torch.from_numpy(bell(400)).float()
    with pytest.raises(ProtectionError, match="threshold 1 "):
        mechanism.protect(update, make_task(strength=1.0), Trained(1, 0.0))
    mechanism.protect(update, make_task(strength=1e-9), Trained(1, 0.0))


def test_release_proves_nothing_and_says_why(make_task) -> None:
    task = make_task()
    release = SvtFilter(SvtConf()).release(task, Trained(5, 0.0))
    assert release.dp_event == dp_accounting.NonPrivateDpEvent()
    assert (release.unit, release.neighbouring) == ("site", "replace_one")
    assert "clipped only after the noise" in release.reason
    assert release.details["d"] == task.parameters.size == 43
    assert release.details["c"] == 5
    assert release.details["eps_sel"] == pytest.approx(0.05 * (1 + 10 ** (2 / 3)))


def test_too_high_a_threshold_ends_with_a_refusal() -> None:
    start = time.perf_counter()
    with pytest.raises(ProtectionError, match=f"in {MAX_PASSES} passes"):
        svt_filter(bell(2000), SvtConf(epsilon=1e6), 1, 1.0, np.random.default_rng(0))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_updates_are_refused_at_once(bad: float) -> None:
    start = time.perf_counter()
    with pytest.raises(ProtectionError, match="not finite"):
        svt_filter(np.array([1.0, bad]), SvtConf(), 1, 1e-6, np.random.default_rng(0))
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
            svt_filter(update, SvtConf(), steps, tau, rng)


def test_an_all_zero_update_is_filtered_like_any_other() -> None:
    filtered = svt_filter(np.zeros(1000), SvtConf(), 1, 1e-6, np.random.default_rng(0))
    assert 0 < np.count_nonzero(filtered) <= 100


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gamma", 0.0),
        ("gamma", -1.0),
        ("gamma", math.nan),
        ("epsilon", 0.0),
        ("noise_var", math.inf),
        ("fraction", 0.0),
        ("fraction", 1.5),
        ("fraction", math.nan),
        ("tau", math.nan),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: float) -> None:
    conf = replace(SvtConf(), **{key: value})
    with pytest.raises(ConfigError, match=f"algorithm.{key}"):
        SvtFilter.from_conf(conf)
    with pytest.raises(ConfigError):
        svt_filter(np.ones(3), conf, 1, 1e-6, np.random.default_rng(0))
