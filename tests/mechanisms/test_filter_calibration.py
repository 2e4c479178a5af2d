"""A target epsilon becomes a filter's noise: never above the target, and no less would do."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from fedprivacy.accounting.gaussian import gaussian_delta
from fedprivacy.cell import run_cell
from fedprivacy.config.identity import cell_id
from fedprivacy.config.schema import CellConfig, GaussianClippedConf, SvtExactConf
from fedprivacy.config.validation import validate
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.filter_calibration import FilterPlan, calibrated_filter
from fedprivacy.mechanisms.settling import settle

Tiny = Callable[..., CellConfig]
ROUNDS = (1.0,) * 5


def closed_form(z: float, strengths: tuple[float, ...], epsilon: float) -> float:
    """delta of all rounds: 2/z-GDP each (Dong, Roth & Su 2022, corollary 3.3)."""
    mu = math.sqrt(sum((2 / (z * strength)) ** 2 for strength in strengths))
    return float(gaussian_delta(epsilon, mu))


@pytest.mark.parametrize("target", [0.7, 3.0, 12.0])
@pytest.mark.parametrize("strengths", [ROUNDS, (1.0, 0.9, 0.81)])
@pytest.mark.parametrize("conf", [GaussianClippedConf(), SvtExactConf()])
def test_the_noise_is_the_closed_forms(conf, strengths, target: float) -> None:
    found = calibrated_filter(FilterPlan(conf, strengths, 1e-5), target)
    assert found.epsilon <= target
    assert found.covers_run
    assert closed_form(found.noise_multiplier, strengths, target) <= 1e-5
    assert closed_form(0.99 * found.noise_multiplier, strengths, target) > 1e-5


def test_an_adaptive_clip_norm_costs_no_more() -> None:
    fixed = FilterPlan(GaussianClippedConf(), ROUNDS, 1e-5)
    adaptive = FilterPlan(GaussianClippedConf(clipping="adaptive"), ROUNDS, 1e-5)
    assert calibrated_filter(adaptive, 3.0).noise_multiplier == pytest.approx(
        calibrated_filter(fixed, 3.0).noise_multiplier, rel=1e-3
    )


def test_laplace_noise_is_below_its_pure_sum() -> None:
    found = calibrated_filter(FilterPlan(GaussianClippedConf(noise="laplace"), ROUNDS, 1e-5), 3.0)
    assert found.epsilon <= 3
    assert found.noise_multiplier <= 2 * len(ROUNDS) / 3 * 1.001


def test_raw_rounds_are_not_in_the_target() -> None:
    found = calibrated_filter(FilterPlan(GaussianClippedConf(), (1.0, None, None), 1e-5), 3.0)
    assert not found.covers_run
    assert closed_form(found.noise_multiplier, (1.0,), 3.0) <= 1e-5


@pytest.mark.parametrize("algorithm", ["gaussian_clipped", "svt_exact"])
def test_a_cell_keeps_its_target(tiny: Tiny, tmp_path: Path, algorithm: str) -> None:
    config = tiny(f"algorithm={algorithm}", "algorithm.target_epsilon=3")
    validate(config)
    assert settle(config) == config
    result = run_cell(config, tmp_path)
    assert result.privacy is not None, result.reason
    assert (result.privacy["unit"], result.privacy["neighbouring"]) == ("site", "replace_one")
    assert 2.9 < result.privacy["epsilon"] <= 3


def test_both_noise_and_target_are_refused(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="one or the other"):
        tiny("algorithm=gaussian_clipped", "algorithm.target_epsilon=3",
             "algorithm.noise_multiplier=2")  # fmt: skip


def test_what_has_no_one_price_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.noise=gaussian"):
        tiny("algorithm=svt_exact", "algorithm.noise=laplace", "algorithm.target_epsilon=3")
    with pytest.raises(ConfigError, match="above 0"):
        tiny("algorithm=gaussian_clipped", "algorithm.target_epsilon=0")


def test_a_cell_without_a_target_keeps_its_name(tiny: Tiny) -> None:
    plain = tiny("algorithm=gaussian_clipped")
    assert cell_id(plain) == cell_id(tiny("algorithm=gaussian_clipped",
                                          "algorithm.target_epsilon=null"))  # fmt: skip
    assert cell_id(plain) != cell_id(tiny("algorithm=gaussian_clipped",
                                          "algorithm.target_epsilon=3"))  # fmt: skip
