"""Made-up trials of a study, with the outcomes that real ones keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from fedprivacy.tuning.outcome import OUTCOME, Outcome
from fedprivacy.tuning.space import SearchSpace, read_space

SPACE: SearchSpace = read_space(
    {
        "federation.lr": {"low": 0.01, "high": 10.0, "log": True},
        "algorithm.clipping": {"choices": ["flat", "automatic"]},
        "schedule.decay": {"low": 0.5, "high": 1.0},
    }
)


def made(
    number: int, params: dict[str, Any], outcome: Outcome, origin: str | None = None
) -> FrozenTrial:
    """A finished trial."""
    states = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    state = states.get(outcome.status, TrialState.COMPLETE)
    trial = optuna.trial.create_trial(
        state=state,
        value=outcome.score if state is TrialState.COMPLETE else None,
        params=params,
        distributions={
            "federation.lr": FloatDistribution(0.01, 10.0, log=True),
            "algorithm.clipping": CategoricalDistribution(("flat", "automatic")),
            "schedule.decay": FloatDistribution(0.5, 1.0),
        },
        user_attrs={OUTCOME: outcome.to_json(), **({"origin": origin} if origin else {})},
    )
    trial.number = number
    return trial


def untold(number: int, state: str) -> FrozenTrial:
    """A trial without an outcome: it waits, runs, or its worker died."""
    trial = optuna.trial.create_trial(
        state=TrialState.FAIL, params={}, distributions={}, user_attrs={}
    )
    trial.number, trial.state = number, TrialState[state]
    return trial


def study_of(n: int, dies: Callable[[float], bool], budget: float = 3.0) -> list[FrozenTrial]:
    """Trials at random that collapse where ``dies`` says so of their learning rate."""
    rng, trials = np.random.default_rng(0), []
    for number in range(n):
        rate = float(np.exp(rng.uniform(np.log(0.01), np.log(10.0))))
        params = {
            "federation.lr": rate,
            "algorithm.clipping": ["flat", "automatic"][int(rng.integers(2))],
            "schedule.decay": float(rng.uniform(0.5, 1.0)),
        }
        dead = dies(rate)
        score = 0.52 if dead else 0.8 + 0.1 * float(rng.random())
        outcome = Outcome(
            status="ok", score=score, scores=(score,), standard_error=0.01, epsilon=budget,
            budget=budget, below_floor=0.6 - score, cell_rounds=8,
        )  # fmt: skip
        trials.append(made(number, params, outcome, "the defaults" if number == 0 else None))
    return trials
