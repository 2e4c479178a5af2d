"""Which searched parameters mattered, for the score and for collapse."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fedprivacy.tuning.outcome import Outcome, outcome_of
from fedprivacy.tuning.space import SearchSpace

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FEWEST = 8

log = logging.getLogger(__name__)


def score_importance(trials: Sequence[FrozenTrial], space: SearchSpace) -> dict[str, float]:
    """Share of each parameter in what told good scores from bad ones; empty if too few trials.

    PED-ANOVA (Watanabe, Bansal & Hutter 2023, arXiv 2304.10255): how far the values of the best
    tenth of the trials are spread unlike those of all. Trials that were pruned count with the last
    score they had.
    """
    return _importance(trials, space, lambda outcome: outcome.score, lower_is_better=False)


def collapse_importance(trials: Sequence[FrozenTrial], space: SearchSpace) -> dict[str, float]:
    """The same for whether training came to nothing; empty where all trials agree."""
    return _importance(
        trials, space, lambda outcome: float(outcome.collapsed), lower_is_better=True
    )


def _importance(
    trials: Sequence[FrozenTrial],
    space: SearchSpace,
    value: Callable[[Outcome], float | None],
    *,
    lower_is_better: bool,
) -> dict[str, float]:
    """Importance of the parameters that every trained trial has."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator

    known = [
        (trial, found)
        for trial in trials
        if (outcome := outcome_of(trial)) is not None
        and outcome.cell_rounds > 0
        and (found := value(outcome)) is not None
    ]
    if len(known) < FEWEST or len({found for _, found in known}) < 2:
        return {}
    shared = [p.key for p in space if all(p.key in trial.params for trial, _ in known)]
    varied = [key for key in shared if len({repr(trial.params[key]) for trial, _ in known}) > 1]
    if not varied:
        return {}
    study = optuna.create_study(direction="minimize" if lower_is_better else "maximize")
    for trial, found in known:
        study.add_trial(
            optuna.trial.create_trial(
                value=found,
                params={key: trial.params[key] for key in varied},
                distributions={key: trial.distributions[key] for key in varied},
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about evaluators that Optuna calls experimental
        quantile = 0.5 if lower_is_better else 0.25
        evaluator = PedAnovaImportanceEvaluator(target_quantile=quantile)
        try:
            found_shares = optuna.importance.get_param_importances(
                study, evaluator=evaluator, params=varied
            )
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            log.warning("the importance of parameters is not known: %s", error)
            return {}
    total = sum(found_shares.values())
    return {key: share / total for key, share in found_shares.items()} if total > 0 else {}


def most_important(trials: Sequence[FrozenTrial], space: SearchSpace) -> list[str]:
    """Parameters by what they did to collapse first, to the score second; all that are known."""
    by_collapse, by_score = collapse_importance(trials, space), score_importance(trials, space)
    rest = [p.key for p in space if any(p.key in trial.params for trial in trials)]
    ordered = sorted(by_collapse, key=lambda key: -by_collapse[key])
    ordered += sorted(by_score, key=lambda key: -by_score[key])
    return list(dict.fromkeys([*ordered, *rest]))
