"""One trial: settings become cells, the cells run, and the study is told what came out."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedprivacy.cell import failed_result, run_cell
from fedprivacy.config.composer import Composer
from fedprivacy.config.schema import CellConfig, TuningConf
from fedprivacy.result import CellResult, write_result
from fedprivacy.sweep.worker import logged
from fedprivacy.tuning.floor import Floor
from fedprivacy.tuning.outcome import OUTCOME, Outcome, claim_of, outcome_of
from fedprivacy.tuning.ownership import owned
from fedprivacy.tuning.planning import Infeasible, TrialCell, plan_cell
from fedprivacy.tuning.reach import collapsed_between, reach
from fedprivacy.tuning.rules import (
    COLLAPSED,
    FAR,
    INFEASIBLE,
    NOISE,
    NOT_FINITE,
    CollapseRules,
    Listeners,
    MedianRule,
)
from fedprivacy.tuning.space import EPSILON, SearchSpace, Value

if TYPE_CHECKING:
    import optuna

    from fedprivacy.federation.strategy import RoundOutcome

Recorder = Callable[[CellResult, Path, dict[str, str]], None]

TRIALS = "trials"
CLAIM = "claim"
_VIOLATED = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialRunner:
    """Runs the trials of one study, one after another.

    Attributes:
        study: told what came out.
        config: the configuration as typed.
        space: what is searched.
        composer: composes cells.
        floor: below which a score has collapsed.
        record: puts a cell into MLflow.
        watch: told about every round, to show progress.
    """

    study: optuna.Study
    config: CellConfig
    space: SearchSpace
    composer: Composer
    floor: Floor
    record: Recorder
    watch: Callable[[RoundOutcome], None] = lambda _: None

    @property
    def conf(self) -> TuningConf:
        """The settings of the search."""
        return self.config.tuning

    def run(self, trial: optuna.Trial) -> Outcome:
        """Run a trial that was asked for, and tell the study.

        Only an interruption leaves the trial untold; it is then tried again.
        """
        with owned(trial, self.conf.lease_s):
            settings = self.space.suggest(trial)
            budget = self._budget(trial)
            folder = trial_folder(self.conf, trial.number)
            try:
                cell = plan_cell(self.composer, settings, budget, self._check_reach)
            except Infeasible as why:
                outcome = self._refuse(trial, why, folder, budget)
            else:
                trial.set_constraint("budget", cell.epsilon - budget)
                outcome = self._train(trial, cell, folder)
            self._tell(trial, outcome)
            return outcome

    def _budget(self, trial: optuna.Trial) -> float:
        """What the trial may cost: given, or searched where the mode says so."""
        if self.conf.mode == "budget":
            assert self.conf.budget is not None
            return self.conf.budget
        low, high = self.conf.epsilon_range
        return trial.suggest_float(EPSILON, low, high, log=True)

    def _refuse(self, trial: optuna.Trial, why: Infeasible, folder: Path, budget: float) -> Outcome:
        """Keep the reason of a trial that cannot meet its budget; nothing is trained."""
        config = why.config or self.config
        result = replace(failed_result(config, str(why), "Infeasible"), status="pruned", error=None)
        write_result(folder, result)
        self.record(result, folder, self._tags(trial))
        return Outcome("pruned", why.rule, str(why), budget=budget)

    def _check_reach(self, config: CellConfig) -> None:
        """Refuse what cannot leave its start, or is carried away by noise, whatever the records.

        Raises:
            Infeasible: says how far it reaches beside the defaults.
        """
        usual, own, factor = reach(self.config), reach(config), self.conf.pruning.reach
        if not factor or usual is None or own is None:
            return
        moved = f"all steps together can move the weights by {own:.3g}"
        if not usual / factor <= own <= usual * factor:
            raise Infeasible(
                f"{moved}, the defaults' by {usual:.3g}: a factor beyond "
                f"tuning.pruning.reach={factor:g}",
                config,
                FAR,
            )
        between = self._collapsed_between(own)
        if between and len(between) >= self.conf.pruning.between:
            raise Infeasible(
                f"{moved}; with {between[0]:.3g} to {between[-1]:.3g}, nearer to what survived, "
                f"{len(between)} collapsed already (tuning.pruning.between)",
                config,
                FAR,
            )

    def _collapsed_between(self, own: float) -> tuple[float, ...]:
        """See ``reach.collapsed_between``: of this study's trials, where all have one budget."""
        if self.conf.mode != "budget" or not self.conf.pruning.between:
            return ()
        outcomes = map(outcome_of, self.study.get_trials(deepcopy=False))
        known = [
            (outcome.reach, outcome.collapsed)
            for outcome in outcomes
            if outcome is not None
            and outcome.reach is not None
            and outcome.status != "failed"
            and outcome.rule != NOISE  # neither collapsed nor seen to survive
        ]
        return collapsed_between(own, known)

    def _train(self, trial: optuna.Trial, cell: TrialCell, folder: Path) -> Outcome:
        """Run the cells of the trial's seeds, until one shows that it is not worth it."""
        results: list[CellResult] = []
        rule = ""
        for offset in range(self.conf.seeds):
            own = folder if offset == 0 else folder / f"seed_{cell.config.seed + offset}"
            config, overrides = cell.with_seed(cell.config.seed + offset)
            cell.composed.write(own, overrides)
            rules = CollapseRules(self.conf.pruning)
            # Later seeds are not compared by round: the trial has come through by then.
            compared = [MedianRule(trial)] if offset == 0 and self._compares() else []
            listener = Listeners((self.watch, rules, *compared))
            with logged(own):
                results.append(run_cell(config, own, listener=listener, overrides=overrides))
            self.record(results[-1], own, self._tags(trial))
            if results[-1].status in ("pruned", "failed") or _score(results[-1]) is None:
                rule = listener.rule or (NOT_FINITE if results[-1].status == "collapsed" else "")
                break
        return self._outcome(cell, results, rule)

    def _compares(self) -> bool:
        return self.conf.mode == "budget" and self.conf.pruning.median

    def _outcome(self, cell: TrialCell, results: Sequence[CellResult], rule: str) -> Outcome:
        last = results[-1]
        whole = last.status in ("ok", "collapsed")
        scores = tuple(_score(result) for result in results)
        known = [score for score in scores if score is not None]
        score = statistics.fmean(known) if whole and len(known) == len(scores) else _score(last)
        below = None if score is None else self.floor.margin(last, score)
        return Outcome(
            status=last.status,
            rule=rule,
            reason=last.reason,
            score=score,
            scores=scores,
            standard_error=_standard_error(results),
            epsilon=_worst_epsilon(results),
            budget=cell.budget,
            noise_multiplier=getattr(cell.config.algorithm, "noise_multiplier", None),
            claim=claim_of(results),
            below_floor=below,
            reach=reach(cell.config),
            cell_rounds=sum(len(result.rounds) for result in results),
            seconds=round(sum(result.timing_s.get("total", 0.0) for result in results), 3),
        )

    def _tell(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """End the trial in the study, its constraints and its reason kept."""
        from optuna.trial import TrialState

        outcome = self._same_claim(outcome)
        trial.set_user_attr(OUTCOME, outcome.to_json())
        if outcome.status == "failed":
            self.study.tell(trial, state=TrialState.FAIL)
            return
        if outcome.rule in (INFEASIBLE, FAR):
            trial.set_constraint("budget", _VIOLATED)
        below = outcome.below_floor
        if below is None or outcome.rule in (*COLLAPSED, INFEASIBLE, FAR):
            below = _VIOLATED
        trial.set_constraint("collapse", below)
        if outcome.status == "pruned" or outcome.score is None or outcome.epsilon is None:
            self.study.tell(trial, state=TrialState.PRUNED)
            return
        values: dict[str, Any] = {
            "budget": outcome.score,
            "floor": outcome.epsilon,
            "front": [outcome.score, outcome.epsilon],
        }
        self.study.tell(trial, values[self.conf.mode])

    def _same_claim(self, outcome: Outcome) -> Outcome:
        """Refuse to compare epsilons of different units, relations, views or deltas."""
        if outcome.claim is None or outcome.status not in ("ok", "collapsed"):
            return outcome
        first = self.study.user_attrs.get(CLAIM)
        if first is None:
            self.study.set_user_attr(CLAIM, dict(outcome.claim))
            return outcome
        if first == dict(outcome.claim):
            return outcome
        reason = f"its epsilon holds for {dict(outcome.claim)}, the study's for {first}"
        return replace(outcome, status="pruned", rule=INFEASIBLE, reason=reason)

    def _tags(self, trial: optuna.Trial) -> dict[str, str]:
        return {"tuning.study": self.conf.name, "tuning.trial": str(trial.number)}


def trial_folder(conf: TuningConf, number: int) -> Path:
    """Where the cell of a trial leaves what it leaves."""
    return Path(conf.dir) / TRIALS / str(number)


def _score(result: CellResult) -> float | None:
    return result.score.value if result.score else None


def _worst_epsilon(results: Sequence[CellResult]) -> float | None:
    epsilons = [(result.privacy or {}).get("epsilon") for result in results]
    return None if None in epsilons else max(e for e in epsilons if e is not None)


def _standard_error(results: Sequence[CellResult]) -> float | None:
    """Of the mean over seeds that share their held-out records: that of one of them, at most."""
    errors = [r.score.standard_error for r in results if r.score is not None]
    known = [error for error in errors if error is not None]
    return max(known, default=None) if len(known) == len(results) else None


def settings_of(params: Mapping[str, Value]) -> dict[str, Value]:
    """The configuration keys among the parameters of a trial."""
    return {key: value for key, value in params.items() if key != EPSILON}
