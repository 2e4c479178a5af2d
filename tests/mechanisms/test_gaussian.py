from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
import torch
from scipy import stats

from fedprivacy.config.schema import GaussianConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.gaussian import (
    PercentileGaussian,
    gaussian_filter,
    percentile_sigma,
)
from fedprivacy.training.task import Trained


def naive_percentile(values: list[float], percentile: float) -> float:
    """Linear interpolation between the two nearest ranks."""
    ranked = sorted(values)
    place = (len(ranked) - 1) * percentile / 100
    low = math.floor(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (place - low) * (ranked[high] - ranked[low])


@pytest.mark.parametrize("percentile", [0.0, 37.5, 50.0, 95.0, 100.0])
def test_scale_is_the_percentile_of_non_zero_magnitudes(percentile: float) -> None:
    update = np.array([0.0, -3.0, 0.5, 0.0, 2.0, -0.1, 7.0, 0.0])
    expected = 0.2 * naive_percentile([3.0, 0.5, 2.0, 0.1, 7.0], percentile)
    assert percentile_sigma(update, 0.2, percentile) == pytest.approx(expected, rel=1e-12)


def test_bell_shaped_update_has_the_expected_percentiles() -> None:
    update = np.random.default_rng(0).standard_normal(200_000)
    assert percentile_sigma(update, 1.0, 95.0) == pytest.approx(1.960, rel=0.01)
    assert percentile_sigma(update, 1.0, 50.0) == pytest.approx(0.674, rel=0.01)


def test_noise_is_normal_with_the_scale_it_states(make_task) -> None:
    update = torch.randn(20_000, generator=torch.Generator().manual_seed(1)) * 1e-3
    task = make_task(strength=0.5)
    protected = PercentileGaussian(0.3, 80.0).protect(update, task, Trained(4, 0.0))
    noise = (protected.update - update).double().numpy()
    sigma = 0.5 * percentile_sigma(update.double().numpy(), 0.3, 80.0)
    assert stats.kstest(noise / sigma, "norm").pvalue > 0.01
    assert protected.noise_norm == pytest.approx(sigma * math.sqrt(20_000))
    assert protected.noise_norm == pytest.approx(np.linalg.norm(noise), rel=0.02)


def test_zero_coordinates_get_noise_too() -> None:
    update = np.zeros(1000)
    update[0] = 1.0
    noisy, _ = gaussian_filter(update, 0.1, 95.0, np.random.default_rng(0))
    assert np.count_nonzero(noisy[1:]) == 999


def test_without_noise_the_update_is_unchanged_and_priced_infinite(make_task) -> None:
    mechanism, task = PercentileGaussian(0.0, 95.0), make_task()
    update = torch.randn(50)
    protected = mechanism.protect(update, task, Trained(1, 0.0))
    assert torch.equal(protected.update, update)
    release = mechanism.release(task, Trained(1, 0.0))
    assert release.dp_event == dp_accounting.NonPrivateDpEvent()
    assert "adds no noise" in release.reason


def test_all_zero_update_is_refused(make_task) -> None:
    with pytest.raises(ProtectionError, match="all zero"):
        PercentileGaussian(0.1, 95.0).protect(torch.zeros(9), make_task(), Trained(1, 0.0))


def test_release_proves_nothing_and_says_why(make_task) -> None:
    release = PercentileGaussian(0.1, 50.0).release(make_task(strength=0.5), Trained(1, 0.0))
    assert release.dp_event == dp_accounting.NonPrivateDpEvent()
    assert (release.unit, release.neighbouring) == ("site", "replace_one")
    assert "no finite epsilon" in release.reason
    assert release.details == {"sigma0": 0.05, "percentile": 50.0, "strength": 0.5}


@pytest.mark.parametrize(
    ("conf", "key"),
    [
        (GaussianConf(sigma0=-0.1), "sigma0"),
        (GaussianConf(sigma0=math.nan), "sigma0"),
        (GaussianConf(sigma0=math.inf), "sigma0"),
        (GaussianConf(percentile=101.0), "percentile"),
        (GaussianConf(percentile=math.nan), "percentile"),
    ],
)
def test_values_out_of_range_are_refused(conf: GaussianConf, key: str) -> None:
    with pytest.raises(ConfigError, match=f"algorithm.{key}"):
        PercentileGaussian.from_conf(conf)
    with pytest.raises(ConfigError):
        gaussian_filter(np.ones(3), conf.sigma0, conf.percentile, np.random.default_rng(0))


def test_what_would_be_follows_from_norm_and_noise(make_task) -> None:
    update = torch.randn(20_000, generator=torch.Generator().manual_seed(3))
    task, mus = make_task(), {}
    for percentile in (50.0, 95.0):
        conf = GaussianConf(sigma0=0.2, percentile=percentile)
        done = PercentileGaussian.from_conf(conf).protect(update, task, Trained(1, 0.0))
        sigma = done.noise_norm / math.sqrt(update.numel())
        assert done.what_if_mu == pytest.approx(2 * float(update.norm()) / sigma, rel=1e-5)
        # For a bell-shaped update: 2 sqrt(d) / (sigma0 z_p).
        quantile = stats.norm.ppf(0.5 + percentile / 200)
        expected = 2 * math.sqrt(update.numel()) / (0.2 * quantile)
        assert done.what_if_mu == pytest.approx(expected, rel=0.03)
        mus[percentile] = done.what_if_mu
    assert mus[50.0] / mus[95.0] == pytest.approx(2.9, abs=0.1)
