"""Samples the learning rate by how far it reaches with the rest of the settings.

Clip norm, steps and momentum all scale the same product, see ``reach``; sampled one by one they
hide from a sampler that their product is what decides. So the learning rate comes last: how far to
reach is picked by a study of that one number, over all trials so far, and the learning rate is what
gets the trial's other settings there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler

from fedprivacy.tuning.outcome import outcome_of
from fedprivacy.tuning.space import RATE, Value

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

_KEY = "reach"
_STARTUP = 4


@dataclass(frozen=True)
class Reach:
    """How far settings reach, and how far is worth a try.

    Attributes:
        of: reach of the settings of a trial; None where it is not defined.
        low: least that is tried.
        high: most that is tried.
    """

    of: Callable[[Mapping[str, Value]], float | None]
    low: float
    high: float


class ReachSampler(BaseSampler):
    """TPE, but for the learning rate, which follows from how far to reach.

    Args:
        inner: samples everything else.
        reach: how far settings reach.
        seed: of the draws.
    """

    def __init__(self, inner: BaseSampler, reach: Reach, seed: int) -> None:
        self._inner, self._reach, self._seed = inner, reach, seed

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the inner sampler's, without the learning rate."""
        space = self._inner.infer_relative_search_space(study, trial)
        return {name: one for name, one in space.items() if name != RATE}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the inner sampler's."""
        return dict(self._inner.sample_relative(study, trial, search_space))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The learning rate by its reach, anything else as the inner sampler."""
        if param_name == RATE and isinstance(param_distribution, FloatDistribution):
            rate = self._rate(study, trial)
            if rate is not None:
                return min(max(rate, param_distribution.low), param_distribution.high)
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def _rate(self, study: Study, trial: FrozenTrial) -> float | None:
        """The rate that takes the trial's other settings as far as is tried next."""
        one = self._reach.of({**trial.params, RATE: 1.0})
        if not one:
            return None
        known = []
        for earlier in study.get_trials(deepcopy=False):
            outcome = outcome_of(earlier)
            if outcome is not None and outcome.reach is not None and outcome.score is not None:
                known.append((outcome.reach, outcome.score))
        return self._next(known, trial.number) / one

    def _next(self, known: Sequence[tuple[float, float]], number: int) -> float:
        """How far to reach next, given how far earlier trials reached and what they scored."""
        import optuna

        within = FloatDistribution(self._reach.low, self._reach.high, log=True)
        sampler = TPESampler(n_startup_trials=_STARTUP, seed=(self._seed + number) % 2**32)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for far, score in known:
            if within.low <= far <= within.high and math.isfinite(score):
                study.add_trial(
                    optuna.create_trial(
                        params={_KEY: far}, distributions={_KEY: within}, value=score
                    )
                )
        return float(study.ask({_KEY: within}).params[_KEY])

    def reseed_rng(self) -> None:
        """As the inner sampler's."""
        self._inner.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """As the inner sampler's."""
        self._inner.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As the inner sampler's."""
        self._inner.after_trial(study, trial, state, values)
