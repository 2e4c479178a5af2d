"""Samples the learning rate by how far it reaches with the rest of the settings.

Clip norm, steps and momentum all scale the same product, see ``reach``; sampled one by one they
hide from a sampler that their product is what decides. So the learning rate comes last: how far to
reach is picked near what scored best so far, and the learning rate is what gets the trial's other
settings there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler

from fedprivacy.tuning.outcome import outcome_of
from fedprivacy.tuning.space import RATE, Value

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

_FEWEST, _EXPLORING = 2, 0.2
_NARROWEST, _WIDEST = math.log(1.25), math.log(3.0)


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
            if outcome is None or not outcome.reach or outcome.score is None:
                continue
            if math.isfinite(outcome.score):
                known.append((outcome.reach, outcome.score))
        return self._next(known, trial.number) / one

    def _next(self, known: Sequence[tuple[float, float]], number: int) -> float:
        """How far to reach next, given how far earlier trials reached and what they scored.

        Near one of the best quarter, as near as those are to each other; one draw in five goes
        three times as far from it. Until there are a few, near the middle of what is tried.
        """
        rng = np.random.default_rng([self._seed, number])
        low, high = math.log(self._reach.low), math.log(self._reach.high)
        best = sorted(known, key=lambda pair: -pair[1])[: max(_FEWEST, math.ceil(len(known) / 4))]
        if len(known) < 2 * _FEWEST:
            centre, width = (low + high) / 2, _WIDEST
        else:
            places = [math.log(far) for far, _ in best]
            centre = float(rng.choice(places))
            width = min(max(float(np.std(places)), _NARROWEST), _WIDEST)
        width *= 3 if rng.random() < _EXPLORING else 1
        return math.exp(min(max(centre + width * rng.standard_normal(), low), high))

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
