"""Which setting a finished study recommends: the best ones run again, with seeds of their own.

The best of many noisy scores is too good: it was picked for its luck too. The few best settings are
therefore run again with fresh seeds, and the mean of those runs decides and is what is promised.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedprivacy.cell import run_cell
from fedprivacy.config.composer import Composer
from fedprivacy.config.identity import cell_id
from fedprivacy.config.schema import CellConfig, TuningConf
from fedprivacy.result import CellResult, read_result
from fedprivacy.sweep.worker import logged
from fedprivacy.tuning.floor import Floor
from fedprivacy.tuning.outcome import Outcome, outcome_of
from fedprivacy.tuning.planning import TrialCell, plan_cell
from fedprivacy.tuning.space import Value
from fedprivacy.tuning.trial import Recorder, settings_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FOLDER = "confirm"
_FRESH = 1000
"""Distance of confirmation seeds from the study's own."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A setting that may be recommended.

    Attributes:
        trial: number of its trial.
        settings: of the trial.
        outcome: what the trial came to.
        confirmed: scores of its runs with fresh seeds.
        below_floor: how far their mean is below the floor; at most 0: it is not.
    """

    trial: int
    settings: dict[str, Value]
    outcome: Outcome
    confirmed: tuple[float, ...] = ()
    below_floor: float | None = None

    @property
    def score(self) -> float:
        """What is promised: the mean of the fresh runs, of the trial's own where there are none."""
        if self.confirmed:
            return statistics.fmean(self.confirmed)
        assert self.outcome.score is not None
        return self.outcome.score

    @property
    def assured(self) -> float:
        """What can be relied on: ``score`` less the standard error of the mean over all its runs.

        Settings at the edge of collapse score well now and then; that runs differ gives them away.
        """
        if not self.confirmed:
            return self.score
        runs = [*self.confirmed, *(score for score in self.outcome.scores if score is not None)]
        return self.score - (statistics.stdev(runs) / len(runs) ** 0.5 if runs[1:] else 0.0)

    @property
    def epsilon(self) -> float:
        """Total of one run, upper bound, proved."""
        assert self.outcome.epsilon is not None
        return self.outcome.epsilon

    @property
    def feasible(self) -> bool:
        """Whether it is within its budget and above the floor, on fresh seeds if there are any."""
        held = self.below_floor is None or self.below_floor <= 0
        return self.outcome.feasible and held

    def and_fresh(self, score: float, margin: float | None) -> Candidate:
        """The candidate after one more run with a fresh seed.

        Args:
            score: of the run.
            margin: how far it is below the floor; None where that is not known.
        """
        runs, before = len(self.confirmed), self.below_floor
        known = margin is not None and (before is not None or not runs)
        below = ((before or 0.0) * runs + (margin or 0.0)) / (runs + 1) if known else before
        return replace(self, confirmed=(*self.confirmed, score), below_floor=below)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "trial": self.trial,
            "settings": self.settings,
            "score": self.score,
            "score_in_trial": self.outcome.score,
            "confirmed": list(self.confirmed),
            "epsilon": self.epsilon,
            "budget": self.outcome.budget,
            "feasible": self.feasible,
            "standard_error": self.outcome.standard_error,
            "noise_multiplier": self.outcome.noise_multiplier,
        }


def candidates(trials: Sequence[FrozenTrial], mode: str) -> list[Candidate]:
    """The settings that may be recommended, the best first.

    Feasible ones before others; by score, or where the least epsilon is sought by epsilon. Of
    front, the Pareto front, ascending in epsilon.
    """
    found = []
    for trial in trials:
        outcome = outcome_of(trial)
        if outcome is None or outcome.score is None or outcome.epsilon is None:
            continue
        if outcome.status in ("ok", "collapsed") and not outcome.rule:
            found.append(Candidate(trial.number, settings_of(trial.params), outcome))
    if mode == "floor":
        # Of settings that all collapsed, the one that came nearest.
        return sorted(
            found,
            key=lambda c: (not c.feasible, c.epsilon if c.feasible else c.outcome.below_floor or 0),
        )
    if mode == "front":
        return front([candidate for candidate in found if candidate.feasible])
    return sorted(found, key=lambda c: (not c.feasible, -c.score))


def front(found: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats in score without a larger epsilon; ascending in epsilon."""
    best: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.epsilon, -c.score)):
        if not best or candidate.score > best[-1].score:
            best.append(candidate)
    return best


def confirm(
    found: Sequence[Candidate],
    config: CellConfig,
    composer: Composer,
    floor: Floor,
    record: Recorder,
) -> list[Candidate]:
    """The candidates with what fresh seeds say of them; finished runs are not run again.

    Where the best score is sought it is a race (Karnin, Koren & Somekh 2013, sequential halving):
    after each seed the better half goes on, so that most runs go to the settings that may win. Of
    a front, and of the least epsilon, every candidate is run with every seed.
    """
    conf = config.tuning
    racing, out = list(found), list[Candidate]()
    for lap in range(conf.confirm_seeds):
        seed = config.seed + _FRESH + lap
        racing = [_with_seed(c, seed, config, composer, floor, record) for c in racing]
        if conf.mode == "budget" and lap + 1 < conf.confirm_seeds:
            racing.sort(key=lambda c: (not c.feasible, -c.assured))
            out[:0] = racing[_half(len(racing)) :]
            racing = racing[: _half(len(racing))]
    return racing + out


def confirmations(conf: TuningConf) -> int:
    """Most cells that the confirmation of a budget runs."""
    cells, left = 0, conf.confirm
    for _ in range(conf.confirm_seeds):
        cells, left = cells + left, _half(left)
    return cells


def _half(field: int) -> int:
    return (field + 1) // 2


def _with_seed(
    candidate: Candidate,
    seed: int,
    config: CellConfig,
    composer: Composer,
    floor: Floor,
    record: Recorder,
) -> Candidate:
    """The candidate with one more run."""
    budget = candidate.outcome.budget
    assert budget is not None
    cell = plan_cell(composer, candidate.settings, budget)
    tags = {"tuning.study": config.tuning.name, "tuning.role": f"confirm {candidate.trial}"}
    folder = Path(config.tuning.dir) / FOLDER / f"{candidate.trial}_seed_{seed}"
    result = _run(cell, seed, folder, lambda r, f: record(r, f, tags))
    value = result.score.value if result.score else None
    # A run without a score collapsed for good: it is worth what chance is worth.
    value = value if value is not None else (result.score.chance if result.score else 0.0)
    margin = floor.margin(result, value) if result.score is not None else None
    return candidate.and_fresh(value, margin)


def _run(
    cell: TrialCell, seed: int, folder: Path, record: Callable[[CellResult, Path], None]
) -> CellResult:
    config, overrides = cell.with_seed(seed)
    known = read_result(folder)
    if known is not None and known.finished and known.cell_id == cell_id(config):
        return known
    cell.composed.write(folder, overrides)
    with logged(folder):
        result = run_cell(config, folder, overrides=overrides)
    record(result, folder)
    return result


def choose(found: Sequence[Candidate], conf: TuningConf) -> Candidate | None:
    """The candidate to recommend; None where there is none at all.

    budget: the best score less its standard error, of those that came through the whole race.
    floor: the least epsilon that holds on fresh seeds. front: the least epsilon whose score is
    within one standard error of the best.
    """
    if not found:
        return None
    through = max(len(candidate.confirmed) for candidate in found)
    found = [candidate for candidate in found if len(candidate.confirmed) == through]
    feasible = [candidate for candidate in found if candidate.feasible] or list(found)
    if conf.mode == "floor":
        if not any(candidate.feasible for candidate in found):
            return max(feasible, key=lambda c: c.score)
        return min(feasible, key=lambda c: c.epsilon)
    if conf.mode == "budget":
        return max(feasible, key=lambda c: c.assured)
    best = max(feasible, key=lambda c: c.score)
    enough = best.score - (best.outcome.standard_error or 0.0)
    return min((c for c in feasible if c.score >= enough), key=lambda c: c.epsilon)
