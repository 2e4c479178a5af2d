"""A dead worker's trial is tried again, by one of the others and once."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import TrialState

from fedprivacy.tuning.ownership import (
    MAX_RETRIES,
    ORIGIN,
    RETRY_OF,
    SIGN_OF_LIFE,
    WORKER,
    Worker,
    is_abandoned,
    reap,
    take,
)


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


def running(study: optuna.Study, worker: Worker | None) -> optuna.Trial:
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    if worker is not None:
        trial.set_user_attr(WORKER, worker.to_json())
    return trial


def dead_worker() -> Worker:
    """A process that was here and is gone."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    gone = Worker(Worker.own().place, process.pid, Worker.own().started)
    process.wait()
    return gone


def test_the_living_keep_their_trials(study: optuna.Study) -> None:
    running(study, Worker.own())
    assert reap(study, lease_s=0.0) == []


def test_the_dead_lose_theirs_once(study: optuna.Study) -> None:
    trial = running(study, dead_worker())
    assert reap(study, 120) == [trial.number]
    assert reap(study, 120) == []
    [waiting] = study.get_trials(states=(TrialState.WAITING,))
    assert waiting.user_attrs[RETRY_OF] == trial.number
    again = study.ask()
    assert again.suggest_float("x", 0, 1) == study.trials[trial.number].params["x"]


def test_what_the_dead_left_comes_before_what_waits(study: optuna.Study) -> None:
    study.enqueue_trial({"x": 0.1}, user_attrs={ORIGIN: "the defaults"})
    study.enqueue_trial({"x": 0.2})
    trial = running(study, dead_worker())
    reap(study, 120)
    again = take(study)
    assert again.user_attrs[RETRY_OF] == trial.number
    assert again.user_attrs[ORIGIN] == "the defaults"
    assert again.suggest_float("x", 0, 1) == 0.1
    assert take(study).suggest_float("x", 0, 1) == 0.2


def test_queued_settings_outlive_a_worker_that_had_not_asked_for_them(
    study: optuna.Study,
) -> None:
    study.enqueue_trial({"x": 0.1, "y": 0.7}, user_attrs={ORIGIN: "the defaults"})
    trial = study.ask()
    trial.set_user_attr(WORKER, dead_worker().to_json())
    reap(study, 120)
    again = take(study)
    assert again.suggest_float("x", 0, 1) == 0.1
    again.set_user_attr(WORKER, dead_worker().to_json())
    reap(study, 120)
    last = take(study)
    assert last.user_attrs[RETRY_OF] == again.number
    assert [last.suggest_float(name, 0, 1) for name in "xy"] == [0.1, 0.7]


def test_a_worker_that_dies_before_any_setting_leaves_nothing_to_try(study: optuna.Study) -> None:
    trial = study.ask()
    trial.set_user_attr(WORKER, dead_worker().to_json())
    assert reap(study, 120) == [trial.number]
    assert not study.get_trials(states=(TrialState.WAITING,))


def test_a_process_number_that_was_given_again_is_another_process(study: optuna.Study) -> None:
    own = Worker.own()
    trial = running(study, Worker(own.place, own.pid, own.started - 1000))
    assert reap(study, 120) == [trial.number]


def test_a_worker_elsewhere_is_believed_for_as_long_as_its_lease(study: optuna.Study) -> None:
    trial = running(study, Worker("another machine", 1, 0.0))
    [known] = study.get_trials()
    assert not is_abandoned(known, 60)
    known.datetime_start = datetime.now() - timedelta(seconds=100)
    assert is_abandoned(known, 60)
    trial.set_user_attr(SIGN_OF_LIFE, datetime.now().timestamp() - 10)
    [known] = study.get_trials()
    known.datetime_start = datetime.now() - timedelta(seconds=100)
    assert not is_abandoned(known, 60)


def test_settings_that_kill_their_worker_are_given_up(study: optuna.Study) -> None:
    running(study, dead_worker())
    for _ in range(MAX_RETRIES):
        assert len(reap(study, 120)) == 1
        again = study.ask()
        again.suggest_float("x", 0, 1)
        again.set_user_attr(WORKER, dead_worker().to_json())
    reap(study, 120)
    assert not study.get_trials(states=(TrialState.WAITING,))
