"""Which worker runs a trial, and how others notice that it died.

Every running trial names its worker. On the same machine the operating system says whether that
process is still there; of a worker elsewhere only its last sign of life is known. The trial of a
dead worker is failed and put in the queue again: by whoever sees it first, and by nobody else,
because a storage lets a trial end once.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

WORKER, SIGN_OF_LIFE, RETRY_OF, ORIGIN = "worker", "sign_of_life", "retry_of", "origin"
MAX_RETRIES = 2
_BEATS = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """A worker process.

    Attributes:
        place: the machine (and container) whose process numbers these are.
        pid: its process number.
        started: when the process began, in seconds since 1970: numbers are used again.
    """

    place: str
    pid: int
    started: float

    @classmethod
    def own(cls) -> Worker:
        """This process."""
        return cls(_place(), os.getpid(), round(psutil.Process().create_time(), 2))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a trial's attributes."""
        return dict(vars(self))

    def is_here(self) -> bool:
        """Whether this machine can see that process."""
        return self.place == _place()

    def is_running(self) -> bool:
        """Whether the process is there; needs ``is_here``."""
        try:
            process = psutil.Process(self.pid)
            begun: float = process.create_time()
            dead: bool = process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        return not dead and abs(begun - self.started) < 1.0


@cache
def _place() -> str:
    """Name of what a process number belongs to."""
    marks = [platform.node()]
    with suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        marks.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(marks)


class SignOfLife:
    """Tells now and then, while a trial runs, that its worker is alive.

    Args:
        trial: the running trial.
        lease_s: how long others believe a sign.
    """

    def __init__(self, trial: optuna.Trial, lease_s: float) -> None:
        self._trial, self._every = trial, lease_s / _BEATS
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="fedprivacy-lease", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._every):
            try:
                self._trial.set_user_attr(SIGN_OF_LIFE, time.time())
            except Exception:  # a storage that is down for a moment must not end the trial
                log.warning("trial %d: no sign of life could be left", self._trial.number)


@contextmanager
def owned(trial: optuna.Trial, lease_s: float) -> Iterator[None]:
    """Run a block as the worker of the trial, which its attribute ``worker`` names."""
    with SignOfLife(trial, lease_s):
        yield


def is_abandoned(trial: FrozenTrial, lease_s: float) -> bool:
    """Whether the worker of a running trial is dead, as far as can be seen from here."""
    known = trial.user_attrs.get(WORKER)
    if known is not None and (worker := Worker(**known)).is_here():
        return not worker.is_running()
    begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    last = max(begun, float(trial.user_attrs.get(SIGN_OF_LIFE, 0.0)))
    return time.time() - last > lease_s


def reap(study: optuna.Study, lease_s: float) -> list[int]:
    """Fail the trials of dead workers and queue their settings again; their numbers."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    reaped = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not is_abandoned(trial, lease_s):
            continue
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, UpdateFinishedTrialError):
            continue  # another worker was faster
        reaped.append(trial.number)
        _retry(study, trial)
    return reaped


def take(study: optuna.Study) -> optuna.Trial:
    """The next trial: one that a dead worker left, before what was queued, before the sampler.

    Optuna takes what waits in the order of its numbers, so that a repetition, which is queued last,
    would never run where a study ends before its queue does.
    """
    import optuna

    waiting = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
    for trial in waiting:
        if RETRY_OF not in trial.user_attrs:
            continue
        taken = False
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            taken = study._storage.set_trial_state_values(
                trial._trial_id, state=optuna.trial.TrialState.RUNNING
            )
        if taken:  # else another worker was faster
            return optuna.Trial(study, trial._trial_id)
    return study.ask()


def _retry(study: optuna.Study, trial: FrozenTrial) -> None:
    retries = trial.user_attrs.get("retries", 0)
    # A worker that dies before it has asked for all settings leaves what was queued for the trial.
    settings = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    if retries >= MAX_RETRIES or not settings:
        return
    attrs = {RETRY_OF: trial.number, "retries": retries + 1}
    if (origin := trial.user_attrs.get(ORIGIN)) is not None:
        attrs[ORIGIN] = origin
    study.enqueue_trial(settings, user_attrs=attrs)
    log.warning("trial %d: its worker died; its settings are tried again", trial.number)
