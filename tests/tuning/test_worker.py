"""Trials are counted over restarts and workers, and a broken search ends."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext

import optuna
import pytest
from optuna.trial import TrialState

from fedprivacy.tuning.outcome import OUTCOME, Outcome
from fedprivacy.tuning.worker import SearchFailed, count, work


class Runner:
    """Tells the study what a list says, over and over."""

    def __init__(self, study: optuna.Study, statuses: list[str]) -> None:
        self.study, self.statuses, self.ran = study, statuses, 0

    def __call__(self, trial: optuna.Trial) -> Outcome:
        status = self.statuses[self.ran % len(self.statuses)]
        self.ran += 1
        outcome = Outcome(status, reason=f"because {status}", score=0.5, below_floor=0.1)
        trial.set_user_attr(OUTCOME, outcome.to_json())
        states = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        if status in states:
            self.study.tell(trial, state=states[status])
        else:
            self.study.tell(trial, 0.5)
        return outcome


def go(study: optuna.Study, runner: Runner, n: int, lock=nullcontext):
    return work(study, runner, n_trials=n, max_failed=3, lease_s=60, lock=lock)


def test_finished_and_pruned_trials_count_and_a_restart_adds_the_missing_ones() -> None:
    study = optuna.create_study()
    counts = go(study, Runner(study, ["ok", "pruned", "collapsed"]), 6)
    assert (counts.finished, counts.pruned, counts.collapsed, counts.done) == (4, 2, 4, 6)
    more = Runner(study, ["ok"])
    go(study, more, 6)
    assert more.ran == 0
    go(study, more, 8)
    assert more.ran == 2


def test_failures_do_not_count_and_end_a_search_that_only_fails() -> None:
    study = optuna.create_study()
    assert go(study, Runner(study, ["ok", "failed", "ok"]), 4).done == 4
    broken = optuna.create_study()
    with pytest.raises(SearchFailed, match="because failed"):
        go(broken, Runner(broken, ["failed"]), 4)
    assert count(broken.get_trials()).failed == 3


def test_workers_with_a_lock_never_run_one_too_many() -> None:
    study = optuna.create_study()
    lock = threading.Lock()

    def held() -> AbstractContextManager[None]:
        return lock  # type: ignore[return-value]

    runners = [Runner(study, ["ok", "pruned"]) for _ in range(4)]
    threads = [threading.Thread(target=go, args=(study, r, 20, held)) for r in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(runner.ran for runner in runners) == len(study.trials) == 20
