from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedprivacy.config.schema import PercentileConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.percentile import PercentileFilter, percentile_filter
from fedprivacy.training.task import Trained


def naive(update: list[float], percentile: float, gamma: float, steps: int) -> list[float]:
    """One value at a time; the percentile interpolates between the two nearest ranks."""
    ranked = sorted(abs(value) / steps for value in update)
    place = (len(ranked) - 1) * percentile / 100
    low = math.floor(place)
    high = min(low + 1, len(ranked) - 1)
    cutoff = ranked[low] + (place - low) * (ranked[high] - ranked[low])
    result = []
    for value in update:
        u = value / steps
        cut = gamma if u > gamma else -gamma if u < -gamma else u
        result.append(cut * steps if abs(u) >= cutoff else 0.0)
    return result


def draws(d: int = 400) -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_t(3, d) * 0.1


@pytest.mark.parametrize("percentile", [0.0, 10.0, 62.5, 100.0])
@pytest.mark.parametrize("gamma", [0.01, 1e6])
def test_agrees_with_a_naive_loop(percentile: float, gamma: float) -> None:
    update = draws()
    found = percentile_filter(update, percentile, gamma, 7)
    assert np.allclose(found, naive(update.tolist(), percentile, gamma, 7), rtol=1e-12, atol=0)


def test_the_largest_stay_and_nothing_exceeds_the_clip() -> None:
    update = draws()
    kept = percentile_filter(update, 75.0, 0.01, 5)
    assert np.count_nonzero(kept) == 100
    assert np.abs(update[kept != 0]).min() > np.abs(update[kept == 0]).max()
    assert np.abs(kept).max() == pytest.approx(0.05)
    assert (np.sign(kept[kept != 0]) == np.sign(update[kept != 0])).all()


def test_without_cut_and_clip_the_update_is_unchanged() -> None:
    update = draws()
    assert np.allclose(percentile_filter(update, 0.0, 1e9, 3), update, rtol=1e-15)


def test_direction_survives_the_defaults() -> None:
    update = draws(5000) * 0.01
    filtered = percentile_filter(update, 10.0, 0.01, 20)
    cosine = update @ filtered / np.linalg.norm(update) / np.linalg.norm(filtered)
    assert cosine > 0.99


def test_it_is_deterministic_and_proves_nothing(make_task) -> None:
    mechanism = PercentileFilter(10.0, 0.01)
    update = torch.from_numpy(draws()).float()
    one, other = (
        mechanism.protect(update, make_task(randomness="secret"), Trained(5, 0.0)).update
        for _ in range(2)
    )
    assert torch.equal(one, other)
    release = mechanism.release(make_task(), Trained(5, 0.0))
    assert release.dp_event == dp_accounting.NonPrivateDpEvent()
    assert (release.unit, release.neighbouring) == ("site", "replace_one")
    assert "deterministic" in release.reason


def test_the_strength_scales_the_share_that_is_held_back(make_task) -> None:
    mechanism = PercentileFilter(80.0, 1e6)
    update = torch.from_numpy(draws()).float()
    protected = mechanism.protect(update, make_task(strength=0.5), Trained(5, 0.0))
    assert int(protected.update.count_nonzero()) == 240
    assert protected.noise_norm == 0.0
    details = mechanism.release(make_task(strength=0.5), Trained(5, 0.0)).details
    assert details == {"percentile": 40.0, "gamma": 1e6, "steps": 5, "strength": 0.5}


def test_an_all_zero_update_stays_zero() -> None:
    assert not percentile_filter(np.zeros(9), 10.0, 0.01, 3).any()


def test_unusable_updates_are_refused() -> None:
    for update, steps in (
        (np.zeros(0), 1),
        (np.zeros((2, 2)), 1),
        (np.array([1.0, math.nan]), 1),
        (np.array([1.0, math.inf]), 1),
        (np.ones(3), 0),
    ):
        with pytest.raises(ProtectionError, match="nothing was sent"):
            percentile_filter(update, 10.0, 0.01, steps)


@pytest.mark.parametrize(
    ("conf", "key"),
    [
        (PercentileConf(percentile=-1.0), "percentile"),
        (PercentileConf(percentile=100.5), "percentile"),
        (PercentileConf(percentile=math.nan), "percentile"),
        (PercentileConf(gamma=0.0), "gamma"),
        (PercentileConf(gamma=math.inf), "gamma"),
        (PercentileConf(gamma=math.nan), "gamma"),
    ],
)
def test_values_out_of_range_are_refused(conf: PercentileConf, key: str) -> None:
    with pytest.raises(ConfigError, match=f"algorithm.{key}"):
        PercentileFilter.from_conf(conf)
    with pytest.raises(ConfigError):
        percentile_filter(np.ones(3), conf.percentile, conf.gamma, 1)
