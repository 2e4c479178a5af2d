"""Which searched parameters mattered, for the score and for collapse."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from fedprivacy.tuning.outcome import Outcome
from fedprivacy.tuning.space import EPSILON, Parameter, SearchSpace
from fedprivacy.tuning.trial_look import shown, told

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FEWEST, _FEWEST_BEST, _BEST = 8, 2, 0.25

log = logging.getLogger(__name__)


def searched(trials: Sequence[FrozenTrial], space: SearchSpace) -> SearchSpace:
    """The space, and epsilon where the mode of the study searches that too.

    Args:
        trials: of the study; they tell the range of epsilon.
        space: as it was declared, without epsilon.
    """
    found = next((t.distributions[EPSILON] for t in trials if EPSILON in t.distributions), None)
    if found is None or space.get(EPSILON) is not None:
        return space
    low, high = getattr(found, "low", 0.0), getattr(found, "high", 0.0)
    epsilon = Parameter(EPSILON, low=low, high=high, log=bool(getattr(found, "log", False)))
    return SearchSpace((epsilon, *space))


def score_importance(trials: Sequence[FrozenTrial], space: SearchSpace) -> dict[str, float]:
    """Share of each parameter in what told good scores from bad ones; empty if too few trials.

    PED-ANOVA (Watanabe, Bansal & Hutter 2023, arXiv 2304.10255): how far the values of the best
    quarter of the trials are spread unlike those of all. Trials that were pruned count with the
    last score they had.
    """
    known = _known(trials, lambda outcome: outcome.score)
    return _importance(known, space, "maximize", _BEST)


def collapse_importance(trials: Sequence[FrozenTrial], space: SearchSpace) -> dict[str, float]:
    """The same for whether training came to nothing; empty where fewer than two did not.

    How far the values of the trials that did not collapse are spread unlike those of all. Trials
    ended for their signal-to-noise ratio tell neither.
    """
    known = _known(trials, lambda outcome: float(outcome.collapsed) if told(outcome) else None)
    survived = sum(not collapsed for _, collapsed in known)
    if survived < _FEWEST_BEST:
        return {}
    # Half a trial less, so that rounding cannot let a collapsed one in among the survivors.
    return _importance(known, space, "minimize", (survived - 0.5) / len(known))


def _known(
    trials: Sequence[FrozenTrial], value: Callable[[Outcome], float | None]
) -> list[tuple[FrozenTrial, float]]:
    """The trained trials that did not fail, each with its value."""
    return [
        (trial, found)
        for trial, outcome in shown(trials)
        if outcome.cell_rounds > 0 and (found := value(outcome)) is not None
    ]


def _importance(
    known: Sequence[tuple[FrozenTrial, float]],
    space: SearchSpace,
    direction: Literal["minimize", "maximize"],
    quantile: float,
) -> dict[str, float]:
    """Importance of the parameters that every one of the trials has."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator

    if len(known) < FEWEST or len({found for _, found in known}) < 2:
        return {}
    shared = [p.key for p in space if all(p.key in trial.params for trial, _ in known)]
    varied = [key for key in shared if len({repr(trial.params[key]) for trial, _ in known}) > 1]
    if not varied:
        return {}
    study = optuna.create_study(direction=direction)
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
        evaluator = PedAnovaImportanceEvaluator(target_quantile=quantile)
        try:
            found_shares = optuna.importance.get_param_importances(
                study, evaluator=evaluator, params=varied, normalize=False
            )
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            log.warning("the importance of parameters is not known: %s", error)
            return {}
    # Where nothing tells the best from the others, Optuna's own shares would be equal ones.
    total = sum(found_shares.values())
    return {key: share / total for key, share in found_shares.items()} if total > 0 else {}


def known_importance(trials: Sequence[FrozenTrial], space: SearchSpace) -> list[str]:
    """Parameters by what they did to collapse first, to the score second; empty: not known."""
    by_collapse, by_score = collapse_importance(trials, space), score_importance(trials, space)
    ordered = sorted(by_collapse, key=lambda key: -by_collapse[key])
    ordered += sorted(by_score, key=lambda key: -by_score[key])
    return list(dict.fromkeys(ordered))


def most_important(trials: Sequence[FrozenTrial], space: SearchSpace) -> list[str]:
    """Parameters by their importance where that is known, then the others as in the space."""
    rest = [p.key for p in space if any(p.key in trial.params for trial in trials)]
    return list(dict.fromkeys([*known_importance(trials, space), *rest]))
