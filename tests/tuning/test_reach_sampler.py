"""The learning rate follows from how far to reach, and that is found soon."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import optuna

from fedprivacy.tuning.outcome import OUTCOME, Outcome
from fedprivacy.tuning.reach_sampler import Reach, ReachSampler
from fedprivacy.tuning.space import RATE, read_space

SPACE = read_space(
    {
        RATE: {"low": 1e-4, "high": 10.0, "log": True},
        "algorithm.max_grad_norm": {"low": 0.01, "high": 100.0, "log": True},
        "federation.rounds": {"choices": [4, 8, 12]},
    }
)
BEST = 5.0


def reach_of(settings: Mapping[str, object]) -> float:
    return float(settings[RATE]) * float(settings["algorithm.max_grad_norm"])  # type: ignore[arg-type]


def search(sampler: optuna.samplers.BaseSampler, trials: int) -> list[dict[str, object]]:
    """What was tried, where the score falls with the distance from the best reach."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    tried = []
    for _ in range(trials):
        trial = study.ask()
        settings = SPACE.suggest(trial)
        far = reach_of(settings)
        score = -abs(math.log(far / BEST))
        outcome = Outcome("ok", score=score, reach=far, cell_rounds=1)
        trial.set_user_attr(OUTCOME, outcome.to_json())
        study.tell(trial, score)
        tried.append(settings)
    return tried


def sampler(seed: int) -> ReachSampler:
    reach = Reach(reach_of, BEST / 100, BEST * 100)
    return ReachSampler(optuna.samplers.TPESampler(seed=seed), reach, seed)


def test_the_rate_is_suggested_last() -> None:
    assert [parameter.key for parameter in SPACE][-1] == RATE


def test_settings_stay_within_the_reach_and_the_range_that_are_searched() -> None:
    for settings in search(sampler(0), 25):
        rate = float(settings[RATE])  # type: ignore[arg-type]
        assert 1e-4 <= rate <= 10.0
        if 1e-4 < rate < 10.0:
            assert BEST / 101 <= reach_of(settings) <= BEST * 101


def test_it_finds_the_reach_where_a_sampler_of_single_keys_does_not() -> None:
    def missed(kind: type, seed: int) -> float:
        made = sampler(seed) if kind is ReachSampler else optuna.samplers.TPESampler(seed=seed)
        late = search(made, 30)[20:]
        return statistics.median(abs(math.log(reach_of(s) / BEST)) for s in late)

    seeds = range(5)
    ours = statistics.median(missed(ReachSampler, seed) for seed in seeds)
    plain = statistics.median(missed(optuna.samplers.TPESampler, seed) for seed in seeds)
    assert ours < math.log(2) < plain


def test_the_same_seed_searches_the_same() -> None:
    assert search(sampler(3), 8) == search(sampler(3), 8)


def test_without_a_reach_the_inner_sampler_decides() -> None:
    nowhere = Reach(lambda _: None, 1.0, 2.0)
    made = ReachSampler(optuna.samplers.TPESampler(seed=1), nowhere, 1)
    assert len({s[RATE] for s in search(made, 6)}) == 6
