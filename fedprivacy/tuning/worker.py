"""A worker of a study: takes the next trial until all are done, whoever else is at it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedprivacy.errors import FedPrivacyError
from fedprivacy.tuning.outcome import Outcome, outcome_of
from fedprivacy.tuning.ownership import WORKER, Worker, reap, take

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_POLL_S = 0.5

log = logging.getLogger(__name__)


class SearchFailed(FedPrivacyError):
    """Too many trials failed: going on would only repeat it."""


@dataclass(frozen=True)
class Counts:
    """How far a study is.

    Attributes:
        finished: trials that ran to their end, collapsed ones included.
        pruned: trials that were ended early or never trained.
        collapsed: of both, those whose training came to nothing.
        failed: trials that broke, those of dead workers not included.
        running: trials that some worker is at.
    """

    finished: int
    pruned: int
    collapsed: int
    failed: int
    running: int

    @property
    def done(self) -> int:
        """What ``tuning.n_trials`` counts."""
        return self.finished + self.pruned


def count(trials: Sequence[FrozenTrial]) -> Counts:
    """Count a study's trials."""
    from optuna.trial import TrialState

    states = [trial.state for trial in trials]
    outcomes = [outcome_of(trial) for trial in trials]
    return Counts(
        finished=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        collapsed=sum(o is not None and o.collapsed for o in outcomes),
        failed=sum(o is not None and o.status == "failed" for o in outcomes),
        running=states.count(TrialState.RUNNING),
    )


def work(
    study: optuna.Study,
    run: Callable[[optuna.Trial], Outcome],
    *,
    n_trials: int,
    max_failed: int,
    lease_s: float,
    lock: Callable[[], AbstractContextManager[None]],
) -> Counts:
    """Run trials until ``n_trials`` are finished or pruned, over all workers and restarts.

    Trials of workers that died are queued again. Where the workers share a file system, ``lock``
    keeps two of them from taking the last trial twice; elsewhere there may be one too many.

    Args:
        study: shared by the workers.
        run: runs a trial and tells the study.
        n_trials: how many.
        max_failed: trials that may break before the search ends.
        lease_s: see ``ownership``.
        lock: held while a trial is taken.

    Raises:
        SearchFailed: too many trials broke; names the last one's reason.
    """
    while True:
        with lock():
            reap(study, lease_s)
            trials = study.get_trials(deepcopy=False)
            counts = count(trials)
            _check_failures(trials, counts, max_failed)
            if counts.done >= n_trials:
                return counts
            trial = None
            if counts.done + counts.running < n_trials:
                trial = take(study)
                trial.set_user_attr(WORKER, Worker.own().to_json())
        if trial is None:
            time.sleep(_POLL_S)  # the last trials are someone else's, who may still die
        else:
            run(trial)


def _check_failures(trials: Sequence[FrozenTrial], counts: Counts, max_failed: int) -> None:
    if counts.failed < max_failed:
        return
    failed = [o for o in map(outcome_of, trials) if o is not None and o.status == "failed"]
    raise SearchFailed(
        f"{counts.failed} trials failed, the last with: {failed[-1].reason}. Mend that, then "
        f"repeat the command with tuning.max_failed={counts.failed + max_failed} to go on"
    )
