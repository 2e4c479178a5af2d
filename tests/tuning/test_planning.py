"""Whether a setting fits its budget is known before anything is trained."""

from __future__ import annotations

import pytest

from fedprivacy.config.composer import Composer
from fedprivacy.errors import ConfigError
from fedprivacy.tuning.planning import (
    Infeasible,
    check_budget,
    check_one_kind,
    check_space,
    plan_cell,
)
from fedprivacy.tuning.space import read_space

COMPOSER = Composer(("dataset=wisconsin", "federation.rounds=2"))


@pytest.mark.parametrize("budget", [0.7, 3.0])
def test_the_noise_meets_the_budget_and_no_less_would_do(budget: float) -> None:
    cell = plan_cell(COMPOSER, {"algorithm.sampling_rate": 0.1}, budget)
    assert 0.98 * budget < cell.epsilon <= budget
    config, overrides = cell.with_seed(7)
    assert config.seed == 7
    assert overrides[-1] == "seed=7"
    assert f"algorithm.target_epsilon={budget}" in overrides


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schedule": "first_round"}, "leaves 1 of 2 rounds unprotected"),
        ({"schedule": "every_nth", "schedule.n": 2}, "leaves 1 of 2 rounds unprotected"),
        ({"algorithm": "svt"}, "algorithm=svt proves no epsilon"),
        ({"algorithm": "none"}, "proves no epsilon"),
        ({"algorithm.sampling_rate": 2.0}, "algorithm.sampling_rate"),
    ],
)
def test_what_cannot_meet_a_budget_is_infeasible(settings, words: str) -> None:
    with pytest.raises(Infeasible, match=words):
        plan_cell(COMPOSER, settings, 3.0)


def test_a_range_that_cannot_be_configured_is_refused_by_its_key() -> None:
    space = read_space({"algorithm.sampling_rate": {"low": 0.1, "high": 1.5}})
    with pytest.raises(ConfigError, match=r"algorithm\.sampling_rate") as refused:
        check_space(COMPOSER, space)
    assert "tuning.space.algorithm.sampling_rate" in refused.value.__notes__[0]


def test_a_space_of_raw_schedules_and_unproved_filters_is_refused() -> None:
    space = read_space(
        {"schedule": {"choices": ["first_round", "last_round"]}, "algorithm": {"choices": ["svt"]}}
    )
    with pytest.raises(ConfigError, match="some setting of the space can meet"):
        check_budget(COMPOSER, space, 3.0)


def test_mechanisms_of_two_units_are_not_compared() -> None:
    mixed = read_space({"algorithm": {"choices": ["dpsgd", "gaussian_clipped"]}})
    with pytest.raises(ConfigError, match="one site, replace_one"):
        check_one_kind(COMPOSER, mixed)
    check_one_kind(COMPOSER, read_space({"algorithm": {"choices": ["svt_exact", "svt"]}}))


@pytest.mark.parametrize("algorithm", ["gaussian_clipped", "svt_exact"])
def test_filters_have_a_budget_too(algorithm: str) -> None:
    cell = plan_cell(COMPOSER, {"algorithm": algorithm, "algorithm.clip": 0.5}, 3.0)
    assert 2.98 < cell.epsilon <= 3.0
