"""What may be searched, and every way in which it may not."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprivacy.errors import ConfigError
from fedprivacy.tuning.space import read_space

DECLARED: dict[str, Any] = {
    "federation.lr": {"low": 0.01, "high": 1.0, "log": True},
    "federation.rounds": {"low": 2, "high": 10, "step": 2},
    "schedule.decay": {"low": 0.5, "high": 1.0, "step": 0.1},
    "schedule": {"choices": ["every_round", "every_nth"]},
    "schedule.n": {"low": 2, "high": 4, "when": {"schedule": "every_nth"}},
    "model.hidden": {"choices": ["[32]", "[64,64]"]},
}
SPACE = read_space(DECLARED, frozenset({"federation.rounds", "schedule.n"}))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_what_is_suggested_is_contained(seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    chosen = SPACE.suggest(study.ask())
    assert SPACE.contains(chosen)
    assert ("schedule.n" in chosen) is (chosen["schedule"] == "every_nth")
    assert isinstance(chosen["federation.rounds"], int)
    assert chosen["federation.rounds"] % 2 == 0
    assert not SPACE.contains({**chosen, "federation.lr": 2.0})
    assert not SPACE.contains({key: v for key, v in chosen.items() if key != "federation.lr"})


def test_groups_come_before_the_keys_inside_them() -> None:
    keys = [parameter.key for parameter in SPACE]
    assert keys.index("schedule") < keys.index("schedule.n")


@pytest.mark.parametrize(("value", "expected"), [(0.001, 0.01), (5.0, 1.0), (0.3, 0.3)])
def test_the_nearest_value(value: float, expected: float) -> None:
    rate = SPACE.get("federation.lr")
    assert rate is not None
    assert rate.nearest(value) == expected


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({}, "at least one key"),
        ({"algorithm.noise_multiplier": {"low": 1, "high": 2}}, "calibrates it"),
        ({"algorithm.target_epsilon": {"low": 1, "high": 2}}, "calibrates it"),
        ({"seed": {"choices": [1, 2]}}, "stay the same in a study"),
        ({"dataset": {"choices": ["higgs"]}}, "stay the same in a study"),
        ({"privacy.view": {"choices": ["aggregate"]}}, "stay the same in a study"),
        ({"federation.lr": 0.1}, "a mapping"),
        ({"federation.lr": {"low": 1.0}}, "two numbers"),
        ({"federation.lr": {"low": 2.0, "high": 1.0}}, "low below high"),
        ({"federation.lr": {"low": 0.0, "high": 1.0, "log": True}}, "above 0 with log"),
        ({"federation.lr": {"low": 0.1, "high": 1.0, "log": True, "step": 0.1}}, "without log"),
        ({"federation.lr": {"low": 0.1, "high": 1.0, "steps": 3}}, "low, high, log, step"),
        ({"schedule": {"choices": []}}, "at least one value"),
        ({"schedule": {"choices": ["a", "a"]}}, "values that differ"),
        ({"schedule": {"choices": [["a"]]}}, "numbers, words"),
        ({"schedule.n": {"low": 2, "high": 3, "when": {"schedule": "x"}}}, "another key"),
    ],
)
def test_what_cannot_be_searched_is_refused(declared: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        read_space(declared)
    assert refused.value.key.startswith("tuning.space")
    assert refused.value.fix
